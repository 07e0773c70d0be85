"""The keys a recipe may have, read from the configuration models themselves."""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterator
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from grpo_audit.config.base import Section
from grpo_audit.config.document import KeyPath
from grpo_audit.config.run import RunConfig


def dotted(path: KeyPath) -> str:
    """``("rewards", 0, "weight")`` as ``rewards.0.weight``."""
    return ".".join(str(part) for part in path)


def section_of(annotation: Any) -> type[Section] | None:
    """The section a field holds: itself, or the items of its list. None for plain values."""
    for kind in (annotation, *get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, Section):
            return kind
    return None


def is_list(annotation: Any) -> bool:
    """Whether the field is a list of sections."""
    return get_origin(annotation) is list


def is_optional(annotation: Any) -> bool:
    """Whether null is a value of the field, as in ``model.lora``."""
    return get_origin(annotation) in (Union, types.UnionType) and types.NoneType in get_args(annotation)


def is_open_mapping(annotation: Any) -> bool:
    """Whether the keys below the field are free, as in ``evaluation.margins``."""
    if get_origin(annotation) in (Union, types.UnionType, Annotated):
        return any(is_open_mapping(part) for part in get_args(annotation))
    return get_origin(annotation) is dict


def walk(model: type[Section] = RunConfig, prefix: KeyPath = ()) -> Iterator[tuple[KeyPath, FieldInfo]]:
    """Every field, sections before their own fields. List items appear under position 0."""
    for name, field in model.model_fields.items():
        path = (*prefix, name)
        yield path, field
        section = section_of(field.annotation)
        if section is not None:
            yield from walk(section, (*path, 0) if is_list(field.annotation) else path)


def model_at(path: KeyPath) -> type[Section] | None:
    """The section that holds the keys directly below ``path``; None when ``path`` is no section."""
    model: type[Section] = RunConfig
    for part in path:
        if isinstance(part, int):
            continue
        field = model.model_fields.get(part)
        section = section_of(field.annotation) if field else None
        if section is None:
            return None
        model = section
    return model


def field_at(path: KeyPath) -> FieldInfo | None:
    """The field at ``path``; None when there is none."""
    if not path or isinstance(path[-1], int):
        return None
    model = model_at(path[:-1])
    return model.model_fields.get(path[-1]) if model else None


def nearest(path: KeyPath) -> str | None:
    """The dotted name of the valid key that an unknown one probably means.

    First among its siblings by spelling, then the same name in another section (``learning_rate`` at the top means
    ``training.learning_rate``).
    """
    *parent, name = path
    siblings = list(model.model_fields) if (model := model_at(tuple(parent))) else []
    close = difflib.get_close_matches(str(name), siblings, n=1)
    if close:
        return dotted((*parent, close[0]))
    # of several sections with such a key the outermost: training.learning_rate before objective.value.learning_rate
    everywhere = {dotted(known): str(known[-1]) for known, _ in sorted(walk(), key=lambda item: len(item[0]))}
    for full, leaf in everywhere.items():
        if leaf == name:
            return full
    leaves = difflib.get_close_matches(str(name), everywhere.values(), n=1, cutoff=0.8)
    return next((full for full, leaf in everywhere.items() if leaves and leaf == leaves[0]), None)
