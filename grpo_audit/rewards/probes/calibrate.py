"""How a right completion looks for this source: found by giving it the reference in every usual form.

A source says itself what is right where its module declares ``EXAMPLES``. Otherwise the columns that the function names
are tried. What is not rewarded in any form is not known, and then nothing is made of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from grpo_audit.rewards.probes.asking import Asker
from grpo_audit.rewards.probes.candidates import Candidate, Known, candidates, columns_of
from grpo_audit.rewards.probes.case import Case
from grpo_audit.rewards.probes.formats import PLAIN, WHOLE, WITH_TRACE, Format
from grpo_audit.rewards.probes.probe import Kind, Row
from grpo_audit.rewards.sources import RewardSource

_TRIED: Final = 8
"""Rows on which the forms are tried."""
_TRIED_OF_CODE: Final = 2
_AS_GOOD: Final = 0.9
"""Share of the best form's rewards that another form must earn to count as read; partial credit is less."""
_DUMMY: Final = "42"
"""An answer for rules that do not look at it."""


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
    best: tuple[Candidate, tuple[Format, ...]] | None = None
    tried: list[str] = []
    for candidate in candidates(source, asker, rows, gold):
        formats = trial.formats(candidate)
        tried.append(candidate.name)
        if formats and (best is None or trial.hits[candidate.name] > trial.hits[best[0].name]):
            best = (candidate, formats)
    columns = columns_of(source, rows)[0]
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

    def formats(self, candidate: Candidate) -> tuple[Format, ...]:
        """The forms that are rewarded on most rows, in order of preference; none when no row is rewarded in any."""
        is_form = all(known.kind is Kind.FORM for known in candidate.known.values())
        return self._of(candidate, (WHOLE,) if is_form else PLAIN) or self._of(candidate, () if is_form else WITH_TRACE)

    def tells_apart(self, candidate: Candidate, form: Format) -> bool:
        """Whether some wrong answer is not rewarded; else the source judges the form and not the answer."""
        items = [(row, form.of(known.wrong[0])) for row, known in candidate.known.items() if known.wrong]
        return not all(hit is True for hit in self.rewarded(items[:_TRIED]))

    def _of(self, candidate: Candidate, forms: tuple[Format, ...]) -> tuple[Format, ...]:
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


# --- cases ------------------------------------------------------------------------------------------------------------


def _cases(rows: Sequence[Row], candidate: Candidate, formats: tuple[Format, ...], trial: _Trial) -> list[Case]:
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
    known = {index: Known(Kind.UNKNOWN, (_DUMMY,)) for index in range(len(rows))}
    formats = trial.formats(Candidate("form", known))
    verifier = (source.config.kind or source.loaded.declared.get("kind")) == "verifier"
    if not formats or verifier:
        why = "the source is given no reference" + ("" if verifier else ", and rewards none of the usual forms")
        return Calibrated([_unknown(index, row, strict=verifier) for index, row in enumerate(rows)], "", (), why)
    if any(form.name == WHOLE.name and not form.with_trace for form in formats):
        why = "the source is given no reference, and asks for no form of its own"
        return Calibrated([_unknown(index, row, strict=False) for index, row in enumerate(rows)], "", (), why)
    completion = formats[0].of(_DUMMY)
    known = {index: Known(Kind.FORM, (completion,)) for index in range(len(rows))}
    candidate = Candidate("form found by trying", known)
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
