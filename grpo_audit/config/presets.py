"""The presets, by name: the numbers of a paper, as data, with what it leaves open and what differs here beside them."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from pydantic import BaseModel, ConfigDict

from grpo_audit.config import papers, papers_ratio
from grpo_audit.config.preset import Preset as Preset
from grpo_audit.errors import ConfigError


class PresetDifference(BaseModel):
    """One number of a run that differs from the preset's; both sides as YAML text."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    path: str
    preset: str
    value: str


PRESETS: Final[Mapping[str, Preset]] = MappingProxyType(
    {
        preset.name: preset
        for preset in (
            papers.GRPO,
            papers.R1_ZERO,
            papers.DR_GRPO,
            papers.DAPO,
            papers.BNPO,
            papers_ratio.GSPO,
            papers_ratio.CISPO,
            papers_ratio.SAPO,
            papers_ratio.RLOO,
            papers_ratio.PPO,
        )
    }
)
"""Every preset, by name."""


def find(name: object, *, where: str) -> Preset:
    """The preset of this name. ``where`` says who asked for it.

    Raises ConfigError listing the known ones.
    """
    if isinstance(name, str) and name in PRESETS:
        return PRESETS[name]
    near = difflib.get_close_matches(str(name).lower(), PRESETS, n=1)
    raise ConfigError(
        f"Unknown preset in {where}",
        found="nothing (null)" if name is None else repr(name),
        expected=f"one of {', '.join(PRESETS)}",
        next_step=f"The nearest is {near[0]}" if near else "Or leave preset out and set the objective by hand",
    )
