"""Group B: from what the model was made, and what came out."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict

from grpo_audit.catalogue.evidence import Basis, BasisKind, Evidence, Pointer, at
from grpo_audit.catalogue.field import (
    Field,
    Group,
    declared,
    derived,
    for_all,
    for_downstream,
    for_regulator,
    known,
    measured,
    not_applicable,
    unknown,
)
from grpo_audit.catalogue.links import link
from grpo_audit.catalogue.run import Run, fill
from grpo_audit.record.identities import FileDigest


class Stage(BaseModel):
    """One stage before this run: what was said of it, and what this record shows of it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    kind: str
    """Pre-training, SFT, distillation, GRPO ..."""
    name: str
    """What it is called."""
    model: str | None
    """What came out of it."""
    digest: str | None
    """Digest of its weights."""
    data: str | None
    """What it was trained on."""
    flop: float | None
    """Its compute."""
    flop_source: str | None
    """Who says so."""
    licence: str | None
    """Licence of what came out."""
    run: str | None
    """An earlier run of ours."""
    project: str | None
    """The record that holds it; None is this one."""
    evidence: Evidence
    """Measured where the link to an earlier run of this record holds by digest, else declared."""
    pointer: Pointer
    """The registration that declares it, and the event that shows it."""
    basis: Basis
    """On what it rests."""
    check: str
    """What was checked of it, in words."""

    def __str__(self) -> str:
        parts = [f"{self.kind}: {self.name}"]
        parts += [f"run {self.run}"] if self.run else []
        parts += [f"{self.flop:.3g} FLOP ({self.flop_source})"] if self.flop else []
        return f"{', '.join(parts)} [{self.evidence.value}: {self.check}]"


class Lineage(Group):
    """From what the model was made."""

    base_model: Annotated[Field[str], for_all()]
    """The base model as the recipe names it: built-in, folder or hub id."""
    base_revision: Annotated[Field[str], for_all()]
    """Its commit, tag or branch on the hub."""
    base_weights: Annotated[Field[str], for_all()]
    """Digest over its weight tensors (name, dtype, shape, bytes)."""
    base_files: Annotated[Field[list[FileDigest]], for_regulator()]
    """Each file of the base model with its size and SHA-256."""
    base_licence: Annotated[Field[str], for_all()]
    """Licence its card names."""
    base_notice: Annotated[Field[str], for_all()]
    """What its card says every reader must know."""
    architecture: Annotated[Field[str], for_all()]
    """Architecture of base and trained model."""
    parameters: Annotated[Field[int], for_all()]
    """Number of stored parameters."""
    context_length: Annotated[Field[int], for_all()]
    """Longest input in tokens that the model was made for, as its configuration says."""
    tokenizer: Annotated[Field[str], for_downstream()]
    """Digest over the tokenizer's files."""
    chat_template: Annotated[Field[str], for_downstream()]
    """Digest of the chat template."""
    reference_policy: Annotated[Field[str], for_regulator()]
    """The policy the KL term measures against, in words and by digest."""
    old_policy: Annotated[Field[str], for_regulator()]
    """The policy that sampled each step, in whose probabilities the ratio is taken."""
    adapters: Annotated[Field[str], for_downstream()]
    """Low-rank adapters that were trained in place of the base weights."""
    parent_runs: Annotated[Field[list[str]], for_regulator()]
    """Earlier runs of ours that the base model came out of."""
    stages_before: Annotated[Field[list[Stage]], for_all()]
    """Stages before this run, oldest first: pre-training, cold start, SFT, rejection sampling, distillation."""
    stages_after: Annotated[Field[str], for_all(annotate=True)]
    """What was done to the trained model after this run: quantisation, merging, further training."""
    snapshots: Annotated[Field[int], for_regulator()]
    """Snapshots of weights and optimiser taken on the way, each with its digest."""
    released_weights: Annotated[Field[str], for_all()]
    """Digest over the trained weights as saved for release."""
    released_files: Annotated[Field[list[FileDigest]], for_downstream()]
    """Each file of the trained model with its size and SHA-256."""


def lineage(run: Run) -> Lineage:
    """Group B of a run."""
    registered, at_, model = run.registered.payload, run.at, run.registered.payload.model
    training = run.config.training
    updates = training.iterations * training.minibatches
    stages = [_stage(run, index) for index in range(len(run.config.lineage))]
    parents = [stage.run for stage in stages if stage.run]
    return fill(
        Lineage,
        "lineage",
        run,
        base_model=measured(model.source, at_),
        base_revision=measured(model.revision, at_, unknown="model.revision in the recipe pins one"),
        base_weights=measured(model.weights_digest, at_),
        base_files=measured(model.files, at_),
        base_licence=declared(model.licence, at_, unknown="the base model's card names none"),
        base_notice=declared(model.notice, at_) if model.notice else not_applicable("its card has no notice", at_),
        architecture=measured(model.architecture, at_),
        parameters=measured(model.parameters, at_),
        context_length=measured(model.context_length, at_, unknown="config.json names none"),
        tokenizer=measured(model.tokenizer_digest, at_),
        chat_template=measured(model.chat_template_digest, at_)
        if model.chat_template_digest
        else not_applicable("the tokenizer has none", at_),
        reference_policy=measured(registered.reference, at_),
        old_policy=derived(
            f"the policy before each step, by fingerprint; {updates} update{'s' if updates > 1 else ''} a batch",
            at_,
            run.steps.span,
            note="iterations × minibatches",
        ),
        adapters=_adapters(run),
        parent_runs=declared(parents, at_, *(seq for stage in stages for seq in stage.pointer.seqs))
        if parents
        else not_applicable("no earlier run is named in lineage", at_),
        stages_before=_stages(run, stages),
        snapshots=measured(len(run.snapshots), *(entry.seq for entry in run.snapshots[-3:]))
        if run.snapshots
        else unknown("none was taken: training did not get that far"),
        released_weights=_released(run, "weights_digest"),
        released_files=_released(run, "files"),
    )


def _stages(run: Run, stages: list[Stage]) -> Field[Any]:
    if not stages:
        return unknown("the list lineage in the recipe names them")
    checked = all(stage.evidence is Evidence.MEASURED for stage in stages)
    places = [seq for stage in stages for seq in stage.pointer.seqs]
    return known(Evidence.MEASURED if checked else Evidence.DECLARED, stages, run.at, *places)


def _stage(run: Run, index: int) -> Stage:
    said = run.config.lineage[index]
    found = link(run.reader.project, said, run.registered.payload.model.weights_digest)
    kind = BasisKind.MEASURED_HERE if found.holds else BasisKind(said.basis)
    citation = said.citation or f"recipe: lineage.{index}"
    return Stage(
        **said.model_dump(include={"kind", "name", "model", "digest", "data", "flop", "flop_source", "licence", "run"}),
        project=said.project,
        evidence=Evidence.MEASURED if found.holds else Evidence.DECLARED,
        pointer=at(run.at, found.seq),
        basis=Basis(kind=kind, citation=f"event {found.seq}" if found.holds else citation),
        check=found.words,
    )


def _adapters(run: Run) -> Field[Any]:
    adapter = run.registered.payload.adapter
    if adapter is None:
        return not_applicable("all weights were trained", run.at)
    text = f"{adapter.kind} rank {adapter.rank}, alpha {adapter.alpha:g}, {adapter.trained_parameters:,} parameters"
    return measured(text, run.at, run.saved.seq if run.saved else None)


def _released(run: Run, name: str) -> Field[Any]:
    if run.saved is None:
        return unknown("no trained weights were saved: the run did not get that far")
    return measured(getattr(run.saved.payload.model, name), run.saved.seq)
