"""The objective: advantage, surrogate, KL term and aggregation. The loss reads these objects, and so does the
formula in the record, so that the two cannot drift apart.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from grpo_audit.config.base import Section

Normaliser = Literal["group", "none"]
Aggregation = Literal["sequence-mean", "token-mean", "constant"]
Estimator = Literal["k1", "k2", "k3"]


class AdvantageConfig(Section):
    """How the rewards of a group become advantages."""

    normaliser: Normaliser = "group"
    """``group``: divide by the group's standard deviation (GRPO). ``none``: subtract the mean only (Dr. GRPO)."""

    ddof: Annotated[int, Field(ge=0, le=1)] = 1
    """Delta degrees of freedom of that standard deviation: 1 as in TRL and verl, 0 as in GRPO-Zero."""

    epsilon: Annotated[float, Field(gt=0, le=0.1)] = 1e-4
    """Added to the standard deviation before dividing."""


class SurrogateConfig(Section):
    """The clipped surrogate of PPO, per token."""

    clip_low: Annotated[float, Field(gt=0)] = 0.2
    """The ratio is clipped below at ``1 - clip_low``."""

    clip_high: Annotated[float, Field(gt=0)] = 0.2
    """The ratio is clipped above at ``1 + clip_high``."""


class KLConfig(Section):
    """The penalty on the distance to the reference policy (the initial weights)."""

    beta: Annotated[float, Field(ge=0)] = 0.04
    """Weight of the penalty. 0 switches the term off; the distance is then still measured now and then."""

    estimator: Estimator = "k3"
    """k1 = d', k2 = d'^2 / 2 with d' = logp_theta - logp_ref; k3 = exp(d) - d - 1 with d = -d' (Schulman 2020)."""

    measure_every: Annotated[int, Field(ge=1)] = 5
    """Steps between two measurements of the KL to the initial policy when ``beta`` is 0."""


class ObjectiveConfig(Section):
    """What is minimised."""

    advantage: AdvantageConfig = AdvantageConfig()
    surrogate: SurrogateConfig = SurrogateConfig()
    kl: KLConfig = KLConfig()
    aggregation: Aggregation = "sequence-mean"
    """``sequence-mean``: mean over completions of the mean over their tokens (GRPO). ``token-mean``: sum over
    tokens / number of tokens of the whole step (DAPO). ``constant``: sum over tokens / (completions *
    max_completion_tokens) (Dr. GRPO)."""

    mask_truncated: bool = False
    """Leave completions that ran into the length limit out of the loss (overlong filter). The normaliser counts
    only what is left."""

    @model_validator(mode="after")
    def _ddof_needs_a_deviation(self) -> ObjectiveConfig:
        defaults = AdvantageConfig()
        # A recorded configuration spells out every default, so only another number than the default contradicts.
        explicit = [key for key in ("ddof", "epsilon") if getattr(self.advantage, key) != getattr(defaults, key)]
        if self.advantage.normaliser == "none" and explicit:
            raise ValueError(
                f"advantage.normaliser is 'none', so {', '.join(sorted(explicit))} would never be used; remove it"
            )
        return self
