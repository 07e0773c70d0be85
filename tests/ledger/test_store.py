"""Opening a record, and what storage says when it cannot."""

from __future__ import annotations

import os
import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from grpo_audit.errors import ExitCode, StorageError
from grpo_audit.ledger.project import NewEvent, Project
from grpo_audit.ledger.store import sqlite_path
from grpo_audit.ledger.tables import SCHEMA_VERSION
from grpo_audit.record.events import Annotation


def note(size: int = 1) -> NewEvent:
    """Any event, with content of a size."""
    return NewEvent(Annotation(author="a", field="f", value="v", reason="r"), None, {"text": os.urandom(size)})


@pytest.fixture
def record(tmp_path: Path) -> Path:
    """A record with one event."""
    path = tmp_path / "record.db"
    Project.open(path, mode="create").close()
    return path


@pytest.fixture
def unprivileged() -> Iterator[Path]:
    """A folder of a user who is not root (root may write everywhere), and that user's rights."""
    folder = Path(tempfile.mkdtemp())
    user = os.geteuid()
    home = os.environ["GRPO_AUDIT_HOME"]
    if user == 0:
        os.chown(folder, 65534, -1)
        os.seteuid(65534)
    os.environ["GRPO_AUDIT_HOME"] = str(folder / "home")
    try:
        yield folder
    finally:
        os.environ["GRPO_AUDIT_HOME"] = home
        os.seteuid(user)
        shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "There is no record at"),
        (b"", "is no SQLite database"),
        (b"not a database, but long enough to look at" * 20, "is no SQLite database"),
        (b"SQLite format 3\x00" + bytes(2000), "damaged or no SQLite database"),
    ],
)
def test_what_is_no_record_is_refused(tmp_path: Path, content: bytes | None, why: str) -> None:
    """A missing, empty or foreign file raises StorageError (exit code 5), and is left alone."""
    path = tmp_path / "record.db"
    if content is not None:
        path.write_bytes(content)
    for mode in ("read", "write"):
        with pytest.raises(StorageError, match=why) as caught:
            Project.open(path, mode=mode)  # type: ignore[arg-type]
        assert caught.value.exit_code is ExitCode.STORAGE
        assert "\n" not in str(caught.value)
        assert (path.read_bytes() if path.exists() else None) == content


def test_the_database_of_another_program_is_not_touched(tmp_path: Path) -> None:
    """create refuses a database with foreign tables and adds nothing to it."""
    path = tmp_path / "photos.db"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE photos (x)")
    before = path.read_bytes()
    with pytest.raises(StorageError, match="no grpo-audit record; found tables photos"):
        Project.open(path, mode="create")
    with sqlite3.connect(path) as database:
        assert [row[0] for row in database.execute("SELECT name FROM sqlite_master")] == ["photos"]
    assert len(path.read_bytes()) == len(before)


def test_a_newer_record_is_refused(record: Path) -> None:
    """A record of a newer schema version raises StorageError that says to upgrade, in every mode."""
    with sqlite3.connect(record) as database:
        database.execute("UPDATE alembic_version SET version_num = '0099'")
    for mode in ("read", "write", "create"):
        with pytest.raises(StorageError, match=rf"schema version 99, .* at most {SCHEMA_VERSION}\. Upgrade grpo-audit"):
            Project.open(record, mode=mode)  # type: ignore[arg-type]


def test_triggers_are_refused(record: Path) -> None:
    """A record with a trigger is opened neither for reading nor for writing."""
    with sqlite3.connect(record) as database:
        database.execute("CREATE TRIGGER t AFTER INSERT ON event BEGIN DELETE FROM finding; END")
    for mode in ("read", "write"):
        with pytest.raises(StorageError, match="unknown trigger t"):
            Project.open(record, mode=mode)  # type: ignore[arg-type]


def test_a_stray_rollback_journal_is_refused(record: Path) -> None:
    """SQLite would write a journal's pages into the record, so a record with one beside it is not opened."""
    record.with_name("record.db-journal").write_bytes(b"pages")
    for mode in ("read", "write"):
        with pytest.raises(StorageError, match=r"stray record\.db-journal"):
            Project.open(record, mode=mode)  # type: ignore[arg-type]


def test_two_writers_are_refused(record: Path) -> None:
    """While one process writes, another gets a StorageError with its process id; reading goes on."""
    script = (
        "import sys; from grpo_audit.ledger.project import Project\n"
        "from grpo_audit.errors import StorageError\n"
        "try: Project.open(sys.argv[1], mode='write')\n"
        "except StorageError as error: print(error)\n"
    )
    with Project.open(record, mode="write") as project:
        done = subprocess.run([sys.executable, "-c", script, str(record)], capture_output=True, text=True, check=True)
        assert f"being written by another process; found process {os.getpid()}." in done.stdout
        with pytest.raises(StorageError, match=f"process {os.getpid()}"):
            Project.open(record, mode="create")
        with Project.open(record, mode="read") as reader:
            project.append([note()])
            assert len(list(reader.events())) == 2
    Project.open(record, mode="write").close()


def test_a_read_only_folder_is_one_clear_error(unprivileged: Path) -> None:
    """Creating or writing where one may not gives one StorageError and leaves nothing behind."""
    folder = unprivileged / "closed"
    folder.mkdir()
    folder.chmod(0o555)
    try:
        with pytest.raises(StorageError, match="The folder cannot be written") as caught:
            Project.open(folder / "record.db", mode="create")
        assert "\n" not in str(caught.value)
        assert list(folder.iterdir()) == []
        with pytest.raises(StorageError, match="The folder cannot be written"):
            Project.open(folder / "deeper" / "record.db", mode="create")
    finally:
        folder.chmod(0o755)


def test_a_record_in_a_read_only_folder_can_be_read(unprivileged: Path) -> None:
    """An archived record is readable without the right to write beside it, and not writable."""
    folder = unprivileged / "archive"
    with Project.open(folder / "record.db", mode="create") as project:
        head = project.append([note()])
    (folder / "record.db.lock").unlink()
    folder.chmod(0o555)
    try:
        with Project.open(folder / "record.db", mode="read") as project:
            assert project.head == head
            assert len(list(project.events())) == 2
        with pytest.raises(StorageError, match="The folder cannot be written"):
            Project.open(folder / "record.db", mode="write")
    finally:
        folder.chmod(0o755)


def test_a_full_disk_is_one_clear_error_and_the_record_goes_on(record: Path) -> None:
    """When writing fails for want of space, the batch is refused whole; with space again, the next one is appended."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Project.open(record, mode="write") as project:
        before = project.append([note()])
        resource.setrlimit(resource.RLIMIT_FSIZE, (record.stat().st_size + 300_000, hard))
        try:
            with pytest.raises(StorageError, match=r"Cannot write .*record\.db; found The disk") as caught:
                project.append([note(4_000_000)])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert "\n" not in str(caught.value)
        assert project.head == before
        assert project.append([note(4_000_000)]).size == before.size + 1
    with Project.open(record, mode="read") as project:
        assert len(list(project.events())) == project.head.size == before.size + 1


def test_a_record_that_cannot_be_begun_leaves_no_file(tmp_path: Path) -> None:
    """When not even the tables fit, nothing is left behind."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    Project.open(tmp_path / "other.db", mode="create").close()  # the key is there before
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
    try:
        with pytest.raises(StorageError):
            Project.open(tmp_path / "record.db", mode="create")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {path.name for path in tmp_path.iterdir()} <= {"other.db", "other.db.lock", "record.db.lock"}
    Project.open(tmp_path / "record.db", mode="create").close()


@pytest.mark.parametrize(
    ("location", "path"),
    [("a/b.db", Path("a/b.db").resolve()), ("sqlite:////x/y.db", Path("/x/y.db")), ("postgresql://h/d", None)],
)
def test_a_location_is_a_path_or_a_url(location: str, path: Path | None) -> None:
    """Paths and sqlite URLs name a file; other URLs another database."""
    assert sqlite_path(location) == path


@pytest.mark.parametrize("location", ["sqlite://", "sqlite:///:memory:", "nonsense://x", "://"])
def test_locations_that_cannot_hold_a_record_are_refused(location: str) -> None:
    """Memory, unknown databases and malformed URLs raise StorageError."""
    with pytest.raises(StorageError):
        Project.open(location, mode="create")


def test_a_name_with_special_characters_is_a_file_name(tmp_path: Path) -> None:
    """?, #, % and spaces in a path are not taken for parts of a URI."""
    path = tmp_path / "a b?c#d%20e.db"
    Project.open(path, mode="create").close()
    assert path.is_file()
    with Project.open(path, mode="read") as project:
        assert project.head.size == 1
