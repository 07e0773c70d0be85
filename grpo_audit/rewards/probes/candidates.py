"""Where right answers may come from: what the source's module says, or the columns that its function names."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from grpo_audit.errors import RewardError
from grpo_audit.rewards.examples import countdown
from grpo_audit.rewards.probes.answers import GOLD_COLUMNS, kind_of, readings, surely_wrong, wrong_answers
from grpo_audit.rewards.probes.asking import Asker
from grpo_audit.rewards.probes.probe import Kind, Row
from grpo_audit.rewards.process import CallFailed
from grpo_audit.rewards.signature import GIVEN
from grpo_audit.rewards.sources import RewardSource

_NUMBERS: Final = ("numbers", "nums")
"""What the numbers of a Countdown problem are called."""
_DECLARED_KINDS: Final = {
    "number": Kind.NUMBER, "text": Kind.TEXT, "letter": Kind.LETTER, "expression": Kind.EXPRESSION, "json": Kind.JSON,
    "code": Kind.CODE, "countdown": Kind.COUNTDOWN, "lettered": Kind.LETTERED, "form": Kind.FORM,
}  # fmt: skip


@dataclass(frozen=True)
class Known:
    """Right and wrong answers of one row, before it is known how they are given."""

    kind: Kind
    right: tuple[str, ...]
    wrong: tuple[str, ...] = ()
    others: tuple[str, ...] = ()


@dataclass(frozen=True)
class Candidate:
    """One place where right answers may come from."""

    name: str
    known: dict[int, Known] = field(default_factory=dict)
    """By row; rows without a reference are missing."""
    guessed: bool = False
    """Whether the source takes any column and names none, so that it may not look at this one at all."""


def candidates(source: RewardSource, asker: Asker, rows: Sequence[Row], gold: str | None) -> Iterator[Candidate]:
    """Places to try, the likeliest first: the column ``gold`` where one is named, else what the module says, else a
    Countdown problem or the columns that the function names. Raises RewardError."""
    if gold is not None:
        columns = [gold]
        if not any(gold in row.columns for row in rows):
            known = sorted({name for row in rows for name in row.columns})
            raise RewardError(f"There is no column {gold!r}", found=f"the columns {', '.join(known) or '(none)'}")
    elif source.loaded.has_examples:
        yield _declared(source, asker, rows)
        return
    else:
        named, guessed = columns_of(source, rows)
        yield from _countdown(named, guessed, rows)
        columns = [name for name in GOLD_COLUMNS if name in named]
        columns += [name for name in named if name not in columns and not guessed]
        yield from (replace(item, guessed=guessed) for column in columns for item in _of_column(column, rows))
        return
    for column in columns:
        yield from _of_column(column, rows)


def columns_of(source: RewardSource, rows: Sequence[Row]) -> tuple[list[str], bool]:
    """Columns that may hold the reference: those the function names. Where it names none and takes any, all of them,
    and whether that is no more than a guess: for a rule they are none, for a verifier it is none."""
    present = list(dict.fromkeys(name for row in rows for name in row.columns))
    named = [name for name in source.loaded.named if name in present and name not in GIVEN]
    declared = source.config.kind or source.loaded.declared.get("kind")
    if named or source.loaded.accepted is not None or declared == "rule":
        return named, False
    return present, declared != "verifier"


def _countdown(named: Sequence[str], guessed: bool, rows: Sequence[Row]) -> Iterator[Candidate]:
    """Numbers and a target are a Countdown problem, whoever judges it: its answer is no column, least of all the
    target."""
    numbers = next((name for name in _NUMBERS if name in named), None)
    if numbers is None or "target" not in named:
        return
    found: dict[int, Known] = {}
    for index, row in enumerate(rows):
        given, target = row.columns.get(numbers), row.columns.get("target")
        if isinstance(given, list) and all(type(item) is int for item in (*given, target)):
            made = countdown(given, int(str(target)))
            if made is not None:
                found[index] = _read(made, "Countdown")
    if found:
        yield Candidate(f"solutions for the columns {numbers} and target", _with_others(found), guessed)


def _of_column(column: str, rows: Sequence[Row]) -> Iterator[Candidate]:
    read = {index: readings(row.columns.get(column)) for index, row in enumerate(rows)}
    ways = list(dict.fromkeys(way for found in read.values() for way in found))
    for way in ways:
        accepted = {index: found.get(way) or next(iter(found.values())) for index, found in read.items() if found}
        name = f"column {column}" if way == "as it is" else f"column {column}, {way}"
        yield Candidate(name, {index: _known(index, accepted) for index in accepted})


def _known(index: int, accepted: Mapping[int, Sequence[str]]) -> Known:
    """Distractors from the other rows, nearest ones first, and made ones."""
    mine = tuple(accepted[index])
    kind = kind_of(mine[0])
    order = sorted((other for other in accepted if other != index), key=lambda other: (other - index) % (1 << 30))
    others: list[str] = []
    for other in order:
        text = accepted[other][0]
        if text not in others and surely_wrong(text, mine, kind):
            others.append(text)
        if len(others) == 4:
            break
    return Known(kind, mine, tuple(wrong_answers(mine, kind, others)), tuple(others))


def _declared(source: RewardSource, asker: Asker, rows: Sequence[Row]) -> Candidate:
    """What the module says; checked for its shape, and for the right answers by asking."""
    where = f"Reward {source.config.name}: EXAMPLES of its module"
    try:
        found = source.examples(asker.batch([(index, "") for index in range(len(rows))]))
    except CallFailed as error:
        raise RewardError(f"{where} failed", found=str(error)) from error
    known = {index: _read(item, where) for index, item in enumerate(found or []) if item is not None}
    return Candidate("examples of the module", _with_others(known))


def _with_others(known: dict[int, Known]) -> dict[int, Known]:
    """Countdown: a solution for other numbers is surely none. Of other kinds nothing is known across rows."""
    numbers = {
        index: sorted(re.findall("[0-9]+", item.right[0]))
        for index, item in known.items()
        if item.kind is Kind.COUNTDOWN
    }
    found = dict(known)
    for index in numbers:
        order = sorted(numbers, key=lambda other: (other - index) % (1 << 30))
        others = tuple(known[other].right[0] for other in order if numbers[other] != numbers[index])[:4]
        found[index] = replace(known[index], others=others, wrong=(*known[index].wrong, *others))
    return found


def _read(item: Any, where: str) -> Known:
    texts = [item.get(name, []) for name in ("right", "wrong")] if isinstance(item, Mapping) else [None]
    fits = all(isinstance(part, list) and all(isinstance(text, str) for text in part) for part in texts)
    if not fits or not texts[0] or item.get("kind") not in _DECLARED_KINDS:
        raise RewardError(
            f"{where} cannot be used",
            found=repr(item)[:80],
            expected="for each row None or {'kind': KIND, 'right': [TEXT], 'wrong': [TEXT]}, KIND one of "
            + ", ".join(_DECLARED_KINDS),
        )
    return Known(_DECLARED_KINDS[item["kind"]], tuple(item["right"]), tuple(item.get("wrong", [])))
