"""Level L1 accepts what is true, for every way to make advantages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from true_record import build_true_record

from grpo_audit.verify.recompute import procedure
from grpo_audit.verify.recompute.rerun import sandbox_problem
from grpo_audit.verify.verdict import Check, Outcome

Level1 = Callable[..., dict[int, Check]]


def outcomes(checks: dict[int, Check]) -> dict[int, str]:
    """Checks that did not pass, with their detail."""
    return {number: check.detail for number, check in checks.items() if check.outcome is not Outcome.PASSED}


def test_honest_record_passes_every_step(honest: Path, level_1: Level1) -> None:
    """A true record of two attempts with dynamic sampling, shaping, masking and minibatches passes every step."""
    checks = level_1(honest)
    assert list(checks) == list(procedure.NAMES)
    assert outcomes(checks) == {}


DYNAMIC = {"dynamic_sampling": True, "max_rounds": 3}
OBJECTIVES: dict[str, dict[str, Any]] = {
    "grpo": {"preset": "grpo"},
    "dr_grpo": {"preset": "dr_grpo"},
    "rloo": {"preset": "rloo", "objective": {"kl": {"beta": 0.05}}},
    "dapo": {"preset": "dapo", "objective": {"soft_overlong_tokens": 5}, "sampling": DYNAMIC},
    "bnpo": {"preset": "bnpo", "rewards": [{"name": "x", "source": "rewards.py:fussy"}]},
    "gspo": {"preset": "gspo"},
    "population deviation, large epsilon": {"objective": {"advantage": {"ddof": 0, "epsilon": 0.1}}},
    "batch": {"objective": {"advantage": {"normaliser": "batch"}}},
    "leave-one-out, batch": {"objective": {"advantage": {"baseline": "leave-one-out", "normaliser": "batch"}}},
    "normalise-each": {"objective": {"advantage": {"normaliser": "batch", "sources": "normalise-each"},
                                     "soft_overlong_tokens": 3}},
    "normalise-each, dynamic": {"objective": {"advantage": {"normaliser": "batch", "sources": "normalise-each"}},
                                "sampling": {"dynamic_sampling": True, "max_rounds": 2}},
    "batch, dynamic": {"objective": {"advantage": {"normaliser": "batch"}}, "sampling": DYNAMIC},
    "beta, dynamic": {"objective": {"advantage": {"normaliser": "beta"}}, "sampling": DYNAMIC,
                      "rewards": [{"name": "x", "source": "rewards.py:fussy"}]},
    "failing train source": {"rewards": [{"name": "fussy", "source": "rewards.py:fussy"},
                                         {"name": "vowels", "source": "rewards.py:vowels", "weight": -0.3}]},
    "several passes": {"training": {"iterations": 2, "minibatches": 3, "schedule": "linear"}},
    "ppo": {"preset": "ppo", "objective": {"kl": {"beta": 0.05}}},
}  # fmt: skip
SIZES = {"prompts_per_step": 3, "group_size": 4, "max_completion_tokens": 12, "max_prompt_tokens": 32}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_two_implementations_agree(name: str, tmp_path: Path, level_1: Level1) -> None:
    """What the trainer's torch code computed, the numpy code of level L1 computes too."""
    sections = dict(OBJECTIVES[name])
    sections["sampling"] = {**SIZES, **sections.get("sampling", {})}
    sections["training"] = {"steps": 3, "microbatch_tokens": 120, "warmup_steps": 1, "minibatches": 1, "iterations": 1,
                            **sections.get("training", {})}  # fmt: skip
    record = build_true_record(tmp_path / "record.db", **sections)
    assert outcomes(level_1(record, rewards=False)) == {22: "left out as asked"}


SHIPPED = [
    {"name": "exact", "source": "grpo_audit.rewards.exact:score"},
    {"name": "pattern", "source": "grpo_audit.rewards.pattern:match", "options": {"pattern": "[a-m]+e?.*"}},
    {"name": "code", "source": "grpo_audit.rewards.code:score", "options": {"code_in": "whole"}},
    {
        "name": "loose",
        "source": "grpo_audit.rewards.code:score",
        "options": {"code_in": "whole", "isolation": "limits"},
    },
]


@pytest.mark.skipif(sandbox_problem("strict") is not None, reason="this machine has no namespaces for the sandbox")
def test_shipped_sources_are_run_again(tmp_path: Path, level_1: Level1) -> None:
    """Sources that ship are run from their recorded text with the modules beside them. The verifier of code runs in its
    own sandbox; one that was told to do without is not run: the programs it would run come from the record."""
    sampling = {**SIZES, "prompts_per_step": 2, "group_size": 2}
    training = {"steps": 2, "microbatch_tokens": 120, "warmup_steps": 0}
    record = build_true_record(tmp_path / "record.db", rewards=SHIPPED, sampling=sampling, training=training)
    checks = level_1(record)
    assert outcomes(checks) == {}
    assert checks[22].detail.startswith("24 rewards run again")
    assert "loose not run again" in checks[22].detail


@pytest.mark.parametrize("most", [3, 7, 20, 60])
def test_second_verifiers_are_counted_on_the_same_rollouts(most: int, tmp_path: Path, level_1: Level1) -> None:
    """Whatever share of the rollouts they grade, groups of a step or whole steps, level L1 counts the same ones."""
    record = build_true_record(tmp_path / "record.db", probes={"regrade": most})
    checks = level_1(record)
    assert checks[34].outcome is Outcome.PASSED, checks[34].detail
