"""The course of each run: what may follow what, what its seal states, and which weights it was about."""

from __future__ import annotations

from dataclasses import dataclass, field

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

    @property
    def verdict(self) -> RunVerdict:
        """The run in the report."""
        return RunVerdict(self.history.run_id, self.name, self.state, sum(self.history.counts.values()))


class Courses:
    """Steps (11) to (13), event by event."""

    def __init__(self, order: Tally, seals: Tally, weights: Tally) -> None:
        self.runs: dict[str, RunCourse] = {}
        self._order = order
        self._seals = seals
        self._weights = weights
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
        course = self.runs.get(event.run_id)
        if course is None:
            course = self.runs[event.run_id] = RunCourse(RunHistory(event.run_id))
        # (12) A seal states what it seals, and nothing but annotations follows.
        if event.payload.kind is EventKind.RUN_SEALED:
            self._seals.saw()
        try:
            course.history.follow(event.payload)
        except SealError as error:
            self._seals.wrong(f"event {event.seq}: {error}")
        except RuleError as error:
            self._order.wrong(f"event {event.seq}: {error}")
        course.state = _STATES.get(event.payload.kind, course.state)
        # (13) What was evaluated before is the base, and what was evaluated after is what was saved.
        self._follow_weights(course, event.seq, event.payload)
        return course.history.attempt

    def _follow_weights(self, course: RunCourse, seq: int, payload: e.Payload) -> None:
        match payload:
            case e.RunRegistered():
                course.name = payload.name
                course.base = payload.model.weights_digest
                record = payload.config.get("record")
                folder = record.get("folder") if isinstance(record, dict) else None
                course.record_folder = folder if isinstance(folder, str) else ""
            case e.Artifact():
                course.artifacts.append((seq, payload))
            case e.Snapshot():
                course.snapshots.append((seq, payload))
            case e.ModelSaved():
                course.saved.append((seq, payload))
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
