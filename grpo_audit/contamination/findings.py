"""What a contamination check found, as findings: a pure function of what is recorded."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Final

from grpo_audit.record.audits import Decontamination, TaskContamination
from grpo_audit.record.events import Finding, Severity

UNTESTABLE: Final = 0.2
"""Share of a task's documents without a test above which it is worth a line."""
NAMED: Final = 3
"""Documents that a message names."""


def findings(
    decontamination: Decontamination, expected: Collection[str], evidence: Sequence[int] = ()
) -> list[Finding]:
    """Errors first, then warnings.

    Args:
        decontamination: as recorded.
        expected: tasks that are contaminated on purpose (``decontamination.expected``).
        evidence: number of the event, when it has one.
    """
    found = [
        *_void(decontamination),
        *_probes(decontamination, expected),
        *_by_task(decontamination, expected),
        *_untestable(decontamination),
    ]
    order = list(reversed(Severity))
    return [
        Finding(rule=rule, severity=severity, message=message, evidence=list(evidence))
        for rule, severity, message in sorted(found, key=lambda item: order.index(item[1]))
    ]


_Line = tuple[str, Severity, str]


def _void(decontamination: Decontamination) -> Iterator[_Line]:
    if decontamination.valid:
        return
    failed = [
        control for control in decontamination.controls if not control.planted or control.found != control.expected
    ]
    why = "; ".join(
        f"{control.name}: {control.found} of {control.planted}"
        if control.planted
        else f"{control.name}: no document is long or distinctive enough to be planted"
        for control in failed
    )
    yield "contamination-void", Severity.ERROR, f"The contamination check proves nothing: a control failed ({why})."


def _probes(decontamination: Decontamination, expected: Collection[str]) -> Iterator[_Line]:
    """A task that is contaminated on purpose must be found: the positive control nobody planted."""
    tasks = {task.task: task for task in decontamination.tasks}
    for name in sorted(set(expected)):
        task = tasks.get(name)
        if task is None:
            yield (
                "contamination-probe-missed",
                Severity.ERROR,
                f"{name} is to be contaminated on purpose, and the suite has no such task.",
            )
        elif not task.contaminated:
            yield (
                "contamination-probe-missed",
                Severity.ERROR,
                f"{name} is contaminated on purpose, and none of its {task.documents} documents was found in the "
                "prompts: the check misses what it is for, or the prompts are others than the probe was made for.",
            )


def _by_task(decontamination: Decontamination, expected: Collection[str]) -> Iterator[_Line]:
    for task in decontamination.tasks:
        if task.contaminated and task.task not in expected:
            yield "contaminated-documents", Severity.WARNING, _contaminated(decontamination, task)
        if (overlap := task.flagged - task.contaminated) and task.task not in expected:
            yield (
                "flagged-documents",
                Severity.INFO,
                f"{overlap} of {task.documents} documents of {task.task} share words with the prompts, none of them "
                f"more than half; they are left out when the comparison is made again on clean documents.",
            )
        if task.numbers_only and task.task not in expected:
            yield (
                "numbers-only-documents",
                Severity.INFO,
                f"{task.numbers_only} of {task.documents} documents of {task.task} share nothing with a prompt but "
                "all their numbers: a translation, the same exercise in another order, or a coincidence.",
            )


def _untestable(decontamination: Decontamination) -> Iterator[_Line]:
    """One line for all tasks: it is about what the check cannot see."""
    found = [task for task in decontamination.tasks if task.untestable > UNTESTABLE * task.documents]
    if found:
        named = ", ".join(f"{task.untestable} of {task.documents} of {task.task}" for task in found)
        yield (
            "untestable-documents",
            Severity.INFO,
            f"Too short or too much alike, so that only a copy to the word would have been seen: {named}.",
        )


def _contaminated(decontamination: Decontamination, task: TaskContamination) -> str:
    names = [item.doc_id for item in decontamination.overlaps if item.task == task.task and item.contaminated]
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return (
        f"{task.contaminated} of {task.documents} documents of {task.task} stand in the prompts "
        f"({', '.join(names[:NAMED])}{more}): what the model gains there may be memory."
    )
