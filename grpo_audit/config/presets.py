"""Presets: the numbers of a paper, as data. What a paper leaves open, and what differs here, is said beside them.

Only objectives that the configuration can express exactly are here.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from pydantic import BaseModel, ConfigDict

from grpo_audit.errors import ConfigError

Scalar = str | bool | int | float


class PresetDifference(BaseModel):
    """One number of a run that differs from the preset's; both sides as YAML text."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    path: str
    preset: str
    value: str


@dataclass(frozen=True)
class Preset:
    """One paper's numbers."""

    name: str
    title: str
    paper: str
    """arXiv identifier."""
    equation: str
    """Where in the paper the objective stands."""
    values: Mapping[str, Scalar]
    """Every number the preset sets, by dotted path into the run configuration."""
    unstated: tuple[str, ...]
    """What the paper does not say, and what stands there instead."""
    deviations: tuple[str, ...]
    """What the paper does that a run of this preset does not."""

    @property
    def source(self) -> str:
        """One line for the record: title, arXiv identifier, equation."""
        return f"{self.title}, arXiv:{self.paper}, {self.equation}"

    def tree(self) -> dict[str, object]:
        """The numbers as nested mappings, as a recipe would write them."""
        tree: dict[str, object] = {"preset": self.name}
        for path, value in self.values.items():
            *parents, leaf = path.split(".")
            node = tree
            for parent in parents:
                child = node.setdefault(parent, {})
                assert isinstance(child, dict), f"{path} leads through a value"
                node = child
            node[leaf] = value
        return tree


_DDOF = (
    "ddof and epsilon of the group's standard deviation: the equation divides by std without either; 1 and 1e-4 are "
    "what TRL uses"
)

GRPO: Final = Preset(
    name="grpo",
    title="DeepSeekMath: Pushing the Limits of Mathematical Reasoning in Open Language Models",
    paper="2402.03300",
    equation="equations 3 and 4, section 4.1.2 (outcome supervision), numbers in section 4.2",
    values=MappingProxyType(
        {
            "objective.advantage.normaliser": "group",
            "objective.surrogate.clip_low": 0.2,
            "objective.surrogate.clip_high": 0.2,
            "objective.kl.beta": 0.04,
            "objective.kl.estimator": "k3",
            "objective.aggregation": "sequence-mean",
            "objective.mask_truncated": False,
            "sampling.group_size": 64,
            "sampling.prompts_per_step": 16,
            "sampling.temperature": 1.0,
            "sampling.max_completion_tokens": 1024,
            "training.learning_rate": 1e-6,
        }
    ),
    unstated=(
        _DDOF,
        "clip range: epsilon has no number in the paper; 0.2 is PPO's. With one update per batch, as in the paper, "
        "the ratio is 1 and nothing is clipped",
        "prompts per step: the paper gives a training batch size of 1024; read as completions, that is 16 prompts x 64",
        "temperature: no number in the paper; at 1 the sampler is the policy itself",
        "optimiser settings other than the learning rate, and a warm-up: not given",
    ),
    deviations=("the paper's reward is a trained reward model; the reward sources here are the recipe's",),
)

R1_ZERO: Final = Preset(
    name="r1-zero",
    title="DeepSeek-R1: Incentivizing Reasoning Capability in LLMs via Reinforcement Learning",
    paper="2501.12948",
    equation="equations 1 to 3, numbers in sections 2.1 and 3.2.1",
    values=MappingProxyType(
        {
            "objective.advantage.normaliser": "group",
            "objective.surrogate.clip_low": 10.0,
            "objective.surrogate.clip_high": 10.0,
            "objective.kl.beta": 0.001,
            "objective.kl.estimator": "k3",
            "objective.aggregation": "sequence-mean",
            "objective.mask_truncated": False,
            "sampling.group_size": 16,
            "sampling.prompts_per_step": 32,
            "sampling.temperature": 1.0,
            "training.learning_rate": 3e-6,
        }
    ),
    unstated=(
        _DDOF,
        "clip range: 10 is given for the first RL stage of DeepSeek-R1 (section 3.2.1), not for R1-Zero itself; at 10 "
        "the lower bound is never reached",
        "optimiser settings other than the learning rate, and a warm-up: not given",
    ),
    deviations=(
        "equation 1 writes the ratio of whole outputs; here it is taken per token and averaged over each output, as "
        "in DeepSeekMath's equation 3",
        "the paper replaces the reference by the newest policy every 400 steps; here it stays the initial model, so "
        "runs of up to 400 steps do not differ in this",
        "the paper draws 8,192 completions at a time and takes 16 updates on them; here each update has its own",
        "the paper allows 32,768 tokens a completion (65,536 from step 8,200); sampling.max_completion_tokens is left "
        "at its default, because training.microbatch_tokens has to grow with it",
        "accuracy and format rewards have equal weight in the paper; weights are the recipe's",
    ),
)

DR_GRPO: Final = Preset(
    name="dr_grpo",
    title="Understanding R1-Zero-Like Training: A Critical Perspective (Dr. GRPO)",
    paper="2503.20783",
    equation="section 3.2, numbers from the released training script",
    values=MappingProxyType(
        {
            "objective.advantage.normaliser": "none",
            "objective.surrogate.clip_low": 0.2,
            "objective.surrogate.clip_high": 0.2,
            "objective.kl.beta": 0.0,
            "objective.aggregation": "constant",
            "objective.mask_truncated": False,
            "sampling.group_size": 8,
            "sampling.prompts_per_step": 128,
            "sampling.temperature": 1.0,
            "sampling.max_completion_tokens": 3000,
            "sampling.max_prompt_tokens": 1024,
            "training.learning_rate": 1e-6,
        }
    ),
    unstated=(
        "clip range: not in the released script; 0.2 is the default of the library it calls",
        "optimiser settings other than the constant learning rate: not in the released script",
    ),
    deviations=(
        "the released script cuts each batch of 128 prompts x 8 completions into 8 updates; here it is one update",
    ),
)

PRESETS: Final[Mapping[str, Preset]] = MappingProxyType({preset.name: preset for preset in (GRPO, R1_ZERO, DR_GRPO)})
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
