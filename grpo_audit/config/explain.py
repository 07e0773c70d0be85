"""Turns what pydantic found into one line: what, where, found, expected, next step."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from grpo_audit.config.document import KeyPath
from grpo_audit.config.fields import dotted, model_at, nearest
from grpo_audit.errors import ConfigError

_EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "string_type": "text",
    "bool_type": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "keys with values",
    "model_type": "keys with values",
    "model_attributes_type": "keys with values",
    "finite_number": "a finite number",
}


class Origins:
    """Who said what: each value comes from a line of the recipe, an override, the preset or a default."""

    def __init__(self, recipe: str, lines: Mapping[KeyPath, int], overrides: Mapping[KeyPath, str]) -> None:
        self.recipe = recipe
        self.lines = lines
        self.overrides = overrides

    def of(self, path: KeyPath) -> str:
        """``recipe.yaml, line 12`` or ``--set training.steps=x``; the line of the nearest section when it has none."""
        for override, text in self.overrides.items():
            if path[: len(override)] == override:
                return f"--set {text}"
        for length in range(len(path), 0, -1):
            line = self.lines.get(path[:length])
            if line is not None:
                return f"{self.recipe}, line {line}"
        return self.recipe

    def position(self, path: KeyPath) -> int:
        """Sorting key: errors are told in the order of the recipe."""
        return next((self.lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in self.lines), 0)


def explain(error: ValidationError, origins: Origins) -> ConfigError:
    """The first problem in the order of the recipe, as one line; further ones are counted."""
    problems = error.errors(include_url=False)
    first = min(problems, key=lambda problem: origins.position(problem["loc"]))
    more = len(problems) - 1
    what, found, expected, next_step = _parts(first, origins)
    if more:
        next_step += f"{'. ' if next_step else ''}{more} more problem{'s' if more > 1 else ''} after this one"
    return ConfigError(what, found=found, expected=expected, next_step=next_step)


def _parts(problem: ErrorDetails, origins: Origins) -> tuple[str, str, str, str]:
    kind, path, value = problem["type"], problem["loc"], problem["input"]
    where = origins.of(path)
    if kind == "extra_forbidden":
        return _unknown_key(path, where)
    if kind == "missing":
        return (f"{dotted(path)} is missing in {where}", "", "", _MISSING.get(dotted(path), "Add it to the recipe"))
    if kind == "value_error":
        return _contradiction(problem, path, origins)
    next_step = ""
    if kind == "string_type" and not isinstance(value, list | dict):
        next_step = "Put it in quotes" if value is not None else ""
    return f"{dotted(path)} in {where}", describe(value), _expected(problem), next_step


_MISSING = {
    "model": "Add model: {path: builtin}, a folder or a hub id",
    "prompts": "Add prompts: {source: builtin} or a file",
    "rewards": "Add a list of reward sources, each with name and source",
}


def _unknown_key(path: KeyPath, where: str) -> tuple[str, str, str, str]:
    model = model_at(path[:-1])
    near = nearest(path)
    known = ", ".join(model.model_fields) if model else ""
    next_step = f"The nearest valid key is {near}" if near else "Remove it; a key that does nothing is an error"
    return f"Unknown key {dotted(path)} in {where}", "", f"one of {known}" if known else "", next_step


def _contradiction(problem: ErrorDetails, path: KeyPath, origins: Origins) -> tuple[str, str, str, str]:
    message = problem["msg"].removeprefix("Value error, ")
    if message.startswith("expected "):  # a field validator names what it wants
        return (
            f"{dotted(path)} in {origins.of(path)}",
            describe(problem["input"]),
            message.removeprefix("expected "),
            "",
        )
    # Name the line of the first key the message speaks of that somebody wrote down.
    mentioned = [tuple(name.split(".")) for name in re.findall(r"[a-z_]+(?:\.[a-z_]+)*", message)]
    places = [origins.of((*path, *name)) for name in mentioned if _was_written((*path, *name), origins)]
    where = places[0] if places else origins.of(path)
    return f"{message} ({where})", "", "", ""


def _was_written(path: KeyPath, origins: Origins) -> bool:
    return path in origins.lines or path in origins.overrides


def _expected(problem: ErrorDetails) -> str:
    kind = problem["type"]
    context: Mapping[str, Any] = problem.get("ctx", {})
    if kind in _EXPECTED:
        return _EXPECTED[kind]
    if kind == "literal_error":
        return str(context["expected"])
    if kind == "string_pattern_mismatch":
        return f"text that matches {context['pattern']}"
    if kind in ("too_short", "too_long"):
        limit = "at least" if kind == "too_short" else "at most"
        return f"{limit} {context.get('min_length', context.get('max_length'))} in the list"
    message = problem["msg"].removeprefix("Input should be ")
    return message[0].lower() + message[1:]


def describe(value: object) -> str:
    """A value in words, shortened, for the found part of an error."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, bool):
        return f"the truth value {str(value).lower()}"
    if isinstance(value, int | float):
        return f"the number {value!r}"
    if isinstance(value, str):
        return f"the text {value if len(value) <= 60 else value[:57] + '...'!r}"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    if isinstance(value, dict):
        return f"keys with values ({', '.join(str(key) for key in list(value)[:4])})" if value else "an empty mapping"
    if isinstance(value, datetime.date):
        return f"the date {value.isoformat()}"
    return f"a value of type {type(value).__name__}"
