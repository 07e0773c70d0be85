"""All reward sources of a run: scored in parallel, each in its own process, summed by weight."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from grpo_audit.config.sections import RewardConfig
from grpo_audit.record.identities import RewardIdentity
from grpo_audit.rewards.sources import STARTUP_LIMIT_S, Batch, Outcome, RewardSource


@dataclass(frozen=True)
class RowReward:
    """The rewards of one completion."""

    rewards: dict[str, float | None]
    """By source, in the recipe's order; None where the source does not apply or failed."""
    errors: dict[str, str]
    """By source, where it failed."""
    total: float | None
    """Weighted sum of the train sources that apply. None when none applies, or when any of them failed: the row is
    then left out of training."""


class RewardRunner:
    """A context manager. Entering or constructing it loads every function, so that a source that cannot be loaded is
    an error before training starts.

    Args:
        configs: the recipe's sources.
        base_dir: relative files start here.
        log_file: takes what user code prints; standard error when None.
        startup_limit_s: seconds a source may take to start and import.

    Raises RewardError.
    """

    def __init__(
        self,
        configs: Sequence[RewardConfig],
        base_dir: Path,
        *,
        log_file: Path | None = None,
        startup_limit_s: float = STARTUP_LIMIT_S,
    ) -> None:
        self._log_fd = None if log_file is None else os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        log_fd = 2 if self._log_fd is None else self._log_fd
        self._sources = [
            RewardSource(config, base_dir, startup_limit_s=startup_limit_s, log_fd=log_fd) for config in configs
        ]
        self._threads = ThreadPoolExecutor(max_workers=max(len(configs), 1), thread_name_prefix="reward")
        try:
            list(self._threads.map(RewardSource.start, self._sources))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> RewardRunner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Kill the reward processes, also in the middle of a call."""
        for source in self._sources:
            source.close()
        self._threads.shutdown(wait=True, cancel_futures=True)
        if self._log_fd is not None:
            os.close(self._log_fd)
            self._log_fd = None

    def identities(self) -> list[RewardIdentity]:
        """Who the sources are, in the recipe's order."""
        return [source.identity for source in self._sources]

    def source_texts(self) -> dict[str, bytes]:
        """The whole source file of each source, by name; its SHA-256 is the identity's ``source_digest``. Files that
        were loaded with it stand under ``NAME/FILE``; their SHA-256 are the identity's ``modules``."""
        return {name: text for source in self._sources for name, text in source.texts.items()}

    def check_columns(self, names: Iterable[str]) -> None:
        """Raises RewardError when a function needs an argument that is neither column nor option, or when an option
        has the name of a column."""
        known = list(names)
        for source in self._sources:
            source.check_columns(known)

    def score(
        self, prompts: Sequence[str], completions: Sequence[str], columns: Mapping[str, Sequence[object]]
    ) -> list[RowReward]:
        """Score completions; row i belongs to ``prompts[i]`` and to item i of each column.

        Never raises because of user code: what a source does wrong is that row's error. Raises ValueError when the
        lists differ in length.
        """
        batch = Batch(prompts, completions, columns)
        if not completions:
            return []
        request = batch.request()
        outcomes = list(self._threads.map(lambda source: source.score(batch, request), self._sources))
        return [self._row(list(row)) for row in zip(*outcomes, strict=True)]

    def _row(self, outcomes: list[Outcome]) -> RowReward:
        pairs = list(zip(self._sources, outcomes, strict=True))
        return RowReward(
            rewards={source.config.name: outcome.value for source, outcome in pairs},
            errors={source.config.name: outcome.error for source, outcome in pairs if outcome.error is not None},
            total=_total([(source.config, outcome) for source, outcome in pairs if source.config.role == "train"]),
        )


def _total(train: list[tuple[RewardConfig, Outcome]]) -> float | None:
    if any(outcome.error is not None for _, outcome in train):
        return None
    parts = [config.weight * outcome.value for config, outcome in train if outcome.value is not None]
    return sum(parts) if parts else None
