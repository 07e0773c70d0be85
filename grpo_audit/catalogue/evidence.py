"""How a value is known, and what it rests on. No value enters the catalogue or a report without these."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from pydantic import BaseModel, ConfigDict


class Evidence(StrEnum):
    """The six ways a field can be known (or not)."""

    MEASURED = "measured"
    DERIVED = "derived"
    DECLARED = "declared"
    DEFAULTED = "defaulted"
    CITED = "cited"
    ABSENT = "absent"


MEANING: Final[dict[Evidence, str]] = {
    Evidence.MEASURED: "observed by the tool while the run happened, and written into the event named",
    Evidence.DERIVED: "computed for this report from the events named; the method is stated",
    Evidence.DECLARED: "said by a person in the recipe or in an annotation; nothing here checks it",
    Evidence.DEFAULTED: "equal to the tool's default",
    Evidence.CITED: "taken from the source the preset cites",
    Evidence.ABSENT: "not in the record; the reason stands in its place",
}
"""One sentence a kind, for the legend."""


class Audience(StrEnum):
    """Who a field is written for."""

    REGULATOR = "regulator"
    DOWNSTREAM = "downstream"
    PUBLIC = "public"


class BasisKind(StrEnum):
    """On what a claim about a method rests."""

    PAPER = "paper"
    LIBRARY = "library documentation"
    MEASURED_HERE = "measured here"
    OPERATOR = "declared by the operator"


class Basis(BaseModel):
    """The level of evidence of a claim about a method, with its citation."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    kind: BasisKind
    citation: str
    """Paper, page, or the events that show it."""


@dataclass(frozen=True)
class Span:
    """A series of events too long to name one by one."""

    first: int
    last: int
    count: int
    """Events of the series, not of the record between the two."""


class Pointer(BaseModel):
    """What in the record a value rests on."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    seqs: tuple[int, ...] = ()
    """Sequence numbers of events, one by one."""
    spans: tuple[Span, ...] = ()
    """Series of events."""
    artifacts: tuple[str, ...] = ()
    """Digests of artifacts."""

    @property
    def is_empty(self) -> bool:
        """Whether it points at nothing."""
        return not (self.seqs or self.spans or self.artifacts)


Where = int | Span | str | None
"""A sequence number, a series, an artifact's digest; None is left out."""


def at(*where: Where) -> Pointer:
    """The pointer to these places, each once, in the order given."""
    places = list(dict.fromkeys(item for item in where if item is not None))
    return Pointer(
        seqs=tuple(item for item in places if isinstance(item, int)),
        spans=tuple(item for item in places if isinstance(item, Span)),
        artifacts=tuple(item for item in places if isinstance(item, str)),
    )
