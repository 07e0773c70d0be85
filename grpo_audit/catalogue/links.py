"""Links from a run to earlier runs of ours: whether they are in this record, and whether the weights are the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from grpo_audit.config.declared import StageConfig
from grpo_audit.config.run import RunConfig
from grpo_audit.errors import ConfigError
from grpo_audit.ledger.project import Project
from grpo_audit.preflight.inspect import PREFIX
from grpo_audit.record.events import EventKind, Finding, ModelSaved, Severity

LINK_RULE: Final = PREFIX + "lineage-link"
"""Beside the preflight's rules in the record: it too is found before step 0."""


@dataclass(frozen=True)
class Link:
    """What this record shows of a stage."""

    holds: bool
    """Whether the stage is a run of this record whose saved weights are this run's base model."""
    seq: int | None
    """The ``model.saved`` event that shows it."""
    words: str


def link(project: Project, stage: StageConfig, base_weights: str) -> Link:
    """Compare a stage with this record."""
    if stage.run is None:
        return Link(False, None, "nothing here checks it")
    if stage.project not in (None, project.project_id):
        return Link(False, None, f"the run is in project {stage.project}, which is not read here")
    if stage.run not in {run.run_id for run in project.runs()}:
        return Link(False, None, "this record has no such run")
    event = project.last(stage.run, EventKind.MODEL_SAVED)
    if event is None or not isinstance(event.payload, ModelSaved):
        return Link(False, None, "the run saved no model")
    if event.payload.model.weights_digest == base_weights:
        return Link(True, event.seq, "its saved weights are this run's base model, by digest")
    return Link(False, event.seq, "its saved weights are not this run's base model: other weights lie between")


def check_links(project: Project, config: RunConfig) -> None:
    """Every earlier run that the recipe names in this record exists. Raises ConfigError naming those there are."""
    runs = [run.run_id for run in project.runs()]
    for index, stage in enumerate(config.lineage):
        if stage.run is not None and stage.project in (None, project.project_id) and stage.run not in runs:
            raise ConfigError(
                f"lineage.{index}.run names a run that this record does not have",
                found=stage.run,
                expected=f"one of {', '.join(runs[-8:])}" if runs else "an earlier run; the record holds none",
                next_step="Give its full run id, or the project id beside it for a run of another record",
            )


def broken_links(project: Project, config: RunConfig, base_weights: str, registered: int) -> list[Finding]:
    """A finding for each earlier run of this record whose saved weights are not the base model: something lies between.

    ``registered`` is the event that declares them.
    """
    found = []
    for stage in config.lineage:
        if stage.run is None or stage.project not in (None, project.project_id):
            continue
        shown = link(project, stage, base_weights)
        if not shown.holds:
            message = f"lineage names run {stage.run} as {stage.kind} ({stage.name}), but {shown.words}"
            evidence = [registered, *([] if shown.seq is None else [shown.seq])]
            found.append(Finding(rule=LINK_RULE, severity=Severity.WARNING, message=message, evidence=evidence))
    return found
