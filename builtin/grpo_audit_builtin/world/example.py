"""The unit of the miniature world: one prompt with one completion, and the split its problem belongs to."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

Problem = TypeVar("Problem")


class Split(StrEnum):
    """Who may see a problem. Every problem belongs to exactly one split."""

    PRETRAIN = "pretrain"
    RL_TRAIN = "rl_train"
    HELD_OUT = "held_out"
    EVAL = "eval"


#: Shares in percent, most families. They sum to 100.
DEFAULT_SHARES: Mapping[Split, int] = {
    Split.PRETRAIN: 70,
    Split.RL_TRAIN: 12,
    Split.HELD_OUT: 8,
    Split.EVAL: 10,
}

#: Families with few distinct problems: everything that is not evaluation is there to be learnt from.
TWO_WAY_FAMILIES = frozenset({"request", "tool", "fact"})
TWO_WAY_SHARES: Mapping[Split, int] = {Split.PRETRAIN: 75, Split.EVAL: 25}


@dataclass(frozen=True, slots=True)
class Example:
    """One supervised example: the completion follows the prompt directly, without a delimiter."""

    family: str
    key: str
    prompt: str
    completion: str


def unit(key: str) -> float:
    """A number in [0, 1) that is a pure function of `key` (SHA-256, the same on every machine)."""
    digest = hashlib.sha256(key.encode("utf-8")).digest()
    return int.from_bytes(digest[:6], "big") / float(1 << 48)


def shares_of(key: str) -> Mapping[Split, int]:
    """The shares of the family that the key belongs to, told by the key's first word."""
    return TWO_WAY_SHARES if key.partition("|")[0] in TWO_WAY_FAMILIES else DEFAULT_SHARES


def split_of(key: str) -> Split:
    """The split of the problem with this canonical key.

    It depends on nothing but the key, so two problems with the same key can never be in different splits,
    whatever order or seed they were generated in.
    """
    point = unit("split|" + key) * 100
    for split, share in shares_of(key).items():
        if point < share:
            return split
        point -= share
    raise AssertionError(f"The shares of {key!r} do not sum to 100")


def distinct(drawn: Iterable[Problem], key: Callable[[Problem], str], count: int) -> list[Problem]:
    """The first `count` of the drawn problems with different keys, in the order they came.

    Raises:
        ValueError: if 100 draws for each wanted problem do not bring enough: the world is too small for it.
    """
    found: dict[str, Problem] = {}
    for problem in itertools.islice(drawn, 100 * count):
        found.setdefault(key(problem), problem)
        if len(found) == count:
            return list(found.values())
    raise ValueError(f"Only {len(found)} distinct problems in {100 * count} draws, {count} are wanted")
