"""The course of each run: what may follow what, what its seal states, and which weights it was about."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from grpo_audit.ledger.batch import check_place
from grpo_audit.ledger.event import Event
from grpo_audit.ledger.runs import RuleError, RunHistory, RunState, SealError
from grpo_audit.record import events as e
from grpo_audit.record.events import EventKind
from grpo_audit.verify.verdict import RunVerdict, Tally

_STATES = {
    EventKind.RUN_REGISTERED: RunState.REGISTERED,
    EventKind.RUN_RESUMED: RunState.RESUMED,
    EventKind.RUN_SEALED: RunState.SEALED,
    EventKind.RUN_ABORTED: RunState.ABORTED,
    EventKind.RUN_ABANDONED: RunState.ABANDONED,
}


@dataclass
class RunCourse:
    """What the events said of one run."""

    history: RunHistory
    name: str = ""
    state: RunState = RunState.REGISTERED
    base: str | None = None
    """Weights digest of the base model."""
    record_folder: str = ""
    """Where the run's configuration puts run folders."""
    saved: list[tuple[int, e.ModelSaved]] = field(default_factory=list)
    snapshots: list[tuple[int, e.Snapshot]] = field(default_factory=list)
    artifacts: list[tuple[int, e.Artifact]] = field(default_factory=list)
    since: Counter[EventKind] = field(default_factory=Counter)
    """Events seen by this verification; the history may know of more."""

    def learn(self, seq: int, payload: e.Payload) -> None:
        """Keep what later events and files are compared with."""
        match payload:
            case e.RunRegistered():
                self.name = payload.name
                self.base = payload.model.weights_digest
                record = payload.config.get("record")
                folder = record.get("folder") if isinstance(record, dict) else None
                self.record_folder = folder if isinstance(folder, str) else ""
            case e.Artifact():
                self.artifacts.append((seq, payload))
            case e.Snapshot():
                self.snapshots.append((seq, payload))
            case e.ModelSaved():
                self.saved.append((seq, payload))
            case _:
                pass

    @property
    def verdict(self) -> RunVerdict:
        """The run in the report."""
        return RunVerdict(self.history.run_id, self.name, self.state, sum(self.since.values()))


class Past(Protocol):
    """What was verified before an incremental verification begins."""

    def course(self, run_id: str) -> RunCourse:
        """A run as it stood there; its history knows which kinds of event there were, not how many."""

    def counts(self, run_id: str) -> Counter[EventKind]:
        """How many there were."""

    def registrations(self) -> int:
        """How many runs were registered."""


class Courses:
    """Steps (11) to (13), event by event."""

    def __init__(
        self, order: Tally, seals: Tally, weights: Tally, past: Past | None = None, only: str | None = None
    ) -> None:
        self.runs: dict[str, RunCourse] = {}
        self._past = past
        self._only = only
        """The run whose events are all given, in a bundle: of others nothing can be counted."""
        self._order = order
        self._seals = seals
        self._weights = weights
        self._registered = 0
        """Runs registered so far."""
        seals.nothing("no run is sealed")
        weights.nothing("nothing was evaluated or saved")

    def follow(self, event: Event) -> int:
        """Take the next event into account; its run's attempt."""
        # (11) The project comes first, a run's registration before everything else of the run.
        self._order.saw()
        try:
            check_place(event.payload.kind, event.run_id, event.seq)
        except RuleError as error:
            self._order.wrong(f"event {event.seq}: {error}")
        if event.run_id is None:
            return 0
        course = self._course(event.run_id)
        self._registered += event.payload.kind is EventKind.RUN_REGISTERED
        is_given = self._only in (None, event.run_id)
        # (12) A seal states what it seals, and nothing but annotations follows.
        if event.payload.kind is EventKind.RUN_SEALED and is_given:
            self._seals.saw()
            if self._past is not None:
                course.history.counts = self._past.counts(event.run_id) + course.since
        course.since[event.payload.kind] += 1
        try:
            course.history.follow(event.payload)
        except SealError as error:
            if is_given or event.payload.kind is not EventKind.RUN_SEALED:
                self._seals.wrong(f"event {event.seq}: {error}")
        except RuleError as error:
            self._order.wrong(f"event {event.seq}: {error}")
        if isinstance(event.payload, e.RunSealed) and event.payload.runs is not None:
            self._compare_runs(event.seq, event.payload.runs)
        course.state = _STATES.get(event.payload.kind, course.state)
        # (13) What was evaluated before is the base, and what was evaluated after is what was saved.
        course.learn(event.seq, event.payload)
        if is_given:
            self._follow_weights(course, event.seq, event.payload)
        return course.history.attempt

    def _compare_runs(self, seq: int, stated: int) -> None:
        registered = self._registered + (self._past.registrations() if self._past else 0)
        if registered != stated:
            self._seals.wrong(
                f"event {seq} seals after {stated} runs were registered in the project, but {registered} are shown"
            )

    def count(self, seq: int, counts: Mapping[tuple[str | None, str], int]) -> None:
        """Take a stretch of events into account of which only run, kind and number matter: rules (11) and (12)."""
        for (run_id, name), number in counts.items():
            kind = EventKind(name)
            self._order.saw(number)
            if run_id is None:
                self._order.wrong(f"from event {seq} on: {kind} belongs to a run, but names none", number)
                continue
            course = self._course(run_id)
            if not course.history.counts[EventKind.RUN_REGISTERED]:
                problem = f"from event {seq} on: {kind} comes before the registration of run {run_id}"
                self._order.wrong(problem, number)
            elif course.history.sealed:
                self._seals.wrong(f"from event {seq} on: {kind} comes after the seal of run {run_id}", number)
            course.history.counts[kind] += number
            course.since[kind] += number

    def know(self, run_ids: Iterable[str]) -> None:
        """Look up runs of the past that nothing new happened to; all are in this order then."""
        self.runs = {**{run_id: self._course(run_id) for run_id in run_ids}, **self.runs}

    def _course(self, run_id: str) -> RunCourse:
        course = self.runs.get(run_id)
        if course is None:
            course = self._past.course(run_id) if self._past else RunCourse(RunHistory(run_id))
            self.runs[run_id] = course
        return course

    def _follow_weights(self, course: RunCourse, seq: int, payload: e.Payload) -> None:
        match payload:
            case e.EvalTask() if payload.phase != "train":
                before = payload.phase == "pre"
                self._same(course, seq, f"{payload.task} {payload.phase}", payload.weights_digest, base=before)
            case e.Comparison():
                self._same(course, seq, "comparison, before", payload.pre_weights, base=True)
                self._same(course, seq, "comparison, after", payload.post_weights, base=False)
            case e.RunSealed() if payload.weights_digest is not None:
                self._same(course, seq, "seal", payload.weights_digest, base=False)
            case _:
                pass

    def _same(self, course: RunCourse, seq: int, what: str, digest: str, *, base: bool) -> None:
        self._weights.saw()
        known = course.base if base else course.saved[-1][1].model.weights_digest if course.saved else None
        if digest != known:
            whose = "the base model" if base else "the saved model"
            self._weights.wrong(
                f"event {seq} ({what}) is about weights {digest[:20]}, but {whose} has {str(known)[:20]}"
            )
