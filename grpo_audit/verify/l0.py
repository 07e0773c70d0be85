"""Level L0: is this the record that was written, whole and unchanged?

The procedure. The code below and docs/verification.md carry the same numbers.

(0)  Open the database read-only. No stray rollback journal; the schema version is known; there are the tables, indexes
     and views of that version and nothing else; SQLite finds its pages in order.
(1)  Decide on the key: the one given, else the one pinned on this machine when the project was made, else the one the
     record names. The record's own name of its key must agree.
(2)  Events are numbered from 0 without a gap.
(3)  Each body is canonical, of a known version and kind, and its payload is valid.
(4)  The columns seq, run and kind agree with the body, and its ``prev`` is the leaf hash of the event before.
(5)  Each leaf hash is SHA-256(0x00 || body).
(6)  Each checkpoint's root and frontier are those of the first ``size`` events, and the key of (1) signed it.
(7)  The newest checkpoint covers every event; no checkpoint speaks of events that are missing.
(8)  The head this machine remembers is a head of this log.
(9)  Projections are derived from the events again and equal the stored rows, in both directions.
(10) Every content named by an event is there with its salted digest, and there is no other; a text kept for an artifact
     has the artifact's digest.
(11) The project's creation is the first event; a run is registered once and before everything else of it; attempts
     count up by one.
(12) A seal states how many events of each kind it seals; only annotations follow it.
(13) The weights evaluated before are the base model's; those evaluated after, compared and sealed are the saved
     model's.
(14) Files in the run folder have their digests.
(15) Witnesses. None exists yet, so there is nothing to check and the verdict is SELF-ATTESTED.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Literal

from sqlalchemy import Connection

from grpo_audit.errors import ConfigError, StorageError
from grpo_audit.ledger import keys
from grpo_audit.ledger.canonical import CanonicalError
from grpo_audit.ledger.event import BodyError, parse
from grpo_audit.ledger.folders import is_project_id
from grpo_audit.ledger.memory import Head, Memory, RememberedHead, recall
from grpo_audit.ledger.notes import NoteError, VerifierKey
from grpo_audit.ledger.runs import choose
from grpo_audit.ledger.storage_errors import DamagedRecordError
from grpo_audit.ledger.store import Store, sqlite_path
from grpo_audit.record.events import ProjectCreated
from grpo_audit.verify.chain import Chain, Remembered, TreeHeads, stored_events
from grpo_audit.verify.course import Courses, RunCourse
from grpo_audit.verify.derived import Contents, Projections
from grpo_audit.verify.files import Files
from grpo_audit.verify.limits import not_shown
from grpo_audit.verify.verdict import Attestation, KeySource, Tail, Tally, VerifyReport

LEVEL = "L0"
_REPORT_EVERY = 1000
_NAMES: tuple[tuple[str, str], ...] = (
    ("database", "checks"),
    ("key", "key"),
    ("numbering", "events"),
    ("bodies", "bodies"),
    ("columns and links", "events"),
    ("leaf hashes", "hashes"),
    ("signed heads", "checkpoints"),
    ("coverage", "events covered"),
    ("remembered head", "head"),
    ("projections", "rows"),
    ("content", "contents"),
    ("order of events", "events"),
    ("seals", "seals"),
    ("weights", "mentions of weights"),
    ("files", "digests"),
    ("witnesses", "witnesses"),
)


def verify(
    location: str | Path,
    *,
    run: str | None = None,
    key: str | None = None,
    run_folder: Path | None = None,
    artifacts: Literal["present", "required"] = "present",
    progress: Callable[[int, int], None] | None = None,
) -> VerifyReport:
    """Verify a whole record at level L0, and the files of one run.

    ``run`` is the run whose seal and files count (id, prefix or name; the newest unless given). ``key`` is a verifier
    key ``NAME+KEYHASH+BASE64`` known from elsewhere. ``run_folder`` is where the run's files are; else it is looked for
    beside the record and where the run's configuration says. ``artifacts="required"`` fails when the saved model or an
    artifact is missing. ``progress`` is called with (events done, events in all).

    A record that does not hold gives a report with failed checks. Raises StorageError when there is no record, or one
    of a newer version, and ConfigError for an unknown run or a malformed key.
    """
    given = _given_key(key)
    procedure = _Procedure(location, given)
    try:
        store = Store.read(location)
    except DamagedRecordError as error:
        procedure.tallies[0].wrong(str(error))
        return procedure.report(None)
    try:
        procedure.read(store, progress)
    finally:
        store.close()
    chosen = procedure.choose_run(run)
    if procedure.is_complete:
        procedure.compare_files(chosen, run_folder, required=artifacts == "required")
    return procedure.report(chosen)


def _given_key(text: str | None) -> VerifierKey | None:
    if text is None:
        return None
    try:
        return VerifierKey.parse(text.strip())
    except NoteError as error:
        raise ConfigError("The key cannot be used", found=str(error)) from error


class _Procedure:
    """State of one verification."""

    def __init__(self, location: str | Path, given: VerifierKey | None) -> None:
        self._location = location
        self._given = given
        self.tallies = [Tally(number, name, unit) for number, (name, unit) in enumerate(_NAMES)]
        self.is_complete = False
        """Whether every event was read."""
        self._project_id: str | None = None
        self._key: VerifierKey | None = None
        self._key_source: KeySource | None = None
        self._remembered: RememberedHead | None = None
        self._courses = Courses(*self.tallies[11:14])
        self._head: Head | None = None
        self._note = b""
        self._times: list[str] = []
        self._absent: list[str] = []

    # --- steps (0) to (13) ------------------------------------------------------------------------------------------

    def read(self, store: Store, progress: Callable[[int, int], None] | None) -> None:
        """One pass over the database, in one transaction: one state of the record."""
        try:
            with store.connect() as connection:
                self._check_pages(connection)
                self._decide_key(connection)
                self._recall()
                self._walk(connection, progress)
        except StorageError as error:
            # the state of the disk, not an edit; either way nobody can say what the record holds
            self.tallies[0].wrong(str(error))

    def _check_pages(self, connection: Connection) -> None:
        # (0) The rest of it: Store.read has refused sidecars, versions and foreign tables by now.
        database = self.tallies[0]
        database.saw(3)
        if connection.dialect.name != "sqlite":
            return
        database.saw()
        found = connection.exec_driver_sql("PRAGMA integrity_check(3)").scalars().all()
        if found != ["ok"]:
            database.wrong("SQLite finds: " + "; ".join(str(line) for line in found))

    def _decide_key(self, connection: Connection) -> None:
        # (1) Which key.
        tally = self.tallies[1]
        tally.saw()
        body = connection.exec_driver_sql("SELECT body FROM event ORDER BY seq LIMIT 1").scalar()
        try:
            created = parse(body if isinstance(body, bytes) else b"").event.payload
            if not isinstance(created, ProjectCreated) or not is_project_id(created.project_id):
                raise BodyError("the first event does not create a project")
            stated = VerifierKey.parse(created.public_key)
        except (CanonicalError, BodyError, NoteError) as error:
            tally.wrong(f"the record does not name its key: {error}")
            self._key, self._key_source = self._given, KeySource.GIVEN if self._given else None
            return
        self._project_id = created.project_id
        pinned = self._pinned(created.project_id)
        for key, source in (
            (self._given, KeySource.GIVEN),
            (pinned, KeySource.PINNED),
            (stated, KeySource.RECORD),
        ):
            if key is not None:
                self._key, self._key_source = key, source
                break
        if self._key != stated:
            tally.wrong(f"the record names the key {stated}, but the key {self._key_source} is {self._key}")
        tally.remark(f"key from: {self._key_source}")

    def _pinned(self, project_id: str) -> VerifierKey | None:
        try:
            return keys.pinned(project_id)
        except StorageError as error:
            self.tallies[1].wrong(str(error))
            return None

    def _recall(self) -> None:
        if self._project_id is None:
            return
        try:
            self._remembered = recall(self._project_id)
        except StorageError as error:
            self.tallies[8].wrong(str(error))

    def _walk(self, connection: Connection, progress: Callable[[int, int], None] | None) -> None:
        total = connection.exec_driver_sql("SELECT count(*) FROM event").scalar() or 0
        chain = Chain(*self.tallies[2:6])
        heads = TreeHeads(connection, self._key, self.tallies[6], self.tallies[7])
        remembered = Remembered(self._remembered.head if self._remembered else None, self.tallies[8])
        projections = Projections(connection, self.tallies[9])
        contents = Contents(connection, self.tallies[10])
        for row in stored_events(connection):
            event = chain.follow(row)  # (2) to (5)
            heads.follow(chain.tree)  # (6)
            remembered.follow(chain.tree)  # (8)
            if event is not None:
                attempt = self._courses.follow(event)  # (11) to (13)
                projections.follow(event, attempt)  # (9)
                contents.follow(event)  # (10)
                self._times[1:] = [event.time]
            if progress is not None and chain.tree.size % _REPORT_EVERY == 0:
                progress(chain.tree.size, total)
        heads.finish(chain.tree)  # (7)
        remembered.finish(chain.tree)
        projections.finish()
        contents.finish()
        if progress is not None:
            progress(chain.tree.size, total)
        self._head = Head(chain.tree.size, chain.tree.root())
        self._note = heads.newest_note
        self.is_complete = True

    # --- step (14) --------------------------------------------------------------------------------------------------

    def choose_run(self, reference: str | None) -> RunCourse | None:
        """The run that counts; None when there is none and none was asked for."""
        runs = self._courses.runs
        verdicts = [course.verdict for course in runs.values()]
        if reference is None and not verdicts:
            return None
        if not self.is_complete and reference is not None and not verdicts:
            return None  # the record broke before the run could be found: the failed checks say so
        return runs[choose(verdicts, reference, str(self._location)).run_id]

    def compare_files(self, course: RunCourse | None, folder: Path | None, *, required: bool) -> None:
        """(14) Hash the run's files again."""
        tally = self.tallies[14]
        if course is None:
            tally.nothing("the record holds no run")
            return
        folder = folder or self._run_folder(course)
        if folder is None or not folder.is_dir():
            tally.nothing("the run folder is not here")
            self._absent.append("every file of the run folder")
            if required:
                tally.wrong("the run folder is not here; name it with run_folder")
            return
        files = Files(folder, tally, required=required)
        files.compare(course)
        self._absent += files.absent
        tally.nothing("none of the files named in the record is here")
        if files.absent:
            tally.remark(f"not checked, absent: {', '.join(files.absent[:5])}" + (" ..." * (len(files.absent) > 5)))

    def _run_folder(self, course: RunCourse) -> Path | None:
        """``FOLDER/RUN`` of the configuration, tried beside the record first: records are moved with their folders."""
        run_id = course.history.run_id
        if Path(run_id).name != run_id:
            return None  # a run id from a foreign record must not lead elsewhere
        path = sqlite_path(self._location)
        tried = [path.parent / run_id] if path is not None else []
        tried.append(Path(course.record_folder) / run_id)
        return next((folder for folder in tried if folder.is_dir()), None)

    # --- the verdict ------------------------------------------------------------------------------------------------

    def report(self, chosen: RunCourse | None) -> VerifyReport:
        """Put everything together; remember the head of a record that holds."""
        # (15) Witnesses.
        self.tallies[15].nothing("no witness: the tail is the whole record")
        reached_without_walk = {0, 1, 15}
        checks = [
            tally.check(reached=self.is_complete or tally.number in reached_without_walk) for tally in self.tallies
        ]
        if not self._key:
            checks[1] = self.tallies[1].check(reached=False)
        report = VerifyReport(
            location=str(self._location),
            project_id=self._project_id,
            public_key=str(self._key) if self._key else None,
            key_source=self._key_source,
            level=LEVEL,
            attestation=Attestation.SELF_ATTESTED,
            events=self._head.size if self._head else 0,
            root=self._head.root.hex() if self._head else None,
            checks=checks,
            runs=[course.verdict for course in self._courses.runs.values()],
            run=chosen.verdict if chosen else None,
            tail=self._tail(),
        )
        report.not_shown.extend(not_shown(report, self._remembered, self._absent))
        if report.ok:
            self._remember(report)
        return report

    def _tail(self) -> Tail | None:
        if self._head is None or not self._times:
            return None
        first, last = (datetime.fromisoformat(time) for time in (self._times[0], self._times[-1]))
        return Tail(self._head.size, (last - first).total_seconds(), self._times[-1])

    def _remember(self, report: VerifyReport) -> None:
        """This machine has now seen this head; a shorter or different record will be noticed."""
        if self._project_id is None or self._head is None:
            return
        if self._remembered is not None and self._remembered.head.size >= self._head.size:
            return
        memory = Memory(self._project_id)
        try:
            memory.update(self._head, self._note)
        except StorageError as error:
            report.not_shown.append(f"a later truncation, because the head could not be remembered: {error}")
