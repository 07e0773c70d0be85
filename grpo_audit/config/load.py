"""From a recipe to a resolved configuration: defaults, then preset, then recipe, then ``--set``; later ones win."""

from __future__ import annotations

import copy
import types
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from grpo_audit.config import presets
from grpo_audit.config.document import MAX_BYTES, Document, KeyPath, parse, write, write_inline
from grpo_audit.config.explain import Origins, describe, explain
from grpo_audit.config.fields import dotted, field_at, is_list, is_open_mapping, is_optional, section_of
from grpo_audit.config.location import without_password
from grpo_audit.config.presets import Preset, PresetDifference
from grpo_audit.config.run import RunConfig
from grpo_audit.errors import ConfigError

Tree = dict[str, Any]


@dataclass(frozen=True)
class Resolved:
    """A recipe with every number spelled out."""

    config: RunConfig
    base_dir: Path
    """Folder of the recipe: relative paths in it start here."""
    recipe_text: str
    """The recipe as written, for the record."""
    preset: Preset
    differences: list[PresetDifference]
    """Every number of the preset that this run does not use."""


def resolve(recipe: Path, overrides: Sequence[str] = ()) -> Resolved:
    """Read a recipe and resolve it.

    Args:
        recipe: YAML file.
        overrides: ``a.b=value`` in YAML, list items by position (``rewards.0.weight=2``); later ones win.

    Raises ConfigError, one line: unreadable or malformed file, unknown key, wrong type, contradiction, missing key.
    """
    text = _read(recipe)
    document = parse(text, str(recipe))
    tree = _root(document, recipe)
    _refuse_password(tree, recipe)
    set_by_hand = _apply(tree, overrides)
    origins = Origins(str(recipe), document.lines, set_by_hand)
    preset = presets.find(tree.get("preset", "grpo"), where=origins.of(("preset",)))
    try:
        config = RunConfig.model_validate(_merge(preset.tree(), tree))
    except ValidationError as error:
        raise explain(error, origins) from error
    return Resolved(config, recipe.absolute().parent, text, preset, differences(config, preset))


def differences(config: RunConfig, preset: Preset) -> list[PresetDifference]:
    """Numbers of the preset that the configuration does not use, in the preset's order."""
    plain = config.model_dump()
    return [
        PresetDifference(path=path, preset=write_inline(theirs), value=write_inline(ours))
        for path, theirs in preset.values.items()
        if (ours := _get(plain, path)) != theirs
    ]


def dump(config: RunConfig) -> str:
    """The resolved configuration as YAML.

    Law: written to a file, ``resolve(file).config == config``.
    """
    return write(_lists(config.model_dump()))


def _read(recipe: Path) -> str:
    try:
        with recipe.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise ConfigError(f"Recipe {recipe} does not exist", next_step="Write one with: grpo-audit init") from error
    except IsADirectoryError as error:
        raise ConfigError(f"Recipe {recipe} is a folder", expected="a YAML file") from error
    except OSError as error:
        raise ConfigError(f"Recipe {recipe} cannot be read", found=error.strerror or str(error)) from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if len(data) > MAX_BYTES:  # the cut may go through a character; parse() says that the file is too large
            return data.decode("utf-8-sig", errors="replace")
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"Recipe {recipe} is not UTF-8",
            found=f"byte 0x{data[error.start]:02x} in line {line}",
            next_step="Save it as UTF-8",
        ) from error


def _root(document: Document, recipe: Path) -> Tree:
    data = document.data
    if data is None:
        raise ConfigError(
            f"Recipe {recipe} is empty",
            expected="at least model, prompts and rewards",
            next_step="Write a commented one with: grpo-audit init",
        )
    if not isinstance(data, dict):
        raise ConfigError(f"Recipe {recipe} is no mapping", found=describe(data), expected="keys with values")
    return _fill(data, ())


def _refuse_password(tree: Tree, recipe: Path) -> None:
    """The recipe is kept in the record word by word."""
    record = tree.get("record")
    db = record.get("db") if isinstance(record, dict) else None
    if isinstance(db, str) and without_password(db) != db:
        raise ConfigError(
            f"Recipe {recipe} holds a password in record.db, and recipes are recorded",
            found=without_password(db) + " with a password",
            next_step="Put the password into ~/.pgpass or PGPASSWORD, or give the whole URL with --db",
        )


def _fill(tree: Tree, path: KeyPath) -> Tree:
    """A copy in which an empty section is empty: one whose keys are all commented out reads as null in YAML."""
    copied: Tree = {}
    for key, value in tree.items():
        field = field_at((*path, key))
        is_section = field is not None and section_of(field.annotation) and not is_list(field.annotation)
        if value is None and field is not None and is_optional(field.annotation):
            copied[key] = None
        elif is_section and isinstance(value, dict | types.NoneType):
            copied[key] = _fill(value or {}, (*path, key))
        else:
            copied[key] = copy.deepcopy(value)
    return copied


def _merge(below: Tree, above: Tree) -> Tree:
    """Mappings are merged key by key; anything else above replaces what is below."""
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        merged[key] = _merge(under, value) if isinstance(under, dict) and isinstance(value, dict) else value
    return merged


def _apply(tree: Tree, overrides: Sequence[str]) -> dict[KeyPath, str]:
    """Write the overrides into the tree, in order; returns the path and text of each."""
    applied: dict[KeyPath, str] = {}
    for text in overrides:
        name, equals, value = text.partition("=")
        if not equals or not name.strip() or any(not part for part in name.strip().split(".")):
            raise ConfigError(f"--set {text} cannot be read", expected="SECTION.KEY=VALUE, e.g. training.steps=50")
        path = _path(name.strip())
        _set(tree, path, parse(value, f"--set {text}").data, text)
        applied.pop(path, None)
        applied = {path: text, **applied}
    return applied


def _path(name: str) -> KeyPath:
    """Numbers are list positions; below a mapping with free keys the rest of the name is one key."""
    path: KeyPath = ()
    parts = name.split(".")
    for index, part in enumerate(parts):
        field = field_at(path)
        if field is not None and is_open_mapping(field.annotation):
            return (*path, ".".join(parts[index:]))
        path = (*path, int(part) if part.isdecimal() else part)
    return path


def _set(tree: Tree, path: KeyPath, value: object, text: str) -> None:
    node: Any = tree
    for index, part in enumerate(path):
        last = index == len(path) - 1
        here = dotted(path[:index]) or "the recipe"
        if isinstance(node, list):
            if not isinstance(part, int) or part >= len(node):
                raise ConfigError(
                    f"--set {text} leads nowhere",
                    found=f"{part!r} in {here}, a list of {len(node)}",
                    expected=f"a position from 0 to {len(node) - 1}" if node else "a list that is not empty",
                )
        elif not isinstance(node, dict) or isinstance(part, int):
            raise ConfigError(
                f"--set {text} leads nowhere",
                found=f"{here} is {describe(node)}",
                expected="a section" if not isinstance(part, int) else "a list",
            )
        if last:
            node[part] = value
        elif isinstance(node, dict):
            # A missing or empty section is made; an existing value is never replaced by one.
            if node.get(part) is None:
                node[part] = {}
            node = node[part]
        else:
            node = node[part]


def _get(tree: Tree, path: str) -> object:
    node: Any = tree
    for part in path.split("."):
        node = node[part]
    return node


def _lists(value: object) -> object:
    """Tuples as lists: YAML knows no tuples."""
    if isinstance(value, dict):
        return {key: _lists(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_lists(item) for item in value]
    return value
