"""What only people know: who answers for the run, what came before it, and what energy is estimated from."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from grpo_audit.config.base import Section


class GovernanceConfig(Section):
    """Declared by people; everything left out is shown as missing. An annotation says it afterwards."""

    owner: str | None = None
    """Who is responsible for the model."""

    approver: str | None = None
    """Who signs off the release."""

    organisation: str | None = None
    """On whose behalf: the legal name."""

    contact: str | None = None
    """Where questions about the model and its documentation go."""

    purpose: str | None = None
    """Why the model is trained."""

    rationale: str | None = None
    """Why it is trained in this way: the key choices of reward, prompts and objective, and what they assume."""

    intended_use: str | None = None
    """What it is meant for."""

    out_of_scope_use: str | None = None
    """What it must not be used for."""

    acceptable_use: str | None = None
    """The acceptable use policy, or where it is."""

    licence: str | None = None
    """Licence of the trained model."""

    document_version: str | None = None
    """Version of the documentation that this run belongs to."""

    retention: str | None = None
    """How long record and weights are kept, and by whom."""

    release_date: str | None = None
    """When the model is released, as a date (2026-01-31)."""

    distribution: str | None = None
    """How it is distributed: repository, API, product."""

    integration: str | None = None
    """What is needed to use it in a system: instructions, infrastructure, software and its versions."""

    inventory_id: str | None = None
    """Its entry in your inventory of AI systems."""

    change_ticket: str | None = None
    """The change request this run belongs to."""

    monitoring_plan: str | None = None
    """Where the post-market monitoring plan is."""

    system_card: str | None = None
    """Where the card of the model or system is published."""

    data_record: str | None = None
    """Where the provenance record of the prompts is kept, when it is more than this record."""

    limitations: str | None = None
    """Known limitations of the trained model and of its evaluation."""

    bias_assessment: str | None = None
    """What was looked at for bias, or where the assessment is."""

    reasoning_trace_policy: Literal["exposed", "summarised", "hidden", "filtered"] | None = None
    """What users see of the reasoning trace. Whether traces were rewarded is derived from the reward sources."""

    human_knowledge: str | None = None
    """What human knowledge the rewards and prompts carry: labels, preferences, rubrics, and whose."""

    known_exploits: str | None = None
    """Known ways to get reward without doing the task."""

    curation: str | None = None
    """How the prompts were obtained, selected and cleaned."""

    curation_code: str | None = None
    """The code that did so, by revision or digest."""

    personal_data: Literal["none", "present", "removed"] | None = None
    """Whether the prompts hold personal data. Nothing here checks it."""

    synthetic_share: Annotated[float, Field(ge=0, le=1)] | None = None
    """Share of the prompts that a model wrote, from 0 to 1."""


STAGE_KINDS = Literal[
    "pre-training",
    "mid-training",
    "cold start",
    "SFT",
    "rejection sampling",
    "distillation",
    "preference",
    "RL",
    "GRPO",
]


class StageConfig(Section):
    """One stage of the model's life before this run."""

    kind: STAGE_KINDS
    """What sort of stage it was."""

    name: str
    """What it is called, e.g. the model that came out of it."""

    model: str | None = None
    """The model that came out of it: hub id, path or name."""

    digest: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")] | None = None
    """Digest of its weights, as this project computes it."""

    data: str | None = None
    """What it was trained on."""

    flop: Annotated[float, Field(gt=0)] | None = None
    """Its training compute in floating-point operations."""

    flop_source: str | None = None
    """Who says so: a paper, a model card, an estimate and its method."""

    licence: str | None = None
    """Licence of what came out of it."""

    run: str | None = None
    """An earlier run of ours: its run id. In the same record the link is checked by the digest of its weights."""

    project: str | None = None
    """Project id of the record that holds the run; null means this record."""

    basis: Literal["paper", "library documentation", "declared by the operator"] = "declared by the operator"
    """On what the statement rests."""

    citation: str | None = None
    """The paper or page, when it rests on one."""

    @model_validator(mode="after")
    def _is_supported(self) -> StageConfig:
        if self.basis != "declared by the operator" and not self.citation:
            raise ValueError(f"basis is {self.basis!r}, so citation must name it")
        if self.flop is not None and not self.flop_source:
            raise ValueError("flop is given, so flop_source must say who says so")
        if self.project is not None and self.run is None:
            raise ValueError("project is given, so run must name the run in it")
        return self


class BudgetConfig(Section):
    """What energy is estimated from where the machine does not measure it."""

    watts_per_device: Annotated[float, Field(gt=0)] | None = None
    """Power of one device (one training process) in watts, for the estimate; null: none is made."""

    watts_source: str | None = None
    """Where that number comes from, e.g. the data sheet."""

    pue: Annotated[float, Field(ge=1)] | None = None
    """Power usage effectiveness of the data centre: its whole consumption over that of the machines."""

    @model_validator(mode="after")
    def _is_supported(self) -> BudgetConfig:
        if self.watts_per_device is not None and not self.watts_source:
            raise ValueError("watts_per_device is given, so watts_source must say where it comes from")
        return self
