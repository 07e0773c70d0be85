"""One stretch of the log, verified for itself: all of steps (2) to (6), (9) and (10) that needs nothing before it.

A segment begins at a multiple of its width, a power of two, so its Merkle subtree stands alone: the frontier over n
events is the frontier where the segment begins, followed by that of the segment's own events. What needs the whole
course of the log (roots, links between segments, runs, erasures) is returned and judged in order by ``fold.py``.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, NamedTuple, Protocol

from grpo_audit.ledger.canonical import CanonicalError
from grpo_audit.ledger.event import BodyError, parse
from grpo_audit.ledger.merkle import HASH_BYTES, Frontier, leaf_hash
from grpo_audit.ledger.notes import Checkpoint, NoteError, open_note
from grpo_audit.ledger.tables import Base, ContentRow
from grpo_audit.record.events import EventKind
from grpo_audit.verify.derived import Beside
from grpo_audit.verify.keychain import KeyChain
from grpo_audit.verify.rebuilt import Agreement, agreeing
from grpo_audit.verify.steps import BODIES, COLUMNS, CONTENT, HASHES, HEADS, NUMBERING, PROJECTIONS, new_tally
from grpo_audit.verify.verdict import Tally

WIDTH = 1 << 14
"""Events of a segment: a few megabytes."""
HOT = frozenset({EventKind.GROUP, EventKind.ROLLOUT, EventKind.STEP, EventKind.EVAL_SAMPLE})
"""Kinds of which the course of a run needs the number only. They have no rule of their own."""
STEPS = (NUMBERING, BODIES, COLUMNS, HASHES, HEADS, PROJECTIONS, CONTENT)

Row = tuple[Any, ...]


@dataclass(frozen=True)
class Task:
    """What to verify."""

    start: int
    stop: int
    width: int
    keys: KeyChain
    probes: tuple[int, ...] = ()
    """Tree sizes within the segment whose frontier is wanted, besides those of the checkpoints."""
    base: tuple[bytes, ...] | None = None
    """The frontier over the first ``start`` events, when the segment does not begin at a multiple of its width."""
    withheld: frozenset[str] = frozenset()
    """Kinds of event whose content a bundle leaves out."""


@dataclass
class SegmentRows:
    """Everything stored about a segment, in order."""

    events: list[Row]
    checkpoints: list[Row]
    contents: list[Row]
    tables: dict[type[Base], list[Row]] | None
    """None in a bundle."""
    previous_head: int
    """Size of the newest checkpoint up to where the segment begins."""


class HeadSeen(NamedTuple):
    """A checkpoint whose root is still to be compared."""

    size: int
    root: object
    said: bytes | None
    """Root in the signed note; None when the note does not hold."""
    frontier: object
    computed: tuple[bytes, ...] | None
    """Frontier of the segment's own events; None when they do not reach that size."""


class Stretch(NamedTuple):
    """Events in a row of which only the number counts."""

    seq: int
    counts: dict[tuple[str | None, str], int]
    """Run and kind to number."""


class Single(NamedTuple):
    """An event that the course of its run needs. Its body is canonical and its payload valid."""

    body: bytes


class Reader(Protocol):
    """Gives everything stored about a segment."""

    def rows(self, start: int, stop: int) -> SegmentRows:
        """The segment from ``start`` to ``stop``; segments are asked for in order."""


@dataclass
class Segment:
    """What the events of a segment come to."""

    start: int
    stop: int
    count: int = 0
    is_whole: bool = True
    """Whether every number from start to stop is there once: only then do later subtrees stand where they should."""
    tallies: dict[int, Tally] = field(default_factory=lambda: {number: new_tally(number) for number in STEPS})
    first_previous: str | None = None
    """Leaf hash before the segment, as its first body says."""
    last_leaf: bytes = b""
    end: tuple[bytes, ...] = ()
    """Frontier of the segment's events."""
    heads: list[HeadSeen] = field(default_factory=list)
    marks: dict[int, tuple[bytes, ...]] = field(default_factory=dict)
    """Frontier at each probe."""
    times: dict[int, str] = field(default_factory=dict)
    """Time of the first event after each probe, of the first and of the last event."""
    course: list[Stretch | Single] = field(default_factory=list)
    missing: list[tuple[int, str]] = field(default_factory=list)
    """Contents that are named and not there."""
    num_hidden: int = 0
    """Events of which a bundle gives the hash only."""
    num_left_out: int = 0
    """Contents that a bundle leaves out."""
    newest_note: bytes = b""


def read_and_verify(task: Task, reader: Reader) -> Segment:
    """Read one segment and verify it.

    Without the cycle collector: it would walk hundreds of thousands of tuples again and again, a third of the time.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        return verify_segment(task, reader.rows(task.start, task.stop))
    finally:
        if collects:
            gc.enable()


def verify_segment(task: Task, rows: SegmentRows) -> Segment:
    """Verify one segment; pure."""
    segment = Segment(task.start, task.stop, len(rows.events))
    leaves = _leaves(segment, rows)
    _follow(segment, task, rows, leaves)
    tree = _Tree(leaves, task)
    segment.end = tree.frontier(task.start + len(leaves)) or ()
    segment.last_leaf = leaves[-1] if leaves else b""
    _heads(segment, task, rows, tree)
    for size in task.probes:
        computed = tree.frontier(size)
        if computed is not None:
            segment.marks[size] = computed
    for place in {0, len(leaves) - 1, *(size - task.start for size in task.probes)}:
        if 0 <= place < len(leaves) and isinstance(rows.events[place][3], bytes):
            segment.times[task.start + place] = rows.events[place][3][-35:-8].decode("ascii", "replace")
    return segment


def _leaves(segment: Segment, rows: SegmentRows) -> list[bytes]:
    """Steps (2) and (5): numbers run without a gap, and each leaf hash is that of the body."""
    events, numbering, hashes = rows.events, segment.tallies[NUMBERING], segment.tallies[HASHES]
    numbering.saw(len(events))
    if [event[0] for event in events] != list(range(segment.start, segment.stop)):
        segment.is_whole = False
        for expected, event in enumerate(events, segment.start):
            if event[0] != expected:
                numbering.wrong(f"event {event[0]} stands where event {expected} belongs")
        if len(events) < segment.stop - segment.start:
            lacking = segment.stop - segment.start - len(events)
            numbering.wrong(f"{lacking} of the events {segment.start} to {segment.stop - 1} are missing", lacking)
    leaves = []
    for event in events:
        body = event[3]
        if type(body) is bytes:
            leaves.append(sha256(b"\x00" + body).digest())
        elif body is None and rows.tables is None and type(event[4]) is bytes and len(event[4]) == HASH_BYTES:
            leaves.append(event[4])  # withheld: the bundle gives the hash, and the tree holds it to that
        else:
            leaves.append(leaf_hash(b""))
    hashes.saw(len(events))
    if [event[4] for event in events] != leaves:
        for event, leaf in zip(events, leaves, strict=True):
            if event[4] != leaf:
                hashes.wrong(f"event {event[0]}: the leaf hash is not that of the body")
    return leaves


def _follow(segment: Segment, task: Task, rows: SegmentRows, leaves: list[bytes]) -> None:
    """Steps (3), (4), (9), (10), and what the course of runs needs."""
    events = rows.events
    agreement = Agreement(set(), set())
    if rows.tables is not None and segment.is_whole and all(type(event[3]) is bytes for event in events):
        agreement = agreeing(events, leaves, rows.contents, rows.tables)
    agreed = agreement.of(ContentRow)
    beside = Beside(rows.contents, rows.tables, agreement)
    segment.tallies[BODIES].saw(len(agreed))
    segment.tallies[COLUMNS].saw(len(agreed))
    segment.tallies[PROJECTIONS].saw(beside.num_agreed_rows)
    segment.tallies[CONTENT].saw(beside.num_agreed_contents)
    counted: list[tuple[str | None, str] | None] = [(event[1], event[2]) for event in events]
    begin = 0
    for place, event in enumerate(events):
        if event[0] in agreed:
            continue
        counted[place] = None
        body = _plain(segment, task, event, leaves[place - 1] if place else None, beside)
        if isinstance(body, bytes):
            _count(segment, counted, begin, place)
            segment.course.append(Single(body))
            begin = place
        else:
            counted[place] = body
    _count(segment, counted, begin, len(events))
    beside.finish(segment.tallies[PROJECTIONS], segment.tallies[CONTENT])


def _count(segment: Segment, counted: Sequence[tuple[str | None, str] | None], begin: int, end: int) -> None:
    counts = Counter(counted[begin:end])
    counts.pop(None, None)
    if counts:
        segment.course.append(Stretch(segment.start + begin, {key: n for key, n in counts.items() if key}))


def _plain(
    segment: Segment, task: Task, row: Row, previous: bytes | None, beside: Beside
) -> bytes | tuple[str | None, str] | None:
    """One event the plain way. Its body when its run's course needs it, run and kind when only their number counts,
    None when it cannot be read."""
    seq, run_id, kind, body, _ = row
    tallies = segment.tallies
    if body is None and beside.is_bundle:
        segment.num_hidden += 1
        return None
    # (3) The body is canonical and says what its kind says.
    tallies[BODIES].saw()
    try:
        if not isinstance(body, bytes):
            raise BodyError(f"the body is {type(body).__name__}, not bytes")
        parsed = parse(body)
    except (CanonicalError, BodyError) as error:
        tallies[BODIES].wrong(f"event {seq}: {error}")
        return None
    # (4) The columns beside the body, and its link to the event before, agree with it.
    event = parsed.event
    tallies[COLUMNS].saw()
    if previous is None:
        segment.first_previous = parsed.previous
    for name, stored, said in (
        ("seq", seq, event.seq),
        ("run", run_id, event.run_id),
        ("kind", kind, event.payload.kind.value),
        ("prev", parsed.previous if previous is None else previous.hex(), parsed.previous),
    ):
        if stored != said:
            tallies[COLUMNS].wrong(f"event {seq}: {name} is {stored!r:.70}, but the body says {said!r:.70}")
    # (9) and (10): what stands beside the event.
    beside.compare(event, tallies[PROJECTIONS])
    missing = beside.hash_contents(event, tallies[CONTENT])
    if missing and event.payload.kind.value in task.withheld:
        segment.num_left_out += len(missing)
    else:
        tallies[CONTENT].saw(len(missing))
        segment.missing += [(event.seq, name) for name in missing]
    if event.payload.kind in HOT:
        return event.run_id, event.payload.kind.value
    return body


class _Tree:
    """The subtree of a segment: every level at once, so that the frontier at any size is at hand."""

    def __init__(self, leaves: list[bytes], task: Task) -> None:
        self._start = task.start
        self._count = len(leaves)
        self._leaves = leaves
        self._base = task.base
        self._levels = [leaves]
        if task.base is not None:
            return
        while len(level := self._levels[-1]) > 1:
            pairs = zip(level[::2], level[1::2], strict=False)
            self._levels.append([sha256(b"\x01" + left + right).digest() for left, right in pairs])

    def frontier(self, size: int) -> tuple[bytes, ...] | None:
        """Frontier of the segment's events below ``size`` (of the whole log where the task brought its base)."""
        local = size - self._start
        if not 0 <= local <= self._count:
            return None
        if self._base is not None:
            tree = Frontier(self._start, self._base)
            for leaf in self._leaves[:local]:
                tree.append(leaf)
            return tuple(tree.hashes)
        places = (height for height in reversed(range(local.bit_length())) if local >> height & 1)
        return tuple(self._levels[height][(local >> height + 1) << 1] for height in places)


def _heads(segment: Segment, task: Task, rows: SegmentRows, tree: _Tree) -> None:
    """Step (6), as far as it needs no root: each note is signed by the keys in force and speaks of its own size."""
    tally = segment.tallies[HEADS]
    previous = rows.previous_head
    for size, root, note, frontier in rows.checkpoints:
        tally.saw()
        said: bytes | None = None
        try:
            if not isinstance(note, bytes):
                raise NoteError(f"the note is {type(note).__name__}, not bytes")
            keys = task.keys.required(previous, size)
            if not keys:
                raise NoteError("there is no key to check it with")
            for key in keys:
                head = Checkpoint.parse(open_note(note, key))
            if (head.origin, head.size) != (keys[-1].name, size):
                raise NoteError(f"the note signs another head (size {head.size})")
            said = head.root
            segment.newest_note = note
        except NoteError as error:
            tally.wrong(f"checkpoint {size}: {error}")
        segment.heads.append(HeadSeen(size, root, said, frontier, tree.frontier(size)))
        previous = size
