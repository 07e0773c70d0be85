"""The miniature world: pure Python, seeded, one module a family of behaviour. Everything in it is invented."""

from __future__ import annotations

from grpo_audit_builtin.world.corpus import MIXTURE, corpus
from grpo_audit_builtin.world.example import Example, Split, split_of

__all__ = ["MIXTURE", "Example", "Split", "corpus", "split_of"]
