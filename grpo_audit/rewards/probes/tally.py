"""Judgements counted by family, with exact bounds, and the worst of them as examples."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from statsmodels.stats.proportion import proportion_confint

from grpo_audit.record.audits import ProbeExample, ProbeFamily
from grpo_audit.rewards.answers import readable
from grpo_audit.rewards.probes.asking import is_hang
from grpo_audit.rewards.probes.probe import Expect, Probe, Row
from grpo_audit.rewards.sources import Outcome

_EXAMPLES_A_FAMILY: Final = 3
_EXAMPLES: Final = 60
_LONGEST: Final = 4000
"""Characters of a text in an example; of a longer one the beginning and the end."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A probe and what the source said."""

    probe: Probe
    outcome: Outcome
    threshold: float
    unstable: str = ""
    """How it was judged when asked again, where that was different."""

    @property
    def is_rewarded(self) -> bool:
        """Whether the completion counts as rewarded."""
        return self.outcome.value is not None and self.outcome.value >= self.threshold

    @property
    def severity(self) -> int:
        """3: rewarded and must not be; 2: hung; 1: failed, unstable or not rewarded; 0: as it should be."""
        if self.probe.expect is Expect.REJECT and self.is_rewarded:
            return 3
        if is_hang(self.outcome.error):
            return 2
        missed = self.probe.expect is Expect.ACCEPT and not self.is_rewarded
        return int(missed or self.outcome.error is not None or bool(self.unstable))

    @property
    def what(self) -> str:
        """What is wrong with it, in words."""
        if self.unstable:
            return f"{self.probe.note}: {self.unstable}"
        if self.outcome.error is not None:
            return f"{self.probe.note}: failed"
        said = "does not apply" if self.outcome.value is None else f"{self.outcome.value:g}"
        return f"{self.probe.note}: {said}, and {self.probe.expect}"


def bounds(hits: int, count: int) -> tuple[float, float] | tuple[None, None]:
    """Two-sided 95 % Clopper-Pearson interval of a rate (Biometrika 26, 1934); None for no observation."""
    if count == 0:
        return None, None
    low, high = proportion_confint(hits, count, alpha=0.05, method="beta")
    return float(low), float(high)


def count(name: str, judged: Sequence[Judged]) -> ProbeFamily:
    """The figures of a family. A probe the source failed on is neither right nor wrong: it is a failure, and in no
    rate."""
    answered = [item for item in judged if item.outcome.error is None]
    negatives = [item for item in answered if item.probe.expect is Expect.REJECT]
    positives = [item for item in answered if item.probe.expect is Expect.ACCEPT]
    open_ones = [item for item in answered if item.probe.expect is Expect.EITHER]
    false_positives = sum(item.is_rewarded for item in negatives)
    false_negatives = sum(not item.is_rewarded for item in positives)
    positive, negative = bounds(false_positives, len(negatives)), bounds(false_negatives, len(positives))
    return ProbeFamily(
        family=name,
        negatives=len(negatives),
        false_positives=false_positives,
        false_positive_low=positive[0],
        false_positive_high=positive[1],
        positives=len(positives),
        false_negatives=false_negatives,
        false_negative_low=negative[0],
        false_negative_high=negative[1],
        failures=sum(item.outcome.error is not None for item in judged),
        hangs=sum(is_hang(item.outcome.error) for item in judged),
        unstable=sum(bool(item.unstable) for item in judged),
        open=len(open_ones),
        open_rewarded=sum(item.is_rewarded for item in open_ones),
    )


@dataclass
class Examples:
    """The probes that were judged wrongly, a few of each family, the worst first."""

    rows: Sequence[Row]
    found: list[tuple[int, Judged]] = field(default_factory=list)
    """With the rank in its family."""

    def add(self, judged: Sequence[Judged]) -> None:
        """Those of one family: one of each note before a second of any."""
        wrong = sorted((item for item in judged if item.severity), key=lambda item: -item.severity)
        notes: dict[str, int] = {}
        ranked: list[tuple[int, int, Judged]] = []
        for item in wrong:
            notes[item.probe.note] = notes.get(item.probe.note, 0) + 1
            ranked.append((-item.severity, notes[item.probe.note], item))
        ranked.sort(key=lambda entry: entry[:2])
        self.found += [(rank, item) for rank, (_, _, item) in enumerate(ranked[:_EXAMPLES_A_FAMILY])]

    def kept(self) -> list[Judged]:
        """Worst first; of equally bad ones the first of each family before the second of any."""
        return [item for _, item in sorted(self.found, key=lambda entry: (-entry[1].severity, entry[0]))][:_EXAMPLES]

    def short(self) -> list[ProbeExample]:
        """For the event."""
        return [
            ProbeExample(
                family=item.probe.family,
                what=readable(item.what),
                value=item.outcome.value,
                error=readable(item.outcome.error or ""),
            )
            for item in self.kept()
        ]

    def full(self) -> bytes:
        """With their texts: a JSON list in the order of ``short``."""
        return json.dumps([self._full(item) for item in self.kept()], ensure_ascii=False, indent=1).encode()

    def _full(self, item: Judged) -> dict[str, Any]:
        row = self.rows[item.probe.row]
        return {
            "family": item.probe.family,
            "expected": str(item.probe.expect),
            "what": readable(item.what),
            "value": item.outcome.value,
            "error": readable(item.outcome.error or ""),
            "row": row.id,
            "prompt": _cut(row.text),
            "completion": _cut(item.probe.completion),
            "characters": len(item.probe.completion),
            "columns": _cut(json.dumps(row.columns, ensure_ascii=False, default=str)),
        }


def _cut(text: str) -> str:
    text = readable(text)
    if len(text) <= _LONGEST:
        return text
    half = _LONGEST // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half:,} characters ...]\n{text[-half:]}"
