"""The presets that differ in advantage, aggregation and sampling: grpo, r1-zero, dr_grpo, dapo, bnpo."""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

from grpo_audit.config.preset import DDOF, OPTIMISER, Preset

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
            "training.iterations": 1,
            "training.minibatches": 1,
            "training.learning_rate": 1e-6,
        }
    ),
    unstated=(
        DDOF,
        "clip range: epsilon has no number in the paper; 0.2 is PPO's. With one update per batch, as in the paper, "
        "the ratio is 1 and nothing is clipped",
        "prompts per step: the paper gives a training batch size of 1024; read as completions, that is 16 prompts x 64",
        "temperature: no number in the paper; at 1 the sampler is the policy itself",
        OPTIMISER,
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
            "objective.kl.replace_reference_every": 25,
            "objective.aggregation": "sequence-mean",
            "objective.mask_truncated": False,
            "sampling.group_size": 16,
            "sampling.prompts_per_step": 512,
            "sampling.temperature": 1.0,
            "training.iterations": 1,
            "training.minibatches": 16,
            "training.learning_rate": 3e-6,
        }
    ),
    unstated=(
        DDOF,
        "clip range: 10 is given for the first RL stage of DeepSeek-R1 (section 3.2.1), not for R1-Zero itself; at 10 "
        "there is no lower bound",
        "whether the 400 steps after which the reference is replaced are updates or batches of rollouts; read as "
        "updates of 32 prompts x 16, which the paper calls steps: 400 / 16 = 25 batches of 512 prompts x 16",
        OPTIMISER,
    ),
    deviations=(
        "equation 1 writes the ratio of whole outputs; here it is taken per token and averaged over each output, as "
        "in DeepSeekMath's equation 3",
        "the paper splits the 8,192 completions of a batch at random into 16 minibatches; here groups stay whole",
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
            "training.iterations": 1,
            "training.minibatches": 8,
            "training.learning_rate": 1e-6,
        }
    ),
    unstated=(
        "clip range: not in the released script; 0.2 is the default of the library it calls",
        "optimiser settings other than the constant learning rate: not in the released script",
    ),
    deviations=(
        "the released script cuts each batch of 128 prompts x 8 completions into 8 updates without regard to groups; "
        "here groups stay whole",
    ),
)

DAPO: Final = Preset(
    name="dapo",
    title="DAPO: An Open-Source LLM Reinforcement Learning System at Scale",
    paper="2503.14476",
    equation="equation 8 (loss), 11 (dynamic sampling), 13 (soft overlong punishment), numbers in section 4.1",
    values=MappingProxyType(
        {
            "objective.advantage.normaliser": "group",
            "objective.surrogate.clip_low": 0.2,
            "objective.surrogate.clip_high": 0.28,
            "objective.kl.beta": 0.0,
            "objective.aggregation": "token-mean",
            "objective.mask_truncated": True,
            "objective.soft_overlong_tokens": 4096,
            "sampling.dynamic_sampling": True,
            "sampling.group_size": 16,
            "sampling.prompts_per_step": 512,
            "sampling.max_completion_tokens": 20480,
            "training.microbatch_tokens": 24576,
            "training.iterations": 1,
            "training.minibatches": 16,
            "training.learning_rate": 1e-6,
            "training.warmup_steps": 20,
        }
    ),
    unstated=(
        DDOF,
        "microbatch_tokens: no number of the paper; 24576 holds one row of the longest completion, a prompt of the "
        "default limit and padding, and the loss does not depend on it",
        "temperature while training, and a limit of the prompt: not given; the defaults stand there",
        "how many rounds dynamic sampling may draw: the paper draws until the batch is full; sampling.max_rounds ends "
        "it here",
        "optimiser settings other than the constant learning rate and its warm-up over 20 batches: not given",
    ),
    deviations=(
        "the paper drops groups whose accuracy is 0 or 1; here groups are dropped whose rewards are all equal, before "
        "the overlong punishment is added",
        "with the overlong filter and the soft punishment both on, as in the paper's ladder, a completion that is cut "
        "counts with its punishment in the mean and deviation of its group, and is not in the loss itself",
        "the paper's reward is 1 or -1; the reward sources here are the recipe's",
    ),
)

BNPO: Final = Preset(
    name="bnpo",
    title="BNPO: Beta Normalization Policy Optimization",
    paper="2506.02864",
    equation="the advantage over the density of a Beta distribution; numbers from the released training script",
    values=MappingProxyType(
        {
            "objective.advantage.normaliser": "beta",
            "objective.surrogate.clip_low": 0.2,
            "objective.surrogate.clip_high": 0.28,
            "objective.surrogate.dual_clip": 10.0,
            "objective.kl.beta": 0.0,
            "objective.aggregation": "sequence-sum",
            "objective.mask_truncated": False,
            "sampling.group_size": 16,
            "sampling.prompts_per_step": 32,
            "sampling.temperature": 1.0,
            "sampling.max_completion_tokens": 3072,
            "sampling.max_prompt_tokens": 1024,
            "training.iterations": 1,
            "training.minibatches": 1,
            "training.learning_rate": 1e-6,
            "training.warmup_steps": 10,
            "training.weight_decay": 0.0,
            "training.max_grad_norm": 1.0,
        }
    ),
    unstated=(
        "variance of the success rates over the groups: ddof 1, as in the released code",
        "a step with fewer than two groups, or with equal success rates: the moments give nothing; the density is 1, "
        "as in the released code for one group (for equal rates that code divides by 0)",
        "bounds alpha, beta >= 1 and factor <= 1e6: from the released code",
    ),
    deviations=(
        "the advantage decomposition for several rewards is not there: the weighted sum of the sources is normalised, "
        "and has to lie between 0 and 1",
        "TRL's loss_type 'bnpo' is another thing, an aggregation: block-token-mean here",
    ),
)
