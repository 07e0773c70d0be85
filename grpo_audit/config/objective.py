"""The objective: advantage, surrogate, KL term, corrections and aggregation. The loss reads these objects, and so does
the formula in the record, so that the two cannot drift apart.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from grpo_audit.config.base import Section

Baseline = Literal["group-mean", "leave-one-out", "value-model"]
Normaliser = Literal["group", "batch", "beta", "none"]
Combination = Literal["sum", "normalise-each"]
SurrogateKind = Literal["clipped", "cispo", "sapo"]
RatioLevel = Literal["token", "sequence", "trajectory"]
Estimator = Literal["k1", "k2", "k3"]
Aggregation = Literal["sequence-mean", "token-mean", "block-token-mean", "sequence-sum", "constant"]

Share = Annotated[float, Field(gt=0, le=1)]


class AdvantageConfig(Section):
    """How the rewards of a group become advantages."""

    baseline: Baseline = "group-mean"
    """What is subtracted from the reward. ``group-mean``: the mean of the group (GRPO). ``leave-one-out``: the mean of
    the other completions of the group (RLOO). ``value-model``: a learned value per token, by GAE (PPO)."""

    normaliser: Normaliser = "group"
    """What it is divided by. ``group``: the group's standard deviation (GRPO). ``batch``: the deviation of all rewards
    of the step (Lite-PPO). ``beta``: the density of a Beta distribution fitted to the groups' success rates (BNPO;
    rewards between 0 and 1). ``none``: nothing (Dr. GRPO)."""

    ddof: Annotated[int, Field(ge=0, le=1)] = 1
    """Delta degrees of freedom of that standard deviation: 1 as in TRL and verl, 0 as in GRPO-Zero."""

    epsilon: Annotated[float, Field(gt=0, le=0.1)] = 1e-4
    """Added to the standard deviation before dividing."""

    sources: Combination = "sum"
    """``sum``: the weighted sum of the reward sources is normalised. ``normalise-each``: each source is normalised in
    its group first, then weighted, summed, and the sum is normalised over the step (GDPO)."""


class SurrogateConfig(Section):
    """What is maximised per token, as a function of the ratio rho between the policy and the old policy."""

    kind: SurrogateKind = "clipped"
    """``clipped``: min(rho A, clip(rho) A) (PPO). ``cispo``: the clipped ratio, detached, times A log p (MiniMax-M1).
    ``sapo``: a sigmoid gate in place of the clip (SAPO)."""

    level: RatioLevel = "token"
    """``token``: a ratio for each token. ``sequence``: one for each completion, the geometric mean over its tokens
    (GSPO). ``trajectory``: one for each completion, the product over its tokens (RLOO)."""

    clip_low: Annotated[float, Field(gt=0)] = 0.2
    """The ratio is clipped below at ``1 - clip_low``; at 1 or more there is no lower bound."""

    clip_high: Annotated[float, Field(gt=0)] = 0.2
    """The ratio is clipped above at ``1 + clip_high``."""

    dual_clip: Annotated[float, Field(gt=1)] | None = None
    """Where the advantage is negative the ratio counts at most this much; null: no such cap."""

    tau_positive: Annotated[float, Field(gt=0)] = 1.0
    """Temperature of SAPO's gate where the advantage is positive."""

    tau_negative: Annotated[float, Field(gt=0)] = 1.05
    """The same elsewhere."""


class KLConfig(Section):
    """The penalty on the distance to the reference policy."""

    beta: Annotated[float, Field(ge=0)] = 0.04
    """Weight of the penalty. 0 switches the term off; the distance is then still measured now and then."""

    estimator: Estimator = "k3"
    """k1 = d', k2 = d'^2 / 2 with d' = logp_theta - logp_ref; k3 = exp(d) - d - 1 with d = -d' (Schulman 2020)."""

    placement: Literal["loss", "reward"] = "loss"
    """``loss``: added to the loss (GRPO). ``reward``: subtracted from the reward (RLOO: k1 summed over the completion;
    PPO: k1 at each token)."""

    times_ratio: bool = False
    """Multiply the estimator by rho, which corrects it for tokens that the old policy drew (DeepSeek-V3.2)."""

    measure_every: Annotated[int, Field(ge=1)] = 5
    """Steps between two measurements of the KL to the initial policy when the loss does not need it."""

    replace_reference_every: Annotated[int, Field(ge=1)] | None = None
    """Steps after which the reference is replaced by the policy as it is then (R1: 400); null: never."""


class CorrectionConfig(Section):
    """Importance correction for tokens that another engine sampled: w = pi_old / pi_sampler."""

    level: Literal["none", "token", "sequence"] = "none"
    """``token``: w for each token. ``sequence``: the product over a completion."""

    mode: Literal["truncate", "mask"] = "truncate"
    """What happens above ``cap``: w becomes ``cap``, or 0."""

    cap: Annotated[float, Field(gt=1)] = 2.0


class ValueConfig(Section):
    """The value model of PPO; read only when ``advantage.baseline`` is ``value-model``."""

    discount: Share = 1.0
    """gamma of GAE."""

    gae_lambda: Annotated[float, Field(ge=0, le=1)] = 0.95
    """lambda of GAE."""

    learning_rate: Annotated[float, Field(gt=0)] = 1e-5
    """Of the value model, which has an optimiser of its own; the policy's schedule applies to it."""

    clip: Annotated[float, Field(gt=0)] = 0.2
    """A new value counts at most this far away from the old one."""

    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """First steps in which only the value model learns."""


class ObjectiveConfig(Section):
    """What is minimised."""

    advantage: AdvantageConfig = AdvantageConfig()
    surrogate: SurrogateConfig = SurrogateConfig()
    kl: KLConfig = KLConfig()
    correction: CorrectionConfig = CorrectionConfig()
    value: ValueConfig = ValueConfig()

    aggregation: Aggregation = "sequence-mean"
    """``sequence-mean``: mean over completions of the mean over their tokens (GRPO). ``token-mean``: sum over
    tokens / number of tokens of the update (DAPO). ``block-token-mean``: mean over blocks of ``block_rows`` completions
    of the sum over tokens / tokens of the block (TRL's bnpo). ``sequence-sum``: mean over completions of the sum over
    their tokens (BNPO). ``constant``: sum over tokens / (completions * max_completion_tokens) (Dr. GRPO)."""

    block_rows: Annotated[int, Field(ge=1)] = 8
    """Completions in a block; read only when ``aggregation`` is ``block-token-mean``."""

    mask_truncated: bool = False
    """Leave completions that ran into the length limit out of the loss (overlong filter). The normaliser counts
    only what is left."""

    soft_overlong_tokens: Annotated[int, Field(ge=0)] = 0
    """Soft overlong punishment (DAPO eq. 13): the reward falls linearly by up to 1 over the last so many tokens before
    ``sampling.max_completion_tokens``. 0: none."""

    top_entropy: Share = 1.0
    """Share of tokens, those of highest entropy, whose surrogate counts (arXiv 2506.01939: 0.2). 1: all."""

    @model_validator(mode="after")
    def _contradictions(self) -> ObjectiveConfig:
        # A recorded configuration spells out every default, so only another number than the default contradicts.
        advantage, defaults = self.advantage, AdvantageConfig()
        divides = advantage.normaliser in ("group", "batch") or advantage.sources == "normalise-each"
        explicit = [key for key in ("ddof", "epsilon") if getattr(advantage, key) != getattr(defaults, key)]
        if not divides and explicit:
            raise ValueError(
                f"advantage.normaliser is {advantage.normaliser!r}, so {', '.join(sorted(explicit))} would never be "
                "used; remove it"
            )
        if advantage.sources == "normalise-each" and advantage.normaliser != "batch":
            raise ValueError(
                "advantage.sources 'normalise-each' normalises the sum over the step: set normaliser to 'batch'"
            )
        if advantage.baseline == "value-model" and advantage.normaliser not in ("batch", "none"):
            raise ValueError(
                "advantage.baseline 'value-model' has no groups: set advantage.normaliser to 'batch' or 'none'"
            )
        if self.surrogate.dual_clip is not None and self.surrogate.dual_clip <= 1 + self.surrogate.clip_high:
            raise ValueError("surrogate.dual_clip must be larger than 1 + surrogate.clip_high")
        if self.surrogate.dual_clip is not None and self.surrogate.kind != "clipped":
            raise ValueError(f"surrogate.dual_clip is never used by surrogate.kind {self.surrogate.kind!r}; remove it")
        if self.kl.placement == "reward" and self.kl.estimator != "k1":
            raise ValueError("kl.placement 'reward' subtracts k1: set kl.estimator to k1")
        if self.kl.placement == "reward" and self.kl.times_ratio:
            raise ValueError("kl.times_ratio is never used when kl.placement is 'reward'; remove it")
        return self
