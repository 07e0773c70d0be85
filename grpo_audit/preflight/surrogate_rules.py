"""Rules about the ratio, its clip and its correction."""

from __future__ import annotations

from typing import Final

from grpo_audit.config.objective import SurrogateConfig
from grpo_audit.preflight.rule import Found, Rule, Situation, whole
from grpo_audit.record.events import Severity

SEQUENCE_CLIP_LARGEST: Final = 0.02
"""Fifty times the larger of GSPO's two numbers, 4e-4."""
TOKEN_CLIP_SMALLEST: Final = 0.005
"""More than ten times GSPO's 4e-4, a fortieth of PPO's 0.2."""
NO_CLIP: Final = 1.0
TRL_CISPO_CAP: Final = 2.0
"""TRL recommends 5.0 for its absolute cap, papers tune 0.2 to 0.3 for a relative one."""
LOOSE_AGREEMENT: Final = 0.2

_CLIPS: Final = ("objective.surrogate.clip_low", "objective.surrogate.clip_high")


def _sequence_clip(at: Situation) -> list[Found]:
    surrogate = at.config.objective.surrogate
    if surrogate.kind != "clipped" or surrogate.level != "sequence":
        return []
    return [
        Found(path, f"the ratio of a whole completion hardly leaves 1 by {value:g}, so nothing is ever clipped")
        for path, value in zip(_CLIPS, (surrogate.clip_low, surrogate.clip_high), strict=True)
        if value > SEQUENCE_CLIP_LARGEST
    ]


def _token_clip(at: Situation) -> list[Found]:
    surrogate = at.config.objective.surrogate
    if surrogate.kind != "clipped" or surrogate.level != "token":
        return []
    return [
        Found(path, f"nearly every token's ratio leaves 1 by {value:g} after the first update and loses its gradient")
        for path, value in zip(_CLIPS, (surrogate.clip_low, surrogate.clip_high), strict=True)
        if value < TOKEN_CLIP_SMALLEST
    ]


def _sequence_lengths(at: Situation) -> list[Found]:
    objective = at.config.objective
    if objective.surrogate.level != "sequence" or objective.aggregation == "sequence-mean":
        return []
    return [Found("objective.aggregation", "each completion's one ratio counts once a token, so long ones weigh more")]


def _cispo_cap(at: Situation) -> list[Found]:
    surrogate = at.config.objective.surrogate
    if surrogate.kind != "cispo" or surrogate.clip_high < TRL_CISPO_CAP or not at.chosen(_CLIPS[1]):
        return []
    return [
        Found(
            _CLIPS[1],
            f"weights are capped at 1 + {surrogate.clip_high:g}; TRL's epsilon_high {surrogate.clip_high:g} caps at "
            f"{surrogate.clip_high:g}",
        )
    ]


def _cispo_lower(at: Situation) -> list[Found]:
    surrogate = at.config.objective.surrogate
    if surrogate.kind != "cispo" or surrogate.clip_low >= NO_CLIP:
        return []
    return [Found(_CLIPS[0], f"weights below {1 - surrogate.clip_low:g} are raised to it, which the paper does not do")]


def _sapo_clip(at: Situation) -> list[Found]:
    surrogate, defaults = at.config.objective.surrogate, SurrogateConfig()
    if surrogate.kind != "sapo":
        return []
    return [
        Found(path, "never read: SAPO's gate stands in place of the clip")
        for path, name in zip(_CLIPS, ("clip_low", "clip_high"), strict=True)
        if getattr(surrogate, name) != getattr(defaults, name)
    ]


def _clip_unused(at: Situation) -> list[Found]:
    surrogate = at.config.objective.surrogate
    if at.updates > 1 or surrogate.kind == "sapo":
        return []
    paths = (*_CLIPS, "objective.surrogate.dual_clip")
    return [Found(path, "never reached: one update a step, so the ratio is 1") for path in paths if at.chosen(path)]


def _clip_never(at: Situation) -> list[Found]:
    surrogate = at.config.objective.surrogate
    if at.updates == 1 or surrogate.kind != "clipped" or surrogate.level != "token" or surrogate.clip_high < NO_CLIP:
        return []
    if not at.chosen(_CLIPS[1], "training.iterations", "training.minibatches"):
        return []  # as the paper has it
    return [
        Found(
            _CLIPS[1],
            f"{whole(at.updates)} updates on the same rollouts, and only a ratio above "
            f"{1 + surrogate.clip_high:g} is clipped",
        )
    ]


def _uncorrected(at: Situation) -> list[Found]:
    if at.config.sampling.engine != "vllm" or at.config.objective.correction.level != "none":
        return []
    return [
        Found("objective.correction.level", "vLLM computes the probabilities that are sampled from, not the policy")
    ]


def _needless_correction(at: Situation) -> list[Found]:
    if at.config.sampling.engine != "native" or at.config.objective.correction.level == "none":
        return []
    return [Found("objective.correction.level", "the native engine samples from the policy itself: the weights are 1")]


def _agreement(at: Situation) -> list[Found]:
    tolerance = at.config.training.agreement_tolerance
    if tolerance <= LOOSE_AGREEMENT:
        return []
    return [
        Found(
            "training.agreement_tolerance",
            f"probabilities that are off by {tolerance:.3g} nats a token on average would pass the check of step 0",
        )
    ]


RULES: Final = (
    Rule(
        id="sampler-not-corrected",
        severity=Severity.ERROR,
        title="Another engine samples, and nothing corrects for it",
        explanation=(
            "vLLM's kernels round differently from the training pass, so rollouts come from a slightly other policy. "
            "Over long completions the difference adds up, every gradient is biased, and runs have collapsed from it."
        ),
        remedy="Set objective.correction.level to token (truncate at 2), or sampling.engine to native",
        source="huggingface/trl#4772, huggingface/trl#4493, modelscope/ms-swift#6678",
        check=_uncorrected,
    ),
    Rule(
        id="gspo-clip-too-wide",
        severity=Severity.WARNING,
        title="A token-level clip range on a sequence-level ratio",
        explanation=(
            "The sequence ratio is a geometric mean over all tokens, so it stays far closer to 1 than any token's. "
            "GSPO clips at 3e-4 and 4e-4; with 0.2 the clip does nothing, and several updates on one batch go "
            "unchecked."
        ),
        remedy="Set objective.surrogate.clip_low to 3e-4 and clip_high to 4e-4",
        source="GSPO, arXiv 2507.18071, section 5.1",
        check=_sequence_clip,
    ),
    Rule(
        id="token-clip-too-narrow",
        severity=Severity.WARNING,
        title="A sequence-level clip range on token-level ratios",
        explanation=(
            "The ratio of one token moves far more than the mean over a completion. At 3e-4, a number made for that "
            "mean, the clip takes the gradient from most tokens that moved, and training all but stops after the first "
            "update of a step."
        ),
        remedy="Set objective.surrogate.level to sequence, or both clip values to about 0.2",
        source="GSPO, arXiv 2507.18071, section 5.1; PPO, arXiv 1707.06347",
        check=_token_clip,
    ),
    Rule(
        id="sequence-ratio-by-length",
        severity=Severity.WARNING,
        title="A sequence-level ratio, weighted by length",
        explanation=(
            "With one ratio a completion, GSPO takes the mean over completions. Any other aggregation adds the same "
            "term once a token, so a completion counts in proportion to its length."
        ),
        remedy="Set objective.aggregation to sequence-mean",
        source="GSPO, arXiv 2507.18071, equation 5; TRL 1.16 warns of the same combination",
        check=_sequence_lengths,
    ),
    Rule(
        id="cispo-cap",
        severity=Severity.INFO,
        title="CISPO's cap means different things in different libraries",
        explanation=(
            "Here weights are capped at 1 + clip_high, as in the paper, open-instruct and verl. TRL's epsilon_high is "
            "the cap itself: its recommended 5.0 is 4.0 here, and its 0.2 shrinks every gradient fivefold."
        ),
        remedy="Write clip_high as the cap minus 1; nothing to do if that is what is there",
        source="MiniMax-M1, arXiv 2506.13585, equation 5; TRL 1.16, grpo_trainer.py",
        check=_cispo_cap,
    ),
    Rule(
        id="cispo-lower-bound",
        severity=Severity.WARNING,
        title="CISPO with a lower bound",
        explanation=(
            "The paper sets no lower bound on the weight. With one, tokens the policy has already turned away from "
            "keep a weight they no longer have, for both signs of the advantage."
        ),
        remedy="Set objective.surrogate.clip_low to 1 or more, which is no bound",
        source="MiniMax-M1, arXiv 2506.13585, section 3.1",
        check=_cispo_lower,
    ),
    Rule(
        id="sapo-clip-unused",
        severity=Severity.WARNING,
        title="SAPO has no clip range",
        explanation=(
            "SAPO replaces the clip by a sigmoid gate. A clip value beside it suggests a bound that is not there."
        ),
        remedy="Remove clip_low and clip_high; tune tau_positive and tau_negative",
        source="SAPO, arXiv 2511.20347",
        check=_sapo_clip,
    ),
    Rule(
        id="clip-unused",
        severity=Severity.INFO,
        title="A clip range that is never reached",
        explanation=(
            "With iterations x minibatches = 1 the old policy is the policy itself. The ratio is 1 in value, so no "
            "clip range has any effect, whatever its number."
        ),
        remedy="Leave it at the preset's number, or raise training.iterations or training.minibatches",
        source="DeepSeekMath, arXiv 2402.03300, section 4.2 (a single update per exploration stage)",
        check=_clip_unused,
    ),
    Rule(
        id="clip-never-reached",
        severity=Severity.WARNING,
        title="Several updates on the same rollouts, and no clip that holds",
        explanation=(
            "From the second update on, the clip is what keeps the policy near the one that drew the rollouts. At 1 or "
            "more it lets a token's probability double before anything happens."
        ),
        remedy="Set objective.surrogate.clip_high to 0.2 or 0.28, or make one update a step",
        source="PPO, arXiv 1707.06347; DAPO, arXiv 2503.14476, section 3.1",
        check=_clip_never,
    ),
    Rule(
        id="correction-without-need",
        severity=Severity.INFO,
        title="A correction with nothing to correct",
        explanation=(
            "The native engine draws from the same weights that are trained, through the same forward pass. Importance "
            "weights are 1 up to rounding, and the record then names a correction that did nothing."
        ),
        remedy="Set objective.correction.level to none",
        source="step 0 of every run measures it (agreement_mean)",
        check=_needless_correction,
    ),
    Rule(
        id="agreement-check-off",
        severity=Severity.WARNING,
        title="The check of sampler against scorer would let anything pass",
        explanation=(
            "Step 0 stops when sampler and scorer disagree, because every gradient would be biased without a sign of "
            "it. An honest run in float32 shows rounding only."
        ),
        remedy="Set training.agreement_tolerance to 0.05",
        source="huggingface/trl#6789 and modelscope/ms-swift#8442: sampler and scorer under different distributions",
        check=_agreement,
    ),
)
