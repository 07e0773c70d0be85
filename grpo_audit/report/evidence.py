"""How a value is known, and on which events it rests. No value enters a report without one of these."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from grpo_audit.catalogue.evidence import MEANING as MEANING, Evidence as Evidence, Span as Span


class Absence(StrEnum):
    """In what way a field has no value. A zero is a value, and none of these."""

    NOT_RECORDED = "not recorded"
    NOT_DECLARED = "not declared"
    NOT_MEASURED = "not measured"
    NOT_COMPARED = "not compared"
    NOT_APPLICABLE = "not applicable"


@dataclass(frozen=True)
class Source:
    """What a value rests on."""

    evidence: Evidence
    seqs: tuple[int, ...] = ()
    """Sequence numbers of the events that are named one by one."""

    spans: tuple[Span, ...] = ()
    """Series of events."""

    note: str = ""
    """Why it is absent, or how it was derived."""

    absence: Absence | None = None
    """Set exactly when the evidence is absent."""

    @property
    def named(self) -> tuple[int, ...]:
        """Every sequence number that a reader sees."""
        return (*(seq for span in self.spans for seq in (span.first, span.last)), *self.seqs)


@dataclass(frozen=True)
class Fact:
    """One labelled value. ``value`` is None exactly when the evidence is absent."""

    label: str
    value: str | None
    source: Source
    mono: bool = False
    """Digests, identifiers and expressions are set in a fixed-width face."""

    def __post_init__(self) -> None:
        if (self.value is None) != (self.source.evidence is Evidence.ABSENT):
            raise ValueError(f"fact {self.label!r}: value and evidence contradict each other")

    @property
    def missing(self) -> bool:
        """Whether there is no value."""
        return self.value is None


def series(evidence: Evidence, seqs: Iterable[int], note: str = "") -> Source:
    """Source that is a whole series of events: its two ends and their number."""
    found = sorted(seqs)
    if len(found) <= 2:
        return Source(evidence, tuple(found), note=note)
    return Source(evidence, spans=(Span(found[0], found[-1], len(found)),), note=note)


def spanning(evidence: Evidence, first: int, last: int, count: int) -> Source:
    """The same, from the ends and the number."""
    if count <= 2:
        return Source(evidence, tuple(dict.fromkeys((first, last))))
    return Source(evidence, spans=(Span(first, last, count),))


def measured(label: str, value: object, *seqs: int, mono: bool = False) -> Fact:
    """A measured fact; None becomes absent."""
    if value is None:
        return absent(label, "the tool could not determine it")
    return Fact(label, str(value), Source(Evidence.MEASURED, seqs), mono)


def derived(label: str, value: object, *seqs: int, how: str = "", mono: bool = False) -> Fact:
    """A derived fact with its method; None becomes absent with ``how`` as the reason."""
    if value is None:
        return absent(label, how or "cannot be derived from what was recorded")
    return Fact(label, str(value), Source(Evidence.DERIVED, seqs, note=how), mono)


def declared(label: str, value: object, *seqs: int, mono: bool = False, reason: str = "") -> Fact:
    """A declared fact; None becomes "not declared"."""
    if value is None:
        return absent(label, reason, Absence.NOT_DECLARED)
    return Fact(label, str(value), Source(Evidence.DECLARED, seqs), mono)


def absent(label: str, reason: str, absence: Absence = Absence.NOT_RECORDED) -> Fact:
    """A field without a value, with the reason."""
    return Fact(label, None, nothing(reason, absence))


def nothing(reason: str = "", absence: Absence = Absence.NOT_RECORDED) -> Source:
    """The source of a value that there is not."""
    return Source(Evidence.ABSENT, note=reason, absence=absence)
