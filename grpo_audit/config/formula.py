"""The formula manifest: what exactly was minimised, in words and symbols, rendered from the objects the loss reads.

Names are not enough: libraries mean different things by "GRPO", "std" or "KL".
"""

from __future__ import annotations

from typing import Final

from grpo_audit.config.dialects import elsewhere
from grpo_audit.config.objective import AdvantageConfig, CorrectionConfig, KLConfig, ObjectiveConfig, SurrogateConfig
from grpo_audit.config.sections import SamplingConfig

EQUAL_REWARDS: Final = 2.0**-20
"""Rewards of a group whose spread is at most this share of the largest magnitude count as equal: eight units in the
last place of a float32, in which reward models answer."""

BETA_LARGEST: Final = 1e6
"""Largest factor by which the normaliser ``beta`` multiplies, as in the code of its authors."""

_ESTIMATORS: Final = {
    "k1": "k1 = logp_theta - logp_ref",
    "k2": "k2 = (logp_theta - logp_ref)^2 / 2",
    "k3": "k3 = exp(d) - d - 1 with d = logp_ref - logp_theta",
}


def manifest(objective: ObjectiveConfig, sampling: SamplingConfig) -> dict[str, str]:
    """The formula of this run, by part. Symbols: rewards r_i of the G completions o_i of one prompt, tokens t,
    mask m_it (tokens that count), |o_i| = sum_t m_it, N completions and T tokens of one optimiser update."""
    return {
        "reward shaping": _shaping(objective, sampling),
        "advantage": _advantage(objective, sampling.group_size),
        "equal rewards": _equal_rewards(objective),
        "missing rewards": (
            "a completion without a reward, and every completion of a group with fewer than two rewards, is left out "
            "of the loss; mean and deviation are taken over the rewards there are"
        ),
        "ratio": _ratio(objective.surrogate, sampling),
        "surrogate": _surrogate(objective.surrogate),
        "importance correction": _correction(objective.correction),
        "tokens in the surrogate": _top_entropy(objective.top_entropy),
        "kl": _kl(objective.kl),
        "aggregation": _aggregation(objective, sampling),
        "loss": _loss(objective),
        "gradient": _gradient(objective),
        "value model": _value(objective),
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
        "same words elsewhere": elsewhere(objective),
    }


def _shaping(objective: ObjectiveConfig, sampling: SamplingConfig) -> str:
    soft, limit = objective.soft_overlong_tokens, sampling.max_completion_tokens
    parts = []
    if soft:
        parts.append(f"r_i + max(-1, min(0, ({limit - soft} - |o_i|) / {soft})) (soft overlong punishment)")
    if objective.kl.beta > 0 and objective.kl.placement == "reward":
        each = objective.advantage.baseline == "value-model"
        what = "at each token" if each else "summed over the completion"
        parts.append(f"minus {objective.kl.beta!r} times (logp_old - logp_ref), {what}")
    return "; ".join(parts) if parts else "none: r_i is the weighted sum of the reward sources"


def _equal_rewards(objective: ObjectiveConfig) -> str:
    if objective.advantage.baseline == "value-model":
        return "no rule: advantages come from the value model, not from groups"
    each = " of every source" if objective.advantage.sources == "normalise-each" else ""
    return (
        f"A_i = 0 for the whole group when max r - min r <= {EQUAL_REWARDS!r} * max |r|{each} (rounding is no signal)"
    )


def _advantage(objective: ObjectiveConfig, group_size: int) -> str:
    config = objective.advantage
    group = f"over the group (G = {group_size})"
    if config.baseline == "value-model":
        return _value_advantage(config)
    mean = "mean(r)" if config.baseline == "group-mean" else "mean of the others' r"
    if config.sources == "normalise-each":
        return (
            f"z_ki = (r_ki - {mean.replace('r)', 'r_k)')}) / (std(r_k) + {config.epsilon!r}) for each source k "
            f"{group}, y_i = sum_k w_k z_ki over the sources there are, A_i = (y_i - mean(y)) / (std(y) + "
            f"{config.epsilon!r}) over the step, std with ddof {config.ddof}"
        )
    centred = f"r_i - {mean}"
    match config.normaliser:
        case "none":
            return f"A_i = {centred} {group}; not divided by the deviation"
        case "group":
            return f"A_i = ({centred}) / (std(r) + {config.epsilon!r}) {group}, std with ddof {config.ddof}"
        case "batch":
            return (
                f"A_i = ({centred}) / (std(all r of the step) + {config.epsilon!r}), {mean} {group}, std with ddof "
                f"{config.ddof}"
            )
        case "beta":
            return (
                f"A_i = ({centred}) / f(p) {group}, p = mean(r) the group's success rate, f the density of "
                "Beta(max(1, 1 + a/3), max(1, 1 + b/3)), a = m k, b = (1 - m) k, k = m (1 - m) / v - 1, m and v mean "
                f"and variance (ddof 1) of p over the step; 1 / f at most {BETA_LARGEST!r}, and f = 1 when v = 0 or in "
                "a step of one group"
            )


def _value_advantage(config: AdvantageConfig) -> str:
    text = "A_it by generalised advantage estimation from the value model (see value model)"
    if config.normaliser == "batch":
        return (
            f"{text}, then (A_it - mean) / (std + {config.epsilon!r}) over all tokens in the loss of the step, "
            f"std with ddof {config.ddof}"
        )
    return f"{text}, not normalised"


def _ratio(config: SurrogateConfig, sampling: SamplingConfig) -> str:
    token = "logp_theta(o_it) - logp_old(o_it)"
    formula = {
        "token": f"rho_it = exp({token})",
        "sequence": f"rho_it = exp(1/|o_i| sum_t m_it ({token})), one for each completion",
        "trajectory": f"rho_it = exp(sum_t m_it ({token})), one for each completion",
    }[config.level]
    return (
        f"{formula}, log-probabilities at the sampling temperature {sampling.temperature!r}; logp_old is the policy "
        "that drew the rollouts, so rho = 1 at the first update of a step"
    )


def _surrogate(config: SurrogateConfig) -> str:
    floor = "0" if config.clip_low >= 1 else f"1 - {config.clip_low!r}"
    clip = f"clip(rho_it, {floor}, 1 + {config.clip_high!r})"
    match config.kind:
        case "clipped":
            cap = (
                "no second cap on rho"
                if config.dual_clip is None
                else f"where A_it < 0 at least {config.dual_clip!r} A_it (dual clip)"
            )
            return f"s_it = min(rho_it A_it, {clip} A_it); {cap}"
        case "cispo":
            return f"s_it = stop_gradient({clip}) A_it logp_theta(o_it); the bounds are relative to 1"
        case "sapo":
            return (
                "s_it = 4/tau sigmoid(tau (rho_it - 1)) A_it, tau = "
                f"{config.tau_positive!r} where A_it > 0, else {config.tau_negative!r}; no clip"
            )


def _correction(config: CorrectionConfig) -> str:
    if config.level == "none":
        return "none: the sampler's own log-probabilities are not used"
    weight = "logp_old(o_it) - logp_sampler(o_it)"
    inner = weight if config.level == "token" else f"sum_t m_it ({weight})"
    above = repr(config.cap) if config.mode == "truncate" else "0"
    return f"s_it is multiplied by w = exp({inner}), without gradient; above {config.cap!r} w becomes {above}"


def _top_entropy(share: float) -> str:
    if share == 1.0:
        return "all"
    return (
        f"those whose entropy is at least the {1 - share:.12g} quantile over the tokens of the update (a share of "
        f"{share!r}, ties included); the others have s_it = 0, and count in |o_i| and T"
    )


def _kl(config: KLConfig) -> str:
    formula, newer = _ESTIMATORS[config.estimator], config.replace_reference_every
    measured = f"the distance to the initial weights is measured every {config.measure_every} steps"
    if newer is None:
        reference, beside = "the initial weights of this run, never replaced", ""
    else:
        reference, beside = (
            f"the initial weights of this run, replaced by the policy every {newer} steps",
            f"; {measured}",
        )
    if config.beta == 0:
        return f"no KL term (beta = 0); {measured} as the mean over tokens of {formula}; reference = {reference}"
    where = f"per token, reference = {reference}{beside}"
    if config.placement == "reward":
        return (
            f"no KL term in the loss; beta = {config.beta!r} times {formula}, with logp_old for logp_theta, is taken "
            f"from the reward, {where}"
        )
    ratio = " times rho_it, whose gradient counts" if config.times_ratio else ""
    return f"beta = {config.beta!r} times {formula}{ratio}, {where}"


def _aggregation(objective: ObjectiveConfig, sampling: SamplingConfig) -> str:
    update = "counted over the whole update, before it is cut into microbatches"
    match objective.aggregation:
        case "sequence-mean":
            return f"1/N sum_i 1/|o_i| sum_t m_it c_it, N {update}"
        case "token-mean":
            return f"1/T sum_i sum_t m_it c_it, T {update}"
        case "block-token-mean":
            return (
                f"1/K sum over K blocks of 1/T_block sum_i sum_t m_it c_it, blocks of {objective.block_rows} "
                "completions in the order of the rollouts, cut from the whole update"
            )
        case "sequence-sum":
            return f"1/N sum_i sum_t m_it c_it, N {update}"
        case "constant":
            limit = sampling.max_completion_tokens
            return f"1/(N * {limit}) sum_i sum_t m_it c_it, N {update}, {limit} = max_completion_tokens"


def _loss(objective: ObjectiveConfig) -> str:
    weight = "" if objective.correction.level == "none" else "w "
    ratio = "rho_it " if objective.kl.times_ratio else ""
    penalty = f" + {objective.kl.beta!r} {ratio}{objective.kl.estimator}_it" if _in_loss(objective) else ""
    return f"minimise the aggregation of c_it = -{weight}s_it{penalty}"


def _gradient(objective: ObjectiveConfig) -> str:
    first = {
        "clipped": "at the first update rho = 1, so the surrogate's value is -mean(A), near 0, while its gradient is "
        "-A_it grad logp_theta",
        "cispo": "the gradient is that of logp_theta alone, weighted by the clipped ratio and A_it; no token loses it",
        "sapo": "at the first update the gate is 2/tau in value with slope 1, so the gradient is -A_it grad logp_theta",
    }[objective.surrogate.kind]
    note = f"{first}; A_it and logp_old carry no gradient"
    if not _in_loss(objective):
        return note + "; completions with A_it = 0 have gradient exactly 0 and are not computed, but count in N and T"
    times = "the product with rho is" if objective.kl.times_ratio else "not multiplied by rho,"
    return f"{note}; {objective.kl.estimator}: {times} differentiated as written"


def _value(objective: ObjectiveConfig) -> str:
    if objective.advantage.baseline != "value-model":
        return "none"
    value = objective.value
    return (
        f"A_it = sum_l ({value.discount!r} * {value.gae_lambda!r})^l delta_i,t+l with delta_it = r_it + "
        f"{value.discount!r} V_i,t+1 - V_it, V_it the value before token t is drawn, and 0 behind the last token, also "
        "where the length limit cut it; V starts as a copy of the first policy's decoder with a linear head of zeros; "
        f"trained on max((V - R)^2, (clip(V, V_old +- {value.clip!r}) - R)^2) / 2 with R = A + V_old before A is "
        f"normalised, and the weights of the aggregation, learning rate {value.learning_rate!r}; alone in the first "
        f"{value.warmup_steps} steps"
    )


def _in_loss(objective: ObjectiveConfig) -> bool:
    return objective.kl.beta > 0 and objective.kl.placement == "loss"
