"""(34), its part about probes: what is registered was probed, and the counts of each family agree with themselves.

The probes are made of rows of the prompt set, of which the record holds only those that were drawn, so they are not
asked again.
"""

from __future__ import annotations

from collections import Counter

from scipy.stats import beta

from grpo_audit.config.run import RunConfig
from grpo_audit.record.events import RewardProbed, RunRegistered
from grpo_audit.verify.recompute.compare import same, shown
from grpo_audit.verify.verdict import Tally

_TOLERANCE = 1e-6
"""Quantiles of the beta distribution differ in the last digits between versions of the library."""


class ProbeCheck:
    """Follows the probe events of a run."""

    def __init__(self, registered: RunRegistered, config: RunConfig, tally: Tally) -> None:
        self._tally = tally
        self._digests = {item.name: item.source_digest for item in registered.rewards}
        self._config = config
        self._is_earlier = "probes" not in registered.config
        """A record of before there were probes."""
        self._seen: Counter[str] = Counter()

    def check(self, seq: int, probed: RewardProbed) -> None:
        """One source."""
        where = f"event {seq}, {probed.source:.60}"
        self._seen[probed.source] += 1
        self._tally.saw(3)
        if self._digests.get(probed.source) != probed.source_digest:
            self._tally.wrong(f"{where}: probes another source than the one registered")
        if probed.threshold != self._config.probes.threshold:
            self._tally.wrong(f"{where}: threshold {probed.threshold}, configured {self._config.probes.threshold}")
        asked = sum(family.negatives + family.positives + family.open for family in probed.families)
        if bool(probed.not_probed) != (not probed.probes) or asked > probed.probes:
            self._tally.wrong(f"{where}: {probed.probes} probes, its families have {asked} ({probed.not_probed:.60})")
        names = {family.family for family in probed.families}
        if not {example.family for example in probed.examples} <= names:
            self._tally.wrong(f"{where}: an example is of a family that is not there")
        for family in probed.families:
            self._bounds(
                f"{where}, {family.family:.40}", "false_positive", family.false_positives, family.negatives, family
            )
            self._bounds(
                f"{where}, {family.family:.40}", "false_negative", family.false_negatives, family.positives, family
            )

    def _bounds(self, where: str, name: str, hits: int, count: int, family: object) -> None:
        """Clopper and Pearson 1934: ends of the interval are quantiles of beta distributions."""
        self._tally.saw()
        if not 0 <= hits <= count:
            self._tally.wrong(f"{where}: {name} {hits} of {count}")
            return
        low = float(beta.ppf(0.025, hits, count - hits + 1)) if hits else 0.0
        high = float(beta.ppf(0.975, hits + 1, count - hits)) if hits < count else 1.0
        for end, expected in (("low", low if count else None), ("high", high if count else None)):
            stated = getattr(family, f"{name}_{end}")
            if not same(stated, expected, _TOLERANCE):
                self._tally.wrong(f"{where}: {name}_{end} is {shown(stated)}, the counts give {shown(expected)}")

    def finish(self, *, trained: bool) -> None:
        """Every source was probed once, before it was trained on."""
        if self._is_earlier or not self._config.probes.rewards:
            return
        for name in self._digests:
            if self._seen[name] > 1:
                self._tally.wrong(f"{name} was probed {self._seen[name]} times")
            if trained and not self._seen[name]:
                self._tally.wrong(f"the recipe says that rewards are probed, and {name} was not")
        for name in self._seen.keys() - self._digests.keys():
            self._tally.wrong(f"{name:.60} was probed and is no reward of this run")
