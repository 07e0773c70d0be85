"""The steps of level L0 by number: their names, and what each of them counts."""

from __future__ import annotations

from typing import Final

from grpo_audit.verify.verdict import Tally

DATABASE: Final = 0
KEY: Final = 1
NUMBERING: Final = 2
BODIES: Final = 3
COLUMNS: Final = 4
HASHES: Final = 5
HEADS: Final = 6
COVERAGE: Final = 7
REMEMBERED: Final = 8
PROJECTIONS: Final = 9
CONTENT: Final = 10
ORDER: Final = 11
SEALS: Final = 12
WEIGHTS: Final = 13
FILES: Final = 14
WITNESSES: Final = 15
ANNOTATIONS: Final = 16

NAMES: Final[tuple[tuple[str, str], ...]] = (
    ("database", "checks"),
    ("key", "key"),
    ("numbering", "events"),
    ("bodies", "bodies"),
    ("columns and links", "events"),
    ("leaf hashes", "hashes"),
    ("signed heads", "checkpoints"),
    ("coverage", "events covered"),
    ("remembered head", "head"),
    ("projections", "rows"),
    ("content", "contents"),
    ("order of events", "events"),
    ("seals", "seals"),
    ("weights", "mentions of weights"),
    ("files", "digests"),
    ("witnesses", "statements"),
    ("signed annotations", "signatures"),
)
"""Name of each step and the unit of what it looks at."""


def new_tally(number: int) -> Tally:
    """An empty tally of a step."""
    name, unit = NAMES[number]
    return Tally(number, name, unit)
