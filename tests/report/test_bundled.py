"""The report in a bundle is collected again from the bundle alone."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from grpo_audit.export.bundle import write_bundle
from grpo_audit.ledger.project import Project
from grpo_audit.report.bundled import project_of
from grpo_audit.report.data import collect
from grpo_audit.report.files import plain
from grpo_audit.report.render import render
from grpo_audit.report.trace import read_files, trace
from grpo_audit.verify.bundle import BundleSource
from grpo_audit.verify.verdict import Outcome


@pytest.fixture
def bundled(tmp_path: Path, build_record: Callable[..., str]) -> tuple[Path, str, Path]:
    """A record of two runs, the second unfinished, so that the newest event is withheld from a bundle of the first."""
    path = tmp_path / "record.db"
    run_id = build_record(path, steps=2, prompts=2, group_size=2)
    build_record(path, steps=1, prompts=2, group_size=2, sealed=False, seed=1)
    with Project.open(path, mode="read") as project:
        render(collect(project, run_id, None), path.parent / run_id)
    shutil.copytree(path.parent / run_id, tmp_path / "kept")
    return path, run_id, tmp_path / "kept"


def test_bundle_gives_the_same_report(bundled: tuple[Path, str, Path], tmp_path: Path) -> None:
    """Whoever has only the bundle collects the same report, value by value, as from the record, apart from how many
    events the other runs have; and the trace of the report inside it passes."""
    path, run_id, files = bundled
    write_bundle(path, run_id, path.parent / run_id, tmp_path / "bundle.zip")
    with Project.open(path, mode="read") as project:
        expected = plain(collect(project, run_id, None))
    with BundleSource.open(tmp_path / "bundle.zip") as source, project_of(source) as project:
        found = plain(collect(project, run_id, None))
        assert trace(project, run_id, read_files(files), withheld=True).outcome is Outcome.PASSED
    assert {section for section in expected if expected[section] != found[section]} == {"index"}
