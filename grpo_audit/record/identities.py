"""Who is who: the parts of a registration that name models, rewards, prompts, tasks and machines by digest."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

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
