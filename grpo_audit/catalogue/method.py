"""Group D: what was optimised, and how."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any

from pydantic import BaseModel

from grpo_audit.catalogue.evidence import Basis, BasisKind, Evidence
from grpo_audit.catalogue.field import Field, Group, declared, derived, for_all, for_regulator, known, measured
from grpo_audit.catalogue.run import Run, fill
from grpo_audit.config.presets import PRESETS
from grpo_audit.config.run import RunConfig
from grpo_audit.preflight.rule import node_at

_SCHULMAN = "Schulman 2020, Approximating KL Divergence, joschu.net/blog/kl-approx.html"
_ADAMW = "Loshchilov and Hutter 2019, arXiv:1711.05101; torch.optim.AdamW"


class Method(Group):
    """What was optimised."""

    algorithm: Annotated[Field[str], for_all()]
    """The preset and the paper it comes from."""
    configuration: Annotated[Field[str], for_regulator()]
    """SHA-256 over the resolved configuration as sorted JSON; the registration holds it in full."""
    preset_differences: Annotated[Field[list[str]], for_regulator()]
    """Every number of the preset that the run does not use, with both values."""
    unstated: Annotated[Field[list[str]], for_regulator()]
    """What the paper leaves open, and the library's default that stands there, with the reason."""
    rationale: Annotated[Field[str], for_all("governance.rationale")]
    """Why the model is trained in this way: the key choices and what they assume."""
    formula: Annotated[Field[dict[str, str]], for_regulator()]
    """The resolved objective as formulas, rendered from the objects that the loss reads."""
    group_size: Annotated[Field[int], for_all()]
    """Completions per prompt (G)."""
    normalisation: Annotated[Field[str], for_regulator()]
    """How rewards become advantages: baseline, normaliser, ddof, epsilon."""
    clip: Annotated[Field[str], for_regulator()]
    """The range of the probability ratio, and its level."""
    kl: Annotated[Field[str], for_regulator()]
    """Weight, estimator and place of the KL penalty."""
    loss: Annotated[Field[str], for_regulator()]
    """The loss variant: surrogate and how token losses are aggregated."""
    temperature: Annotated[Field[float], for_all()]
    """Sampling temperature."""
    sampler: Annotated[Field[str], for_regulator()]
    """The sampler's other settings: truncation, penalties, engine, rounds."""
    lengths: Annotated[Field[str], for_all()]
    """Longest prompt and completion in tokens."""
    optimiser: Annotated[Field[str], for_regulator()]
    """Optimiser and its settings."""
    schedule: Annotated[Field[str], for_regulator()]
    """Learning rate, warm-up, schedule and steps."""
    precision: Annotated[Field[str], for_regulator()]
    """Precision of weights and products, and gradient checkpointing."""
    batch: Annotated[Field[str], for_regulator()]
    """Batch geometry: prompts a step, updates a batch, microbatch."""
    seed: Annotated[Field[int], for_regulator()]
    """Seed of everything random."""


def method(run: Run) -> Method:
    """Group D of a run."""
    registered, at, config = run.registered.payload, run.at, run.config
    preset = PRESETS.get(registered.preset)
    text = json.dumps(registered.config, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    differences = [f"{item.path} {item.preset} → {item.value}" for item in registered.preset_differences]
    sampling, training = config.sampling, config.training
    choice = _Choice(run)
    return fill(
        Method,
        "method",
        run,
        algorithm=known(
            Evidence.CITED,
            f"preset {registered.preset}: {registered.preset_source}",
            at,
            basis=Basis(kind=BasisKind.PAPER, citation=registered.preset_source),
        ),
        configuration=derived(
            "sha256:" + hashlib.sha256(text.encode()).hexdigest(), at, note="over the registered configuration"
        ),
        preset_differences=measured(differences, at),
        unstated=_unstated(run, list(preset.unstated) if preset else None),
        formula=derived(
            registered.formula,
            at,
            note="rendered from the objects that the loss reads",
            basis=Basis(kind=BasisKind.PAPER, citation=registered.preset_source),
        )
        if registered.formula
        else measured(None, at, unknown="this record was registered without formulas"),
        group_size=choice.of(sampling.group_size, "sampling.group_size"),
        normalisation=choice.of(_normalisation(config), *_under("objective.advantage", "baseline", "normaliser")),
        clip=choice.of(_clip(config), *_under("objective.surrogate", "clip_low", "clip_high", "level")),
        kl=choice.of(_kl(config), *_under("objective.kl", "beta", "estimator", "placement"), cites=_SCHULMAN),
        loss=choice.of(
            f"{config.objective.surrogate.kind} surrogate; {config.objective.aggregation}",
            "objective.aggregation",
            "objective.surrogate.kind",
        ),
        temperature=choice.of(sampling.temperature, "sampling.temperature"),
        sampler=derived(_sampler(config), at, note="there is no top-p, top-k, min-p or penalty: they bias the ratio"),
        lengths=choice.of(
            f"prompt {sampling.max_prompt_tokens}, completion {sampling.max_completion_tokens}",
            "sampling.max_completion_tokens",
            "sampling.max_prompt_tokens",
        ),
        optimiser=derived(
            f"AdamW, betas {training.adam_betas[0]:g} and {training.adam_betas[1]:g}, epsilon {training.adam_epsilon:g}"
            f", weight decay {training.weight_decay:g}, gradient norm clipped at {training.max_grad_norm:g}",
            at,
            note="the only optimiser of this version",
            basis=Basis(kind=BasisKind.LIBRARY, citation=_ADAMW),
        ),
        schedule=choice.of(
            f"{training.learning_rate:g}, {training.warmup_steps} warm-up steps, {training.schedule}, "
            f"{training.steps} steps",
            *_under("training", "learning_rate", "warmup_steps", "schedule", "steps"),
        ),
        precision=choice.of(
            f"weights float32, products {config.model.precision}, checkpointing {config.model.gradient_checkpointing}",
            "model.precision",
            "model.gradient_checkpointing",
        ),
        batch=choice.of(
            f"{sampling.prompts_per_step} prompts a step, {training.iterations} × {training.minibatches} updates a "
            f"batch, microbatches of {training.microbatch_tokens} tokens",
            *_under("training", "iterations", "minibatches", "microbatch_tokens"),
            "sampling.prompts_per_step",
        ),
        seed=choice.of(config.seed, "seed"),
    )


class _Choice:
    """Whose choice a setting is: the paper's, the tool's default, or the operator's."""

    def __init__(self, run: Run) -> None:
        self.at, self.config = run.at, run.config
        self.source = run.registered.payload.preset_source
        preset = PRESETS.get(run.registered.payload.preset)
        self.cited = set(preset.values) if preset else set()
        self.changed = {item.path for item in run.registered.payload.preset_differences}

    def of(self, value: Any, *paths: str, cites: str = "") -> Field[Any]:
        """A setting made of these keys of the recipe."""
        if any(path in self.changed for path in paths):
            basis = Basis(kind=BasisKind.OPERATOR, citation="recipe: " + ", ".join(paths))
            return declared(value, self.at, note="differs from the preset").model_copy(update={"basis": basis})
        if any(path in self.cited for path in paths):
            basis = Basis(kind=BasisKind.PAPER, citation=self.source + (f"; {cites}" if cites else ""))
            return known(Evidence.CITED, value, self.at, basis=basis)
        if all(_is_default(self.config, path) for path in paths):
            basis = Basis(kind=BasisKind.LIBRARY, citation="default of this tool: docs of grpo-audit init")
            return known(Evidence.DEFAULTED, value, self.at, basis=basis)
        basis = Basis(kind=BasisKind.OPERATOR, citation="recipe: " + ", ".join(paths))
        return declared(value, self.at).model_copy(update={"basis": basis})


def _under(section: str, *names: str) -> tuple[str, ...]:
    return tuple(f"{section}.{name}" for name in names)


def _is_default(config: RunConfig, path: str) -> bool:
    *parents, name = path.split(".")
    node: BaseModel = node_at(config, ".".join(parents)) if parents else config
    return bool(getattr(node, name) == type(node).model_fields[name].get_default(call_default_factory=True))


def _unstated(run: Run, found: list[str] | None) -> Field[Any]:
    if found is None:
        return measured(None, run.at, unknown="this version does not know the preset")
    basis = Basis(kind=BasisKind.LIBRARY, citation=f"preset {run.registered.payload.preset} of this tool")
    return derived(found, run.at, note="from the preset of this version", basis=basis)


def _normalisation(config: RunConfig) -> str:
    found = config.objective.advantage
    how = f"baseline {found.baseline}, normaliser {found.normaliser}"
    return f"{how}, ddof {found.ddof}, epsilon {found.epsilon:g}" if found.normaliser in ("group", "batch") else how


def _clip(config: RunConfig) -> str:
    found = config.objective.surrogate
    dual = f", capped at {found.dual_clip:g} where the advantage is negative" if found.dual_clip else ""
    return f"ratio within 1 − {found.clip_low:g} and 1 + {found.clip_high:g}, by {found.level}{dual}"


def _kl(config: RunConfig) -> str:
    found = config.objective.kl
    place = f"in the {found.placement}" if found.beta else "measured only"
    return f"β {found.beta:g}, estimator {found.estimator}, {place}"


def _sampler(config: RunConfig) -> str:
    found = config.sampling
    dynamic = f", dynamic sampling up to {found.max_rounds} rounds" if found.dynamic_sampling else ""
    return f"no truncation and no penalties, engine {found.engine}{dynamic}"
