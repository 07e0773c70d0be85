"""The formula manifest: what exactly was minimised, in words and symbols, rendered from the objects the loss reads.

Names are not enough: libraries mean different things by "GRPO", "std" or "KL".
"""

from __future__ import annotations

from typing import Final

from grpo_audit.config.objective import AdvantageConfig, KLConfig, ObjectiveConfig, SurrogateConfig
from grpo_audit.config.sections import SamplingConfig

EQUAL_REWARDS: Final = 2.0**-20
"""Rewards of a group whose spread is at most this share of the largest magnitude count as equal: eight units in the
last place of a float32, in which reward models answer."""

_ESTIMATORS: Final = {
    "k1": "k1 = logp_theta - logp_ref",
    "k2": "k2 = (logp_theta - logp_ref)^2 / 2",
    "k3": "k3 = exp(d) - d - 1 with d = logp_ref - logp_theta",
}


def manifest(objective: ObjectiveConfig, sampling: SamplingConfig) -> dict[str, str]:
    """The formula of this run, by part. Symbols: rewards r_i of the G completions o_i of one prompt, tokens t,
    mask m_it (tokens that count), |o_i| = sum_t m_it, N completions and T tokens of the whole step."""
    return {
        "advantage": _advantage(objective.advantage, sampling.group_size),
        "equal rewards": (
            f"A_i = 0 for the whole group when max r - min r <= {EQUAL_REWARDS!r} * max |r| (rounding is no signal)"
        ),
        "missing rewards": (
            "a completion without a reward, and every completion of a group with fewer than two rewards, is left out "
            "of the loss; mean and deviation are taken over the rewards there are"
        ),
        "ratio": (
            "rho_it = exp(logp_theta(o_it) - logp_old(o_it)), log-probabilities at the sampling temperature "
            f"{sampling.temperature!r}; one update per batch, so rho = 1 in value"
        ),
        "surrogate": _surrogate(objective.surrogate),
        "kl": _kl(objective.kl),
        "aggregation": _aggregation(objective, sampling),
        "loss": _loss(objective),
        "gradient": _gradient(objective),
        "truncated completions": (
            "left out of the loss and of N and T (overlong filter); their rewards still count in the group's mean and "
            "deviation"
            if objective.mask_truncated
            else "treated like all others"
        ),
        "sampling": (
            f"o_i ~ softmax(logits / {sampling.temperature!r}) over the whole vocabulary; no top-p, top-k, min-p or "
            "penalty"
        ),
        "same words elsewhere": _elsewhere(objective),
    }


def _advantage(config: AdvantageConfig, group_size: int) -> str:
    if config.normaliser == "none":
        return f"A_i = r_i - mean(r) over the group (G = {group_size}); not divided by the deviation"
    return (
        f"A_i = (r_i - mean(r)) / (std(r) + {config.epsilon!r}) over the group (G = {group_size}), "
        f"std with ddof {config.ddof}"
    )


def _surrogate(config: SurrogateConfig) -> str:
    return (
        f"s_it = min(rho_it A_i, clip(rho_it, 1 - {config.clip_low!r}, 1 + {config.clip_high!r}) A_i), per token; "
        "no second cap on rho"
    )


def _kl(config: KLConfig) -> str:
    if config.beta == 0:
        return (
            f"no KL term (beta = 0); the distance to the initial weights is measured every {config.measure_every} "
            f"steps as the mean over tokens of {_ESTIMATORS[config.estimator]}"
        )
    return (
        f"beta = {config.beta!r} times {_ESTIMATORS[config.estimator]}, per token, reference = the initial weights of "
        "this run, never replaced"
    )


def _aggregation(objective: ObjectiveConfig, sampling: SamplingConfig) -> str:
    whole_step = "counted over the whole step, before it is cut into microbatches"
    match objective.aggregation:
        case "sequence-mean":
            return f"1/N sum_i 1/|o_i| sum_t m_it c_it, N {whole_step}"
        case "token-mean":
            return f"1/T sum_i sum_t m_it c_it, T {whole_step}"
        case "constant":
            limit = sampling.max_completion_tokens
            return f"1/(N * {limit}) sum_i sum_t m_it c_it, N {whole_step}, {limit} = max_completion_tokens"


def _loss(objective: ObjectiveConfig) -> str:
    penalty = "" if objective.kl.beta == 0 else f" + {objective.kl.beta!r} {objective.kl.estimator}_it"
    return f"minimise the aggregation of c_it = -s_it{penalty}"


def _gradient(objective: ObjectiveConfig) -> str:
    note = (
        "rho = 1 in value, so the surrogate's value is -mean(A), near 0, while its gradient is -A_i grad logp_theta; "
        "A_i and logp_old carry no gradient"
    )
    if objective.kl.beta == 0:
        return note + "; completions with A_i = 0 have gradient exactly 0 and are not computed, but count in N and T"
    return note + f"; {objective.kl.estimator} is differentiated as written, not multiplied by rho"


def _elsewhere(objective: ObjectiveConfig) -> str:
    """Where TRL and verl mean something else by the same words."""
    notes: list[str] = []
    if objective.advantage.normaliser == "group":
        notes.append("standard deviation: TRL ddof 1 and epsilon 1e-4, verl ddof 1 and epsilon 1e-6")
    if objective.kl.beta > 0:
        notes.append("KL term: TRL multiplies k3 by rho (equal in value on-policy, not in gradient); verl clamps k3")
    if objective.aggregation == "sequence-mean":
        notes.append("sequence-mean is TRL's loss_type 'grpo' and verl's 'seq-mean-token-mean'")
    elif objective.aggregation == "token-mean":
        notes.append(
            "token-mean is TRL's 'dapo' (tokens of the whole step) and verl's 'token-mean'; TRL's 'bnpo' divides by "
            "the tokens of one microbatch"
        )
    else:
        notes.append("constant is TRL's loss_type 'dr_grpo'; verl's nearest is 'seq-mean-token-sum-norm'")
    if objective.surrogate.clip_low != objective.surrogate.clip_high:
        notes.append("clip_high is relative to 1 (1 + clip_high), as in TRL's epsilon_high and verl's clip_ratio_high")
    return "; ".join(notes)
