"""What a reward function takes: columns, options, and what its module declares about it.

Read inside the reward process, so it imports the standard library only. Everything wrong is a ``LoadError``: one clear
line before training.
"""

from __future__ import annotations

import difflib
import inspect
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Any, Final, Literal, Union, get_args, get_origin, get_type_hints

GIVEN: Final = ("prompts", "completions", "base_dir")
"""Arguments that every function may name: the rows, and the folder of the recipe."""
KINDS: Final = ("rule", "verifier", "reward model", "judge")
_DECLARATIONS: Final = ("KIND", "VERSION", "DOMAIN")
_MAX_INT: Final = 2**53
"""Larger whole numbers do not survive JSON, and so not the record."""

Option = str | bool | int | float | list[str] | None
"""What a recipe can write below ``options``."""


class LoadError(Exception):
    """The function cannot be had; ``args`` are (what kind, message)."""


@dataclass(frozen=True, slots=True)
class Signature:
    """The arguments of a function."""

    accepted: list[str] | None
    """Names of its arguments; None when it takes any."""
    named: list[str]
    required: list[str]
    keyword_only: list[str]
    """By convention the options."""


def signature_of(function: Callable[..., Any]) -> Signature:
    """Read the signature; a callable without one is taken to accept anything."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return Signature(None, [], [], [])
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    return Signature(
        accepted=None if takes_any else [p.name for p in named],
        named=[p.name for p in named],
        required=[p.name for p in named if p.default is p.empty],
        keyword_only=[p.name for p in named if p.kind is p.KEYWORD_ONLY],
    )


def resolve_options(function: Callable[..., Any], options: Mapping[str, Option]) -> dict[str, Option]:
    """The options in force: those given, and the defaults of the function's keyword-only arguments.

    An option must be an argument that the function names: ``**rest`` would swallow a slip of the pen in silence.
    Raises LoadError.
    """
    signature = signature_of(function)
    known = [name for name in signature.keyword_only or signature.named if name not in GIVEN]
    hints = _hints(function)
    for name, value in options.items():
        if name in GIVEN:
            raise bad_option(f"option {name!r} is taken: every function gets the rows under that name")
        if name not in signature.named:
            near = difflib.get_close_matches(name, known, n=1)
            raise bad_option(
                f"unknown option {name!r}",
                expected=f"one of {', '.join(known)}" if known else "no options: the function names no such argument",
                next_step=f"The nearest is {near[0]}" if near else "",
            )
        _check_value(name, value, hints.get(name))
    optional = {name: p.default for name, p in _keyword_only(function).items() if name not in GIVEN}
    defaults = {name: value for name, value in optional.items() if _is_plain(value)}
    return {**defaults, **options}


def bad_option(what: str, *, found: str = "", expected: str = "", next_step: str = "") -> LoadError:
    """An error about an option, in the parts of a user's error line."""
    return LoadError(
        "bad option", json.dumps({"what": what, "found": found, "expected": expected, "next_step": next_step})
    )


def declarations(function: Callable[..., Any], module: Mapping[str, Any]) -> dict[str, str]:
    """``kind``, ``version`` and ``domain`` as the module declares them: KIND, VERSION and DOMAIN, each one text, or one
    text a function (a mapping by function name). Raises LoadError when a declaration is no text, or no kind we know.
    """
    found: dict[str, str] = {}
    for name in _DECLARATIONS:
        value = module.get(name)
        if isinstance(value, Mapping):
            value = value.get(getattr(function, "__name__", ""))
        if value is None:
            continue
        if not isinstance(value, str) or (name == "KIND" and value not in KINDS):
            expected = "one of " + ", ".join(KINDS) if name == "KIND" else "text"
            raise bad_option(f"the module's {name} is not usable", found=repr(value)[:60], expected=expected)
        found[name.lower()] = value
    return found


def _keyword_only(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {}
    return {name: p for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY}


def _is_plain(value: object) -> bool:
    if isinstance(value, list):
        return all(isinstance(item, str) for item in value)
    return value is None or isinstance(value, str | bool | int | float)


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(function)
    except Exception:  # noqa: BLE001 - names that exist for type checkers only; then nothing is known
        return {}


def _check_value(name: str, value: Option, hint: Any) -> None:
    if isinstance(value, int) and abs(value) > _MAX_INT:
        raise bad_option(f"option {name!r} is too large", expected="a whole number up to 2**53")
    if isinstance(value, float) and not math.isfinite(value):
        raise bad_option(f"option {name!r} is {value}", expected="a finite number")
    if hint is not None and not _fits(value, hint):
        raise bad_option(f"option {name!r} has the wrong type", found=repr(value)[:60], expected=_words(hint))


def _fits(value: Option, hint: Any) -> bool:
    """Whether a value is of a type that a recipe can write; hints of any other sort say nothing."""
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, part) for part in get_args(hint))
    if origin is Literal:
        return value in get_args(hint)
    if origin is list:
        return isinstance(value, list)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint in (str, bool, type(None)):
        return isinstance(value, hint)
    return True


def _words(hint: Any) -> str:
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        return " or ".join(_words(part) for part in get_args(hint))
    if origin is Literal:
        return "one of " + ", ".join(repr(part) for part in get_args(hint))
    if origin is list:
        return "a list of texts"
    return {str: "text", bool: "true or false", int: "a whole number", float: "a number", type(None): "null"}[hint]
