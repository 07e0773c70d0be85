"""What the verdict says beyond attacks: seals, runs, keys, progress."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from grpo_audit.errors import ConfigError, ExitCode, StorageError
from grpo_audit.ledger.keys import SigningKey
from grpo_audit.ledger.project import NewEvent, Project
from grpo_audit.ledger.runs import RunState
from grpo_audit.record.events import Artifact, EvalTask, EventKind
from grpo_audit.verify import Attestation, Outcome, l0 as procedure, verify
from grpo_audit.verify.steps import NAMES

BuildRecord = Callable[..., str]
DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory, build_record: BuildRecord) -> tuple[Path, str]:
    """A sealed record, which no test here changes."""
    path = tmp_path_factory.mktemp("original") / "record.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRPO_AUDIT_HOME", str(tmp_path_factory.mktemp("home")))
        return path, build_record(path, steps=1, prompts=1, group_size=2)


def test_a_sealed_record_is_verified(record: tuple[Path, str]) -> None:
    """Everything holds, the run is sealed, nobody else vouches, the tail is the whole record, exit code 0."""
    report = verify(record[0])
    assert report.ok and report.sealed and report.exit_code is ExitCode.OK
    assert (report.level, report.attestation) == ("L0", Attestation.SELF_ATTESTED)
    assert report.tail is not None and report.tail.events == report.events > 200
    assert report.run is not None and report.run.run_id == record[1]


def test_an_unsealed_run_is_no_failure_but_its_own_result(tmp_path: Path, build_record: BuildRecord) -> None:
    """An interrupted run verifies, exit code 3, and the verdict says that its end is not stated."""
    run_id = build_record(tmp_path / "record.db", steps=2, prompts=1, sealed=False)
    report = verify(tmp_path / "record.db")
    assert report.ok and not report.sealed and report.exit_code is ExitCode.UNSEALED
    assert any(run_id in text and "not sealed" in text for text in report.not_shown)
    seals = next(check for check in report.checks if check.name == "seals")
    assert seals.outcome is Outcome.NOTHING


def test_the_run_that_counts_is_the_one_asked_for(tmp_path: Path, build_record: BuildRecord) -> None:
    """Every run is listed; sealed is about the run named, the newest unless named."""
    path = tmp_path / "record.db"
    first = build_record(path, steps=1, prompts=1)
    second = build_record(path, steps=1, prompts=1, seed=1, sealed=False)
    report = verify(path)
    assert [(run.run_id, run.state) for run in report.runs] == [
        (first, RunState.SEALED),
        (second, RunState.REGISTERED),
    ]
    assert not report.sealed
    assert verify(path, run=first).sealed
    with pytest.raises(ConfigError, match="no run 'other'"):
        verify(path, run="other")


def test_a_record_without_runs_is_not_sealed(tmp_path: Path) -> None:
    """An empty project holds, but there is no run to vouch for."""
    Project.open(tmp_path / "record.db", mode="create").close()
    report = verify(tmp_path / "record.db")
    assert report.ok and not report.sealed and report.run is None


def test_no_record_is_no_verdict(tmp_path: Path) -> None:
    """A missing record raises StorageError: there is nothing that could have failed."""
    with pytest.raises(StorageError, match="There is no record"):
        verify(tmp_path / "record.db")


def test_a_malformed_key_is_bad_input(record: tuple[Path, str]) -> None:
    """--key must be a verifier key; ConfigError, exit code 2."""
    with pytest.raises(ConfigError, match="The key cannot be used"):
        verify(record[0], key="nonsense")


def test_the_key_of_somebody_else_fails(record: tuple[Path, str]) -> None:
    """A well-formed key that did not sign this record fails the key check and every signature."""
    other = str(SigningKey.generate().signer("grpo-audit/" + "0" * 32).verifier)
    report = verify(record[0], key=other)
    assert {check.name for check in report.failures} == {"key", "signed heads"}
    assert report.exit_code is ExitCode.VERIFICATION_FAILED


def test_progress_ends_at_the_number_of_events(record: tuple[Path, str]) -> None:
    """progress(done, total) rises to (events, events)."""
    seen: list[tuple[int, int]] = []
    report = verify(record[0], progress=lambda done, total: seen.append((done, total)), width=64)
    assert seen[-1] == (report.events, report.events)
    assert seen == sorted(seen) and len(seen) > 2


def test_verification_changes_nothing_in_the_record(record: tuple[Path, str]) -> None:
    """The database file is the same, byte for byte."""
    before = record[0].read_bytes()
    verify(record[0])
    assert record[0].read_bytes() == before


def test_evaluating_other_weights_than_the_saved_ones_fails(tmp_path: Path, build_record: BuildRecord) -> None:
    """An evaluation "after" of weights that were never saved is named, although the maker recorded it so."""
    path = tmp_path / "record.db"
    run_id = build_record(path, steps=1, prompts=1, sealed=False)
    with Project.open(path, mode="write") as project:
        event = project.last(run_id, EventKind.EVAL_TASK)
        assert event is not None and isinstance(event.payload, EvalTask)
        project.append([NewEvent(event.payload.model_copy(update={"phase": "post"}), run_id)])
    report = verify(path)
    assert {check.name for check in report.failures} == {"weights"}


def test_an_artifact_kept_in_the_record_must_have_its_digest(tmp_path: Path, build_record: BuildRecord) -> None:
    """A text recorded under a digest that is not its own fails."""
    path = tmp_path / "record.db"
    run_id = build_record(path, steps=1, prompts=1, sealed=False)
    artifact = Artifact(
        role="reward source",
        name="r.py",
        digest="sha256:" + "0" * 64,
        size=4,
        media_type="text/plain",
        location=None,
    )
    with Project.open(path, mode="write") as project:
        project.append([NewEvent(artifact, run_id, {"text": b"text"})])
    assert {check.name for check in verify(path).failures} == {"content"}


def test_checks_are_numbered_like_the_procedure() -> None:
    """The docstring, docs/verification.md and the report have the same steps, (0) to (16)."""
    page = (DOCS / "verification.md").read_text(encoding="utf-8")
    for number in range(len(NAMES)):
        assert f"({number})" in (procedure.__doc__ or "")
        assert f"({number})" in page
    assert f"({len(NAMES)})" not in page
