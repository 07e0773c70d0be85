"""What the statements of witnesses are worth: step (15) of verification.

A statement is stored beside the log by whoever writes the record, so nothing of it is believed: it counts only when it
holds under an *anchor* that the verifier has from elsewhere, for exactly the head that the verifier computed itself
from the events. Where an anchor can be asked directly (a witness' folder, a git repository), its own memory is compared
too: a record that was cut below what the witness remembers fails, whatever statements were cut with it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import pairwise
from pathlib import Path
from typing import Protocol

from grpo_audit.errors import ConfigError
from grpo_audit.ledger.notes import Checkpoint
from grpo_audit.witness import kinds, pins
from grpo_audit.witness.directory import CosignerAnchor
from grpo_audit.witness.protocol import Anchor, Judged, Judgement, Remembered, WitnessKind, WitnessUnavailable

MAX_STATEMENT = 1 << 20
"""Bytes of a statement that are looked at."""


class StoredStatement(Protocol):
    """A row of ``witness`` as found; nothing about it is believed."""

    @property
    def size(self) -> object: ...  # noqa: D102
    @property
    def name(self) -> object: ...  # noqa: D102
    @property
    def kind(self) -> object: ...  # noqa: D102
    @property
    def statement(self) -> object: ...  # noqa: D102


class WitnessOutcome(StrEnum):
    """What became of one statement, or of one trusted witness."""

    OK = "ok"
    FAILED = "failed"
    NO_ANCHOR = "no anchor"
    """Nothing was given or pinned to check it with: it counts for nothing, and against nothing."""
    NO_STATEMENT = "no statement"
    """A witness that this machine has pinned has said nothing yet, or cannot be asked."""


@dataclass(frozen=True)
class WitnessFinding:
    """One statement, or the memory of one witness, checked."""

    name: str
    kind: str
    size: int
    """Events in the head it is about; 0 when it is about none."""
    at: str | None
    """When the witness saw that head, by its own clock, UTC, RFC 3339."""
    outcome: WitnessOutcome
    detail: str
    by: str = ""
    """Label of the anchor that it holds under; empty when there is none."""


@dataclass(frozen=True)
class Trusted:
    """An anchor and where it comes from."""

    kind: WitnessKind
    anchor: Anchor
    is_given: bool
    """Named by the verifier now, who therefore wants a statement of it; else pinned on this machine."""


@dataclass(frozen=True)
class Trust:
    """Which witnesses the verifier believes."""

    anchors: tuple[Trusted, ...] = ()
    _memories: dict[tuple[int, str], Remembered | WitnessUnavailable | None] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @classmethod
    def parse(cls, specs: Sequence[str], project_id: str | None = None) -> Trust:
        """From repeated ``--witness SPEC``, and what is pinned on this machine for the project.

        A SPEC is ``dir:FOLDER``, ``tsa:CA.pem``, ``git:CLONE[#BRANCH]``, a witness key ``NAME+KEYHASH+BASE64`` or a
        file that holds one. Raises ConfigError for a SPEC that cannot be used, StorageError for a pin that cannot be
        read.
        """
        given = [Trusted(kind, kind.trusted(rest), is_given=True) for kind, rest in map(kinds.split, specs)]
        if project_id is not None:
            given += [item for pin in pins.read(project_id) if (item := _pinned(pin)) is not None]
        unique: dict[tuple[str, str], Trusted] = {}
        for item in given:
            unique.setdefault((item.kind.name, item.anchor.label), item)
        return cls(tuple(unique.values()))

    def ask(self, origin: str) -> list[tuple[Trusted, Remembered | WitnessUnavailable | None]]:
        """What each trusted witness itself remembers of this log, asked once: the first call counts.

        A log may grow while it is verified, and be witnessed meanwhile: call this before the state that is verified is
        read, or a memory newer than that state looks like a record that was cut.
        """
        for number, trusted in enumerate(self.anchors):
            if (number, origin) not in self._memories:
                self._memories[number, origin] = _memory(trusted, origin)
        return [(trusted, self._memories[number, origin]) for number, trusted in enumerate(self.anchors)]

    def of(self, kind: str) -> list[Trusted]:
        """The anchors of a kind."""
        return [item for item in self.anchors if item.kind.name == kind]


@dataclass(frozen=True)
class _Unusable:
    """A pinned anchor that is not to be had here and now: a clone that moved away, a library that is not installed."""

    label: str
    why: str

    def judge(self, name: str, statement: bytes, head: Checkpoint) -> Judged:  # noqa: ARG002
        return Judged(Judgement.OTHER, self.why)

    def memory(self, origin: str) -> None:  # noqa: ARG002
        raise WitnessUnavailable(self.why)


def _pinned(pin: pins.Pin) -> Trusted | None:
    """The anchor behind a pin, with the witness' folder when that is at hand; None for a kind that is not installed."""
    kind = kinds.by_name(pin.kind)
    if kind is None:
        return None
    try:
        anchor = kind.trusted(pin.anchor)
    except ConfigError as error:
        return Trusted(kind, _Unusable(pin.name, str(error)), is_given=False)
    folder = Path(pin.spec.partition(":")[2])
    if isinstance(anchor, CosignerAnchor) and anchor.folder is None and folder.is_dir():
        anchor = replace(anchor, folder=folder)
    return Trusted(kind, anchor, is_given=False)


@dataclass
class Standing:
    """What all findings come to: WITNESSED(witnessed/of), or TIMESTAMPED when only a time-stamp authority spoke."""

    witnessed: int
    """Trusted witnesses with a statement or a memory that holds."""
    of: int
    """Trusted witnesses."""
    size: int = 0
    """Largest head that one of them vouches for: what comes after is the unwitnessed tail."""
    at: str | None = None
    """When, by that witness' clock."""
    only_time: bool = False
    """Whether all that hold are time-stamps: a time-stamp authority remembers no history."""
    kinds: list[str] = field(default_factory=list)


def wanted_sizes(statements: Iterable[StoredStatement], origin: str, trust: Trust) -> frozenset[int]:
    """Tree sizes whose roots ``check`` must be given, computed by the verifier from the events."""
    sizes = {item.size for item in statements if isinstance(item.size, int) and not isinstance(item.size, bool)}
    sizes |= {memory.head.size for _, memory in trust.ask(origin) if isinstance(memory, Remembered)}
    return frozenset(sizes)


def check(
    statements: Iterable[StoredStatement], roots: Mapping[int, bytes], origin: str, trust: Trust
) -> list[WitnessFinding]:
    """A finding for each statement, then one for each trusted witness that can be asked or that is missing.

    ``roots`` holds, for each of ``wanted_sizes``, the root that the verifier computed; a size that is not in it is
    larger than the record. ``origin`` is the origin line of the log, ``grpo-audit/<project id>``.
    """
    findings: list[WitnessFinding] = []
    times: dict[tuple[str, str], list[tuple[int, str]]] = defaultdict(list)
    heard: set[int] = set()
    for item in statements:
        finding, anchor = _statement(item, roots, origin, trust)
        if finding.outcome is WitnessOutcome.OK and finding.at is not None and finding.kind == "directory":
            times[finding.kind, finding.name].append((finding.size, finding.at))
        if anchor is not None:
            heard.add(id(anchor))
        findings.append(finding)
    findings += [_out_of_order(kind, name, seen) for (kind, name), seen in times.items() if _goes_back(seen)]
    for trusted, memory in trust.ask(origin):
        findings += _asked(trusted, memory, roots, origin, is_heard=id(trusted.anchor) in heard)
    return findings


def standing(findings: Iterable[WitnessFinding], trust: Trust) -> Standing:
    """What the findings come to, as one line of a verdict needs it."""
    names: dict[tuple[str, str], WitnessFinding] = {}
    for finding in findings:
        if finding.outcome is WitnessOutcome.OK:
            best = names.get((finding.kind, finding.by))
            if best is None or finding.size > best.size:
                names[finding.kind, finding.by] = finding
    result = Standing(len(names), len(trust.anchors))
    result.kinds = sorted({kind for kind, _ in names})
    result.only_time = bool(names) and result.kinds == ["rfc3161"]
    if names:
        newest = max(names.values(), key=lambda item: item.size)
        result.size, result.at = newest.size, newest.at
    return result


def _statement(
    item: StoredStatement, roots: Mapping[int, bytes], origin: str, trust: Trust
) -> tuple[WitnessFinding, Anchor | None]:
    """Judge one statement; the anchor it holds under, if any."""
    name, kind, size, statement = item.name, item.kind, item.size, item.statement
    if not isinstance(name, str) or not isinstance(kind, str) or not isinstance(size, int):
        return WitnessFinding(repr(name), repr(kind), 0, None, WitnessOutcome.FAILED, "its columns are malformed"), None

    def finding(outcome: WitnessOutcome, detail: str, at: str | None = None, by: str = "") -> WitnessFinding:
        return WitnessFinding(name, kind, size, at, outcome, detail, by)

    if not isinstance(statement, bytes) or len(statement) > MAX_STATEMENT:
        return finding(WitnessOutcome.FAILED, "the statement is not bytes, or too large"), None
    root = roots.get(size)
    if root is None:
        return finding(
            WitnessOutcome.FAILED, f"the record has no {size} events: what the witness saw was cut off"
        ), None
    known = kinds.by_name(kind)
    if known is None:
        return finding(WitnessOutcome.NO_ANCHOR, f"no kind of witness called {kind!r:.60} is installed"), None
    head = Checkpoint(origin, size, root)
    contradiction = known.contradiction(statement, head)
    if contradiction is not None:
        return finding(WitnessOutcome.FAILED, contradiction), None
    broken: Judged | None = None
    for trusted in trust.of(kind):
        judged = trusted.anchor.judge(name, statement, head)
        if judged.judgement is Judgement.HOLDS:
            return finding(WitnessOutcome.OK, judged.detail, judged.at, trusted.anchor.label), trusted.anchor
        if judged.judgement is Judgement.BROKEN:
            broken = judged
    if broken is not None:
        return finding(WitnessOutcome.FAILED, broken.detail), None
    return finding(WitnessOutcome.NO_ANCHOR, f"not checked: name the witness with --witness {known.prefix}:..."), None


def _memory(trusted: Trusted, origin: str) -> Remembered | WitnessUnavailable | None:
    try:
        return trusted.anchor.memory(origin)
    except WitnessUnavailable as error:
        return error


def _asked(
    trusted: Trusted,
    memory: Remembered | WitnessUnavailable | None,
    roots: Mapping[int, bytes],
    origin: str,
    *,
    is_heard: bool,
) -> list[WitnessFinding]:
    """What the witness itself remembers; and that one the verifier named has said something at all."""
    label, kind = trusted.anchor.label, trusted.kind.name

    def finding(size: int, outcome: WitnessOutcome, detail: str, at: str | None = None) -> list[WitnessFinding]:
        by = label if outcome is WitnessOutcome.OK else ""
        return [WitnessFinding(label, kind, size, at, outcome, detail, by)]

    if isinstance(memory, Remembered):
        head = memory.head
        root = roots.get(head.size)
        if root is None:
            detail = f"it remembers {head.size} events: the newest of this record were cut off"
            return finding(head.size, WitnessOutcome.FAILED, detail)
        if (head.origin, head.root) != (origin, root):
            detail = (
                f"it remembers another history: over {head.size} events the root {head.root.hex()[:16]}, "
                f"here {root.hex()[:16]}"
            )
            return finding(head.size, WitnessOutcome.FAILED, detail)
        return finding(head.size, WitnessOutcome.OK, "its own memory agrees", memory.at)
    outcome = WitnessOutcome.FAILED if trusted.is_given else WitnessOutcome.NO_STATEMENT
    if isinstance(memory, WitnessUnavailable):
        return finding(0, outcome, str(memory))  # a broken memory is no missing memory
    if is_heard:
        return []
    return finding(0, outcome, "the record holds no statement of it that holds")


def _goes_back(seen: list[tuple[int, str]]) -> bool:
    times = [at for _, at in sorted(seen)]
    return any(later < earlier for earlier, later in pairwise(times))


def _out_of_order(kind: str, name: str, seen: list[tuple[int, str]]) -> WitnessFinding:
    size, at = max(seen)
    detail = (
        "it cosigned a larger head at an earlier time than a smaller one: its clock, or its key, is not to be trusted"
    )
    return WitnessFinding(name, kind, size, at, WitnessOutcome.FAILED, detail)
