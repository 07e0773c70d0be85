"""``grpo-audit export`` as a person calls it: what is printed, what is written, which exit code."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from grpo_audit.cli.app import app
from grpo_audit.errors import ConfigError, ExitCode, StorageError, VerificationError


@pytest.fixture
def place(exported: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the record and its run folders, with the keys that made it."""
    folder = tmp_path / "place"
    shutil.copytree(exported.db.parent, folder, ignore=shutil.ignore_patterns("out", "*.lock", "key.pem"))
    monkeypatch.setenv("GRPO_AUDIT_HOME", str(folder / "home"))
    return folder


def call(place: Path, *arguments: str) -> Result:
    """Run the command; its errors are raised."""
    return CliRunner().invoke(app, ["export", "--db", str(place / "record.db"), *arguments], catch_exceptions=False)


def test_export_then_check(exported: Any, place: Path) -> None:
    """Written into the run folder by default; the check finds the weights beside it."""
    done = call(place, exported.run_id)
    assert done.exit_code == 0 and "signed by key" in done.stdout
    target = place / exported.run_id / "export"
    assert (target / "README.md").is_file()
    checked = CliRunner().invoke(app, ["export", "--check", str(target), "--attestation-key", str(exported.key_file)])
    assert checked.exit_code == 0 and "AS EXPORTED" in checked.stdout


def test_the_bytes_are_those_of_the_library(exported: Any, place: Path, tmp_path: Path) -> None:
    """The command with the log's key writes what ``make`` makes."""
    call(place, exported.run_id, "--to", str(tmp_path / "out"), "--log-key")
    for name, data in exported.package.files.items():
        assert (tmp_path / "out" / name).read_bytes() == data, name


def test_only_some_parts(exported: Any, place: Path, tmp_path: Path) -> None:
    """--only names parts; JSON says what was written."""
    done = call(
        place, exported.run_id, "--to", str(tmp_path / "out"), "--only", "bom, prov", "--cyclonedx", "1.6", "--json"
    )
    assert json.loads(done.stdout)["files"] == ["bom.cdx.json", "prov.json"]
    assert json.loads((tmp_path / "out" / "bom.cdx.json").read_text())["specVersion"] == "1.6"


@pytest.mark.parametrize("only", ["bom,poem", "", ","])
def test_an_unknown_part_is_an_error(exported: Any, place: Path, only: str) -> None:
    """A part that there is not is named, with those that there are."""
    with pytest.raises(ConfigError, match="hub, bom, croissant, prov, attest, sign"):
        call(place, exported.run_id, "--only", only)


def test_an_unsealed_run_is_refused(exported: Any, place: Path, tmp_path: Path) -> None:
    """It exits with the code of an unsealed run and writes nothing; --unsafe-draft writes it, marked."""
    with pytest.raises(VerificationError, match="unsafe-draft") as caught:
        call(place, exported.other, "--to", str(tmp_path / "out"))
    assert caught.value.exit_code is ExitCode.UNSEALED and not (tmp_path / "out").exists()
    done = call(place, exported.other, "--to", str(tmp_path / "out"), "--unsafe-draft")
    assert done.exit_code == 0 and done.stdout.startswith("DRAFT")
    assert "DRAFT" in (tmp_path / "out" / "README.md").read_text()


def test_a_record_that_does_not_hold_is_refused(exported: Any, place: Path) -> None:
    """Changed weights: the export is refused with the exit code of a failed verification."""
    weights = place / exported.run_id / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes() + b"x")
    with pytest.raises(VerificationError, match=r"\(14\) files") as caught:
        call(place, exported.run_id)
    assert caught.value.exit_code is ExitCode.VERIFICATION_FAILED


def test_a_part_that_cannot_be_made_is_an_error_when_asked_for(exported: Any, place: Path, tmp_path: Path) -> None:
    """Asked for by name, a signature without weights is an error; else it is said to be left out."""
    shutil.rmtree(place / exported.run_id / "model")
    with pytest.raises(ConfigError, match="cannot be exported"):
        call(place, exported.run_id, "--only", "sign")
    done = call(place, exported.run_id, "--to", str(tmp_path / "out"))
    assert done.exit_code == 0 and "not made: sign" in done.stdout


def test_check_without_any_key_is_an_error(exported: Any, tmp_path: Path) -> None:
    """On a machine without a key the one inside the export is not taken."""
    with pytest.raises(ConfigError, match="proves nothing"):
        CliRunner().invoke(app, ["export", "--check", str(exported.folder)], catch_exceptions=False)


def test_a_failed_check_says_what(exported: Any, published: Path) -> None:
    """JSON holds each step, and the exit code is 1."""
    (published / "README.md").write_text("another card")
    done = CliRunner().invoke(
        app, ["export", "--check", str(published), "--attestation-key", str(exported.key_file), "--json"]
    )
    found = json.loads(done.stdout)
    assert done.exit_code == 1 and not found["ok"]
    assert [item["number"] for item in found["checks"] if item["outcome"] == "failed"] == [3]


def test_a_key_that_others_can_read_does_not_sign(exported: Any, place: Path) -> None:
    """A private key with an open mode is refused."""
    key = place / "home" / "config" / "attestation-key.pem"
    key.chmod(0o644)
    with pytest.raises(StorageError, match="chmod 600"):
        call(place, exported.run_id)


def test_a_benchmark_is_declared_by_annotation(exported: Any, place: Path, tmp_path: Path) -> None:
    """``annotate RUN benchmark.TASK owner/name`` puts the task under that data set of the Hub."""
    said = ("benchmark.arithmetic", "owner/sums:easy", "--author", "A", "--reason", "the same documents")
    done = CliRunner().invoke(app, ["annotate", exported.run_id, *said, "--db", str(place / "record.db")])
    assert done.exit_code == 0, done.output
    call(place, exported.run_id, "--to", str(tmp_path / "out"), "--only", "hub")
    text = (tmp_path / "out" / ".eval_results" / "owner__sums.yaml").read_text()
    assert "owner/sums" in text and "task_id: easy" in text


def test_a_malformed_benchmark_is_refused(exported: Any, place: Path) -> None:
    """What is no data set of the Hub cannot be declared as one."""
    said = ("benchmark.arithmetic", "not a data set", "--author", "A", "--reason", "R")
    with pytest.raises(ConfigError, match="owner/name"):
        CliRunner().invoke(
            app, ["annotate", exported.run_id, *said, "--db", str(place / "record.db")], catch_exceptions=False
        )
