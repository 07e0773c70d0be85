"""The trained weights of this run beside those of other runs of the record, document by document."""

from __future__ import annotations

from collections.abc import Sequence

from grpo_audit.catalogue.reader import RunReader
from grpo_audit.ledger.project import Project
from grpo_audit.report.evidence import Evidence, Source
from grpo_audit.report.model_checks import OtherRow, Others
from grpo_audit.report.release import STANDINGS
from grpo_audit.report.visible import shortened
from grpo_audit.stats.runs import Against, against


def others(project: Project, run_id: str, names: Sequence[str]) -> tuple[Others, ...]:
    """One entry for each other run, in order; one that cannot be compared says why.

    Raises ConfigError when there is no such run, ComparisonError when this run was not evaluated to the end.
    """
    if not names:
        return ()
    ids = [project.find_run(name).run_id for name in names]
    return tuple(_other(project, run_id, item) for item in against(project, run_id, ids))


def _other(project: Project, run_id: str, found: Against) -> Others:
    seqs = tuple(RunReader(project, item).registered().seq for item in dict.fromkeys((run_id, found.run_id)))
    source = Source(Evidence.DERIVED, seqs, note="paired from the recorded answers of both runs")
    if found.result is None:
        return Others(found.run_id, (), shortened(found.refused, 600), source)
    rows = tuple(
        OtherRow(
            task=task.task,
            behaviour=task.behaviour,
            metric=task.metric,
            safety=task.safety,
            documents=task.documents,
            other=task.pre,
            this=task.post,
            difference=task.difference,
            ci_low=task.ci_low,
            ci_high=task.ci_high,
            p_adjusted=task.p_adjusted,
            gained=task.gained,
            lost=task.lost,
            verdict=task.verdict.value,
            standing=STANDINGS[task.verdict].value,
        )
        for task in found.result.comparison.tasks
    )
    return Others(found.run_id, rows, "", source)
