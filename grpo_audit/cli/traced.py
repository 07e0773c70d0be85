"""Step (31) on the command line: find the report, and trace its values."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from grpo_audit.cli.runs import folder_beside, located
from grpo_audit.errors import GrpoAuditError
from grpo_audit.ledger.project import Project
from grpo_audit.report.bundled import project_of
from grpo_audit.report.trace import NAME, NUMBER, read_files, trace
from grpo_audit.verify.bundle import RENDERED, BundleSource
from grpo_audit.verify.opening import opened
from grpo_audit.verify.verdict import Check, Outcome, VerifyReport


def with_report(report: VerifyReport, location: str | Path, folder: Path | None) -> VerifyReport:
    """The verdict of level L1 with step (31) at its end. ``folder`` is the run's, unless it is found by itself."""
    return replace(report, checks=[*report.checks, _check(report, location, folder)])


def _check(report: VerifyReport, location: str | Path, folder: Path | None) -> Check:
    if report.run is None:
        return Check(NUMBER, NAME, Outcome.NOTHING, "the record holds no run")
    if not all(check.ok for check in report.checks if check.number < 20):
        return Check(NUMBER, NAME, Outcome.NOT_REACHED, "level L0 failed")
    run_id = report.run.run_id
    try:
        with opened(location) as found:
            if isinstance(found.source, BundleSource):
                return _bundled(found.source, run_id)
            place = folder or folder_beside(location, run_id) or located(found.location, run_id)[1]
            with Project.open(found.location, mode="read") as project:
                return trace(project, run_id, read_files(place) if place.is_dir() else {})
    except (GrpoAuditError, OSError) as error:
        return Check(NUMBER, NAME, Outcome.FAILED, f"the report cannot be read: {error}")


def _bundled(source: BundleSource, run_id: str) -> Check:
    files = {}
    for name in RENDERED:
        if name in source.files:
            with source.open_file(name) as stream:
                files[name] = stream.read()
    with project_of(source) as project:
        return trace(project, run_id, files, withheld=source.manifest.withheld.events > 0)
