"""The part of verification that goes through the log in order: segments are put together, and runs are followed."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Callable

from grpo_audit.ledger.event import Event, parse
from grpo_audit.ledger.memory import Head
from grpo_audit.ledger.merkle import EMPTY_ROOT, Frontier, node_hash
from grpo_audit.record.events import Erasure, KeyRotated
from grpo_audit.verify.annotated import Annotations
from grpo_audit.verify.course import Courses, Past
from grpo_audit.verify.segment import Segment, Single
from grpo_audit.verify.states import RunStates
from grpo_audit.verify.steps import (
    ANNOTATIONS,
    COLUMNS,
    CONTENT,
    COVERAGE,
    HEADS,
    KEY,
    ORDER,
    SEALS,
    WEIGHTS,
)
from grpo_audit.verify.verdict import Tally


class Fold:
    """What the segments so far come to. They are given in order, without a gap."""

    def __init__(
        self,
        tallies: list[Tally],
        *,
        width: int,
        base: Frontier,
        previous: bytes,
        project_id: str | None,
        rotations: tuple[int, ...],
        states: RunStates | None,
        past: Past | None = None,
        content_is_there: Callable[[int, str], bool] | None = None,
        only: str | None = None,
    ) -> None:
        self._tallies = tallies
        self._width = width
        self._begin = base.size
        self._previous = previous
        self._rotations = rotations
        self._rotated: list[int] = []
        self._states = states
        self._is_whole = True
        self._newest_head = base.size
        self.tree = base
        self.roots: dict[int, bytes] = {0: EMPTY_ROOT, base.size: base.root()}
        """Root at each probe."""
        self.times: dict[int, str] = {}
        self.courses = Courses(tallies[ORDER], tallies[SEALS], tallies[WEIGHTS], past, only)
        self.annotations = Annotations(tallies[ANNOTATIONS], project_id)
        self.contents = Missing(tallies[CONTENT], self._begin, content_is_there)
        self.newest_note = b""
        self.num_hidden = 0
        self.num_left_out = 0
        self.count = 0

    def take(self, segment: Segment) -> None:
        """The next segment."""
        for number, tally in segment.tallies.items():
            self._tallies[number].add(tally)
        if segment.first_previous is not None and self._is_whole and segment.first_previous != self._previous.hex():
            self._tallies[COLUMNS].wrong(
                f"event {segment.start}: prev is {self._previous.hex()!r:.70}, but the body says "
                f"{segment.first_previous!r:.70}"
            )
        self._compare_heads(segment)
        for size, hashes in segment.marks.items():
            if self._is_whole:
                self.roots[size] = self._at(segment, size, hashes).root()
        self.contents.add(segment.missing)  # before the erasures of the same segment, which speak of it
        self._follow(segment)
        self.times.update(segment.times)
        self._previous = segment.last_leaf or self._previous
        self.newest_note = segment.newest_note or self.newest_note
        self.num_hidden += segment.num_hidden
        self.num_left_out += segment.num_left_out
        self.count += segment.count
        if self._is_whole:
            self.tree = self._at(segment, segment.start + segment.count, segment.end)
        self._is_whole = self._is_whole and segment.is_whole

    def _at(self, segment: Segment, size: int, hashes: tuple[bytes, ...]) -> Frontier:
        """The frontier over the first ``size`` events, from that of the segment's own."""
        if segment.start % self._width:
            return Frontier(size, hashes)  # the segment was given its base
        if size - segment.start < self._width:
            return Frontier(size, [*self.tree.hashes, *hashes])
        return _with_subtree(self.tree, hashes[0], self._width)

    def _compare_heads(self, segment: Segment) -> None:
        # (6) Root and frontier are those of the events, and the note says this root.
        tally = self._tallies[HEADS]
        for head in segment.heads:
            self._newest_head = head.size
            if head.computed is None:
                tally.wrong(f"checkpoint {head.size} stands at no event")
                continue
            if not self._is_whole:
                tally.wrong(f"checkpoint {head.size}: events before it are missing, so it has no root")
                continue
            tree = self._at(segment, head.size, head.computed)
            root = tree.root()
            if head.root != root:
                tally.wrong(f"checkpoint {head.size}: its root is not that of the first {head.size} events")
            if head.frontier != tree.to_bytes() and not (head.frontier is None and self._states is None):
                tally.wrong(f"checkpoint {head.size}: its frontier is not that of the first {head.size} events")
            if head.said is not None and head.said != root:
                tally.wrong(f"checkpoint {head.size}: the note signs another head (size {head.size})")

    def _follow(self, segment: Segment) -> None:
        for item in segment.course:
            if isinstance(item, Single):
                self._single(parse(item.body).event)
            else:
                self.courses.count(item.seq, item.counts)

    def _single(self, event: Event) -> None:
        attempt = self.courses.follow(event)  # (11) to (13)
        if self._states is not None:
            self._states.follow(event, attempt)  # (9)
        self.annotations.follow(event)  # (16)
        if isinstance(event.payload, KeyRotated):
            self._rotated.append(event.seq)
        if isinstance(event.payload, Erasure):
            self.contents.erased(event.seq, event.payload)  # (10)

    def finish(self, checkpoints_beyond: list[int]) -> None:
        """All events are through. ``checkpoints_beyond`` are the sizes of those that speak of more events."""
        # (7) The newest head covers every event, and no head speaks of events that are not there.
        coverage, stop = self._tallies[COVERAGE], self._begin + self.count
        coverage.saw(self.count)
        if self._newest_head < stop:
            coverage.wrong(f"events {self._newest_head} to {stop - 1} stand under no checkpoint")
        for size in checkpoints_beyond:
            coverage.wrong(f"checkpoint {size} speaks of events that are missing; there are {stop}")
        expected = tuple(seq for seq in self._rotations if seq >= self._begin)
        if tuple(self._rotated) != expected:
            self._tallies[KEY].wrong(f"the key is rotated by events {self._rotated}, not {list(expected)}")
        if self._states is not None:
            self._states.finish()
        self.contents.finish()

    @property
    def head(self) -> Head | None:
        """Size and root over everything; None when events are missing in between."""
        return Head(self.tree.size, self.tree.root()) if self._is_whole else None


def _with_subtree(tree: Frontier, root: bytes, width: int) -> Frontier:
    """The tree with a complete subtree of ``width`` leaves appended; its size is a multiple of the width."""
    hashes = [*tree.hashes, root]
    carry = tree.size // width + 1
    while carry & 1 == 0:
        right = hashes.pop()
        hashes[-1] = node_hash(hashes[-1], right)
        carry >>= 1
    return Frontier(tree.size + width, hashes)


class Missing:
    """Step (10): content that is named and not there must be named by a later erasure, and the reverse.

    Eight bytes a missing content, so that a record whose every text was erased does not fill the memory.
    """

    SHOWN = 5

    def __init__(self, tally: Tally, begin: int, is_there: Callable[[int, str], bool] | None) -> None:
        self._tally = tally
        self._begin = begin
        self._is_there = is_there
        self._keys = array("q")
        """Number of the event times 256 plus that of the name, ascending."""
        self._erased = bytearray()
        self._names: dict[str, int] = {}
        self._by: dict[tuple[str, str], int] = {}
        tally.nothing("no event has content")

    def add(self, missing: list[tuple[int, str]]) -> None:
        """Contents that are not there, of events after those of the last call."""
        keys = sorted(seq * 256 + self._names.setdefault(name, len(self._names)) for seq, name in missing)
        if len(self._names) > 256:
            self._tally.wrong("contents of more than 256 different names are missing")
            return
        self._keys.extend(keys)
        self._erased.extend(bytes(len(keys)))

    def erased(self, seq: int, erasure: Erasure) -> None:
        """An erasure; what it names lies before it."""
        for item in erasure.contents:
            for name in item.names:
                if item.seq < self._begin:
                    self._earlier(seq, item.seq, name)
                elif not self._take(item.seq, name):
                    self._tally.wrong(
                        f"event {seq} erases content {name!r:.40} of event {item.seq}: it is still there or never was"
                    )
                else:
                    self._count(erasure)

    def _earlier(self, seq: int, content_seq: int, name: str) -> None:
        # of an event before an incremental verification: looked up
        if self._is_there is not None and self._is_there(content_seq, name):
            self._tally.wrong(f"event {seq} erases content {name!r:.40} of event {content_seq}, which is still there")

    def _count(self, erasure: Erasure) -> None:
        key = (erasure.author, erasure.reason)
        self._by[key] = self._by.get(key, 0) + 1

    def _take(self, seq: int, name: str) -> bool:
        if name not in self._names:
            return False
        place = bisect_left(self._keys, seq * 256 + self._names[name])
        if place == len(self._keys) or self._keys[place] != seq * 256 + self._names[name]:
            return False
        self._erased[place] = 1
        return True

    def finish(self) -> None:
        """Whatever nobody erased is missing; what somebody did is reported."""
        names = list(self._names)
        lacking = self._erased.count(0)
        shown = 0
        for key, erased in zip(self._keys, self._erased, strict=True):
            if not erased and shown < Tally.SHOWN:
                self._tally.wrong(f"content {names[key % 256]} of event {key // 256} is missing")
                shown += 1
        if lacking > shown:
            self._tally.wrong("more", lacking - shown)
        for (author, reason), count in list(self._by.items())[: self.SHOWN]:
            self._tally.remark(f"{count:,} content{'s' * (count != 1)} erased by {author}: {reason}")
        if len(self._by) > self.SHOWN:
            self._tally.remark(f"and by {len(self._by) - self.SHOWN} more")
