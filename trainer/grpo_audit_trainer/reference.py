"""The reference policies: the weights the run started from, and the newer ones that may have replaced them.

A reference is never loaded again by name. The initial one is a copy made before the first update; a later one is the
policy as it was after a step whose snapshot is kept, so that a resumed run and an auditor find it by its digest. With
LoRA there is no copy of the model: the initial reference is the policy with its adapters switched off, a later one the
policy with a copy of the adapters as they were.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from grpo_audit.config.run import RunConfig
from grpo_audit_trainer import adapter as adapters, snapshot as snapshots
from grpo_audit_trainer.distributed import World
from grpo_audit_trainer.policy import Policy
from grpo_audit_trainer.scoring import Completions, Scorer
from grpo_audit_trainer.shared_scoring import SharedScorer


class Reference(Protocol):
    """Frozen weights that completions are scored under."""

    def logp(self, completions: Completions, rows: Sequence[int]) -> Tensor:
        """As ``Scorer.logp``."""


@dataclasses.dataclass(frozen=True, slots=True)
class AdapterReference:
    """The policy's own model, with its adapters off or holding other values while it scores."""

    scorer: Scorer
    tensors: dict[str, Tensor] | None
    """Adapters by parameter name; None: switched off."""

    def logp(self, completions: Completions, rows: Sequence[int]) -> Tensor:
        """As ``Scorer.logp``."""
        with self._in_place():
            return self.scorer.logp(completions, rows)

    def _in_place(self) -> AbstractContextManager[Any]:
        model = self.scorer.policy.model
        return adapters.switched_off(model) if self.tensors is None else adapters.exchanged(model, self.tensors)


def reference_step(step: int, every: int | None) -> int:
    """Steps that were done when the reference of ``step`` was taken; 0 is the initial policy."""
    return 0 if every is None else step // every * every


class References:
    """Scorers of frozen weights."""

    def __init__(self, policy: Policy, config: RunConfig, world: World | None = None) -> None:
        """Before the policy is spread over the processes, where it is to be."""
        self._config = config
        self._policy = policy
        self._world = world or World()
        self._every = config.objective.kl.replace_reference_every
        self.initial = self._initial(policy)
        self.current = self.initial
        self.since = 0
        """Steps that were done when the current reference was taken."""

    @property
    def replaced(self) -> bool:
        """Whether the current reference is another policy than the initial one."""
        return self.current is not self.initial

    def needed(self, done: int) -> int:
        """Steps that were done at the snapshot which holds the reference of the step after ``done``; 0: none does."""
        return reference_step(done, self._every)

    def follow(self, policy: Policy, step: int) -> None:
        """Replace the reference by ``policy``, which is about to take ``step``, if it is time."""
        due = reference_step(step, self._every)
        if due == step and due > self.since:
            self.current, self.since = self._frozen(policy), due

    def restore(self, step: int, folder: Path) -> None:
        """The reference that ``step`` of a resumed run needs, from its snapshot in the run folder."""
        due = reference_step(step, self._every)
        if 0 < due < step:
            self.current, self.since = self._of(snapshots.Snapshot.open(snapshots.folder_of(folder, due))), due

    def _initial(self, policy: Policy) -> Reference:
        return self._frozen(policy) if policy.adapter is None else AdapterReference(self._scorer(policy), None)

    def _frozen(self, policy: Policy) -> Reference:
        """The policy as it is now."""
        if policy.adapter is not None:
            return AdapterReference(self._scorer(policy), adapters.adapter_tensors(policy.model))
        return self._scorer(self._copy(policy))

    def _of(self, snapshot: snapshots.Snapshot) -> Reference:
        if self._policy.adapter is not None:
            tensors = adapters.load_adapter(self._policy.model, snapshot.folder)
            return AdapterReference(self._scorer(self._policy), tensors)
        frozen = self._copy(self._policy)
        snapshots.load_weights(frozen, snapshot)
        return self._scorer(frozen)

    def _scorer(self, policy: Policy) -> Scorer:
        return SharedScorer(
            policy,
            self._world,
            temperature=self._config.sampling.temperature,
            microbatch_tokens=self._config.training.microbatch_tokens,
        )

    def _copy(self, policy: Policy) -> Policy:
        frozen = dataclasses.replace(policy, model=copy.deepcopy(policy.model).requires_grad_(False))
        if self._world.strategy == "fsdp":
            frozen.shard(self._world)
        return frozen
