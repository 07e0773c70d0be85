"""The steps of level L0 in their order; what each is, stands in ``l0.py``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from grpo_audit.config.location import without_password
from grpo_audit.errors import ConfigError, StorageError
from grpo_audit.ledger.canonical import CanonicalError
from grpo_audit.ledger.event import NO_EVENT, BodyError
from grpo_audit.ledger.memory import Memory, RememberedHead, recall
from grpo_audit.ledger.merkle import Frontier
from grpo_audit.ledger.notes import VerifierKey
from grpo_audit.ledger.runs import choose
from grpo_audit.ledger.storage_errors import DamagedRecordError, storage_errors
from grpo_audit.verify.bundle import BundleSource
from grpo_audit.verify.course import RunCourse
from grpo_audit.verify.deciding import Decided, created_by, decide
from grpo_audit.verify.fold import Fold
from grpo_audit.verify.limits import not_shown
from grpo_audit.verify.opening import Opened, opened
from grpo_audit.verify.outside import rows_outside
from grpo_audit.verify.past import Past, begin_at
from grpo_audit.verify.pool import WORTH_IT, Pool, cores, page_problems
from grpo_audit.verify.reader import DatabaseReader, reader_of
from grpo_audit.verify.run_files import compare_files
from grpo_audit.verify.segment import WIDTH, Task, read_and_verify
from grpo_audit.verify.source import DatabaseSource
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
from grpo_audit.verify.tail import stored_times, unwitnessed
from grpo_audit.verify.verdict import Attestation, VerifyReport
from grpo_audit.verify.witnessed import Witnesses

LEVEL = "L0"

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Options:
    """What ``l0.verify`` was asked for."""

    run: str | None
    key: VerifierKey | None
    run_folder: Path | None
    files_required: bool
    witness: tuple[str, ...]
    new: bool
    jobs: int | None
    width: int


class Procedure:
    """State of one verification."""

    def __init__(self, location: str | Path, options: Options) -> None:
        self._location = location
        self._name = without_password(location)
        self._options = options
        self.tallies = [new_tally(number) for number in range(len(NAMES))]
        self._is_complete = False
        """Whether every event was read."""
        self._decided = Decided()
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
                    options, tally = self._options, self.tallies[FILES]
                    self._absent += compare_files(  # (14)
                        found, chosen, options.run_folder, tally, required=options.files_required
                    )
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
                self._decided = decide(found.source, self._options.key, self.tallies[KEY])  # (1)
                self._witnesses = Witnesses(
                    found.source, self._decided.project_id, self._options.witness, self.tallies[WITNESSES]
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

    def _recall(self, found: Opened) -> None:
        """Before the record is looked at: what is appended and remembered meanwhile is no loss."""
        try:
            self._remembered = recall(created_by(found.source).project_id)
        except StorageError as error:
            self.tallies[REMEMBERED].wrong(str(error))
        except (CanonicalError, BodyError):
            self._remembered = None  # step (1) says that the record does not name itself
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
            project_id=self._decided.project_id,
            rotations=self._decided.chain.rotations,
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
            yield Task(start, end, width, self._decided.chain, own, hashes, withheld)
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
                fold.times.update(stored_times(reader, self._witnesses.standing.size, stop - 1))
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

    # --- the verdict ------------------------------------------------------------------------------------------------

    def _report(self, chosen: RunCourse | None) -> VerifyReport:
        """Put everything together; remember the head of a record that holds."""
        reached_without_walk = {DATABASE, KEY, WITNESSES}
        fold, witnesses = self._fold, self._witnesses
        checks = [
            tally.check(reached=self._is_complete or tally.number in reached_without_walk) for tally in self.tallies
        ]
        if not self._decided.key:
            checks[KEY] = self.tallies[KEY].check(reached=False)
        head = fold.head if fold and self._is_complete else None
        report = VerifyReport(
            location=self._name,
            project_id=self._decided.project_id,
            public_key=str(self._decided.key) if self._decided.key else None,
            key_source=self._decided.key_source,
            level=LEVEL,
            attestation=witnesses.attestation if witnesses else Attestation.SELF_ATTESTED,
            events=head.size if head else 0,
            root=head.root.hex() if head else None,
            checks=checks,
            runs=[course.verdict for course in fold.courses.runs.values()] if fold else [],
            run=chosen.verdict if chosen else None,
            tail=unwitnessed(fold, witnesses),
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

    def _remember(self, report: VerifyReport) -> None:
        """This machine has now seen this head; a shorter or different record will be noticed."""
        fold = self._fold
        if self._decided.project_id is None or fold is None or fold.head is None:
            return
        if self._remembered is not None and self._remembered.head.size >= fold.head.size:
            return
        memory = Memory(self._decided.project_id)
        try:
            memory.update(fold.head, fold.newest_note)
        except StorageError as error:
            report.not_shown.append(f"a later truncation, because the head could not be remembered: {error}")


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


def _has_grown(found: Opened, stop: int) -> bool:
    """Whether somebody else appended while several processes read, each its own state."""
    with opened(found.location) as again:
        return _stop(again) != stop
