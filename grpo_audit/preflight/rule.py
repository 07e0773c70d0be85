"""What a rule is: an id, a severity, words, and a pure check."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import BaseModel

from grpo_audit.config.document import write_inline
from grpo_audit.config.fields import field_at
from grpo_audit.config.presets import PRESETS, PresetDifference
from grpo_audit.config.run import RunConfig
from grpo_audit.record.events import Severity

_WIDTH: Final = 60
_LARGE: Final = 10**15


@dataclass(frozen=True, slots=True)
class Facts:
    """What a recipe does not say. None where it is not known; ``unknown`` says why."""

    prompts: int | None = None
    """Rows of the prompt set."""
    context: int | None = None
    """Tokens that prompt and completion may have together."""
    parameters: int | None = None
    """Parameters of the model."""
    parameters_source: str = ""
    """How that number is known, in words."""
    device: str | None = None
    """``cpu`` or ``cuda``."""
    model_on_hub: bool | None = None
    """Whether ``model.path`` is a hub id."""
    generation: Mapping[str, float] | None = None
    """Settings of the model's generation_config.json under which it would not be sampled from its own distribution at
    temperature 1, by name; empty when there are none."""
    unknown: Mapping[str, str] = field(default_factory=dict)
    """By the name of a fact: why it is not known."""


@dataclass(frozen=True, slots=True)
class Situation:
    """Everything a check may look at."""

    config: RunConfig
    differences: Sequence[PresetDifference]
    """Numbers of the preset that the run does not use."""
    facts: Facts

    @property
    def updates(self) -> int:
        """Optimiser updates on the rollouts of one step. With one, the ratio is 1 in value."""
        return self.config.training.iterations * self.config.training.minibatches

    def chosen(self, *paths: str) -> bool:
        """Whether somebody chose one of these values: it is not the preset's, or, where the preset has none, not the
        default."""
        preset = PRESETS.get(self.config.preset)
        differs = {item.path for item in self.differences}
        return any(
            path in differs if preset is not None and path in preset.values else not self._is_default(path)
            for path in paths
        )

    def _is_default(self, path: str) -> bool:
        field, value = field_at(tuple(path.split("."))), node_at(self.config, path)
        return field is not None and bool(value == field.get_default(call_default_factory=True))


@dataclass(frozen=True, slots=True)
class Found:
    """What a check found: the key to look at, and what its value does in this run."""

    where: str
    """Dotted path into the configuration."""
    message: str
    """One sentence, with the numbers."""


Check = Callable[[Situation], list[Found]]


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. ``check`` is pure and never raises on a valid configuration."""

    id: str
    severity: Severity
    title: str
    explanation: str
    """Why it bites."""
    remedy: str
    """What to write instead."""
    source: str
    """Paper, thread, or where in this project it can be seen."""
    check: Check
    needs: tuple[str, ...] = ()
    """Facts without which the check cannot say anything."""


def node_at(config: RunConfig, path: str) -> Any:
    """The value at a dotted path; list items by position. Raises LookupError when it leads nowhere."""
    node: Any = config
    for part in path.split("."):
        if isinstance(node, BaseModel):
            if part not in type(node).model_fields:
                raise LookupError(f"{path} leads nowhere")
            node = getattr(node, part)
        elif isinstance(node, list):
            node = node[int(part)]
        else:
            node = node[part]
    return node


def value_of(config: RunConfig, path: str) -> str:
    """The value at a dotted path as a recipe would write it, on one line, shortened."""
    node = node_at(config, path)
    if node is None:
        return "null"
    if isinstance(node, int) and not isinstance(node, bool):
        return whole(node)
    text = write_inline(node.model_dump(mode="json") if isinstance(node, BaseModel) else node)
    return text if len(text) <= _WIDTH else text[: _WIDTH - 3] + "..."


def whole(number: int) -> str:
    """A whole number for a message. One too large to be meant is not spelled out (Python refuses the largest)."""
    return str(number) if abs(number) <= _LARGE else "more than 10^15"
