"""Files in the run folder are hashed again."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from grpo_audit.ledger.project import NewEvent, Project
from grpo_audit.record.events import Artifact
from grpo_audit.record.identity import bytes_digest
from grpo_audit.verify import Outcome, VerifyReport, verify

BuildRecord = Callable[..., str]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory, build_record: BuildRecord) -> tuple[Path, str]:
    """A sealed record; copied for each test."""
    folder = tmp_path_factory.mktemp("original")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRPO_AUDIT_HOME", str(tmp_path_factory.mktemp("home")))
        return folder, build_record(folder / "record.db", steps=3, prompts=1, group_size=2)


@pytest.fixture
def made(original: tuple[Path, str], tmp_path: Path) -> tuple[Path, Path]:
    """A sealed record and its run folder."""
    folder, run_id = original
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    return tmp_path / "record.db", tmp_path / run_id


def files(report: VerifyReport) -> tuple[Outcome, str]:
    """Outcome and detail of the files check; every other check holds."""
    assert {check.name for check in report.failures} <= {"files"}
    check = next(check for check in report.checks if check.name == "files")
    return check.outcome, check.detail


def weights(fill: int) -> bytes:
    """Other weights of the same shape."""
    header = json.dumps({"w": {"dtype": "F32", "shape": [4, 4], "data_offsets": [0, 64]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes([fill]) * 64


def test_unchanged_files_pass(made: tuple[Path, Path]) -> None:
    """Model, snapshots and artifacts of the record are found beside it and have their digests."""
    outcome, detail = files(verify(made[0]))
    assert outcome is Outcome.PASSED
    assert "digests" in detail


def test_released_weights_that_were_changed(made: tuple[Path, Path]) -> None:
    """Swapping the released weights fails by name, as file and as weights."""
    record, folder = made
    (folder / "model" / "model.safetensors").write_bytes(weights(98))
    outcome, detail = files(verify(record))
    assert outcome is Outcome.FAILED
    assert "model/model.safetensors" in detail and "the weights in model" in detail


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json"])
def test_other_files_of_the_model_that_were_changed(made: tuple[Path, Path], name: str) -> None:
    """Tokenizer and configuration belong to the model."""
    record, folder = made
    (folder / "model" / name).write_text("{}")
    outcome, detail = files(verify(record))
    assert outcome is Outcome.FAILED and name in detail


@pytest.mark.parametrize("name", ["more.safetensors", "added_tokens.json"])
def test_files_added_to_the_model(made: tuple[Path, Path], name: str) -> None:
    """Weights or tokenizer files that were not recorded change the model without changing a recorded file."""
    record, folder = made
    (folder / "model" / name).write_bytes(weights(5))
    outcome, detail = files(verify(record))
    assert outcome is Outcome.FAILED and f"model/{name} was added" in detail


def test_an_artifact_that_was_changed(made: tuple[Path, Path]) -> None:
    """A file named by an artifact event must have its digest."""
    record, folder = made
    (folder / "recipe.yaml").write_text("model: {path: other}\n")
    outcome, detail = files(verify(record))
    assert outcome is Outcome.FAILED and "recipe.yaml" in detail


def test_a_snapshot_that_was_changed(made: tuple[Path, Path]) -> None:
    """A snapshot that is kept must be the one recorded."""
    record, folder = made
    snapshot = next((folder / "snapshots").iterdir())
    (snapshot / "model.safetensors").write_bytes(weights(77))
    assert files(verify(record))[0] is Outcome.FAILED


def test_pruned_snapshots_and_a_missing_model(made: tuple[Path, Path]) -> None:
    """Files that are gone are named as not checked; a missing model fails only when artifacts are required."""
    record, folder = made
    shutil.rmtree(folder / "snapshots")
    assert files(verify(record, artifacts="required"))[0] is Outcome.PASSED
    shutil.rmtree(folder / "model")
    report = verify(record)
    outcome, detail = files(report)
    assert outcome is Outcome.PASSED and "not checked, absent" in detail and "(model)" in detail
    assert any("files that are not here" in text for text in report.not_shown)
    outcome, detail = files(verify(record, artifacts="required"))
    assert outcome is Outcome.FAILED and "the saved model" in detail


def test_a_missing_run_folder(made: tuple[Path, Path]) -> None:
    """Without the folder there is nothing to check, which is said and is not a pass; required, it fails."""
    record, folder = made
    shutil.rmtree(folder)
    assert files(verify(record)) == (Outcome.NOTHING, "the run folder is not here")
    assert files(verify(record, artifacts="required"))[0] is Outcome.FAILED


def test_a_run_folder_elsewhere(made: tuple[Path, Path], tmp_path: Path) -> None:
    """run_folder names the folder of a record that was moved."""
    record, folder = made
    moved = tmp_path / "moved"
    folder.rename(moved)
    assert files(verify(record, run_folder=moved))[0] is Outcome.PASSED


@pytest.mark.parametrize("location", ["../outside.txt", "/etc/hostname", "link.txt"])
def test_a_location_never_leads_out_of_the_run_folder(tmp_path: Path, build_record: BuildRecord, location: str) -> None:
    """A record from others cannot make the verifier read other files: traversal, absolute paths and links fail."""
    record = tmp_path / "record.db"
    run_id = build_record(record, steps=1, prompts=1, sealed=False)
    outside = tmp_path / "outside.txt"
    outside.write_text("secret")
    (tmp_path / run_id / "link.txt").symlink_to(outside)
    artifact = Artifact(
        role="report",
        name="x",
        digest=bytes_digest(b"secret"),
        size=6,
        media_type="text/plain",
        location=location,
    )
    with Project.open(record, mode="write") as project:
        project.append([NewEvent(artifact, run_id)])
    outcome, detail = files(verify(record))
    assert outcome is Outcome.FAILED and "outside of the run folder" in detail
