"""Which prompts a step draws: a pure function of the seed, so that a resumed run and an auditor draw the same ones.

The order of an epoch is the rows sorted by SHA-256 of ``SEED:EPOCH:ROW``. NumPy's permutations may change between its
versions (NEP 19 keeps only the raw bit streams); a hash can be recomputed in any language, for ever.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Final

DESCRIPTION: Final = (
    "epochs without gaps; within an epoch, rows in the order of SHA-256('SEED:EPOCH:ROW') (decimal numbers from 0); "
    "where a step begins in one epoch and ends in the next, the rows it already has move behind those that complete "
    "it, so that no prompt is drawn twice in a step"
)
"""For the record."""


def draw(seed: int, step: int, rows: int, count: int) -> list[int]:
    """Rows that step ``step`` draws, ``count`` of them, in order.

    Laws: each row is drawn exactly once per epoch (``rows`` consecutive draws); no row is drawn twice in a step when
    ``rows >= count``; the result depends on nothing but the arguments.

    Args:
        seed: the run's seed.
        step: from 0.
        rows: rows of the prompt set, at least 1.
        count: prompts per step, at least 1.

    Raises ValueError for a negative step, or no rows or prompts.
    """
    _check(step, rows, count)
    drawn: list[int] = []
    position = step * count
    while len(drawn) < count:
        epoch, offset = divmod(position, rows)
        piece = _order(seed, epoch, rows, count)[offset : offset + count - len(drawn)]
        drawn.extend(piece)
        position += len(piece)
    return drawn


def exposures(seed: int, step: int, rows: int, count: int) -> list[int]:
    """How many times each row of ``draw(...)`` was drawn before in this run.

    Since every row is drawn once per epoch, that is the number of epochs completed before; the seed does not matter.
    """
    del seed
    _check(step, rows, count)
    return [(step * count + index) // rows for index in range(count)]


def _check(step: int, rows: int, count: int) -> None:
    if step < 0 or rows < 1 or count < 1:
        raise ValueError(f"step {step} >= 0, rows {rows} >= 1 and count {count} >= 1 must hold")


@lru_cache(maxsize=4)
def _hashed(seed: int, epoch: int, rows: int) -> tuple[int, ...]:
    """Rows in the order of their hashes. The cache saves time and changes nothing."""
    prefix = f"{seed}:{epoch}:".encode()
    return tuple(sorted(range(rows), key=lambda row: hashlib.sha256(prefix + str(row).encode()).digest()))


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, rows: int, count: int) -> tuple[int, ...]:
    """One epoch's order. If a step began in the epoch before, its rows are held back until that step is complete.

    With ``rows < count`` repetition cannot be avoided and nothing is held back.
    """
    hashed = _hashed(seed, epoch, rows)
    head = -epoch * rows % count  # draws that the step begun in the last epoch still needs
    if head == 0 or rows < count:
        return hashed
    taken = set(_tail(seed, epoch - 1, rows, count))
    first: list[int] = []
    rest: list[int] = []
    for row in hashed:
        if len(first) < head and row not in taken:
            first.append(row)
        else:
            rest.append(row)
    return (*first, *rest)


def _tail(seed: int, epoch: int, rows: int, count: int) -> tuple[int, ...]:
    """The rows of an epoch whose step goes on in the next epoch.

    Rows held back at the beginning of the epoch move by at most one step. So if a whole step lies between, the end is
    that of the hashed order; only otherwise the epoch before has to be asked, at most count / (rows - count) times.
    """
    length = (epoch + 1) * rows % count
    untouched = rows - length >= count
    order = _hashed(seed, epoch, rows) if untouched else _order(seed, epoch, rows, count)
    return order[rows - length :]
