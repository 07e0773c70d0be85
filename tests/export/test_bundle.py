"""Bundles: what is in them, that they are the same each time, and that they appear whole or not at all."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import time
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from grpo_audit.errors import ConfigError, StorageError
from grpo_audit.export.bundle import BundleOptions, WrittenBundle, write_bundle
from grpo_audit.ledger.packing import unpack
from grpo_audit.ledger.project import NewEvent, Project
from grpo_audit.ledger.storage_errors import DamagedRecordError
from grpo_audit.ledger.store import Store
from grpo_audit.record.events import Annotation, EventKind
from grpo_audit.verify.bundle import BundleSource, is_bundle_file
from grpo_audit.verify.source import DatabaseSource

BuildRecord = Callable[..., str]


class Made:
    """A record with two runs, and where they are."""

    def __init__(self, folder: Path, first: str, second: str) -> None:
        self.folder, self.first, self.second = folder, first, second
        self.db = folder / "record.db"

    def bundle(self, name: str = "bundle.zip", **options: object) -> WrittenBundle:
        """The bundle of the first run."""
        chosen = BundleOptions(**options)  # type: ignore[arg-type]
        return write_bundle(self.db, self.first, self.folder / self.first, self.folder / name, chosen)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory, build_record: BuildRecord) -> Iterator[Path]:
    """Two sealed runs in one record; copied for each test."""
    folder = tmp_path_factory.mktemp("original")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRPO_AUDIT_HOME", str(folder / "home"))
        build_record(folder / "record.db", steps=2, prompts=1, group_size=2)
        build_record(folder / "record.db", steps=1, prompts=1, group_size=2, seed=1)
    yield folder


@pytest.fixture
def made(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    """The record on the machine that made it."""
    shutil.copytree(original, tmp_path, dirs_exist_ok=True)
    monkeypatch.setenv("GRPO_AUDIT_HOME", str(tmp_path / "home"))
    first, second = sorted(path.name for path in tmp_path.glob("demo-*"))
    return Made(tmp_path, first, second)


def test_the_same_record_gives_the_same_bytes(made: Made) -> None:
    """Twice, from another folder, in another time zone, with other file times and modes: the same bytes."""
    written = made.bundle()
    data = written.path.read_bytes()
    elsewhere = made.folder / "elsewhere"
    elsewhere.mkdir()
    shutil.copy(made.db, elsewhere / "other.db")
    shutil.copytree(made.folder / made.first, elsewhere / "run")
    for path in (elsewhere / "run").rglob("*"):
        os.utime(path, (0, 0))
        path.chmod(0o700)
    script = (
        "import sys; from pathlib import Path; from grpo_audit.export.bundle import write_bundle; "
        "write_bundle(sys.argv[1], sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))"
    )
    command = [sys.executable, "-c", script, str(elsewhere / "other.db"), made.first, str(elsewhere / "run"), "b.zip"]
    environment = {**os.environ, "TZ": "Asia/Tokyo", "PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run(command, check=True, cwd=elsewhere, env=environment, umask=0o077)
    assert (elsewhere / "b.zip").read_bytes() == data
    assert len(data) == written.size


def test_a_bundle_gives_what_the_database_gives(made: Made) -> None:
    """Read back as a source, every event, head and content of the run is the one stored, the rest is hashes."""
    written = made.bundle()
    store = Store.read(made.db)
    with store.connect() as connection, BundleSource.open(written.path) as source:
        database = DatabaseSource(connection, "db")
        stored = list(database.events())
        given = list(source.events())
        assert source.count() == database.count() == len(given)
        for have, want in zip(given, stored, strict=True):
            assert (have.seq, have.leaf_hash) == (want.seq, want.leaf_hash)
            own = want.run_id in (None, made.first)
            assert have.body in ((want.body,) if own else (want.body, None))
            if have.body is not None:
                assert (have.run_id, have.kind) == (want.run_id, want.kind)
        shown = {event.seq for event in given if event.body is not None}
        assert {event.seq for event in stored if event.run_id in (None, made.first)} <= shown
        assert [row[:3] for row in source.checkpoints()] == [row[:3] for row in database.checkpoints()]
        wanted = [
            (row.seq, row.name, row.salt, unpack(row.encoding, row.data))
            for row in database.contents()
            if row.seq in shown
        ]
        assert [(row.seq, row.name, row.salt, row.data) for row in source.contents()] == wanted
    store.close()


@pytest.mark.parametrize(("start", "stop"), [(0, 5), (3, 3), (7, 300), (200, None), (400, 10_000)])
def test_a_part_of_a_bundle(made: Made, start: int, stop: int | None) -> None:
    """Any range of events, heads and contents is that part of the whole."""
    with BundleSource.open(made.bundle().path) as source:
        end = source.count() if stop is None else stop
        assert list(source.events(start, stop)) == list(source.events())[start:end]
        heads = [row for row in source.checkpoints() if start < row.size <= end]  # type: ignore[operator]
        assert list(source.checkpoints(start, stop)) == heads
        contents = [row for row in source.contents() if start <= row.seq < end]  # type: ignore[operator]
        assert list(source.contents(start, stop)) == contents


def test_other_runs_show_their_course_and_nothing_else(made: Made) -> None:
    """Of the other run there are registration and seal, not one rollout, and not a byte of its texts."""
    written = made.bundle()
    with BundleSource.open(written.path) as source:
        kinds = {event.kind for event in source.events() if event.run_id == made.second}
    assert kinds == {EventKind.RUN_REGISTERED.value, EventKind.RUN_SEALED.value}
    with Project.open(made.db, mode="read") as project:
        rollout = next(project.events(made.second, kinds=[EventKind.ROLLOUT]))
        own = next(project.events(made.first, kinds=[EventKind.ROLLOUT]))
    data = written.path.read_bytes()
    assert rollout.body not in data and own.body in data
    assert rollout.leaf_hash in data


def test_the_projects_own_events_are_in_it(made: Made) -> None:
    """An annotation of the project belongs to every bundle."""
    with Project.open(made.db, mode="write") as project:
        project.append([NewEvent(Annotation(author="a", field="f", value="of all", reason="r"), None)])
    assert b'"value":"of all"' in made.bundle().path.read_bytes()


def test_files_are_in_it_and_what_is_not_is_said(made: Made) -> None:
    """The recipe is there, the model only when asked for; what lacks stands in the manifest with its reason."""
    plain = made.bundle().manifest
    names = [member.name for member in plain.members]
    assert "files/recipe.yaml" in names and not any("model" in name for name in names)
    assert {file.name: file.why for file in plain.withheld.files}["model"] == "not asked for"
    (made.folder / made.first / "recipe.yaml").unlink()
    whole = made.bundle(with_weights=True).manifest
    names = [member.name for member in whole.members]
    assert "files/model/model.safetensors" in names and "files/recipe.yaml" not in names
    assert {file.name: file.why for file in whole.withheld.files} == {"recipe.yaml": "absent"}
    with BundleSource.open(made.folder / "bundle.zip") as source:
        assert any("recipe.yaml" in text and "not there" in text for text in source.not_shown())
        assert any("registration" in text for text in source.not_shown())


def test_without_text_there_is_no_text(made: Made) -> None:
    """Prompts, completions, answers and token ids stay out, the reward source stays in, and the manifest says so."""
    with BundleSource.open(made.bundle(without_text=True).path) as source:
        with Project.open(made.db, mode="read") as project:
            kinds = {event.seq: event.kind for event in project.events()}
        assert {kinds[row.seq] for row in source.contents()} == {EventKind.ARTIFACT}  # type: ignore[index]
        assert source.manifest.withheld.contents == ["eval.sample", "group", "reward.probed", "rollout"]
        assert source.withholds_content("rollout") and not source.withholds_content("artifact")
        assert any("texts of" in text for text in source.not_shown())


def test_exports_are_put_in(made: Made) -> None:
    """Everything under the folder, hidden folders too; a link is refused."""
    exports = made.folder / "exports"
    (exports / ".eval_results").mkdir(parents=True)
    (exports / ".eval_results" / "a.yaml").write_text("x")
    (exports / "bom.json").write_text("{}")
    with BundleSource.open(made.bundle(exports=exports).path) as source:
        assert source.exports == [".eval_results/a.yaml", "bom.json"]
        assert source.open_export("bom.json").read() == b"{}"
        assert any("exports" in text for text in source.not_shown())
    (exports / "link").symlink_to("/etc/passwd")
    with pytest.raises(ConfigError, match="no regular file"):
        made.bundle(exports=exports)
    with pytest.raises(ConfigError, match="no folder"):
        made.bundle(exports=made.folder / "nowhere")


def test_other_programs_read_it(made: Made) -> None:
    """``zipfile`` finds every member whole, and so does Info-ZIP where it is installed."""
    path = made.bundle(with_weights=True).path
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None and archive.namelist()[0] == "manifest.json"
    unzip = shutil.which("unzip")
    if unzip:
        assert subprocess.run([unzip, "-tqq", str(path)], capture_output=True).returncode == 0


def test_a_changed_file_is_not_bundled(made: Made) -> None:
    """A recipe that is not the one recorded stops the bundle: nobody could verify it."""
    (made.folder / made.first / "recipe.yaml").write_text("other")
    with pytest.raises(DamagedRecordError, match=r"recipe\.yaml in the run folder is not the file that was recorded"):
        made.bundle()
    assert not (made.folder / "bundle.zip").exists()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE event SET body = CAST(replace(CAST(body AS TEXT), '\"seq\":9,', '\"seq\":8,') AS BLOB) WHERE seq = 9",
        "UPDATE event SET leaf_hash = zeroblob(32) WHERE seq = 9",
        "UPDATE event SET run_id = 'x' WHERE seq = 9",
        "DELETE FROM event WHERE seq = 9",
        "DELETE FROM checkpoint",
        "DELETE FROM checkpoint WHERE size = (SELECT max(size) FROM checkpoint)",
        "UPDATE content SET encoding = 'zlib' WHERE name = 'response'",
        "UPDATE checkpoint SET note = 'x' WHERE size = 1",
        "UPDATE checkpoint SET root = zeroblob(32)",
    ],
)
def test_a_damaged_record_is_not_bundled(made: Made, statement: str) -> None:
    """What does not hold together is an error that says so, and leaves no file."""
    connection = sqlite3.connect(made.db)
    with connection:
        assert connection.execute(statement).rowcount > 0
    connection.close()
    with pytest.raises(StorageError):
        made.bundle()
    assert not list(made.folder.glob("*.zip")) and not list(made.folder.glob(".*.part"))


def test_a_file_that_is_no_bundle_is_not_overwritten(made: Made) -> None:
    """A slip of the keyboard costs no record; an earlier bundle is replaced."""
    with pytest.raises(ConfigError, match="Refusing to overwrite"):
        made.bundle("record.db")
    assert made.bundle().sha256 == made.bundle().sha256


def test_killed_while_it_is_written_there_is_no_bundle(made: Made) -> None:
    """kill -9 at any moment leaves the old file or the new one, whole."""
    good = made.bundle().path.read_bytes()
    script = (
        "import sys; from pathlib import Path; from grpo_audit.export.bundle import write_bundle\n"
        "print('ready', flush=True)\n"
        "while True: write_bundle(sys.argv[1], sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))"
    )
    arguments = [str(made.db), made.first, str(made.folder / made.first), str(made.folder / "bundle.zip")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    for number in range(3):
        process = subprocess.Popen([sys.executable, "-c", script, *arguments], stdout=subprocess.PIPE, env=environment)
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        time.sleep(0.11 * (number + 1))
        process.kill()
        process.wait()
        process.stdout.close()
        assert process.returncode == -9
        assert (made.folder / "bundle.zip").read_bytes() == good


def test_memory_does_not_grow_with_the_record(made: Made) -> None:
    """Twice the content costs no more memory, when it is written and when it is read."""

    def peak() -> int:
        note = Annotation(author="a", field="f", value="v", reason="r")
        with Project.open(made.db, mode="write") as project:
            project.append([NewEvent(note, None, {"text": os.urandom(2000)}) for _ in range(3000)])
        tracemalloc.start()
        with BundleSource.open(made.bundle().path) as source:
            assert sum(1 for _ in source.contents()) > 3000
            assert sum(1 for _ in source.events()) > 3000
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    made.bundle()  # what is loaded once is loaded by now
    first, second = peak(), peak()
    assert second < 1.1 * first + 500_000


def test_what_is_taken_for_a_bundle(made: Made) -> None:
    """By content or by name; a database and a missing file are none."""
    path = made.bundle().path
    renamed = path.rename(path.with_suffix(".bundle"))
    assert is_bundle_file(renamed) and not is_bundle_file(made.db)
    assert not is_bundle_file(made.folder / "none.zip") and not is_bundle_file(made.folder)
