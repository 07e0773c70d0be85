"""Group A: who answers for the run, what it is for, and where it stands in the organisation."""

from __future__ import annotations

from typing import Annotated, Literal

from grpo_audit.catalogue.field import (
    Field,
    Group,
    derived,
    for_all,
    for_downstream,
    for_regulator,
    measured,
    not_applicable,
)
from grpo_audit.catalogue.run import Run, fill
from grpo_audit.record.events import EventKind

TRACE_WORDS = ("think", "trace", "reason", "format", "tags")
"""Words in a reward source's name or function by which it is taken to look at the reasoning trace."""


class Accountability(Group):
    """Who answers for the run."""

    run_id: Annotated[Field[str], for_all()]
    """Identifier of the run in its project; the model card and the bundle carry it."""
    attempts: Annotated[Field[int], for_regulator()]
    """How many times the run was started or gone on with, interruptions included."""
    project: Annotated[Field[str], for_all()]
    """Project id: names the log that lists every run ever registered in it."""
    sequence: Annotated[Field[int], for_regulator()]
    """Position of the run among all runs of the project, finished or not, from 1."""
    state: Annotated[Field[str], for_all()]
    """What became of the run: registered, resumed, sealed, aborted or abandoned."""
    registered_at: Annotated[Field[str], for_regulator()]
    """When the run was registered, before its step 0 (UTC, by the machine's clock)."""
    model_name: Annotated[Field[str], for_all()]
    """Name of the run, under which the trained model is known here."""
    owner: Annotated[Field[str], for_regulator("governance.owner")]
    """Person who is responsible for the model."""
    approver: Annotated[Field[str], for_regulator("governance.approver")]
    """Person who signs off the release."""
    organisation: Annotated[Field[str], for_all("governance.organisation")]
    """Legal name of the organisation on whose behalf the model is trained."""
    contact: Annotated[Field[str], for_all("governance.contact")]
    """Where questions about the model and its documentation go."""
    purpose: Annotated[Field[str], for_all("governance.purpose")]
    """Why the model is trained."""
    intended_use: Annotated[Field[str], for_all("governance.intended_use")]
    """Tasks the model is meant for, and the systems it may be built into."""
    out_of_scope_use: Annotated[Field[str], for_all("governance.out_of_scope_use")]
    """Uses the model must not be put to."""
    licence: Annotated[Field[str], for_all("governance.licence")]
    """Licence of the trained weights."""
    acceptable_use: Annotated[Field[str], for_all("governance.acceptable_use")]
    """The acceptable use policy, or where it is."""
    document_version: Annotated[Field[str], for_regulator("governance.document_version")]
    """Version of the documentation this run belongs to."""
    retention: Annotated[Field[str], for_regulator("governance.retention")]
    """How long record and weights are kept, and by whom."""
    release_date: Annotated[Field[str], for_all("governance.release_date")]
    """When the model is released."""
    distribution: Annotated[Field[str], for_all("governance.distribution")]
    """Through which channels the model is distributed."""
    integration: Annotated[Field[str], for_downstream("governance.integration")]
    """What is needed to use the model in a system: instructions, infrastructure, software and its versions."""
    inventory_id: Annotated[Field[str], for_regulator("governance.inventory_id")]
    """Its entry in the organisation's inventory of AI systems."""
    change_ticket: Annotated[Field[str], for_regulator("governance.change_ticket")]
    """The change request the run belongs to."""
    monitoring_plan: Annotated[Field[str], for_regulator("governance.monitoring_plan")]
    """Where the post-market monitoring plan is."""
    system_card: Annotated[Field[str], for_all("governance.system_card")]
    """Where the card of the model or system is published; this tool writes MODEL_CARD.md beside its report."""
    reasoning_trace_policy: Annotated[
        Field[Literal["exposed", "summarised", "hidden", "filtered"]], for_all("governance.reasoning_trace_policy")
    ]
    """What users see of the reasoning trace."""
    traces_rewarded: Annotated[Field[bool], for_all()]
    """Whether a reward source with the role train looks at the reasoning trace, judged by its name and function."""


def accountability(run: Run) -> Accountability:
    """Group A of a run."""
    overview, at = run.overview, run.at
    state_seqs = [seq for kind in _STATES if (span := run.span(kind)) for seq in (span.last,)]
    return fill(
        Accountability,
        "accountability",
        run,
        run_id=measured(overview.run_id, at),
        attempts=derived(
            overview.attempt, at, *(entry.seq for entry in run.resumed), note="registration and resumptions"
        ),
        project=measured(run.created.project_id, 0),
        sequence=derived(run.sequence, 0, at, note="counted over every registration in the log"),
        state=derived(overview.state.value, max(state_seqs), note="the newest event that changes the state"),
        registered_at=measured(run.registered.at, at),
        model_name=measured(overview.name, at),
        system_card=_card(run),
        traces_rewarded=_traces(run),
    )


_STATES = (
    EventKind.RUN_REGISTERED,
    EventKind.RUN_RESUMED,
    EventKind.RUN_SEALED,
    EventKind.RUN_ABORTED,
    EventKind.RUN_ABANDONED,
)


def _card(run: Run) -> Field[str]:
    """Where it is published, as declared; else the card that this tool writes."""
    said = run.said("accountability.system_card", for_all("governance.system_card"))
    if not said.is_unknown:
        return said
    return derived("MODEL_CARD.md", run.at, note="written beside the report, from this record; published nowhere yet")


def _traces(run: Run) -> Field[bool]:
    """A reward source sees the whole completion, so only its words say what it looks at."""
    train = [item for item in run.registered.payload.rewards if item.role == "train"]
    if not train:
        return not_applicable("no reward source trains the model", run.at)
    names = [item.name for item in train if any(word in f"{item.name} {item.source}".lower() for word in TRACE_WORDS)]
    how = f"by name or function: {', '.join(names)}" if names else "no train source is named after traces"
    return derived(bool(names), run.at, note=f"{how}; every source is given the whole completion, traces included")
