"""The commented recipe that ``grpo-audit init`` writes, made from the configuration models, so that it cannot drift."""

from __future__ import annotations

import textwrap
import types
from collections.abc import Iterator
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from grpo_audit.config.base import Section
from grpo_audit.config.document import write_inline
from grpo_audit.config.fields import dotted, is_list, is_optional, section_of
from grpo_audit.config.presets import PRESETS
from grpo_audit.config.run import RunConfig

_WIDTH: Final = 110

_HEADER: Final = """\
# A grpo-audit recipe. It runs as it is, on the miniature model that ships with the project:
#
#     grpo-audit run THIS_FILE
#
# A key with # directly before it is not set: it has the preset's number if the preset gives one, else the default
# shown. Remove the # to set it. What is set here replaces the preset's number, and the record shows the difference.
# `--set a.b=value` sets one key for one run. Presets: PRESETS.
"""

LIVE: Final[dict[str, Any]] = {
    "name": "first-run",
    "preset": "grpo",
    "model.path": "builtin",
    "prompts.source": "builtin",
    "sampling.group_size": 8,
    "sampling.prompts_per_step": 32,
    "sampling.max_completion_tokens": 256,
    "training.steps": 60,
    "training.learning_rate": 6e-5,
    "decontamination.expected": ["builtin_contamination_probe"],
}
"""Keys that are written out: what the run needs, and what suits a model of a few million parameters."""

_REWARDS: Final[tuple[dict[str, Any], ...]] = (
    {
        "name": "accuracy",
        "source": "grpo_audit.rewards.countdown:accuracy",
        "weight": 1.0,
        "second": "grpo_audit.rewards.second:countdown",
    },
    {"name": "format", "source": "grpo_audit.rewards.countdown:format", "weight": 0.1},
)

_EXAMPLES: Final[dict[str, Any]] = {
    "lineage.0.kind": "pre-training",
    "lineage.0.name": "the base model",
    "gates.0.name": "no safety behaviour regressed",
    "gates.0.figure": "safety.*.verdict",
    "gates.0.one_of": ["improved", "no regression beyond the margin", "no discordant pairs"],
}
"""What stands in an item of a list that is empty by default."""

WORDS: Final[dict[str, str]] = {
    "seed": "Seed of everything random: prompt order and sampling.",
    "gates.0.at_least": "The smallest value that the figure may have.",
    "gates.0.at_most": "The largest value that the figure may have.",
    "model.lora.rank": "Rank of the adapters.",
    "objective.correction.cap": "The largest importance weight that is used as it is.",
    "rewards": "The reward sources. A completion's reward is the weighted sum of those with the role train.",
    "rewards.0.name": "A short name; the record uses it.",
    "rewards.0.role": "``train`` sources are summed into the reward; ``shadow`` sources are only recorded.",
    "sampling.prompts_per_step": "Prompts per step; each gets group_size completions.",
    "sampling.temperature": "Sampling temperature; log-probabilities are taken at the same one.",
    "sampling.max_completion_tokens": "A completion that is longer is cut there.",
    "training.learning_rate": "Learning rate of AdamW.",
    "training.adam_betas": "Decay rates of AdamW's averages.",
    "training.adam_epsilon": "Added to the denominator of AdamW.",
    "training.weight_decay": "Decoupled weight decay.",
    "training.max_grad_norm": "Gradients are scaled down to this norm.",
    "evaluation.batch_size": "Documents that are answered at the same time.",
}
"""Words for the fields that have no docstring of their own."""


def starter_recipe() -> str:
    """The starter recipe: every section and every key, each with its meaning, allowed values and default.

    Law: it resolves as it is, and mentions every field of the configuration models.
    """
    header = _HEADER.replace("PRESETS", ", ".join(PRESETS))
    return "\n".join([header, *_section(RunConfig, (), 0)]).rstrip() + "\n"


def _section(model: type[Section], path: tuple[str | int, ...], indent: int) -> Iterator[str]:
    # Plain keys first: below a subsection they would look like part of it.
    ordered = sorted(model.model_fields.items(), key=lambda item: section_of(item[1].annotation) is not None)
    for name, field in ordered:
        here = (*path, name)
        section = section_of(field.annotation)
        if section is None:
            yield from _plain(name, field, here, indent)
        elif name == "rewards":
            yield ""
            yield from _comment(f"{words(name, field)} {_allowed(field)}", 0)
            yield "rewards:"
            yield from _reward_items(section)
        elif is_list(field.annotation):
            yield ""
            yield from _comment(f"{words(name, field)} Remove the # before {name} and before a key. [default []]", 0)
            yield f"#{name}:"
            yield from _list_item(section, name)
        elif is_optional(field.annotation):
            yield ""
            yield from _comment(
                f"{_summary(section)} Remove the # before {name} and before a key. [default null]", indent
            )
            yield f"{' ' * indent}#{name}:"
            yield from _section(section, here, indent + 2)
        else:
            yield ""
            yield from _comment(_summary(section), indent)
            yield f"{' ' * indent}{name}:"
            yield from _section(section, here, indent + 2)


def _plain(name: str, field: FieldInfo, path: tuple[str | int, ...], indent: int) -> Iterator[str]:
    key = dotted(path)
    yield from _comment(f"{words(key, field)} {_allowed(field)}", indent)
    if key in LIVE:
        yield f"{' ' * indent}{name}: {write_inline(LIVE[key])}"
    else:
        default = field.get_default(call_default_factory=True)
        shown = list(default) if isinstance(default, tuple) else default
        yield f"{' ' * indent}#{name}: {write_inline(shown)}"


def _list_item(section: type[Section], name: str) -> Iterator[str]:
    """One item of a list that is empty by default; what it must have is filled in."""
    mark = "- "
    for key, field in section.model_fields.items():
        yield from _comment(f"{words(f'{name}.0.{key}', field)} {_allowed(field)}", 4)
        value = _EXAMPLES.get(f"{name}.0.{key}", field.get_default())
        if value is PydanticUndefined:
            raise LookupError(f"{name}.0.{key} has no default and no example")
        yield f"  #{mark}{key}: {write_inline(value)}" if mark else f"    #{key}: {write_inline(value)}"
        mark = ""


def _reward_items(section: type[Section]) -> Iterator[str]:
    first, *others = _REWARDS
    mark = "- "
    for name, field in section.model_fields.items():
        yield from _comment(f"{words(f'rewards.0.{name}', field)} {_allowed(field)}", 4)
        if name in first:
            yield f"  {mark}{name}: {write_inline(first[name])}"
            mark = "  "
        else:
            yield f"    #{name}: {write_inline(field.get_default())}"
    for item in others:
        lines = [f"{key}: {write_inline(value)}" for key, value in item.items()]
        yield "  - " + "\n    ".join(lines)


def words(key: str, field: FieldInfo) -> str:
    """What a field means: its docstring, else the words kept here."""
    return " ".join((field.description or WORDS.get(key, "")).replace("``", "").split())


def _summary(section: type[Section]) -> str:
    return " ".join((section.__doc__ or "").replace("``", "").split())


def _comment(text: str, indent: int) -> Iterator[str]:
    prefix = " " * indent + "# "
    yield from textwrap.wrap(
        text, _WIDTH, initial_indent=prefix, subsequent_indent=prefix, break_long_words=False, break_on_hyphens=False
    )


def _allowed(field: FieldInfo) -> str:
    """``[whole number >= 1; default 8]``."""
    kind = _kind(field.annotation, tuple(field.metadata))
    default = field.get_default(call_default_factory=True)
    if section_of(field.annotation) is not None or default is PydanticUndefined:
        return f"[{kind}; required]"
    shown = list(default) if isinstance(default, tuple) else default
    return f"[{kind}; default {write_inline(shown)}]"


def _kind(annotation: Any, metadata: tuple[Any, ...] = ()) -> str:
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kind(parts[0], (*metadata, *annotation.__metadata__))
    if origin in (Union, types.UnionType):
        return " or ".join(_kind(part, metadata) for part in parts).replace(" or null", ", or null")
    if origin is Literal:
        return ", ".join(str(part) for part in parts[:-1]) + f" or {parts[-1]}"
    if origin is dict:
        return f"mapping of names to {_plural(parts[1])}"
    if origin is tuple:
        return f"list of {len(parts)} {_plural(parts[0])}"
    if origin is list:
        least = next((item.min_length for item in metadata if isinstance(item, MinLen)), 0)
        return f"list{f', at least {least}' if least else ''}"
    name = {str: "text", int: "whole number", float: "number", bool: "true or false", type(None): "null"}[annotation]
    return name + _bounds(metadata)


def _plural(annotation: Any) -> str:
    if get_origin(annotation) in (Union, types.UnionType):
        return "values"
    return {str: "text", int: "whole numbers", float: "numbers"}[annotation]


def _bounds(metadata: tuple[Any, ...]) -> str:
    signs: list[str] = []
    for item in metadata:
        for constraint in getattr(item, "metadata", (item,)):
            match constraint:
                case Ge(ge):
                    signs.append(f">= {ge}")
                case Gt(gt):
                    signs.append(f"> {gt}")
                case Le(le):
                    signs.append(f"<= {le}")
                case Lt(lt):
                    signs.append(f"< {lt}")
                case _ if getattr(constraint, "pattern", None):
                    signs.append(f"that matches {constraint.pattern}")
    return f" {' and '.join(signs)}" if signs else ""
