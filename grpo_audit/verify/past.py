"""What came before an incremental verification, as the record says now: looked up, not verified again."""

from __future__ import annotations

from collections import Counter

from grpo_audit.errors import ConfigError
from grpo_audit.ledger.canonical import CanonicalError
from grpo_audit.ledger.event import BodyError, parse
from grpo_audit.ledger.memory import Head, RememberedHead
from grpo_audit.ledger.merkle import Frontier
from grpo_audit.ledger.runs import RunHistory, RunState
from grpo_audit.record.events import EventKind, RunResumed
from grpo_audit.verify.course import RunCourse
from grpo_audit.verify.reader import DatabaseReader

_NEEDED = (
    EventKind.RUN_REGISTERED,
    EventKind.RUN_RESUMED,
    EventKind.RUN_SEALED,
    EventKind.RUN_ABORTED,
    EventKind.RUN_ABANDONED,
    EventKind.MODEL_SAVED,
)
"""Kinds of event that later ones are compared with."""


def begin_at(reader: DatabaseReader, remembered: RememberedHead | None) -> tuple[Frontier, bytes] | str:
    """Frontier and newest leaf hash at the remembered head; or why the record does not have it.

    Raises ConfigError when nothing is remembered.
    """
    if remembered is None:
        raise ConfigError(
            "This machine has not seen this record before",
            expected="a head that it verified or wrote itself",
            next_step="Verify the whole record once, without --new",
        )
    head: Head = remembered.head
    found = reader.fetch(f"SELECT root, frontier FROM checkpoint WHERE size = {head.size}")
    last = reader.fetch(f"SELECT leaf_hash FROM event WHERE seq = {head.size - 1}")
    if not found or not last:
        return f"the record has no head over {head.size} events, which this machine has seen: its newest were cut off"
    root, stored = found[0]
    try:
        frontier = Frontier.from_bytes(head.size, stored if isinstance(stored, bytes) else b"")
    except ValueError as error:
        return f"the frontier over {head.size} events is no such thing: {error}"
    if root != head.root or frontier.root() != head.root:
        return (
            f"the first {head.size} events are not the ones this machine saw: history was rewritten, or this is "
            "another copy that went its own way"
        )
    leaf = last[0][0]
    return frontier, leaf if isinstance(leaf, bytes) else b""


class Past:
    """Runs as they stood before event ``begin``. Each look-up goes through an index."""

    def __init__(self, reader: DatabaseReader, begin: int) -> None:
        self._reader = reader
        self._begin = begin

    def course(self, run_id: str) -> RunCourse:
        """See course.Past."""
        course = RunCourse(RunHistory(run_id))
        run = _quoted(run_id)
        for kind in EventKind:
            where = f"run_id = {run} AND kind = '{kind.value}' AND seq < {self._begin}"
            if kind not in _NEEDED:
                if self._reader.fetch(f"SELECT 1 FROM event WHERE {where} LIMIT 1"):
                    course.history.counts[kind] = 1
                continue
            for (body,) in self._reader.fetch(f"SELECT body FROM event WHERE {where} ORDER BY seq"):
                self._take(course, body)
        newest = self._reader.fetch(
            f"SELECT state FROM run_state WHERE run_id = {run} AND seq < {self._begin} ORDER BY seq DESC LIMIT 1"
        )
        if newest and newest[0][0] in set(RunState):
            course.state = RunState(newest[0][0])
        return course

    def registrations(self) -> int:
        """See course.Past."""
        (found,) = self._reader.fetch(f"SELECT count(*) FROM run WHERE seq < {self._begin}")
        return found[0] if isinstance(found[0], int) else 0

    def _take(self, course: RunCourse, body: object) -> None:
        try:
            event = parse(body if isinstance(body, bytes) else b"").event
        except (CanonicalError, BodyError):
            return  # not looked at again; what rests on it will not fit
        course.history.counts[event.payload.kind] += 1
        if event.payload.kind is EventKind.RUN_REGISTERED:
            course.history.attempt = max(course.history.attempt, 1)
        elif isinstance(event.payload, RunResumed):
            course.history.attempt = event.payload.attempt
        course.learn(event.seq, event.payload)

    def counts(self, run_id: str) -> Counter[EventKind]:
        """See course.Past."""
        found = self._reader.fetch(
            f"SELECT kind, count(*) FROM event WHERE run_id = {_quoted(run_id)} AND seq < {self._begin} GROUP BY kind"
        )
        known = {kind.value: kind for kind in EventKind}
        return Counter({known[kind]: count for kind, count in found if kind in known})

    def has_content(self, seq: int, name: str) -> bool:
        """Whether a piece of content is there."""
        return bool(self._reader.fetch(f"SELECT 1 FROM content WHERE seq = {seq} AND name = {_quoted(name)}"))


def _quoted(text: str) -> str:
    """A text as SQL spells it; a NUL, which no SQL text has, matches nothing."""
    return "'" + text.replace("'", "''").replace("\x00", "\N{SYMBOL FOR NULL}") + "'"
