"""Group G: what went wrong or was noticed, and what people decided about it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from grpo_audit.catalogue.evidence import Where
from grpo_audit.catalogue.field import Field, Group, declared, derived, for_all, for_regulator, measured
from grpo_audit.catalogue.reader import Entry
from grpo_audit.catalogue.run import Run, fill
from grpo_audit.preflight.inspect import PREFIX
from grpo_audit.record import events as e

_NAMED = 8
"""Events of a kind that a field points at one by one."""


class Oversight(Group):
    """What was noticed, and what people decided."""

    findings: Annotated[Field[list[str]], for_all()]
    """What checks noticed, by rule and severity, preflight rules included."""
    stops: Annotated[Field[list[str]], for_regulator()]
    """Errors and interruptions that ended an attempt."""
    resumptions: Annotated[Field[list[str]], for_regulator()]
    """Attempts that went on after one: from which step and snapshot."""
    non_finite: Annotated[Field[str], for_regulator()]
    """Whether a loss or gradient was not finite."""
    waived: Annotated[Field[list[str]], for_regulator()]
    """Preflight rules that were waived, each with the reason."""
    overrides: Annotated[Field[list[str]], for_regulator()]
    """What people said afterwards: annotations, with author, field and reason."""
    abandoned: Annotated[Field[list[str]], for_regulator()]
    """Who gave the run up, and why."""
    erasures: Annotated[Field[list[str]], for_regulator()]
    """What text was erased, by whom and why."""
    human_oversight: Annotated[Field[str], for_regulator(annotate=True)]
    """Who looked at the run while it went on, and with what power to stop it."""
    known_issues: Annotated[Field[str], for_regulator(annotate=True)]
    """Issues reported from outside: bug tracker, incident data bases."""


def oversight(run: Run) -> Oversight:
    """Group G of a run."""
    last = run.last_step.seq if run.last_step else None
    stopped = [entry for entry in run.aborted if "finite" in entry.payload.error.lower()]
    finite = (
        "; ".join(entry.payload.error for entry in stopped) or "none: every recorded loss and gradient norm is finite"
    )
    return fill(
        Oversight,
        "oversight",
        run,
        findings=_list(run, run.findings, lambda item: f"{item.rule} ({item.severity.value})"),
        stops=_list(run, run.aborted, lambda item: item.error),
        resumptions=_list(
            run, run.resumed, lambda item: f"attempt {item.attempt}: {item.phase}, from step {item.from_step}"
        ),
        non_finite=derived(
            finite,
            run.at,
            last,
            *(entry.seq for entry in stopped),
            note="training stops at the first one; none is recorded",
        ),
        waived=declared(
            [f"{rule}: {reason}" for rule, reason in run.config.waive.items()],
            run.at,
            *(entry.seq for entry in run.findings if entry.payload.rule.startswith(PREFIX)),
        ),
        overrides=_list(
            run,
            (*run.notes, *run.project_notes),
            lambda item: f"{item.field} by {item.author}: {item.reason}",
            declared,
        ),
        abandoned=_list(run, run.abandoned, lambda item: f"{item.author}: {item.reason}", declared),
        erasures=_list(
            run,
            run.erasures,
            lambda item: f"{sum(len(piece.names) for piece in item.contents)} texts by {item.author}: {item.reason}",
        ),
    )


def _list(run: Run, entries: Sequence[Entry[Any]], say: Any, how: Any = measured) -> Field[Any]:
    """Events of a kind; an empty list rests on the run's events, which hold none."""
    places: list[Where] = [entry.seq for entry in entries[-_NAMED:]]
    found: Field[Any] = how([str(say(entry.payload)) for entry in entries], *(places or [run.at, _end(run)]))
    return found


def _end(run: Run) -> int | None:
    """The newest event that the run is known to have reached."""
    ends = [span.last for kind, span in run.sums.spans.items() if kind is not e.EventKind.ANNOTATION]
    return max(ends, default=None)
