"""Floating-point operations of a run, by formula. Pure functions; N parameters, T tokens, L layers, d width, c context.

A forward pass costs ``2·N·T + 4·L·d·c·T`` FLOP and a backward pass twice that (PaLM, Chowdhery et al. 2022,
arXiv:2204.02311, appendix B; without the attention term it is the 6·N·D of Kaplan et al. 2020, arXiv:2001.08361,
section 2.1). ``c`` is the mean length of prompt and completion together; causal attention's half is not taken off, as
in PaLM. Where L and d are not recorded, the attention term is left out, and the method says so.

* Drawing rollouts: the prompt is read once a group, each completion token is one forward pass.
* Old policy and reference: one forward pass over prompts (once a group) and completions, where the step needed one.
* Update: forward and backward over the completion tokens of each optimiser update, and over the prompts once an
  iteration. With LoRA the weights' own gradients are not computed: the backward pass costs one forward pass, and the
  adapters (n parameters) 6·n·T. With gradient checkpointing each update reads its tokens once more.
* Value model (PPO): its values once a step, and an update beside each of the policy's; it has N parameters too.

Left out: reward models and judges, sampling itself, padding, the check of sampler against scorer. Completions whose
advantage is 0 are counted though they are not computed, so the figure errs upwards.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from grpo_audit.config.run import RunConfig
from grpo_audit.record.events import RunRegistered, Step

FALLBACK_FLOP: Final = 1e23
"""Taken for the original model's compute where it is not known: the criterion for a general-purpose model."""
SYSTEMIC_FLOP: Final = 1e25
"""The same for a model with systemic risk: the presumption of Article 51(2) of the AI Act."""
THIRD: Final = 1 / 3
GUIDELINE: Final = (
    "European Commission, guidelines on the scope of the obligations for providers of general-purpose AI models, "
    "C(2025) 7719 final, paragraphs 63 and 64"
)


@dataclass(frozen=True)
class Shape:
    """What the cost of a token depends on."""

    parameters: int
    layers: int | None = None
    width: int | None = None
    adapters: int | None = None
    """Parameters of the adapters that train; None when all weights do."""
    checkpointing: bool = False
    autocast: bool = False
    """Whether products are bfloat16: then the sampler's log-probabilities are not the scorer's."""

    @property
    def has_attention(self) -> bool:
        """Whether the attention term can be computed."""
        return self.layers is not None and self.width is not None

    def forward(self, tokens: float, context: float) -> float:
        """FLOP of reading ``tokens`` tokens whose mean context is ``context`` tokens, without adapters."""
        attention = 4.0 * self.layers * self.width * context if self.layers and self.width else 0.0
        return tokens * (2.0 * self.parameters + attention)

    def update(self, tokens: float, context: float) -> float:
        """FLOP of forward and backward over ``tokens`` tokens."""
        once = self.forward(tokens, context)
        again = once if self.checkpointing else 0.0
        if self.adapters is None:
            return 3.0 * once + again
        return 2.0 * once + again + 6.0 * self.adapters * tokens


@dataclass
class TrainingFlop:
    """FLOP of the training phase, by what they were for, over every executed step."""

    rollout: float = 0.0
    scoring: float = 0.0
    """Old policy and reference."""
    update: float = 0.0
    value: float = 0.0
    """The value model's forward passes and updates."""

    @property
    def total(self) -> float:
        """Their sum."""
        return self.rollout + self.scoring + self.update + self.value


def shape_of(registered: RunRegistered, config: RunConfig) -> Shape:
    """The shape of the model that trains. What is ``auto`` is resolved as the trainer does: on CUDA, gradient
    checkpointing is on above 10^9 parameters, and autocast above 10^8."""
    model, adapter, settings = registered.model, registered.adapter, config.model
    on_cuda = registered.environment.accelerator is not None and settings.device != "cpu"
    huge, large = on_cuda and model.parameters > 10**9, on_cuda and model.parameters > 10**8
    return Shape(
        parameters=model.parameters,
        layers=model.layers,
        width=model.hidden_size,
        adapters=None if adapter is None else adapter.trained_parameters,
        checkpointing=settings.gradient_checkpointing == "on" or (settings.gradient_checkpointing == "auto" and huge),
        autocast=settings.precision == "bfloat16" or (settings.precision == "auto" and large),
    )


def training_flop(shape: Shape, config: RunConfig, steps: Iterable[Step]) -> TrainingFlop:
    """FLOP of the steps, by what this configuration really does with each."""
    done = TrainingFlop()
    for step in steps:
        add_step(done, shape, config, step)
    return done


def add_step(done: TrainingFlop, shape: Shape, config: RunConfig, step: Step) -> None:
    """Add one executed step."""
    rows = max(1, step.used + step.rejected)
    group = config.sampling.group_size
    # mean length of a row: its prompt, which is counted once a group, and its completion
    context = (step.prompt_tokens * group + step.completion_tokens) / rows
    read = shape.forward(step.prompt_tokens + step.completion_tokens, context)
    done.rollout += read
    done.scoring += read * _scorings(shape, config, step)
    iterations = config.training.iterations
    in_loss = sum(update.tokens for update in step.updates) or step.completion_tokens * iterations
    trained = in_loss + step.prompt_tokens * iterations
    done.update += shape.update(trained, context)
    if config.objective.advantage.baseline == "value-model":
        whole = Shape(shape.parameters, shape.layers, shape.width)
        done.value += read + whole.update(trained, context)


def _scorings(shape: Shape, config: RunConfig, step: Step) -> int:
    """Forward passes beside sampling and updating: old policy, reference, initial policy."""
    kl, updates = config.objective.kl, config.training.iterations * config.training.minibatches
    in_reward = kl.beta > 0 and kl.placement == "reward"
    # the native sampler's float32 log-probabilities are the old policy's own
    scored_again = config.sampling.engine != "native" or shape.autocast
    old = (updates > 1 or in_reward) and scored_again
    reference = kl.beta > 0 or step.kl is not None
    return int(old) + int(reference)


def method_text(shape: Shape) -> str:
    """How the figure was made, for the reader."""
    term = " plus 4·L·d·c for attention" if shape.has_attention else " (attention is left out: L, d not recorded)"
    train = "6·N" if shape.adapters is None else "4·N (LoRA) and 6 for each parameter of the adapters"
    again = ", and 2·N once more for gradient checkpointing" if shape.checkpointing else ""
    return (
        f"2·N FLOP a token read or drawn{term}; {train} a token and update{again}; prompts once a group "
        "(PaLM, arXiv:2204.02311, appendix B; Kaplan et al., arXiv:2001.08361, section 2.1). "
        f"N = {shape.parameters:,} stored parameters. Left out: reward models and judges, padding, prompts of the "
        "evaluations and likelihood tasks, whose tokens are not recorded. An estimate of arithmetic, not a measurement."
    )


@dataclass(frozen=True)
class Modifier:
    """The run's compute against the original model's."""

    run_flop: float
    base_flop: float
    source: str
    """Who says so."""
    is_known: bool
    """False where ``base_flop`` is the guideline's substitute."""

    @property
    def ratio(self) -> float:
        """Run over base."""
        return self.run_flop / self.base_flop

    def __str__(self) -> str:
        side = "above" if self.ratio > THIRD else "below"
        if self.is_known:
            base = f"the base model's {self.base_flop:.3g} FLOP"
            return f"{self.ratio:.3g} of {base}: {side} the third that the guideline names"
        return (
            f"{self.ratio:.3g} of {self.base_flop:.3g} FLOP: {side} the third that the guideline names, of what it "
            f"substitutes for a compute that is not known ({SYSTEMIC_FLOP:.0e} for a model with systemic risk)"
        )
