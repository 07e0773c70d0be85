"""Model, prompts, rewards, sampling, training, evaluation and record: one section each."""

from __future__ import annotations

import json
from typing import Annotated, Any, Final, Literal

from pydantic import Field, field_serializer, field_validator, model_validator

from grpo_audit.config.base import Section
from grpo_audit.config.location import without_password

Positive = Annotated[int, Field(ge=1)]

SOFT_OVERLONG: Final = "soft-overlong"
KL_PENALTY: Final = "kl-penalty"
RESERVED_REWARDS: Final = (SOFT_OVERLONG, KL_PENALTY)
"""Parts of a reward that no source gives but the objective: shown under these names beside the sources."""


class LoraConfig(Section):
    """Low-rank adapters (Hu et al. 2021, arXiv 2106.09685), by peft."""

    rank: Positive = 16
    alpha: Annotated[float, Field(gt=0)] = 32.0
    """Adapters are scaled by alpha / rank."""

    targets: list[str] = []
    """Names of the layers that get adapters, e.g. ``q_proj``; empty means every linear layer but the output layer."""


class ModelConfig(Section):
    """The base model: where it is and how it is held in memory."""

    path: str
    """``builtin`` (the miniature that ships with the project), a local folder, or a hub id such as
    ``Qwen/Qwen2.5-0.5B``. Relative folders are relative to the recipe."""

    revision: str | None = None
    """Commit, tag or branch on the hub. Pin a commit: a branch moves."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """``auto`` takes CUDA when there is one."""

    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of matrix products. Weights and optimiser stay float32; ``bfloat16`` is autocast. ``auto`` is
    bfloat16 on CUDA for models above 100 million parameters, else float32."""

    gradient_checkpointing: Literal["auto", "on", "off"] = "auto"
    """``auto`` is on for CUDA models above one billion parameters."""

    lora: LoraConfig | None = None
    """Train low-rank adapters and leave the base weights as they are; null: train all weights."""

    chat_template: Literal["auto", "never"] = "auto"
    """``auto`` puts each prompt through the tokenizer's chat template as one user message when it has a template."""

    training_flop: Annotated[float, Field(gt=0)] | None = None
    """Compute that trained this model, in floating-point operations, its earlier stages included; null: not known."""

    training_flop_source: str | None = None
    """Who says so: a paper, the model card, an estimate and its method."""

    @model_validator(mode="after")
    def _is_supported(self) -> ModelConfig:
        if self.training_flop is not None and not self.training_flop_source:
            raise ValueError("training_flop is given, so training_flop_source must say who says so")
        return self


class PromptConfig(Section):
    """The prompt set and its provenance."""

    source: str
    """``builtin``, a file (``.jsonl``, ``.csv``, ``.parquet``; relative to the recipe) or ``hub:owner/name``."""

    split: str = "train"
    """Split of a hub data set."""

    revision: str | None = None
    """Revision of a hub data set."""

    fields: dict[str, str] = {}
    """Mapping from our names to the columns of the source, e.g. ``prompt: question``, ``id: uid``. Columns that
    are not mapped keep their names and reach the rewards."""

    limit: Positive | None = None
    """Use the first N rows only."""

    licence: str | None = None
    """Licence of the prompt set (SPDX identifier where there is one)."""

    provenance: Literal["synthetic", "human-written", "web", "mixed", "unknown"] = "unknown"
    """Where the prompts come from."""

    description: str | None = None
    """One sentence for the reader of the report."""


class RewardConfig(Section):
    """One reward source."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_.-]{0,63}$")]
    source: str
    """``package.module:function`` or ``file.py:function`` (relative to the recipe)."""

    weight: float = 1.0
    """Factor in the sum of rewards. Ignored for shadow sources, which are measured and never trained on."""

    role: Literal["train", "shadow"] = "train"
    kind: Literal["rule", "verifier", "reward model", "judge"] | None = None
    """What sort of source it is; null: as the source declares itself, else ``rule``."""

    time_limit_s: Annotated[float, Field(gt=0, le=3600)] = 10.0
    """Seconds one call may take. A row on which the source hangs is recorded as an error and left out."""

    options: dict[str, str | bool | int | float | list[str] | None] = {}
    """Handed to the function as keyword arguments."""

    second: str | None = None
    """An independent verifier, ``package.module:function`` or ``file.py:function``, with the same options; it grades
    rollouts again after training, and the disagreement is reported."""

    version: str | None = None
    """Its version, for the report; null: as the source declares itself, else 1."""

    domain: str | None = None
    """What the source can judge, in a few words; null: as the source declares itself."""

    @field_serializer("options", when_used="json")
    def _options_as_text(self, options: dict[str, Any]) -> str:
        """In the record floats are strings; as one JSON text the options come back with their types."""
        return json.dumps(options, sort_keys=True, ensure_ascii=False)

    @field_validator("options", mode="before")
    @classmethod
    def _options_from_text(cls, value: object) -> object:
        return json.loads(value) if isinstance(value, str) else value

    @field_validator("name")
    @classmethod
    def _is_not_reserved(cls, value: str) -> str:
        if value in RESERVED_REWARDS:
            raise ValueError(f"{value} is what the record calls a part of the reward that the objective adds")
        return value

    @field_validator("source", "second")
    @classmethod
    def _has_a_function(cls, value: str | None) -> str | None:
        if value is None:
            return None
        module, _, function = value.rpartition(":")
        if not module or not function.isidentifier():
            raise ValueError("expected 'package.module:function' or 'file.py:function'")
        return value


class SamplingConfig(Section):
    """How rollouts are drawn. Only temperature: top-p, top-k, min-p and penalties would make the ratio biased."""

    group_size: Annotated[int, Field(ge=2)] = 8
    """Completions per prompt (G)."""

    prompts_per_step: Positive = 32
    engine: Literal["native", "continuous-batching", "vllm"] = "native"
    """What draws the rollouts: our own engine, transformers' continuous batching, or vLLM in the same process."""

    vllm_memory: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """Share of the GPU's memory that vLLM may take."""

    dynamic_sampling: bool = False
    """Drop groups whose rewards are all equal and draw further prompts until the step is full (DAPO)."""

    max_rounds: Positive = 10
    """Rounds of ``prompts_per_step`` prompts that dynamic sampling draws for one step; then what is there is used."""

    temperature: Annotated[float, Field(gt=0, le=10)] = 1.0
    max_completion_tokens: Positive = 256
    max_prompt_tokens: Positive = 1024
    """A longer prompt is an error, never silently cut."""


class TrainingConfig(Section):
    """Optimiser, schedule and batch geometry."""

    steps: Positive = 100
    """A step draws one batch of rollouts and makes ``iterations * minibatches`` optimiser updates on it."""

    iterations: Positive = 1
    """Passes over the rollouts of a step (mu of the GRPO paper)."""

    minibatches: Positive = 1
    """Optimiser updates per pass, each on its share of the rollouts; groups stay whole."""

    learning_rate: Annotated[float, Field(gt=0)] = 1e-6
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Linear from 0; then as ``schedule`` says."""

    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """After the warm-up: stay, or fall to 0 at the last step."""

    adam_betas: tuple[float, float] = (0.9, 0.999)
    adam_epsilon: Annotated[float, Field(gt=0)] = 1e-8
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    microbatch_tokens: Positive = 16384
    """Prompt and completion tokens per forward and backward pass, padding included. Lower it when memory runs out; the
    loss does not depend on it."""

    snapshot_every: Positive = 10
    """Steps between snapshots (weights and optimiser, for resume and replay). The last one is always kept."""

    keep_snapshots: Positive = 2
    """Newest snapshots to keep on disk; older ones are removed after a newer one is safe."""

    agreement_tolerance: Annotated[float, Field(gt=0)] = 0.05
    """Largest mean |log-probability of the sampler - of the scorer| that step 0 may show; training stops above it."""

    @field_validator("adam_betas", mode="before")
    @classmethod
    def _lists_are_tuples(cls, value: object) -> object:
        return tuple(value) if isinstance(value, list) else value


class EvaluationConfig(Section):
    """What is evaluated before and after training, and what may not get worse. Fixed before step 0."""

    suite: str | None = "builtin"
    """``builtin``, ``release`` (real models: our own tasks and lm-eval's), ``release-local`` (our own alone, no hub), a
    folder of lm-eval task files (relative to the recipe), or null for no evaluation."""

    data: str | None = None
    """Folder with the files of the release suite: xstest/, bfcl/, truthfulqa/, gsm8k/, mgsm/ as published (relative to
    the recipe); null: the variable ``GRPO_AUDIT_EVAL_DATA``."""

    tasks: list[str] = []
    """Task names to run; empty means every task of the suite. Names of lm-eval's own tasks may be added."""

    limit: Positive | None = None
    """Documents per task; null means all."""

    batch_size: Positive = 128
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Family-wise error rate over the primary metrics (Holm)."""

    margin: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Non-inferiority margin of behaviours that have none of their own in ``margins``."""

    margins: dict[str, float] = {}
    """Non-inferiority margin per task."""


class RecordConfig(Section):
    """Where the record and the files of the run go."""

    db: str = "runs/record.db"
    """The project: one SQLite file, relative to the working directory, or a schema of PostgreSQL,
    ``postgresql+psycopg://USER@HOST/DATABASE?schema=NAME``. A password belongs in ``~/.pgpass`` or in ``--db``."""

    @field_serializer("db")
    def _db_without_password(self, value: str) -> str:
        return without_password(value)

    folder: str = "runs"
    """Snapshots, trained weights and reports go to ``FOLDER/RUN``."""

    witnesses: list[str] = []
    """Who else is shown the record's heads after registration, after each phase and after the seal: ``dir:FOLDER``,
    ``tsa:URL#CA.pem``, ``git:CLONE[#BRANCH]``, relative to the working directory. See docs/witnesses.md."""
