"""Level L0: is this the record that was written, whole and unchanged?

The procedure. The code below and docs/verification.md carry the same numbers.

(0)  Open the record read-only, a bundle after comparing it with its manifest, an older version as an upgraded copy. No
     stray rollback journal; the schema version is known; there are the tables, indexes and views of that version and
     nothing else; SQLite finds its pages and indexes in order.
(1)  Decide on the key: the one given, else the one pinned on this machine when the project was made, else the one the
     record names. It must be one of the chain that begins with the key in event 0 and goes on with each rotation.
(2)  Events are numbered from 0 without a gap.
(3)  Each body is canonical, of a known version and kind, and its payload is valid.
(4)  The columns seq, run and kind agree with the body, and its ``prev`` is the leaf hash of the event before.
(5)  Each leaf hash is SHA-256(0x00 || body).
(6)  Each checkpoint's root and frontier are those of the first ``size`` events, and the key in force there signed it;
     over a rotation, the old key and the new one.
(7)  The newest checkpoint covers every event; no checkpoint speaks of events that are missing.
(8)  The head this machine remembers is a head of this log.
(9)  Projections are derived from the events again and equal the stored rows, in both directions.
(10) Every content named by an event is there with its salted digest, and there is no other; a text kept for an artifact
     has the artifact's digest. What an erasure names is not there, and nothing else is missing.
(11) The project's creation is the first event; a run is registered once and before everything else of it; attempts
     count up by one.
(12) A seal states how many events of each kind it seals; only annotations and erasures follow it.
(13) The weights evaluated before are the base model's; those evaluated after, compared and sealed are the saved
     model's.
(14) Files in the run folder have their digests.
(15) Every statement of a witness is about a head of this log, and holds under the witness' own key; witnesses that can
     be asked remember nothing else.
(16) Annotations that name a key of their author are signed by it, for this project and run.

(2) to (6), (9) and (10) are done by segments (``segment.py``), which several processes may do at once; what goes
through the log in order is in ``fold.py``. An incremental verification does the same from the remembered head on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Literal

from grpo_audit.config.location import without_password
from grpo_audit.errors import ConfigError, StorageError
from grpo_audit.ledger import keys
from grpo_audit.ledger.canonical import CanonicalError
from grpo_audit.ledger.event import NO_EVENT, BodyError, parse
from grpo_audit.ledger.folders import is_project_id
from grpo_audit.ledger.memory import Memory, RememberedHead, recall
from grpo_audit.ledger.merkle import Frontier
from grpo_audit.ledger.notes import NoteError, VerifierKey
from grpo_audit.ledger.runs import choose
from grpo_audit.ledger.storage_errors import DamagedRecordError, storage_errors
from grpo_audit.ledger.store import sqlite_path
from grpo_audit.ledger.tip import origin_of
from grpo_audit.record.events import ProjectCreated
from grpo_audit.verify.bundle import BundleSource
from grpo_audit.verify.bundled import BundledFiles
from grpo_audit.verify.course import RunCourse
from grpo_audit.verify.files import Files
from grpo_audit.verify.fold import Fold
from grpo_audit.verify.keychain import KeyChain, chain_of, rotations
from grpo_audit.verify.limits import not_shown
from grpo_audit.verify.opening import Opened, bundle_path, opened
from grpo_audit.verify.outside import rows_outside
from grpo_audit.verify.past import Past, begin_at
from grpo_audit.verify.pool import WORTH_IT, Pool, PoolBrokenError, cores, page_problems
from grpo_audit.verify.reader import DatabaseReader, reader_of
from grpo_audit.verify.segment import WIDTH, Task, read_and_verify
from grpo_audit.verify.source import DatabaseSource, Source
from grpo_audit.verify.states import RunStates
from grpo_audit.verify.steps import (
    DATABASE,
    FILES,
    KEY,
    NAMES,
    NUMBERING,
    PROJECTIONS,
    REMEMBERED,
    WITNESSES,
    new_tally,
)
from grpo_audit.verify.verdict import Attestation, KeySource, Tail, VerifyReport
from grpo_audit.verify.witnessed import Witnesses

LEVEL = "L0"

Progress = Callable[[int, int], None]


def verify(
    location: str | Path,
    *,
    run: str | None = None,
    key: str | None = None,
    run_folder: Path | None = None,
    artifacts: Literal["present", "required"] = "present",
    witness: Sequence[str] = (),
    new: bool = False,
    jobs: int | None = None,
    progress: Progress | None = None,
    width: int = WIDTH,
) -> VerifyReport:
    """Verify a whole record or bundle at level L0, and the files of one run.

    ``run`` is the run whose seal and files count (id, prefix or name; the newest unless given, a bundle's own). ``key``
    is a verifier key ``NAME+KEYHASH+BASE64`` known from elsewhere. ``run_folder`` is where the run's files are; else it
    is looked for beside the record and where the run's configuration says. ``artifacts="required"`` fails when the
    saved model or an artifact is missing. ``witness`` names witnesses to believe besides the pinned ones (see
    ``witness.check.Trust.parse``). ``new`` verifies only what came after the head that this machine remembers.
    ``jobs`` is the number of processes: one for a small record, else all cores, unless given. ``progress`` is called
    with (events done, events in all). ``width``, a power of two, is the length of a segment; for tests.

    A record that does not hold gives a report with failed checks. Raises StorageError when there is no record, or one
    of a newer version, and ConfigError for an unknown run, a malformed key or witness, and ``new`` without memory.
    """
    given = _given_key(key)
    if jobs is not None and jobs < 1:
        raise ConfigError("The number of processes must be at least 1", found=str(jobs))
    if new and bundle_path(location) is not None:
        raise ConfigError("A bundle is verified as a whole", next_step="Leave out --new")
    options = _Options(run, given, run_folder, artifacts == "required", tuple(witness), new, jobs, width)
    try:
        report, has_grown = _Procedure(location, options).run(progress)
    except PoolBrokenError:
        report, has_grown = None, True
    if report is None or (not report.ok and has_grown):
        # a process was killed, or somebody was writing and each saw another state: once more, in one transaction
        report, _ = _Procedure(location, replace(options, jobs=1)).run(progress)
    return report


def _given_key(text: str | None) -> VerifierKey | None:
    if text is None:
        return None
    try:
        return VerifierKey.parse(text.strip())
    except NoteError as error:
        raise ConfigError("The key cannot be used", found=str(error)) from error


@dataclass(frozen=True)
class _Options:
    run: str | None
    key: VerifierKey | None
    run_folder: Path | None
    files_required: bool
    witness: tuple[str, ...]
    new: bool
    jobs: int | None
    width: int


class _Procedure:
    """State of one verification."""

    def __init__(self, location: str | Path, options: _Options) -> None:
        self._location = location
        self._name = without_password(location)
        self._options = options
        self.tallies = [new_tally(number) for number in range(len(NAMES))]
        self._is_complete = False
        """Whether every event was read."""
        self._project_id: str | None = None
        self._key: VerifierKey | None = None
        self._key_source: KeySource | None = None
        self._chain = KeyChain(())
        self._remembered: RememberedHead | None = None
        self._fold: Fold | None = None
        self._witnesses: Witnesses | None = None
        self._begin = 0
        self._older: int | None = None
        self._absent: list[str] = []
        self._limits: list[str] = []
        self._has_grown = False

    def run(self, progress: Progress | None) -> tuple[VerifyReport, bool]:
        """The verdict, and whether events were appended meanwhile by somebody else."""
        chosen: RunCourse | None = None
        try:
            with opened(self._location) as found:
                self._older = found.older
                for text in found.remarks:
                    self.tallies[DATABASE].remark(text)
                if isinstance(found.source, BundleSource):
                    self._limits += found.source.not_shown()
                self._read(found, progress)
                chosen = self._choose_run(found)
                if self._is_complete:
                    self._compare_files(found, chosen)
        except DamagedRecordError as error:
            self.tallies[DATABASE].wrong(str(error))
        return self._report(chosen), self._has_grown

    # --- steps (0) to (13), (15), (16) ------------------------------------------------------------------------------

    def _read(self, found: Opened, progress: Progress | None) -> None:
        """One pass over the record, in one transaction: one state of the record."""
        try:
            with storage_errors(f"Cannot read {self._name}"), ExitStack() as stack:
                self._recall(found)
                stop = _stop(found)
                pool = self._pool(found, stop)
                if pool is not None:
                    stack.enter_context(pool)
                pages = self._begin_pages(found, pool)
                self._decide_key(found)
                self._witnesses = Witnesses(
                    found.source, self._project_id, self._options.witness, self.tallies[WITNESSES]
                )
                self._walk(found, stop, pool, progress)
                for line in pages():
                    self.tallies[DATABASE].wrong(f"SQLite finds: {line}")
                self._has_grown = pool is not None and _has_grown(found, stop)
        except StorageError as error:
            # the state of the disk, not an edit; either way nobody can say what the record holds
            self.tallies[DATABASE].wrong(str(error))

    def _pool(self, found: Opened, stop: int) -> Pool | None:
        jobs = self._options.jobs
        if not isinstance(found.source, DatabaseSource) or self._options.new:
            return None
        segments = -(-stop // self._options.width)
        if jobs is None:
            jobs = cores() if segments >= WORTH_IT else 1
        return Pool(found.location, min(jobs, segments)) if min(jobs, segments) > 1 else None

    def _begin_pages(self, found: Opened, pool: Pool | None) -> Callable[[], list[str]]:
        # (0) The rest of it: opening has refused sidecars, versions and foreign tables by now.
        database = self.tallies[DATABASE]
        database.saw(3)
        source = found.source
        if not isinstance(source, DatabaseSource) or source.connection.dialect.name != "sqlite":
            return list
        if self._options.new:
            database.remark("pages and indexes were not looked at again")
            return list
        database.saw()
        if pool is not None:
            return pool.pages()
        problems = page_problems(source.connection)
        return lambda: problems

    def _decide_key(self, found: Opened) -> None:
        # (1) Which key.
        tally, given = self.tallies[KEY], self._options.key
        tally.saw()
        first = next(iter(found.source.events(0, 1)), None)
        try:
            created = parse(first.body if first and isinstance(first.body, bytes) else b"").event.payload
            if not isinstance(created, ProjectCreated) or not is_project_id(created.project_id):
                raise BodyError("the first event does not create a project")
            stated = VerifierKey.parse(created.public_key)
            if stated.name != origin_of(created.project_id):
                tally.wrong(f"the key is named {stated.name}, not {origin_of(created.project_id)}")
        except (CanonicalError, BodyError, NoteError) as error:
            tally.wrong(f"the record does not name its key: {error}")
            self._key, self._key_source = given, KeySource.GIVEN if given else None
            self._chain = KeyChain((given,) if given else ())
            return
        self._project_id = created.project_id
        for key, source in (
            (given, KeySource.GIVEN),
            (self._pinned(created.project_id), KeySource.PINNED),
            (stated, KeySource.RECORD),
        ):
            if key is not None:
                self._key, self._key_source = key, source
                break
        self._follow_rotations(found, stated)
        tally.remark(f"key from: {self._key_source}")

    def _follow_rotations(self, found: Opened, stated: VerifierKey) -> None:
        """The key decided on must be one of the chain: a rotation is vouched for by the old key and by the new one."""
        tally = self.tallies[KEY]
        rotated, problems = rotations(found.source)
        self._chain, gaps = chain_of(stated, rotated)
        for problem in problems + gaps:
            tally.wrong(problem)
        if rotated:
            tally.remark(f"rotated {len(rotated)} times; in force: {self._chain.keys[-1]}")
        if self._key is not None and self._key not in self._chain.keys:
            tally.wrong(f"the record names the key {stated}, but the key {self._key_source} is {self._key}")
            self._chain = KeyChain((self._key,))

    def _pinned(self, project_id: str) -> VerifierKey | None:
        try:
            return keys.pinned(project_id)
        except StorageError as error:
            self.tallies[KEY].wrong(str(error))
            return None

    def _recall(self, found: Opened) -> None:
        """Before the record is looked at: what is appended and remembered meanwhile is no loss."""
        try:
            self._remembered = _remembered(found.source)
        except StorageError as error:
            self.tallies[REMEMBERED].wrong(str(error))
        if isinstance(found.source, DatabaseSource):
            found.source.connection.rollback()  # what follows sees one state, and that is a newer one

    def _walk(self, found: Opened, stop: int, pool: Pool | None, progress: Progress | None) -> None:
        source, witnesses = found.source, self._witnesses
        assert witnesses is not None
        reader = reader_of(source)
        past: Past | None = None
        base, previous = Frontier(), NO_EVENT
        if self._options.new and isinstance(reader, DatabaseReader):
            begun = begin_at(reader, self._remembered)
            if isinstance(begun, str):
                self.tallies[REMEMBERED].saw()
                self.tallies[REMEMBERED].wrong(begun)
                return
            base, previous = begun
            past = Past(reader, base.size)
        self._begin = base.size
        states = (
            RunStates(reader, self._begin, self.tallies[PROJECTIONS]) if isinstance(reader, DatabaseReader) else None
        )
        fold = self._fold = Fold(
            self.tallies,
            width=self._options.width,
            base=base,
            previous=previous,
            project_id=self._project_id,
            rotations=self._chain.rotations,
            states=states,
            past=past,
            content_is_there=past.has_content if past else None,
            only=found.source.run_id if isinstance(found.source, BundleSource) else None,
        )
        self.tallies[PROJECTIONS].nothing("a bundle has no projections" if states is None else "no event has rows")
        remembered = {self._remembered.head.size} if self._remembered else set()
        probes = tuple(sorted(size for size in witnesses.sizes() | remembered if self._begin < size <= stop))
        tasks = self._tasks(found, base, stop, probes)
        segments = pool.segments(tasks) if pool is not None else (read_and_verify(task, reader) for task in tasks)
        for segment in segments:
            fold.take(segment)
            if progress is not None:
                progress(segment.stop - self._begin, stop - self._begin)
        self._finish(found, fold, reader if isinstance(reader, DatabaseReader) else None, stop)

    def _tasks(self, found: Opened, base: Frontier, stop: int, probes: tuple[int, ...]) -> Iterator[Task]:
        width, source = self._options.width, found.source
        withheld = frozenset(source.manifest.withheld.contents) if isinstance(source, BundleSource) else frozenset()
        start = base.size
        while start < stop:
            end = min((start // width + 1) * width, stop)
            own = tuple(size for size in probes if start <= size <= end)
            hashes = tuple(base.hashes) if start % width else None
            yield Task(start, end, width, self._chain, own, hashes, withheld)
            start = end

    def _finish(self, found: Opened, fold: Fold, reader: DatabaseReader | None, stop: int) -> None:
        beyond: list[int] = []
        if reader is not None:
            beyond = rows_outside(reader, stop, self.tallies, is_new=self._options.new)
        else:
            beyond = [size for head in found.source.checkpoints(stop) if isinstance(size := head.size, int)]
        fold.finish(beyond)  # (7)
        self._compare_memory(fold, stop)  # (8)
        if self._witnesses is not None:  # (15)
            roots = dict(fold.roots)
            if self._begin and reader is not None:
                roots.update(self._stored_roots(reader, self._witnesses))
            self._witnesses.judge(roots)
            if self._begin and reader is not None:
                fold.times.update(_stored_times(reader, self._witnesses.standing.size, stop - 1))
        if self._options.new and not fold.count:
            self.tallies[NUMBERING].nothing("nothing is new")
        self._is_complete = True

    def _stored_roots(self, reader: DatabaseReader, witnesses: Witnesses) -> dict[int, bytes]:
        """Roots of heads before an incremental verification, as stored: it did not compute them again."""
        sizes = ", ".join(str(size) for size in witnesses.sizes() if 0 < size < self._begin)
        found = reader.fetch(f"SELECT size, root FROM checkpoint WHERE size IN ({sizes})") if sizes else []
        if found:
            self.tallies[WITNESSES].remark(f"{len(found)} about heads before, whose roots were not computed again")
        return dict(found)

    def _compare_memory(self, fold: Fold, stop: int) -> None:
        # (8) The head this machine remembers is a head of this log.
        tally = self.tallies[REMEMBERED]
        if self._remembered is None:
            tally.nothing("this machine has not seen this record before")
            return
        tally.saw()
        head = self._remembered.head
        if head.size > stop:
            tally.wrong(f"the newest {head.size - stop} events are missing: this machine has seen {head.size}")
        elif fold.roots.get(head.size) != head.root:
            tally.wrong(
                f"the first {head.size} events are not the ones this machine saw: history was rewritten, "
                "or this is another copy that went its own way"
            )
        elif self._begin:
            tally.remark(f"the first {self._begin:,} events were not looked at again")

    # --- step (14) --------------------------------------------------------------------------------------------------

    def _choose_run(self, found: Opened) -> RunCourse | None:
        """The run that counts; None when there is none and none was asked for."""
        reference = self._options.run
        if self._fold is not None and self._begin and isinstance(found.source, DatabaseSource):
            known = DatabaseReader(found.source.connection).fetch("SELECT run_id FROM run ORDER BY seq")
            self._fold.courses.know(run_id for (run_id,) in known)
        runs = self._fold.courses.runs if self._fold else {}
        verdicts = [course.verdict for course in runs.values()]
        if isinstance(found.source, BundleSource) and reference is None:
            reference = found.source.run_id
        if not verdicts and (reference is None or not self._is_complete):
            return None  # the record broke before the run could be found: the failed checks say so
        chosen = choose(verdicts, reference, self._name).run_id
        if isinstance(found.source, BundleSource) and chosen != found.source.run_id:
            raise ConfigError(
                f"The bundle is about run {found.source.run_id}",
                found=f"run {chosen}, of which it shows the course only",
                next_step="Leave the run out, or ask for that run's bundle",
            )
        return runs[chosen]

    def _compare_files(self, found: Opened, course: RunCourse | None) -> None:
        """(14) Hash the run's files again."""
        tally = self.tallies[FILES]
        if course is None:
            tally.nothing("the record holds no run")
            return
        files: Files | BundledFiles
        if isinstance(found.source, BundleSource):
            files = BundledFiles(found.source, tally, required=self._options.files_required)
        else:
            folder = self._options.run_folder or self._run_folder(course)
            if folder is None or not folder.is_dir():
                tally.nothing("the run folder is not here")
                self._absent.append("every file of the run folder")
                if self._options.files_required:
                    tally.wrong("the run folder is not here; name it with run_folder")
                return
            files = Files(folder, tally, required=self._options.files_required)
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

    def _report(self, chosen: RunCourse | None) -> VerifyReport:
        """Put everything together; remember the head of a record that holds."""
        reached_without_walk = {DATABASE, KEY, WITNESSES}
        fold, witnesses = self._fold, self._witnesses
        checks = [
            tally.check(reached=self._is_complete or tally.number in reached_without_walk) for tally in self.tallies
        ]
        if not self._key:
            checks[KEY] = self.tallies[KEY].check(reached=False)
        head = fold.head if fold and self._is_complete else None
        report = VerifyReport(
            location=self._name,
            project_id=self._project_id,
            public_key=str(self._key) if self._key else None,
            key_source=self._key_source,
            level=LEVEL,
            attestation=witnesses.attestation if witnesses else Attestation.SELF_ATTESTED,
            events=head.size if head else 0,
            root=head.root.hex() if head else None,
            checks=checks,
            runs=[course.verdict for course in fold.courses.runs.values()] if fold else [],
            run=chosen.verdict if chosen else None,
            tail=self._tail(),
            witnessed=witnesses.standing.witnessed if witnesses else 0,
            witnesses=witnesses.standing.of if witnesses else 0,
            verified_from=self._begin,
        )
        report.not_shown.extend(not_shown(report, self._remembered, self._absent))
        report.not_shown.extend(self._limits)
        if self._older is not None:
            report.not_shown.append(
                f"that the tables derived from the events said the same in schema version {self._older}: they were "
                "derived anew"
            )
        if report.ok:
            self._remember(report)
        return report

    def _tail(self) -> Tail | None:
        """The events after the newest head that a trusted witness vouches for."""
        fold = self._fold
        if fold is None or fold.head is None or not fold.times or self._witnesses is None:
            return None
        size = fold.head.size
        seen = min(self._witnesses.standing.size, size)
        newest = fold.times[max(fold.times)]
        oldest = fold.times.get(seen, fold.times[min(fold.times)])
        try:
            first, last = datetime.fromisoformat(oldest), datetime.fromisoformat(newest)
        except ValueError:
            return None
        return Tail(size - seen, (last - first).total_seconds() if size > seen else 0.0, newest)

    def _remember(self, report: VerifyReport) -> None:
        """This machine has now seen this head; a shorter or different record will be noticed."""
        fold = self._fold
        if self._project_id is None or fold is None or fold.head is None:
            return
        if self._remembered is not None and self._remembered.head.size >= fold.head.size:
            return
        memory = Memory(self._project_id)
        try:
            memory.update(fold.head, fold.newest_note)
        except StorageError as error:
            report.not_shown.append(f"a later truncation, because the head could not be remembered: {error}")


def _stored_times(reader: DatabaseReader, *places: int) -> dict[int, str]:
    """Times of events, as their bodies say; those before an incremental verification were not verified again."""
    listed = ", ".join(map(str, places))
    found = reader.fetch(f"SELECT seq, body FROM event WHERE seq IN ({listed})")
    return {seq: body[-35:-8].decode("ascii", "replace") for seq, body in found if isinstance(body, bytes)}


def _stop(found: Opened) -> int:
    """Where the last segment ends. A stray number far away must not make a million empty segments."""
    source = found.source
    if not isinstance(source, DatabaseSource):
        return source.count()
    newest = source.connection.exec_driver_sql("SELECT max(seq) FROM event").scalar()
    size = source.connection.exec_driver_sql("SELECT max(size) FROM checkpoint").scalar()
    if newest is None:
        return 0
    if newest + 1 == size:
        return int(size)
    return min(int(newest) + 1, source.count() + WIDTH)


def _remembered(source: Source) -> RememberedHead | None:
    first = next(iter(source.events(0, 1)), None)
    try:
        created = parse(first.body if first and isinstance(first.body, bytes) else b"").event.payload
    except (CanonicalError, BodyError):
        return None  # (1) says so
    if not isinstance(created, ProjectCreated) or not is_project_id(created.project_id):
        return None
    return recall(created.project_id)


def _has_grown(found: Opened, stop: int) -> bool:
    """Whether somebody else appended while several processes read, each its own state."""
    with opened(found.location) as again:
        return _stop(again) != stop
