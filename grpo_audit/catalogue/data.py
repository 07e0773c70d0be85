"""Group C: the prompts the model was trained on."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from grpo_audit.catalogue.field import (
    Field,
    Group,
    declared,
    derived,
    for_all,
    for_downstream,
    for_regulator,
    measured,
    not_applicable,
    unknown,
)
from grpo_audit.catalogue.run import Run, fill
from grpo_audit.record.events import EventKind


class Data(Group):
    """The prompt set."""

    source: Annotated[Field[str], for_all()]
    """Where the prompts come from: built-in, file or hub id."""
    revision: Annotated[Field[str], for_downstream()]
    """Revision of the hub data set."""
    split: Annotated[Field[str], for_downstream()]
    """Split of the hub data set."""
    digest: Annotated[Field[str], for_all()]
    """Digest over the canonical rows, in order."""
    file_digest: Annotated[Field[str], for_regulator()]
    """SHA-256 of the file, when the set is one."""
    rows: Annotated[Field[int], for_all()]
    """Number of prompts in the set."""
    provenance: Annotated[Field[str], for_all(annotate=True)]
    """Category of origin: synthetic, human-written, web or mixed."""
    licence: Annotated[Field[str], for_all("prompts.licence")]
    """Licence of the prompt set."""
    description: Annotated[Field[str], for_all("prompts.description")]
    """Scope and main characteristics, in a sentence."""
    curation: Annotated[Field[str], for_regulator("governance.curation")]
    """How the prompts were obtained, selected and cleaned."""
    curation_code: Annotated[Field[str], for_regulator("governance.curation_code")]
    """The code that did so, by revision or digest."""
    personal_data: Annotated[Field[Literal["none", "present", "removed"]], for_regulator("governance.personal_data")]
    """Whether the prompts hold personal data, as declared."""
    synthetic_share: Annotated[Field[float], for_regulator("governance.synthetic_share")]
    """Share of the prompts that a model wrote, from 0 to 1."""
    duplicates: Annotated[Field[int], for_regulator()]
    """Rows whose prompt occurs earlier in the set."""
    field_mapping: Annotated[Field[dict[str, str]], for_regulator()]
    """Which column of the source became which of ours."""
    order: Annotated[Field[str], for_regulator()]
    """How prompts are drawn: a pure function of the seed."""
    order_seed: Annotated[Field[int], for_regulator()]
    """The seed of that order."""
    prompts_drawn: Annotated[Field[int], for_regulator()]
    """Different prompts that were drawn."""
    most_drawn: Annotated[Field[int], for_regulator()]
    """Times the most drawn prompt was drawn."""
    decontamination: Annotated[Field[str], for_all(annotate=True)]
    """Check of the prompts against the evaluation documents."""
    bias_assessment: Annotated[Field[str], for_regulator("governance.bias_assessment")]
    """What was looked at for bias, or where the assessment is."""
    data_record: Annotated[Field[str], for_regulator("governance.data_record")]
    """Where the provenance record of the prompts is kept, when it is more than this record."""


def data(run: Run) -> Data:
    """Group C of a run."""
    found, at = run.registered.payload.prompts, run.at
    groups = run.span(EventKind.GROUP)
    is_hub = found.source.startswith("hub:")
    return fill(
        Data,
        "data",
        run,
        source=measured(found.source, at),
        revision=_of_the_hub(found.revision, is_hub, at, "prompts.revision in the recipe pins one"),
        split=_of_the_hub(found.split, is_hub, at, "prompts.split in the recipe"),
        digest=measured(found.digest, at),
        file_digest=measured(found.file_digest, at)
        if found.file_digest
        else not_applicable("the source is no single file", at),
        rows=measured(found.rows, at),
        provenance=declared(None if found.provenance == "unknown" else found.provenance, at, unknown=_PROVENANCE),
        duplicates=measured(found.duplicates, at, note=f"of {found.rows:,} rows; they were left in"),
        field_mapping=measured(found.fields, at),
        order=measured(found.order, at),
        order_seed=measured(run.config.seed, at),
        prompts_drawn=_drawn(run.sums.prompts_drawn or None, groups, "counted over the groups"),
        most_drawn=_drawn(run.sums.most_drawn, groups, "the largest exposure, and the draw itself"),
        decontamination=_decontamination(run),
    )


_PROVENANCE = "prompts.provenance in the recipe says unknown"


def _of_the_hub(value: str | None, is_hub: bool, at: int, how: str) -> Field[Any]:
    if value is None and not is_hub:
        return not_applicable("the source is no data set of the hub", at)
    return measured(value, at, unknown=how)


def _drawn(value: int | None, groups: Any, how: str) -> Field[Any]:
    if value is None or groups is None:
        return unknown("no step was recorded")
    return derived(value, groups, note=how)


def _decontamination(run: Run) -> Field[Any]:
    """What the check before step 0 found; a void one says nothing."""
    if run.decontamination is None:
        return unknown("no check of the prompts against the evaluation documents is recorded")
    found, seq = run.decontamination.payload, run.decontamination.seq
    if not found.valid:
        return unknown("the check of the prompts is void: a control did not come out", seq)
    documents = sum(task.documents for task in found.tasks)
    unexpected = [task for task in found.tasks if task.task not in run.config.decontamination.expected]
    text = (
        f"{sum(task.contaminated for task in unexpected):,} of {documents:,} evaluation documents contaminated, "
        f"{sum(task.flagged for task in unexpected):,} with any overlap, "
        f"{sum(task.untestable for task in found.tasks):,} untestable"
    )
    if len(unexpected) < len(found.tasks):
        text += f"; on purpose: {', '.join(task.task for task in found.tasks if task not in unexpected)}"
    return measured(text, seq, note=found.method)
