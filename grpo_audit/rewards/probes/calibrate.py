"""How a right completion looks for this source: found by giving it the reference in every usual form.

A source says itself what is right where its module declares ``EXAMPLES``. Otherwise the columns that the function names
are tried. What is not rewarded in any form is not known, and then nothing is made of it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from grpo_audit.errors import RewardError
from grpo_audit.rewards.examples import countdown
from grpo_audit.rewards.probes.answers import GOLD_COLUMNS, kind_of, readings, surely_wrong, wrong_answers
from grpo_audit.rewards.probes.asking import Asker
from grpo_audit.rewards.probes.case import Case
from grpo_audit.rewards.probes.formats import PLAIN, WHOLE, WITH_TRACE, Format
from grpo_audit.rewards.probes.probe import Kind, Row
from grpo_audit.rewards.process import CallFailed
from grpo_audit.rewards.signature import GIVEN
from grpo_audit.rewards.sources import RewardSource

_TRIED: Final = 8
"""Rows on which the forms are tried."""
_TRIED_OF_CODE: Final = 2
_AS_GOOD: Final = 0.9
"""Share of the best form's rewards that another form must earn to count as read; partial credit is less."""
_NUMBERS: Final = ("numbers", "nums")
"""What the numbers of a Countdown problem are called."""
_DUMMY: Final = "42"
"""An answer for rules that do not look at it."""
_DECLARED_KINDS: Final = {
    "number": Kind.NUMBER, "text": Kind.TEXT, "letter": Kind.LETTER, "expression": Kind.EXPRESSION, "json": Kind.JSON,
    "code": Kind.CODE, "countdown": Kind.COUNTDOWN, "lettered": Kind.LETTERED, "form": Kind.FORM,
}  # fmt: skip


@dataclass(frozen=True)
class Calibrated:
    """What the families are made of."""

    cases: list[Case]
    gold: str
    """Where right answers came from; empty when none was found."""
    formats: tuple[Format, ...]
    """In which they are rewarded, the one in use first."""
    why_not: str = ""
    """Why none was found."""


@dataclass(frozen=True)
class _Known:
    """Right and wrong answers of one row, before it is known how they are given."""

    kind: Kind
    right: tuple[str, ...]
    wrong: tuple[str, ...] = ()
    others: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Candidate:
    """One place where right answers may come from."""

    name: str
    known: dict[int, _Known] = field(default_factory=dict)
    """By row; rows without a reference are missing."""
    guessed: bool = False
    """Whether the source takes any column and names none, so that it may not look at this one at all."""


def calibrate(
    source: RewardSource, asker: Asker, rows: Sequence[Row], *, threshold: float, gold: str | None
) -> Calibrated:
    """Find right completions for the rows.

    Args:
        source: started.
        asker: asks it.
        rows: those that are probed.
        threshold: from which value on a completion counts as rewarded.
        gold: the column to take, or None to find it.

    Raises RewardError when what the module declares as examples cannot be used, or ``gold`` is no column.
    """
    trial = _Trial(asker, threshold)
    best: tuple[_Candidate, tuple[Format, ...]] | None = None
    tried: list[str] = []
    for candidate in _candidates(source, asker, rows, gold):
        formats = trial.formats(candidate)
        tried.append(candidate.name)
        if formats and (best is None or trial.hits[candidate.name] > trial.hits[best[0].name]):
            best = (candidate, formats)
    columns = _columns(source, rows)[0]
    if not tried and (columns or gold is not None):
        return Calibrated([], "", (), f"no row has a reference in the column {gold or ', '.join(columns)}")
    if not tried:
        return _form(source, trial, rows)
    if best is None:
        why = f"the source rewards none of what was tried as the right answer ({', '.join(tried)})"
        return Calibrated([_unknown(index, row, strict=True) for index, row in enumerate(rows)], "", (), why)
    candidate, formats = best
    if candidate.guessed and not trial.tells_apart(candidate, formats[0]):
        return _form(source, trial, rows)
    return Calibrated(_cases(rows, candidate, formats, trial), candidate.name, formats)


class _Trial:
    """Asks whether right answers are rewarded."""

    def __init__(self, asker: Asker, threshold: float) -> None:
        self._asker = asker
        self._threshold = threshold
        self.hits: dict[str, float] = {}
        """Sum of the rewards in the best form, by candidate."""

    def rewarded(self, items: Sequence[tuple[int, str]]) -> list[bool | None]:
        """For each row and completion; None where the source does not apply."""
        return [None if value is None else value >= self._threshold for value in self._values(items)]

    def _values(self, items: Sequence[tuple[int, str]]) -> list[float | None]:
        """Rewards; minus infinity for an error, None where the source does not apply."""
        found: list[float | None] = []
        for outcome in self._asker.ask(items):
            if outcome is None or (outcome.value is None and outcome.error is None):
                found.append(None)
            else:
                found.append(-math.inf if outcome.value is None else outcome.value)
        return found

    def formats(self, candidate: _Candidate) -> tuple[Format, ...]:
        """The forms that are rewarded on most rows, in order of preference; none when no row is rewarded in any."""
        is_form = all(known.kind is Kind.FORM for known in candidate.known.values())
        return self._of(candidate, (WHOLE,) if is_form else PLAIN) or self._of(candidate, () if is_form else WITH_TRACE)

    def tells_apart(self, candidate: _Candidate, form: Format) -> bool:
        """Whether some wrong answer is not rewarded; else the source judges the form and not the answer."""
        items = [(row, form.of(known.wrong[0])) for row, known in candidate.known.items() if known.wrong]
        return not all(hit is True for hit in self.rewarded(items[:_TRIED]))

    def _of(self, candidate: _Candidate, forms: tuple[Format, ...]) -> tuple[Format, ...]:
        runs_code = any(known.kind is Kind.CODE for known in candidate.known.values())
        tried = list(candidate.known.items())[: _TRIED_OF_CODE if runs_code else _TRIED]
        items = [(row, form.of(known.right[0])) for form in forms for row, known in tried]
        values = self._values(items)
        sums: dict[Format, float] = {}
        for number, form in enumerate(forms):
            own = values[number * len(tried) : (number + 1) * len(tried)]
            sums[form] = sum(value for value in own if value is not None and value >= self._threshold)
        most = max(sums.values(), default=0.0)
        self.hits[candidate.name] = max(most, self.hits.get(candidate.name, 0.0))
        if most <= 0:
            return ()
        best = next(form for form in forms if sums[form] == most)
        return (best, *(form for form in forms if form is not best and sums[form] >= _AS_GOOD * most))


# --- where right answers come from ------------------------------------------------------------------------------------


def _candidates(source: RewardSource, asker: Asker, rows: Sequence[Row], gold: str | None) -> Iterator[_Candidate]:
    if gold is not None:
        columns = [gold]
        if not any(gold in row.columns for row in rows):
            known = sorted({name for row in rows for name in row.columns})
            raise RewardError(f"There is no column {gold!r}", found=f"the columns {', '.join(known) or '(none)'}")
    elif source.loaded.has_examples:
        yield _declared(source, asker, rows)
        return
    else:
        named, guessed = _columns(source, rows)
        yield from _countdown(named, guessed, rows)
        columns = [name for name in GOLD_COLUMNS if name in named]
        columns += [name for name in named if name not in columns and not guessed]
        yield from (replace(item, guessed=guessed) for column in columns for item in _of_column(column, rows))
        return
    for column in columns:
        yield from _of_column(column, rows)


def _columns(source: RewardSource, rows: Sequence[Row]) -> tuple[list[str], bool]:
    """Columns that may hold the reference: those the function names. Where it names none and takes any, all of them,
    and whether that is no more than a guess: for a rule they are none, for a verifier it is none."""
    present = list(dict.fromkeys(name for row in rows for name in row.columns))
    named = [name for name in source.loaded.named if name in present and name not in GIVEN]
    declared = source.config.kind or source.loaded.declared.get("kind")
    if named or source.loaded.accepted is not None or declared == "rule":
        return named, False
    return present, declared != "verifier"


def _countdown(named: Sequence[str], guessed: bool, rows: Sequence[Row]) -> Iterator[_Candidate]:
    """Numbers and a target are a Countdown problem, whoever judges it: its answer is no column, least of all the
    target."""
    numbers = next((name for name in _NUMBERS if name in named), None)
    if numbers is None or "target" not in named:
        return
    found: dict[int, _Known] = {}
    for index, row in enumerate(rows):
        given, target = row.columns.get(numbers), row.columns.get("target")
        if isinstance(given, list) and all(type(item) is int for item in (*given, target)):
            made = countdown(given, int(str(target)))
            if made is not None:
                found[index] = _read(made, "Countdown")
    if found:
        yield _Candidate(f"solutions for the columns {numbers} and target", _with_others(found), guessed)


def _of_column(column: str, rows: Sequence[Row]) -> Iterator[_Candidate]:
    read = {index: readings(row.columns.get(column)) for index, row in enumerate(rows)}
    ways = list(dict.fromkeys(way for found in read.values() for way in found))
    for way in ways:
        accepted = {index: found.get(way) or next(iter(found.values())) for index, found in read.items() if found}
        name = f"column {column}" if way == "as it is" else f"column {column}, {way}"
        yield _Candidate(name, {index: _known(index, accepted) for index in accepted})


def _known(index: int, accepted: Mapping[int, Sequence[str]]) -> _Known:
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
    return _Known(kind, mine, tuple(wrong_answers(mine, kind, others)), tuple(others))


def _declared(source: RewardSource, asker: Asker, rows: Sequence[Row]) -> _Candidate:
    """What the module says; checked for its shape, and for the right answers by asking."""
    where = f"Reward {source.config.name}: EXAMPLES of its module"
    try:
        found = source.examples(asker.batch([(index, "") for index in range(len(rows))]))
    except CallFailed as error:
        raise RewardError(f"{where} failed", found=str(error)) from error
    known = {index: _read(item, where) for index, item in enumerate(found or []) if item is not None}
    return _Candidate("examples of the module", _with_others(known))


def _with_others(known: dict[int, _Known]) -> dict[int, _Known]:
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


def _read(item: Any, where: str) -> _Known:
    texts = [item.get(name, []) for name in ("right", "wrong")] if isinstance(item, Mapping) else [None]
    fits = all(isinstance(part, list) and all(isinstance(text, str) for text in part) for part in texts)
    if not fits or not texts[0] or item.get("kind") not in _DECLARED_KINDS:
        raise RewardError(
            f"{where} cannot be used",
            found=repr(item)[:80],
            expected="for each row None or {'kind': KIND, 'right': [TEXT], 'wrong': [TEXT]}, KIND one of "
            + ", ".join(_DECLARED_KINDS),
        )
    return _Known(_DECLARED_KINDS[item["kind"]], tuple(item["right"]), tuple(item.get("wrong", [])))


# --- cases ------------------------------------------------------------------------------------------------------------


def _cases(rows: Sequence[Row], candidate: _Candidate, formats: tuple[Format, ...], trial: _Trial) -> list[Case]:
    """One for each row the source applies to."""
    base, containers = formats[0], tuple(form for form in formats if form.is_container and not form.with_trace)
    known = list(candidate.known.items())
    judged = trial.rewarded([(row, base.of(item.right[0])) for row, item in known])
    if base.is_container and base not in containers:
        containers = (base, *containers)
    return [
        Case(
            row=row,
            prompt=rows[row].text,
            kind=item.kind,
            accepted=item.right,
            wrong=item.wrong,
            others=item.others,
            format=base,
            containers=containers,
            strict=True,
            judged=hit is True,
        )
        for (row, item), hit in zip(known, judged, strict=True)
        if hit is not None
    ]


def _form(source: RewardSource, trial: _Trial, rows: Sequence[Row]) -> Calibrated:
    """A source that looks at no column: does it ask for a form?"""
    known = {index: _Known(Kind.UNKNOWN, (_DUMMY,)) for index in range(len(rows))}
    formats = trial.formats(_Candidate("form", known))
    verifier = (source.config.kind or source.loaded.declared.get("kind")) == "verifier"
    if not formats or verifier:
        why = "the source is given no reference" + ("" if verifier else ", and rewards none of the usual forms")
        return Calibrated([_unknown(index, row, strict=verifier) for index, row in enumerate(rows)], "", (), why)
    if any(form.name == WHOLE.name and not form.with_trace for form in formats):
        why = "the source is given no reference, and asks for no form of its own"
        return Calibrated([_unknown(index, row, strict=False) for index, row in enumerate(rows)], "", (), why)
    completion = formats[0].of(_DUMMY)
    known = {index: _Known(Kind.FORM, (completion,)) for index in range(len(rows))}
    candidate = _Candidate("form found by trying", known)
    return Calibrated(_cases(rows, candidate, (WHOLE,), trial), candidate.name, formats)


def _unknown(index: int, row: Row, *, strict: bool) -> Case:
    return Case(
        row=index,
        prompt=row.text,
        kind=Kind.UNKNOWN,
        accepted=(),
        wrong=(),
        others=(),
        format=PLAIN[0],
        containers=(),
        strict=strict,
        judged=False,
    )
