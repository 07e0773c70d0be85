"""The presets that differ in the ratio, the surrogate or the baseline: gspo, cispo, sapo, rloo, ppo."""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

from grpo_audit.config.preset import DDOF, OPTIMISER, Preset

_GEOMETRY: Final = (
    "group size, prompts per step, lengths, learning rate and temperature: not set; the defaults of the configuration "
    "stand there"
)

GSPO: Final = Preset(
    name="gspo",
    title="Group Sequence Policy Optimization",
    paper="2507.18071",
    equation="equations 5 to 7, numbers in section 5.1",
    values=MappingProxyType(
        {
            "objective.advantage.normaliser": "group",
            "objective.surrogate.level": "sequence",
            "objective.surrogate.clip_low": 3e-4,
            "objective.surrogate.clip_high": 4e-4,
            "objective.kl.beta": 0.0,
            "objective.aggregation": "sequence-mean",
            "objective.mask_truncated": False,
            "training.iterations": 1,
            "training.minibatches": 4,
        }
    ),
    unstated=(
        DDOF,
        "KL term: left out of the equations for brevity, as the paper says, with no number; 0 here",
        _GEOMETRY,
    ),
    deviations=("Routing Replay, which the paper needs only for its baseline GRPO, is not there",),
)

CISPO: Final = Preset(
    name="cispo",
    title="MiniMax-M1: Scaling Test-Time Compute Efficiently with Lightning Attention",
    paper="2506.13585",
    equation="equations 4 and 5, numbers in sections 3.1 and 3.2",
    values=MappingProxyType(
        {
            "objective.advantage.normaliser": "group",
            "objective.surrogate.kind": "cispo",
            "objective.surrogate.clip_low": 1.0,
            "objective.surrogate.clip_high": 4.0,
            "objective.kl.beta": 0.0,
            "objective.aggregation": "token-mean",
            "objective.mask_truncated": False,
            "sampling.dynamic_sampling": True,
            "training.iterations": 1,
            "training.minibatches": 16,
            "training.adam_betas": (0.9, 0.95),
            "training.adam_epsilon": 1e-15,
        }
    ),
    unstated=(
        DDOF,
        "clip_high: the paper tunes it and gives no number; 4 caps the ratio at 5, the value that TRL's documentation "
        "takes from ScaleRL (arXiv 2510.13786)",
        "clip_low: the paper sets no lower bound; 1 means none",
        "the 16 rounds of off-policy updates on a batch: read as 16 minibatches of one pass; this number and those of "
        "AdamW were written down without the paper at hand",
        "length penalty: the paper says that it follows DAPO and gives no number; not set",
        _GEOMETRY,
    ),
    deviations=(
        "early stopping of completions that repeat themselves, the output head in float32 and the growing length limit "
        "are not there",
    ),
)

SAPO: Final = Preset(
    name="sapo",
    title="Soft Adaptive Policy Optimization",
    paper="2511.20347",
    equation="the gate sigmoid(tau (rho - 1)) 4 / tau in the surrogate, section 3",
    values=MappingProxyType(
        {
            "objective.advantage.normaliser": "group",
            "objective.surrogate.kind": "sapo",
            "objective.surrogate.level": "token",
            "objective.surrogate.tau_positive": 1.0,
            "objective.surrogate.tau_negative": 1.05,
            "objective.kl.beta": 0.0,
            "objective.aggregation": "sequence-mean",
            "objective.mask_truncated": False,
            "training.iterations": 1,
            "training.minibatches": 4,
        }
    ),
    unstated=(
        DDOF,
        "KL term: none in the equation; 0 here",
        "minibatches: 4 is that of GSPO, the same group's earlier work; not verified against this paper",
        _GEOMETRY,
    ),
    deviations=(),
)

RLOO: Final = Preset(
    name="rloo",
    title="Back to Basics: Revisiting REINFORCE Style Optimization for Learning from Human Feedback in LLMs",
    paper="2402.14740",
    equation="the leave-one-out estimator of section 4.2",
    values=MappingProxyType(
        {
            "objective.advantage.baseline": "leave-one-out",
            "objective.advantage.normaliser": "none",
            "objective.surrogate.level": "trajectory",
            "objective.surrogate.clip_low": 0.2,
            "objective.surrogate.clip_high": 0.2,
            "objective.kl.beta": 0.05,
            "objective.kl.estimator": "k1",
            "objective.kl.placement": "reward",
            "objective.aggregation": "sequence-mean",
            "objective.mask_truncated": False,
            "sampling.group_size": 4,
            "training.iterations": 1,
            "training.minibatches": 1,
        }
    ),
    unstated=(
        "clip range: the paper has no ratio. With one update per batch the ratio is 1 and the gradient is its "
        "estimator; 0.2 is the default of TRL's RLOOTrainer and acts only when more updates are set",
        "KL coefficient: its numbers, one for each data set, were not verified; 0.05 is the default of TRL's "
        "RLOOTrainer",
        "group size: the paper compares 2 and 4; 4 here",
        "prompts per step, lengths, learning rate and temperature: not set; the defaults of the configuration stand "
        "there",
    ),
    deviations=("the paper's reward is a trained reward model; the reward sources here are the recipe's",),
)

PPO: Final = Preset(
    name="ppo",
    title="Proximal Policy Optimization Algorithms",
    paper="1707.06347",
    equation="equations 7, 11 and 12; for language models the numbers of InstructGPT (arXiv 2203.02155, appendix C.4)",
    values=MappingProxyType(
        {
            "objective.advantage.baseline": "value-model",
            "objective.advantage.normaliser": "batch",
            "objective.surrogate.clip_low": 0.2,
            "objective.surrogate.clip_high": 0.2,
            "objective.kl.beta": 0.02,
            "objective.kl.estimator": "k1",
            "objective.kl.placement": "reward",
            "objective.value.discount": 1.0,
            "objective.value.gae_lambda": 0.95,
            "objective.value.clip": 0.2,
            "objective.value.learning_rate": 9e-6,
            "objective.aggregation": "token-mean",
            "objective.mask_truncated": False,
            "sampling.temperature": 1.0,
            "training.iterations": 1,
            "training.minibatches": 8,
        }
    ),
    unstated=(
        "the numbers of InstructGPT were written down without the paper at hand",
        "gae_lambda: 0.95 is the PPO paper's (table 3); InstructGPT gives no number",
        "division of the advantages by their deviation over the step, and the clip of the value model: in the code of "
        "OpenAI baselines, in neither paper",
        "policy's learning rate, group size, prompts per step, lengths: not set; the defaults of the configuration "
        "stand there",
        OPTIMISER,
    ),
    deviations=(
        "one completion a prompt in InstructGPT; groups of sampling.group_size here, as for the other presets, so that "
        "the same rollouts can be compared",
        "InstructGPT mixes in pretraining gradients (PPO-ptx), starts its warm-up at a tenth of the learning rate and "
        "averages the weights; none of these is there, nor is the entropy bonus of equation 9 of the PPO paper",
        "the reward is the recipe's, not a trained reward model",
    ),
)
