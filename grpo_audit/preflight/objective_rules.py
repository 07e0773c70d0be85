"""Rules about the advantage, the KL term and the length of completions."""

from __future__ import annotations

from typing import Final

from grpo_audit.preflight.rule import Found, Rule, Situation, whole
from grpo_audit.record.events import Severity

TINY_EPSILON: Final = 1e-6
TINY_GROUP: Final = 3
SOON: Final = 10
"""Steps after which a replaced reference has hardly moved away."""
LONG: Final = 2048
"""Tokens from which a completion is long, reasoning at length being the rule."""
SHORT: Final = 256
LENGTH_BIAS_FROM: Final = 512
MINIATURE: Final = 100_000_000
"""Parameters below which a model writes short completions and learns at other rates than the papers'."""


def _k1_in_loss(at: Situation) -> list[Found]:
    kl = at.config.objective.kl
    if kl.beta == 0 or kl.placement != "loss" or kl.estimator != "k1" or kl.times_ratio:
        return []
    return [
        Found("objective.kl.estimator", "the reference drops out of the gradient of k1, so nothing pulls towards it")
    ]


def _unmeasured(at: Situation) -> list[Found]:
    kl, steps = at.config.objective.kl, at.config.training.steps
    if kl.beta > 0 or steps < 3 or kl.measure_every < steps:
        return []
    return [
        Found("objective.kl.measure_every", "the distance is measured at the first step, where it is 0, and the last")
    ]


def _moving_reference(at: Situation) -> list[Found]:
    kl, steps = at.config.objective.kl, at.config.training.steps
    every = kl.replace_reference_every
    if every is None or every >= steps:
        return []
    path = "objective.kl.replace_reference_every"
    if kl.beta == 0:
        return [Found(path, "beta is 0, so no term reads the reference; each replacement only costs a snapshot")]
    if every >= SOON:
        return []
    return [Found(path, f"the penalty only sees the last {every} steps, so the policy may drift as far as it likes")]


def _epsilon(at: Situation) -> list[Found]:
    advantage = at.config.objective.advantage
    divides = advantage.normaliser in ("group", "batch") or advantage.sources == "normalise-each"
    if not divides or advantage.epsilon >= TINY_EPSILON:
        return []
    return [
        Found(
            "objective.advantage.epsilon",
            "rewards that differ by a hundred-thousandth get advantages as large as those that differ by 1",
        )
    ]


def _beta_range(at: Situation) -> list[Found]:
    objective = at.config.objective
    if objective.advantage.normaliser != "beta":
        return []
    weights = [item.weight for item in at.config.rewards if item.role == "train"]
    path = "objective.advantage.normaliser"
    if objective.soft_overlong_tokens:
        return [Found(path, "the soft overlong punishment takes totals below 0, and training stops there")]
    if objective.kl.placement == "reward" and objective.kl.beta > 0:
        return [Found(path, "the KL penalty inside the reward takes totals out of 0 to 1, and training stops there")]
    if any(weight < 0 for weight in weights):
        return [Found(path, "a source with a negative weight takes totals below 0, and training stops there")]
    if sum(weights) > 1 + 1e-9:
        return [Found(path, f"the weights sum to {sum(weights):g}, so totals above 1 are possible and stop training")]
    return []


def _tiny_group(at: Situation) -> list[Found]:
    size, advantage = at.config.sampling.group_size, at.config.objective.advantage
    if size > TINY_GROUP or advantage.baseline == "value-model":
        return []
    if size == 2 and advantage.normaliser == "group" and advantage.sources == "sum":
        return [
            Found("sampling.group_size", "two rewards divided by their own deviation always give the same advantages")
        ]
    others = "another completion" if size == 2 else f"{size - 1} others"
    return [Found("sampling.group_size", f"each completion is judged against {others}")]


def _length_bias(at: Situation) -> list[Found]:
    limit = at.config.sampling.max_completion_tokens
    level = at.config.objective.surrogate.level
    if at.config.objective.aggregation != "sequence-mean" or level != "token" or limit < LENGTH_BIAS_FROM:
        return []
    return [
        Found(
            "objective.aggregation",
            f"a wrong answer of {whole(limit)} tokens is punished less a token than a short one",
        )
    ]


def _miniature(at: Situation) -> bool:
    return at.facts.parameters is not None and at.facts.parameters < MINIATURE


def _starves(at: Situation) -> list[Found]:
    limit = at.config.sampling.max_completion_tokens
    if not at.config.objective.mask_truncated or limit > SHORT or _miniature(at):
        return []
    return [
        Found("sampling.max_completion_tokens", f"every completion that needs more than {limit} tokens leaves the loss")
    ]


def _unpunished(at: Situation) -> list[Found]:
    objective, limit = at.config.objective, at.config.sampling.max_completion_tokens
    if objective.mask_truncated or objective.soft_overlong_tokens or limit < LONG:
        return []
    return [
        Found("objective.mask_truncated", f"a completion cut at {whole(limit)} tokens is judged on what it did not say")
    ]


def _soft_overlong(at: Situation) -> list[Found]:
    soft, limit = at.config.objective.soft_overlong_tokens, at.config.sampling.max_completion_tokens
    if 2 * soft <= limit:
        return []
    return [
        Found("objective.soft_overlong_tokens", f"punishment begins at {whole(limit - soft)} of {whole(limit)} tokens")
    ]


RULES: Final = (
    Rule(
        id="kl-k1-in-loss",
        severity=Severity.WARNING,
        title="k1 as a loss term does not regularise",
        explanation=(
            "The gradient of logp_theta - logp_ref is that of logp_theta alone: the reference has none. What is left "
            "averages to 0 over on-policy samples, so the term adds noise and holds nothing."
        ),
        remedy="Set objective.kl.estimator to k3 or k2, or times_ratio to true, or placement to reward",
        source="arXiv 2510.01555; arXiv 2512.21852; allenai/open-instruct#535",
        check=_k1_in_loss,
    ),
    Rule(
        id="distance-unmeasured",
        severity=Severity.WARNING,
        title="No KL term, and the distance is hardly measured",
        explanation=(
            "With beta 0 nothing holds the policy near its start, and only the measurement shows how far it went. "
            "Without it, a run that left its model behind looks like any other."
        ),
        remedy="Set objective.kl.measure_every to 5, or at most a tenth of the steps",
        source="Dr. GRPO and DAPO train without a KL term (arXiv 2503.20783, arXiv 2503.14476)",
        check=_unmeasured,
    ),
    Rule(
        id="reference-moves",
        severity=Severity.WARNING,
        title="A reference that moves along, or that nobody reads",
        explanation=(
            "A penalty on the distance to a policy of a few steps ago is a speed limit, not a tether: the distance to "
            "the base model is not bounded. DeepSeek-R1 replaced its reference every 400 steps."
        ),
        remedy="Set objective.kl.replace_reference_every to null, or to some hundred steps",
        source="DeepSeek-R1, arXiv 2501.12948",
        check=_moving_reference,
    ),
    Rule(
        id="tiny-epsilon",
        severity=Severity.WARNING,
        title="An epsilon that lets small differences count fully",
        explanation=(
            "Dividing by std + epsilon makes any spread one. Equal rewards are caught here, but a reward model's noise "
            "of 1e-5 is not equal: with 1e-8 it becomes a full advantage. Other trainers saw advantages of -2000."
        ),
        remedy="Set objective.advantage.epsilon to 1e-4, or 1e-6 at the least",
        source="NVIDIA-NeMo/RL#4158; TRL uses 1e-4, verl 1e-6",
        check=_epsilon,
    ),
    Rule(
        id="beta-normaliser-range",
        severity=Severity.WARNING,
        title="Rewards that are no success rates under the normaliser beta",
        explanation=(
            "BNPO fits a Beta distribution to the groups' success rates, so totals must lie between 0 and 1. A step "
            "with another total stops the run."
        ),
        remedy="Let the weights of the train sources sum to 1, or choose another objective.advantage.normaliser",
        source="BNPO, arXiv 2506.02864",
        check=_beta_range,
    ),
    Rule(
        id="tiny-group",
        severity=Severity.WARNING,
        title="Groups too small to compare within",
        explanation=(
            "The group is the baseline. With two completions and division by the deviation the advantages are the same "
            "whatever the rewards were; with three the baseline is mostly noise."
        ),
        remedy="Set sampling.group_size to 8 or more, and prompts_per_step lower to pay for it",
        source="arXiv 2512.07611: larger groups are steadier and better",
        check=_tiny_group,
    ),
    Rule(
        id="length-bias",
        severity=Severity.INFO,
        title="Sequence-mean favours long wrong answers",
        explanation=(
            "Dividing each completion by its own length spreads the punishment of a wrong one over more tokens, so "
            "wrong answers grow longer. It is what the GRPO paper does; Dr. GRPO shows the effect."
        ),
        remedy="Watch the completion length, or set objective.aggregation to token-mean or constant",
        source="Dr. GRPO, arXiv 2503.20783, section 3.1",
        check=_length_bias,
    ),
    Rule(
        id="overlong-filter-starves",
        severity=Severity.WARNING,
        title="The overlong filter with a short limit",
        explanation=(
            "Truncated completions leave the loss. Where most need more room than there is, the loss lives on the few "
            "short ones, and the model learns from them alone to be brief."
        ),
        remedy="Raise sampling.max_completion_tokens, or set objective.mask_truncated to false",
        source="DAPO, arXiv 2503.14476, section 3.4 (16,384 tokens and more); huggingface/trl#3248",
        check=_starves,
    ),
    Rule(
        id="truncation-unpunished",
        severity=Severity.INFO,
        title="Truncated completions are treated like all others",
        explanation=(
            "A sound chain of thought that ran into the limit is rewarded as wrong, which is noise. DAPO measured 30 "
            "to 36 points on AIME 2024 from leaving such completions out."
        ),
        remedy="Set objective.mask_truncated to true, or objective.soft_overlong_tokens to a fifth of the limit",
        source="DAPO, arXiv 2503.14476, table 1",
        check=_unpunished,
    ),
    Rule(
        id="soft-overlong-wide",
        severity=Severity.WARNING,
        title="The soft overlong punishment covers most of the length",
        explanation=(
            "Inside the zone every further token costs reward. When the zone is most of the length, the reward mainly "
            "says: be short. DAPO punishes the last 4,096 of 20,480 tokens."
        ),
        remedy="Set objective.soft_overlong_tokens to a fifth of sampling.max_completion_tokens",
        source="DAPO, arXiv 2503.14476, equation 13 and section 4.1",
        check=_soft_overlong,
    ),
)
