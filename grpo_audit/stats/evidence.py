"""What the finding rules read, out of a record."""

from __future__ import annotations

from collections.abc import Iterator

from grpo_audit.ledger.project import Project
from grpo_audit.record.events import EventKind, Rollout
from grpo_audit.stats.figures import Figure, figures
from grpo_audit.stats.run_evidence import KINDS, Gathered, Limits, RunEvidence


def read_run(project: Project, run_id: str, limits: Limits | None = None) -> RunEvidence:
    """The events of one run that the rules look at; rollouts are streamed, and can be read once.

    Raises DamagedRecordError when an event cannot be read.
    """
    gathered = Gathered()
    for event in project.events(run_id=run_id, kinds=KINDS):
        gathered.follow(event.seq, event.payload)
    return gathered.evidence(_rollouts(project, run_id), limits)


FIGURE_KINDS = frozenset(
    {
        EventKind.EVAL_TASK,
        EventKind.COMPARISON,
        EventKind.STEP,
        EventKind.FINDING,
        EventKind.DECONTAMINATION,
        EventKind.REWARD_PROBED,
        EventKind.REWARD_REGRADED,
    }
)
"""Kinds of event that hold figures a gate can be about."""


def read_figures(project: Project, run_id: str) -> dict[str, Figure]:
    """Every figure of a run that a gate can be about. Raises DamagedRecordError when an event cannot be read."""
    events = project.events(run_id=run_id, kinds=FIGURE_KINDS)
    return figures((event.seq, event.payload) for event in events)


def _rollouts(project: Project, run_id: str) -> Iterator[tuple[int, Rollout]]:
    for event in project.events(run_id=run_id, kinds={EventKind.ROLLOUT}):
        if isinstance(event.payload, Rollout):
            yield event.seq, event.payload
