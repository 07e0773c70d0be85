"""The parts of events: who is who (models, rewards, prompts, tasks and machines, by digest), and figures that come in
lists (compared tasks, updates)."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_serializer, field_validator

Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
"""``sha256:`` and 64 hexadecimal digits."""


class FileDigest(BaseModel):
    """One file of an artifact folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    size: int
    digest: Digest


class ModelIdentity(BaseModel):
    """Which weights, tokenizer and template: by digest, not by name."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    source: str
    """As the recipe names it: ``builtin``, a folder or a hub id."""
    revision: str | None
    architecture: str
    parameters: int
    """Number of elements of all weight tensors as stored."""
    weights_digest: Digest
    """SHA-256 over the tensors (name, dtype, shape, bytes), independent of how they are cut into files."""
    tokenizer_digest: Digest
    chat_template_digest: Digest | None
    config_digest: Digest
    files: list[FileDigest]
    licence: str | None
    notice: str | None
    """What the model's own card says every reader must know (front-matter key ``notice``)."""
    card_digest: Digest | None
    trust_remote_code: Literal[False] = False
    layers: int | None = None
    """Transformer layers, as config.json says."""
    hidden_size: int | None = None
    """Width of the residual stream, as config.json says."""
    context_length: int | None = None
    """Longest input it was made for, in tokens, as config.json says."""


class AdapterIdentity(BaseModel):
    """Low-rank adapters that were trained in place of the base weights."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)
    kind: Literal["LoRA"]
    rank: int
    alpha: float
    """Adapters are scaled by alpha / rank."""
    targets: list[str]
    """Last parts of the names of the layers that have an adapter."""
    layers: int
    """Number of layers that have one."""
    trained_parameters: int
    """Number of parameters that train; the base weights do not."""
    initialisation: str
    """How the adapters start, in words; a pure function of the seed."""


class RewardIdentity(BaseModel):
    """One reward source: its source text is an artifact of this digest."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    name: str
    source: str
    role: Literal["train", "shadow"]
    kind: str
    weight: float
    version: str
    domain: str | None
    time_limit_s: float
    source_digest: Digest
    source_file: str
    """Base name of the file."""
    options: dict[str, str | bool | int | float | list[str] | None] = {}
    """Handed to the function with every call, its own defaults included."""
    facts: dict[str, str] = {}
    """What the source found out about itself when it was loaded: digest of its weights, what its sandbox enforces."""
    modules: dict[str, Digest] = {}
    """Other source files beside it that were loaded with it, relative to its folder; each is an artifact."""

    @field_serializer("options")
    def _options_as_text(self, options: dict[str, Any]) -> str:
        """As one JSON text, so that a number comes back as a number: in the record floats are strings."""
        return json.dumps(options, sort_keys=True, ensure_ascii=False)

    @field_validator("options", mode="before")
    @classmethod
    def _options_from_text(cls, value: object) -> object:
        return json.loads(value) if isinstance(value, str) else value


class PromptSetIdentity(BaseModel):
    """The prompt set: where it comes from and what exactly it contained."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    source: str
    split: str | None
    revision: str | None
    rows: int
    digest: Digest
    """SHA-256 over the canonical rows, in order."""
    file_digest: Digest | None
    duplicates: int
    """Rows whose prompt occurs earlier in the set."""
    licence: str | None
    provenance: str
    description: str | None
    fields: dict[str, str]
    order: str
    """How prompts are drawn, in words; a pure function of the seed."""


class TaskPlan(BaseModel):
    """One evaluation task, fixed before step 0."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    task: str
    behaviour: str
    metric: str
    """The primary metric."""
    higher_is_better: bool
    safety: bool
    margin: float
    """Non-inferiority margin, in units of the metric."""
    documents: int
    documents_digest: Digest
    """SHA-256 over the documents' hashes, in order."""
    samples: int = 1
    """Answers to each document. A document's value is the mean over them; ``METRIC pass@k`` beside it is the
    probability that one of k is right, for metrics that are 0 or 1 on every answer."""
    temperature: float | None = None
    """Answers are drawn at this temperature, with the same noise before and after; None: the most likely token."""


class EvaluationPlan(BaseModel):
    """The suite and its protocol, fixed before step 0."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    suite: str
    harness: str
    """Name and version, e.g. ``lm-eval 0.4.13``."""
    protocol_digest: Digest
    """Over task files, data, generation settings, scorer sources and harness version."""
    alpha: float
    tasks: list[TaskPlan]


class Environment(BaseModel):
    """Where it ran."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    python: str
    platform: str
    processor: str
    cpu_count: int
    memory_bytes: int | None
    accelerator: str | None
    driver: str | None
    threads: int
    deterministic_algorithms: bool
    packages: dict[str, str]
    """Installed distributions and their versions."""
    lock_digest: Digest | None
    """Of the constraints file the environment was installed from, when it is known."""
    code_revision: str | None
    code_dirty_digest: Digest | None
    """Of ``git diff HEAD``, when the working tree of this project had changes."""
    sqlite: str
    processes: int = 1
    """Processes that train together."""
    strategy: str = "single process"
    """``ddp``: each has the whole model. ``fsdp``: parameters, gradients and optimiser are spread over them."""
    backend: str | None = None
    """How they talk: ``gloo`` or ``nccl``."""


class Verdict(StrEnum):
    """What a paired comparison says about one metric."""

    IMPROVED = "improved"
    REGRESSED = "regressed"
    NOT_WORSE = "no regression beyond the margin"
    INCONCLUSIVE = "inconclusive"
    NO_DISCORDANT_PAIRS = "no discordant pairs"


class TaskComparison(BaseModel):
    """Paired pre and post of one task's primary metric."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)
    task: str
    behaviour: str
    metric: str
    higher_is_better: bool
    safety: bool
    documents: int
    pre: float
    post: float
    difference: float
    """post - pre."""
    ci_low: float | None
    ci_high: float | None
    """95 % interval of the paired difference, clustered where clusters exist."""
    p: float | None
    p_adjusted: float | None
    """Holm over the primary metrics."""
    method: str
    """How p was computed."""
    gained: int
    """Documents that got better."""
    lost: int
    """Documents that got worse."""
    margin: float
    p_margin: float | None
    """One-sided, against the margin."""
    minimum_detectable: float | None
    verdict: Verdict


class UpdateFigures(BaseModel):
    """One optimiser update of a step."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)
    iteration: int
    """Pass over the rollouts, from 0."""
    minibatch: int
    """Part of that pass, from 0."""
    rows: int
    """Completions in the loss."""
    tokens: int
    """Their tokens."""
    loss: float
    grad_norm: float
    """Before clipping."""
    clip_low_share: float
    clip_high_share: float
    drift: float
    """Mean over the tokens of rho - 1 - log rho: how far the policy has moved since it sampled them."""
    ratio_max: float
    """Largest ratio, before any clip; 0 where nothing was computed."""
    corrected_share: float
    """Share of tokens whose importance weight was capped or masked."""


class PhaseEnergy(BaseModel):
    """Energy of a phase, as the machine counted it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)
    joules: Annotated[float, Field(ge=0)]
    method: str
    """``RAPL``, ``NVML`` or both."""
    boundary: str
    """What was counted, in words: which packages and GPUs."""
