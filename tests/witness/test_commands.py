"""grpo-audit witness, prove and keys, by the program itself: what is printed and how it exits."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from witness.logs import grow, head_of

from grpo_audit.cli.app import main
from grpo_audit.cli.witness import ask_witnesses
from grpo_audit.errors import ExitCode, StorageError
from grpo_audit.ledger.keys import SigningKey
from grpo_audit.ledger.project import Project


@dataclass(frozen=True)
class Done:
    """How a call of the program ended, and what it printed."""

    returncode: int
    stdout: str
    stderr: str


Program = Callable[..., Done]


@pytest.fixture
def program(
    tmp_path: Path, record: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Program:
    """The program with --db, in a folder of its own, as a user calls it; in this process, because starting one takes
    longer than all these commands."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, db: Path | None = record) -> Done:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["grpo-audit", *arguments, *(["--db", str(db)] if db is not None else [])])
        try:
            main()
            code: object = 0
        except SystemExit as end:
            code = end.code
        said = capsys.readouterr()
        return Done(int(str(code or 0)), said.out, said.err)

    return run


def ok(done: Done) -> str:
    """What a command that ended well printed."""
    assert done.returncode == ExitCode.OK, done.stderr
    return done.stdout


def one_line(done: Done, code: ExitCode, *parts: str) -> None:
    """The command ended with this code, one line and no traceback."""
    assert done.returncode == code, done.stdout + done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("grpo-audit: ")]
    assert len(lines) == 1 and "Traceback" not in done.stderr, done.stderr
    for part in parts:
        assert part in lines[0], lines[0]


def test_a_witness_from_adding_to_removing(program: Program, record: Path, folder: Path) -> None:
    """add asks at once and pins the key, list shows what was seen, ask goes on, remove forgets."""
    one_line(program("witness", "ask"), ExitCode.BAD_INPUT, "has no witness", "witness add")
    said = ok(program("witness", "add", f"dir:{folder}"))
    key = (folder / "witness.vkey").read_text().strip()
    assert f"pinned {key}" in said and "saw 8 events" in said
    grow(record, 2)
    (row,) = json.loads(ok(program("witness", "list", "--json")))["witnesses"]
    assert (row["kind"], row["seen"], row["spec"]) == ("directory", 8, f"dir:{folder}")
    (asked,) = json.loads(ok(program("witness", "ask", "--json")))
    assert (asked["size"], asked["problem"]) == (10, None)
    assert "saw 10 of 10 events" in ok(program("witness", "list"))
    one_line(program("witness", "remove", "nobody"), ExitCode.BAD_INPUT, row["name"])
    assert "removed" in ok(program("witness", "remove", row["name"]))
    assert "not asked any more" in ok(program("witness", "list"))


def test_an_auditor_is_a_witness_with_a_memory_of_their_own(
    program: Program, record: Path, folder: Path, tmp_path: Path, own_home: Path
) -> None:
    """witness see needs the record for reading only, leaves it as it is, and refuses an older one later."""
    old = tmp_path / "old.db"
    shutil.copy(record, old)
    grow(record, 1)
    before = record.read_bytes()
    said = ok(program("witness", "see", f"dir:{folder}"))
    assert "saw 9 events" in said and said.splitlines()[1].startswith("— ")
    assert json.loads(ok(program("witness", "see", f"dir:{folder}", "--json")))["size"] == 9
    assert record.read_bytes() == before
    shutil.rmtree(own_home / "state")
    one_line(program("witness", "see", f"dir:{folder}", db=old), ExitCode.STORAGE, "refuses to go back")


def test_what_cannot_be_asked_says_what_to_do(program: Program, folder: Path, tmp_path: Path) -> None:
    """A missing folder, nonsense, and a witness that refuses: one line and the exit code of the table."""
    one_line(program("witness", "add", f"dir:{tmp_path}/gone"), ExitCode.STORAGE, "is not there", "Mount it")
    one_line(program("witness", "add", "nonsense"), ExitCode.BAD_INPUT, "names no witness", "dir:")
    ok(program("witness", "add", f"dir:{folder}"))
    folder.rename(tmp_path / "unmounted")
    one_line(program("witness", "ask"), ExitCode.STORAGE, "is not there")


def test_a_rollback_ends_with_the_storage_code(
    program: Program, record: Path, folder: Path, tmp_path: Path, own_home: Path
) -> None:
    """An older record put back: the witness refuses with both heads, and the program ends with 5."""
    shutil.copy(record, tmp_path / "old.db")
    grow(record, 1)
    ok(program("witness", "add", f"dir:{folder}"))
    seen = head_of(record)
    shutil.rmtree(own_home / "state")
    done = program("witness", "ask", db=tmp_path / "old.db")
    one_line(done, ExitCode.STORAGE, "refuses to go back", seen.root.hex(), head_of(tmp_path / "old.db").root.hex())


def test_a_proof_is_made_checked_and_refused(program: Program, record: Path, folder: Path, tmp_path: Path) -> None:
    """prove writes a file that --check accepts with the exported key, and refuses when it was changed."""
    key = ok(program("keys", "export")).strip()
    ok(program("prove", "3", "--out", "event.tlog-proof"))
    said = ok(program("prove", "--check", "event.tlog-proof", "--key", key, db=None))
    assert "PROVED" in said and '"event 2"' in said
    found = json.loads(ok(program("prove", "--check", "event.tlog-proof", "--json", db=None)))
    assert found["ok"] and found["index"] == 3 and found["event"]["data"]["value"] == "event 2"
    path = tmp_path / "event.tlog-proof"
    path.write_bytes(path.read_bytes().replace(b"index 3", b"index 2"))
    one_line(program("prove", "--check", str(path), db=None), ExitCode.VERIFICATION_FAILED, "does not hold")
    one_line(program("prove", "3", "--witnessed"), ExitCode.BAD_INPUT, "No witness cosigned")
    ok(program("witness", "add", f"dir:{folder}"))
    name = (folder / "witness.vkey").read_text().split("+")[0]
    assert f"— {name} " in ok(program("prove", "3", "--witnessed"))


def test_a_proof_of_a_strangers_log_needs_a_key(program: Program, own_home: Path, tmp_path: Path) -> None:
    """Without a pinned and a given key nothing is believed; a wrong key refuses."""
    ok(program("prove", "3", "--out", "event.tlog-proof"))
    shutil.rmtree(own_home / "config")
    one_line(program("prove", "--check", "event.tlog-proof", db=None), ExitCode.BAD_INPUT, "--key")
    origin = "grpo-audit/" + "0" * 32
    other = str(SigningKey.generate().signer(origin).verifier)
    done = program("prove", "--check", "event.tlog-proof", "--key", other, db=None)
    one_line(done, ExitCode.VERIFICATION_FAILED, "not signed by")
    one_line(program("prove", "--check", "gone", "--key", other, db=None), ExitCode.BAD_INPUT, "gone")


def test_the_proof_of_a_run_is_its_registration(
    program: Program, tmp_path: Path, build_record: Callable[..., str]
) -> None:
    """A run is proved by its registration, or by the newest event of the kind that is named."""
    run_id = build_record(tmp_path / "run.db", steps=1)
    found = json.loads(ok(program("prove", run_id, "--json", db=tmp_path / "run.db")))
    assert (found["kind"], found["run"]) == ("run.registered", run_id)
    found = json.loads(ok(program("prove", run_id, "--kind", "run.sealed", "--json", db=tmp_path / "run.db")))
    assert found["kind"] == "run.sealed"
    done = program("prove", run_id, "--kind", "erasure", db=tmp_path / "run.db")
    one_line(done, ExitCode.BAD_INPUT, "has no erasure")


def test_keys_from_creation_to_rotation(program: Program, record: Path, tmp_path: Path) -> None:
    """create makes both keys, rotate changes the project's, list shows all of them, and other projects can follow."""
    grow(tmp_path / "second.db", 1)
    ok(program("keys", "create", db=None))
    before = ok(program("keys", "export")).strip()
    said = json.loads(ok(program("keys", "rotate", "--author", "A", "--reason", "yearly", "--json")))
    assert said["key"] == ok(program("keys", "export")).strip() != before
    listed = json.loads(ok(program("keys", "list", "--json", db=None)))
    assert [row["role"] for row in listed["private"]] == ["current", "retired", "attestation"]
    assert {row["mode"] for row in listed["private"]} == {"0600"}
    ok(program("keys", "rotate", "--author", "A", "--reason", "yearly", db=tmp_path / "second.db"))
    assert len(json.loads(ok(program("keys", "list", "--json", db=None)))["private"]) == 3
    grow(record, 1)
    grow(tmp_path / "second.db", 1)
    history = json.loads(ok(program("keys", "export", "--json")))["history"]
    assert [row["from_seq"] for row in history] == [0, 8] and history[0]["key"] == before
    assert "BEGIN PUBLIC KEY" in ok(program("keys", "export", "--attestation", db=None))


def test_a_key_that_others_may_read_is_an_error_with_the_remedy(program: Program, own_home: Path) -> None:
    """keys list ends with 5 and prints the chmod line."""
    path = own_home / "config" / "signing-key.pem"
    path.chmod(0o640)
    one_line(program("keys", "list", db=None), ExitCode.STORAGE, f"chmod 600 {path}")
    one_line(program("keys", "rotate", "--author", "A", "--reason", "R"), ExitCode.STORAGE, "chmod 600")
    one_line(program("keys", "rotate", "--author", " ", "--reason", "R"), ExitCode.BAD_INPUT, "author")


def test_the_pipeline_warns_and_goes_on(record: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A witness of the recipe that cannot be reached is a warning that says what to do."""
    with Project.open(record, mode="write") as project:
        ask_witnesses(project, [f"dir:{tmp_path}/gone"])
    said = capsys.readouterr().err
    assert "warning" in said and "Mount it" in said and "Training goes on" in said


def test_the_pipeline_stops_at_another_history(
    record: Path, folder: Path, tmp_path: Path, forget: Callable[[], None]
) -> None:
    """A witness of the recipe that refuses is a StorageError."""
    shutil.copy(record, tmp_path / "old.db")
    grow(record, 1)
    with Project.open(record, mode="write") as project:
        ask_witnesses(project, [f"dir:{folder}"])
    forget()
    with Project.open(tmp_path / "old.db", mode="write") as project, pytest.raises(StorageError, match="go back"):
        ask_witnesses(project, [f"dir:{folder}"])
