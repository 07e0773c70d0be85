"""A reward source under every family of probes: find right completions, ask, ask again, count."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from grpo_audit.config.checks import ProbeConfig
from grpo_audit.config.sections import RewardConfig
from grpo_audit.record.audits import ProbeFamily, RewardProbed
from grpo_audit.rewards.answers import readable
from grpo_audit.rewards.probes.asking import PATIENCE, Asker
from grpo_audit.rewards.probes.calibrate import Calibrated, calibrate
from grpo_audit.rewards.probes.families import DETERMINISM, FAMILIES, THREADS, Family, probes_of
from grpo_audit.rewards.probes.probe import Kind, Row
from grpo_audit.rewards.probes.tally import Examples, Judged, count
from grpo_audit.rewards.process import CallFailed
from grpo_audit.rewards.sources import Outcome, RewardSource

_ELSEWHERE: Final = ("judge", "reward model")
"""Kinds without a right answer: what they say comes from weights or a network."""
_AGAIN_A_FAMILY: Final = 2
"""Probes of each family that are asked again."""
_THREADS: Final = 4
_IN_THREADS: Final = 12
"""Completions that the threads are given."""

OnProgress = Callable[[int, int, str], None]
"""Called with the families done, their number, and the name of the next one."""


@dataclass(frozen=True)
class ProbeResult:
    """What the probes found."""

    payload: RewardProbed
    examples: bytes
    """Content ``examples`` of the event: JSON list, in the order of ``payload.examples``."""

    @property
    def false_positives(self) -> int:
        """Probes rewarded that must not be."""
        return sum(family.false_positives for family in self.payload.families)

    @property
    def hangs(self) -> int:
        """Probes on which the source hung or died."""
        return sum(family.hangs for family in self.payload.families)


def probe_source(
    config: RewardConfig,
    base_dir: Path,
    rows: Sequence[Row],
    *,
    probes: ProbeConfig | None = None,
    gold: str | None = None,
    seed: int = 0,
    log_fd: int = 2,
    on_progress: OnProgress | None = None,
    only_calibrate: bool = False,
) -> ProbeResult:
    """Probe one source, in its own process, with the columns of the prompt set, as in training.

    The probes are a pure function of the rows, the seed and what the source rewards in calibration.

    Args:
        config: the source as in the recipe.
        base_dir: relative files start here.
        rows: of the prompt set; as many as ``probes.rows`` are chosen by the seed.
        probes: how many rows, and from which value on a completion counts as rewarded.
        gold: the column with the reference, where it is not found by itself.
        seed: chooses the rows.
        log_fd: takes what the source prints.
        on_progress: told about each family.
        only_calibrate: stop when it is known how a right completion looks; ``payload.gold`` says whether it is.

    Raises RewardError when the source cannot be loaded, lacks a column, or has examples that cannot be used.
    """
    settings = probes or ProbeConfig()
    begin = time.monotonic()
    source = RewardSource(config, base_dir, log_fd=log_fd)
    try:
        source.start()
        source.check_columns({name for row in rows for name in row.columns})
        if source.identity.kind in _ELSEWHERE:
            return _nothing(source, settings, f"a {source.identity.kind} has no right answer to be probed with")
        chosen = _chosen(rows, settings.rows, seed)
        return _Probing(source, chosen, settings, begin, on_progress).run(gold, only_calibrate)
    finally:
        source.close()


def _chosen(rows: Sequence[Row], most: int, seed: int) -> list[Row]:
    """So many rows, in their order."""
    if len(rows) <= most:
        return list(rows)
    return [rows[index] for index in sorted(random.Random(f"probe rows:{seed}").sample(range(len(rows)), most))]


def _nothing(source: RewardSource, settings: ProbeConfig, why: str) -> ProbeResult:
    payload = RewardProbed(
        source=source.config.name,
        source_digest=source.identity.source_digest,
        threshold=settings.threshold,
        rows=0,
        probes=0,
        families=[],
        examples=[],
        seconds_per_call=0.0,
        seconds_worst=0.0,
        seconds=0.0,
        not_probed=why,
    )
    return ProbeResult(payload, b"[]")


class _Probing:
    """One source while it is probed."""

    def __init__(
        self,
        source: RewardSource,
        rows: Sequence[Row],
        settings: ProbeConfig,
        begin: float,
        on_progress: OnProgress | None,
    ) -> None:
        self._source = source
        self._rows = rows
        self._threshold = settings.threshold
        self._begin = begin
        self._asker = Asker(source, rows)
        self._tell = on_progress or (lambda *_: None)
        self._families: list[ProbeFamily] = []
        self._examples = Examples(rows)
        self._skipped: dict[str, str] = {}
        self._again: list[Judged] = []
        self._runs_code = False

    def run(self, gold: str | None, only_calibrate: bool) -> ProbeResult:
        """All of it."""
        total = len(FAMILIES) + 2
        self._tell(0, total, "calibration")
        found = calibrate(self._source, self._asker, self._rows, threshold=self._threshold, gold=gold)
        if not found.cases:
            why = found.why_not or "it applies to none of the rows"
            return _nothing(self._source, ProbeConfig(threshold=self._threshold), why)
        if only_calibrate:
            return ProbeResult(self._payload(found), b"[]")
        self._runs_code = any(case.kind is Kind.CODE for case in found.cases)
        for done, family in enumerate(FAMILIES):
            self._tell(done, total, family.name)
            self._ask(family, found)
        self._tell(total - 2, total, DETERMINISM.name)
        self._ask_again()
        self._tell(total - 1, total, THREADS.name)
        self._ask_in_threads()
        self._tell(total, total, "")
        return ProbeResult(self._payload(found), self._examples.full())

    def _ask(self, family: Family, found: Calibrated) -> None:
        probes = probes_of(family, found.cases)
        if not probes:
            self._skipped[family.name] = _reason(family, found)
            return
        judged: list[Judged] = []
        for alone in (False, True):
            some = [probe for probe in probes if probe.alone is alone]
            items = [(probe.row, probe.completion) for probe in some]
            outcomes = self._asker.ask(items, alone=alone)
            judged += [
                Judged(probe, outcome, self._threshold)
                for probe, outcome in zip(some, outcomes, strict=True)
                if outcome is not None
            ]
        if not judged:
            self._skipped[family.name] = f"not asked: {PATIENCE} calls before hung"
            return
        self._families.append(count(family.name, judged))
        self._examples.add(judged)
        calm = [item for item in judged if item.outcome.error is None and not item.probe.alone]
        most = 1 if self._runs_code else _AGAIN_A_FAMILY
        self._again += random.Random(f"again:{family.name}").sample(calm, min(most, len(calm)))

    def _ask_again(self) -> None:
        """In another process, in the reverse order, and once more."""
        self._source.forget()
        first = list(reversed(self._again))
        seen: list[Judged] = []
        for outcomes in (self._asker.ask(_items(first)), self._asker.ask(_items(first))):
            seen += [
                _again(item, outcome, "in another process")
                for item, outcome in zip(first, outcomes, strict=True)
                if outcome is not None
            ]
        self._count_again(DETERMINISM, seen)

    def _ask_in_threads(self) -> None:
        most = _THREADS if self._runs_code else _IN_THREADS
        some = random.Random("threads").sample(self._again, min(most, len(self._again)))
        if not some or self._asker.gave_up:
            self._count_again(THREADS, [])
            return
        try:
            answers = self._source.ask_in_threads(self._asker.batch(_items(some)), _THREADS)
        except CallFailed as error:
            answers = [[Outcome(None, str(error))] * len(some)]
        seen = [
            _again(item, outcome, "in one of several threads")
            for outcomes in answers
            for item, outcome in zip(some, outcomes, strict=True)
        ]
        self._count_again(THREADS, seen)

    def _count_again(self, family: Family, seen: Sequence[Judged]) -> None:
        if not seen:
            self._skipped[family.name] = "nothing was judged before that could be asked again"
            return
        named = [replace(item, probe=replace(item.probe, family=family.name)) for item in seen]
        # What a probe must be was counted in its own family; here only whether it is judged alike.
        figures = count(family.name, named)
        plain = ProbeFamily(
            family=family.name,
            negatives=0,
            false_positives=0,
            false_positive_high=None,
            positives=0,
            false_negatives=0,
            false_negative_high=None,
            failures=figures.failures,
            unstable=figures.unstable,
            hangs=figures.hangs,
            open=len(named),
            open_rewarded=sum(item.is_rewarded for item in named),
        )
        self._families.append(plain)
        self._examples.add([item for item in named if item.unstable or item.outcome.error])

    def _payload(self, found: Calibrated) -> RewardProbed:
        asked = self._asker
        kinds = Counter(str(case.kind) for case in found.cases)
        return RewardProbed(
            source=self._source.config.name,
            source_digest=self._source.identity.source_digest,
            threshold=self._threshold,
            rows=len(found.cases),
            probes=sum(f.negatives + f.positives + f.open + f.failures for f in self._families),
            families=self._families,
            examples=self._examples.short(),
            seconds_per_call=asked.seconds / asked.asked if asked.asked else 0.0,
            seconds_worst=asked.worst,
            seconds=time.monotonic() - self._begin,
            gold=readable(found.gold),
            formats=[form.name for form in found.formats],
            kinds=dict(sorted(kinds.items())),
            skipped=self._skipped | ({"right completions": readable(found.why_not)} if found.why_not else {}),
        )


def _items(judged: Sequence[Judged]) -> list[tuple[int, str]]:
    return [(item.probe.row, item.probe.completion) for item in judged]


def _again(before: Judged, outcome: Outcome, where: str) -> Judged:
    """The same probe with what was said this time."""
    same = before.outcome.value == outcome.value and before.outcome.error == outcome.error
    if same or outcome.error is not None:
        return replace(before, outcome=outcome)
    return replace(before, outcome=outcome, unstable=f"{_said(before.outcome)} at first, {_said(outcome)} {where}")


def _said(outcome: Outcome) -> str:
    return "does not apply" if outcome.value is None else f"{outcome.value:g}"


def _reason(family: Family, found: Calibrated) -> str:
    if not family.needs:
        return "no probe of this family fits"
    if found.cases and all(case.kind is Kind.FORM for case in found.cases):
        return "the source judges the form only"
    if not found.gold:
        return f"needs {family.needs}; no right completion is known"
    return f"needs {family.needs}"
