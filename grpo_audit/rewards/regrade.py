"""Real rollouts graded again by an independent second verifier.

A verifier that a policy has learnt to game goes on paying; another one, written on another basis, does not fall for the
same trick. So what only the source rewards, and whether its share grows over the steps, is the sign to look for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Final

from statsmodels.stats.inter_rater import cohens_kappa

from grpo_audit.config.run import RunConfig
from grpo_audit.config.sections import RewardConfig
from grpo_audit.ledger.project import Project
from grpo_audit.record.audits import RewardRegraded
from grpo_audit.record.identities import RewardIdentity
from grpo_audit.rewards.probes.asking import is_hang
from grpo_audit.rewards.recorded import Recorded, chosen_steps, rollouts_of
from grpo_audit.rewards.sources import Batch, Outcome, RewardSource

_EXAMPLES: Final = 20
_PART: Final = 5
"""Early is the first fifth of the steps, late the last one."""
_BATCH: Final = 256
_PATIENCE: Final = 3
"""Batches in which a second verifier may hang; each costs about six time limits."""

OnProgress = Callable[[int, int], None]
"""Called with the rollouts read and about how many there will be."""


@dataclass
class _Agreement:
    """Counts of one source against its second verifier."""

    both: int = 0
    neither: int = 0
    only_first: int = 0
    only_second: int = 0
    failures: int = 0
    inapplicable: int = 0
    by_step: dict[int, list[int]] = field(default_factory=dict)
    """Step -> rollouts graded by both, and of these rewarded by the source only."""
    first_examples: list[int] = field(default_factory=list)
    second_examples: list[int] = field(default_factory=list)

    @property
    def rollouts(self) -> int:
        """Graded by both."""
        return self.both + self.neither + self.only_first + self.only_second

    def take(self, rollout: Recorded, first: float | None, second: Outcome, threshold: float) -> None:
        """Count one rollout."""
        if second.error is not None:
            self.failures += 1
            return
        if first is None or second.value is None:
            self.inapplicable += 1
            return
        rewarded = first >= threshold, second.value >= threshold
        share = self.by_step.setdefault(rollout.step, [0, 0])
        share[0] += 1
        match rewarded:
            case (True, True):
                self.both += 1
            case (False, False):
                self.neither += 1
            case (True, False):
                self.only_first += 1
                share[1] += 1
                self.first_examples = [*self.first_examples, rollout.seq][-_EXAMPLES:]
            case _:
                self.only_second += 1
                self.second_examples = [*self.second_examples, rollout.seq][-_EXAMPLES:]

    def kappa(self) -> float | None:
        """Cohen's kappa (Educational and Psychological Measurement 20, 1960); None where it is not defined, because one
        of the two always says the same."""
        first, second = self.both + self.only_first, self.both + self.only_second
        if not 0 < first < self.rollouts or not 0 < second < self.rollouts:
            return None
        table = [[self.both, self.only_first], [self.only_second, self.neither]]
        return float(cohens_kappa(table, return_results=False))

    def share(self, steps: Sequence[int]) -> float | None:
        """Share of rollouts of these steps that only the source rewards; None where none was graded."""
        counts = [self.by_step[step] for step in steps if step in self.by_step]
        graded = sum(count for count, _ in counts)
        return sum(only for _, only in counts) / graded if graded else None


class Second:
    """A source's second verifier in a process of its own; it gets the source's options."""

    def __init__(self, config: RewardConfig, base_dir: Path, *, log_fd: int = 2) -> None:
        """Raises RewardError when the source names none, or it cannot be loaded."""
        if config.second is None:
            raise ValueError(f"reward {config.name} has no second verifier")
        self.first = config
        self._hung = 0
        changed = {"source": config.second, "second": None, "kind": "verifier", "version": None, "domain": None}
        self._source = RewardSource(config.model_copy(update=changed), base_dir, log_fd=log_fd)
        try:
            self._source.start()
        except BaseException:
            self.close()
            raise

    @property
    def identity(self) -> RewardIdentity:
        """Who it is, under the name of the source that it grades again."""
        return self._source.identity

    @property
    def texts(self) -> dict[str, bytes]:
        """Its source file and those loaded with it, by the name of the reward (``NAME/FILE``)."""
        return self._source.texts

    def check_columns(self, names: Sequence[str]) -> None:
        """Raises RewardError when it needs an argument that the prompt set does not have."""
        self._source.check_columns(names)

    def grade(self, rollouts: Sequence[Recorded]) -> list[Outcome]:
        """What it says of each. One that hangs in a few batches is not asked any more: all further rollouts fail."""
        if not rollouts:
            return []
        if self._hung >= _PATIENCE:
            return [Outcome(None, f"not asked any more: it hung or died in {self._hung} batches")] * len(rollouts)
        names = list(dict.fromkeys(name for item in rollouts for name in item.columns))
        columns = {name: [item.columns.get(name) for item in rollouts] for name in names}
        batch = Batch([item.prompt for item in rollouts], [item.completion for item in rollouts], columns)
        found = self._source.score(batch, batch.request())
        self._hung += any(is_hang(outcome.error) for outcome in found)
        return found

    def close(self) -> None:
        """End its process."""
        self._source.close()


@dataclass(frozen=True)
class SecondVerifier:
    """A second verifier as it is registered before step 0."""

    identity: RewardIdentity
    """Under the name of the source that it grades again."""
    texts: Mapping[str, bytes]
    """Its source file and those loaded with it, by the name of the source (``NAME/FILE``)."""


def load_seconds(configs: Sequence[RewardConfig], base_dir: Path, columns: Sequence[str]) -> list[SecondVerifier]:
    """Load every second verifier once, so that a slip in the recipe shows before training. Raises RewardError."""
    found: list[SecondVerifier] = []
    for config in configs:
        if config.second is not None:
            second = Second(config, base_dir)
            try:
                second.check_columns(columns)
                found.append(SecondVerifier(second.identity, second.texts))
            finally:
                second.close()
    return found


def regrade(
    project: Project,
    run_id: str,
    config: RunConfig,
    base_dir: Path,
    *,
    log_fd: int = 2,
    on_progress: OnProgress | None = None,
) -> list[RewardRegraded]:
    """Grade recorded rollouts again with the second verifier of each source that names one.

    Steps are spread evenly over the run, so many that about ``config.probes.regrade`` rollouts are read (of a larger
    step, groups spread evenly over it); the texts of one batch are in memory at a time.

    Raises RewardError when a second verifier cannot be loaded, DamagedRecordError when the record cannot be read.
    """
    named = [reward for reward in config.rewards if reward.second is not None]
    if not named or not config.probes.regrade:
        return []
    seconds: list[Second] = []
    try:
        seconds += [Second(reward, base_dir, log_fd=log_fd) for reward in named]
        return _graded(project, run_id, seconds, config.probes.regrade, config.probes.threshold, on_progress)
    finally:
        for second in seconds:
            second.close()


def _graded(
    project: Project,
    run_id: str,
    seconds: Sequence[Second],
    most: int,
    threshold: float,
    on_progress: OnProgress | None,
) -> list[RewardRegraded]:
    found = [_Agreement() for _ in seconds]
    unreadable = done = 0
    steps, total = chosen_steps(project, run_id, most)
    for step in steps:
        rollouts = rollouts_of(project, run_id, step, most=-(-most // len(steps)))
        while part := list(islice(rollouts, _BATCH)):
            done += len(part)
            readable = [item for item in part if item is not None]
            unreadable += len(part) - len(readable)
            for second, agreement in zip(seconds, found, strict=True):
                for item, outcome in zip(readable, second.grade(readable), strict=True):
                    agreement.take(item, item.rewards.get(second.first.name), outcome, threshold)
            if on_progress is not None:
                on_progress(done, max(total, done))
    early, late = _ends(steps)
    return [
        RewardRegraded(
            source=second.first.name,
            second=str(second.first.second),
            second_digest=second.identity.source_digest,
            threshold=threshold,
            rollouts=item.rollouts,
            only_first=item.only_first,
            only_second=item.only_second,
            both=item.both,
            neither=item.neither,
            kappa=item.kappa(),
            early_only_first=item.share(early),
            late_only_first=item.share(late),
            failures=item.failures,
            examples=[*reversed(item.first_examples), *reversed(item.second_examples)][:_EXAMPLES],
            inapplicable=item.inapplicable,
            unreadable=unreadable,
        )
        for second, item in zip(seconds, found, strict=True)
    ]


def _ends(steps: Sequence[int]) -> tuple[list[int], list[int]]:
    """The first and the last fifth of the steps; nothing when there are too few for the two to be apart."""
    if len(steps) < 2:
        return [], []
    part = max(1, len(steps) // _PART)
    return list(steps[:part]), list(steps[-part:])
