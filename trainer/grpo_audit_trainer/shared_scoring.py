"""A scorer that shares its rows with the other processes."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from grpo_audit_trainer.distributed import World
from grpo_audit_trainer.policy import Policy
from grpo_audit_trainer.scoring import Completions, Scorer


class SharedScorer(Scorer):
    """``logp`` is the work of all processes, which call it together; ``each`` stays this process's own."""

    def __init__(self, policy: Policy, world: World, *, temperature: float, microbatch_tokens: int) -> None:
        super().__init__(policy, temperature=temperature, microbatch_tokens=microbatch_tokens)
        self.world = world

    def logp(self, completions: Completions, rows: Sequence[int]) -> Tensor:
        """[N, T] float32 on every process: each scores its share, and all others have 0 there."""
        with self.policy.whole():
            mine = super().logp(completions, self.world.share(rows, completions.group))
        return self.world.sum(mine)
