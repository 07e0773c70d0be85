"""What TRL (1.16) and verl mean by the words of an objective, where it is something else than here.

The TRL side is checked against TRL itself (tests/trainer/test_trl_oracle.py); the verl side was read, not run.
"""

from __future__ import annotations

from typing import Final

from grpo_audit.config.objective import AdvantageConfig, KLConfig, ObjectiveConfig, SurrogateConfig

_AGGREGATIONS: Final = {
    "sequence-mean": "sequence-mean is TRL's loss_type 'grpo' and verl's 'seq-mean-token-mean'; both average the means "
    "of microbatches, the same number only when these are equally large",
    "token-mean": "token-mean is TRL's 'dapo', which counts the tokens of the whole batch of rollouts, divided by its "
    "updates, and verl's 'token-mean'; TRL's 'bnpo' divides by the tokens of one microbatch",
    "block-token-mean": "block-token-mean is TRL's 'bnpo' with one block a microbatch, where it depends on the batch "
    "size of the device; BNPO the paper is a normaliser of the advantage ('beta' here)",
    "sequence-sum": "sequence-sum is the aggregation of TRL's 'luspo' and verl's 'seq-mean-token-sum'",
    "constant": "constant is TRL's loss_type 'dr_grpo'; verl's nearest is 'seq-mean-token-sum-norm'",
}


def elsewhere(objective: ObjectiveConfig) -> str:
    """One line: each word of this objective that TRL or verl use otherwise."""
    notes = [
        *_advantage(objective.advantage),
        *_surrogate(objective.surrogate, objective.aggregation),
        *_kl(objective.kl),
        _AGGREGATIONS[objective.aggregation],
    ]
    if objective.correction.level != "none":
        notes.append(
            "importance correction: TRL's 'token_truncate', 'token_mask', 'sequence_truncate' and 'sequence_mask' with "
            "vllm_importance_sampling_clip_max; its default is 'sequence_mask' with 3.0"
        )
    if objective.top_entropy < 1:
        notes.append("top entropy: TRL takes the quantile over one microbatch on all devices, here over the update")
    if objective.soft_overlong_tokens:
        notes.append("soft overlong punishment: a reward function in TRL, overlong_buffer in verl, factor 1 in both")
    return "; ".join(notes)


def _advantage(config: AdvantageConfig) -> list[str]:
    if config.sources == "normalise-each":
        return ["normalise-each is TRL's multi_objective_aggregation 'normalize_then_sum', epsilon 1e-4"]
    if config.baseline == "value-model":
        return ["value model: verl's adv_estimator 'gae' whitens over all tokens; TRL 1.16 has no PPO"]
    notes = []
    if config.baseline == "leave-one-out":
        notes.append(
            "leave-one-out is TRL's RLOOTrainer, whose normalize_advantages divides by the deviation of the "
            "advantages, and verl's 'rloo', which leaves the ratio per token"
        )
    if config.normaliser == "group":
        notes.append("standard deviation: TRL ddof 1 and epsilon 1e-4, verl ddof 1 and epsilon 1e-6")
    if config.normaliser == "batch":
        notes.append("batch is TRL's scale_rewards 'batch': the deviation of the rewards, ddof 1, epsilon 1e-4")
    if config.normaliser == "beta":
        notes.append("beta is the BNPO paper's; TRL's loss_type 'bnpo' is an aggregation and has none of it")
    return notes


def _surrogate(config: SurrogateConfig, aggregation: str) -> list[str]:
    notes = []
    if config.kind == "cispo":
        notes.append(
            "cispo: here and in verl the cap is 1 + clip_high; TRL's epsilon_high is the cap itself, without a lower "
            "bound, so its default 0.2 cuts every weight to 0.2"
        )
        if aggregation != "token-mean":
            notes.append("cispo: TRL always takes the mean over tokens")
    if config.kind == "sapo":
        notes.append("sapo: as in TRL, with its aggregation 'grpo'; verl aggregates as loss_agg_mode says")
    if config.level == "sequence":
        notes.append(
            "sequence level is TRL's importance_sampling_level 'sequence'; verl's 'gspo' has the same gradient as long "
            "as the advantage is one number a completion"
        )
    if config.level == "trajectory":
        notes.append("trajectory level is TRL's RLOOTrainer; its GRPOTrainer and verl have none")
    if config.dual_clip is not None:
        notes.append("dual clip: TRL's delta; verl's clip_ratio_c, which is on by default with 3.0")
    if config.kind == "clipped" and config.clip_low != config.clip_high:
        notes.append("clip_high is relative to 1 (1 + clip_high), as in TRL's epsilon_high and verl's clip_ratio_high")
    return notes


def _kl(config: KLConfig) -> list[str]:
    if config.beta == 0:
        return []
    if config.placement == "reward":
        return ["KL in the reward: TRL's RLOOTrainer and verl's use_kl_in_reward; TRL's GRPOTrainer has it in the loss"]
    if config.times_ratio:
        return [
            "KL term times rho: TRL's default (use_bias_correction_kl); at sequence level rho is that of the sequence"
        ]
    return [
        "KL term: TRL multiplies k3 by rho unless told not to (equal in value on-policy, not in gradient); verl clamps "
        "k3"
    ]
