"""Each rule has a recipe that triggers it and one that just does not. Dotted keys over the base recipe; ``facts.NAME``
sets a fact."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from grpo_audit.preflight import RULES, Preflight

SURROGATE, KL, ADVANTAGE = "objective.surrogate", "objective.kl", "objective.advantage"
BILLIONS, SMALL = 7_000_000_000, 3_000_000
LORA = {"rank": 8}


def reward(name: str = "accuracy", **more: Any) -> dict[str, Any]:
    """A reward source of the recipe."""
    return {"name": name, "source": f"rewards.py:{name}", **more}


@dataclass(frozen=True)
class Case:
    """A rule's two recipes."""

    rule: str
    triggers: dict[str, Any]
    near_miss: dict[str, Any]
    preset: str = "grpo"
    facts: dict[str, Any] = field(default_factory=dict)
    """Known in both."""


CASES = (
    Case(
        "sampler-not-corrected",
        {"sampling.engine": "vllm"},
        {"sampling.engine": "vllm", "objective.correction.level": "token"},
    ),
    Case("completion-exceeds-context", {"facts.context": 1024}, {"facts.context": 1025}),
    Case("gspo-clip-too-wide", {f"{SURROGATE}.clip_high": 0.2}, {f"{SURROGATE}.clip_high": 1e-3}, "gspo"),
    Case("token-clip-too-narrow", {f"{SURROGATE}.clip_low": 3e-4}, {f"{SURROGATE}.clip_low": 0.1}),
    Case("sequence-ratio-by-length", {"objective.aggregation": "token-mean"}, {}, "gspo"),
    Case("cispo-lower-bound", {f"{SURROGATE}.clip_low": 0.2}, {f"{SURROGATE}.clip_low": 1.0}, "cispo"),
    Case("sapo-clip-unused", {f"{SURROGATE}.clip_high": 0.28}, {f"{SURROGATE}.clip_high": 0.2}, "sapo"),
    Case(
        "clip-never-reached",
        {"training.iterations": 2, f"{SURROGATE}.clip_high": 1.0},
        {"training.iterations": 2, f"{SURROGATE}.clip_high": 0.9},
    ),
    Case("agreement-check-off", {"training.agreement_tolerance": 1.0}, {"training.agreement_tolerance": 0.1}),
    Case("kl-k1-in-loss", {f"{KL}.estimator": "k1"}, {f"{KL}.estimator": "k1", f"{KL}.times_ratio": True}),
    Case(
        "distance-unmeasured",
        {f"{KL}.beta": 0.0, f"{KL}.measure_every": 100},
        {f"{KL}.beta": 0.0, f"{KL}.measure_every": 99},
    ),
    Case("reference-moves", {f"{KL}.replace_reference_every": 2}, {f"{KL}.replace_reference_every": 50}),
    Case("tiny-epsilon", {f"{ADVANTAGE}.epsilon": 1e-8}, {f"{ADVANTAGE}.epsilon": 1e-6}),
    Case(
        "beta-normaliser-range",
        {"rewards": [reward(weight=1.5)]},
        {"rewards": [reward(weight=0.5), reward("extra", weight=0.5)]},
        "bnpo",
    ),
    Case("tiny-group", {"sampling.group_size": 2}, {"sampling.group_size": 4}),
    Case(
        "overlong-filter-starves",
        {"objective.mask_truncated": True, "sampling.max_completion_tokens": 256},
        {"objective.mask_truncated": True, "sampling.max_completion_tokens": 257},
    ),
    Case("soft-overlong-wide", {"objective.soft_overlong_tokens": 513}, {"objective.soft_overlong_tokens": 512}),
    Case("temperature-extreme", {"sampling.temperature": 0.4}, {"sampling.temperature": 0.6}),
    Case("one-prompt-per-update", {"sampling.prompts_per_step": 1}, {"sampling.prompts_per_step": 2}),
    Case(
        "dynamic-sampling-one-round",
        {"sampling.dynamic_sampling": True, "sampling.max_rounds": 1},
        {"sampling.dynamic_sampling": False, "sampling.max_rounds": 1},
    ),
    Case("prompts-repeat-in-step", {"facts.prompts": 15}, {"facts.prompts": 16}),
    Case(
        "rewards-form-only",
        {"rewards": [reward("format"), reward("answer_length")]},
        {"rewards": [reward("format"), reward("accuracy")]},
    ),
    Case("reward-time-limit", {"rewards": [reward(time_limit_s=301.0)]}, {"rewards": [reward(time_limit_s=300.0)]}),
    Case("learning-rate-high", {"training.learning_rate": 1e-4}, {"training.learning_rate": 2e-5}),
    Case("lora-learning-rate-low", {"model.lora": LORA}, {"model.lora": LORA, "training.learning_rate": 1e-5}),
    Case("warmup-long", {"training.warmup_steps": 51}, {"training.warmup_steps": 50}),
    Case("no-snapshot-before-end", {"training.snapshot_every": 100}, {"training.snapshot_every": 50}),
    Case(
        "bfloat16-small-cpu",
        {"model.precision": "bfloat16", "facts.device": "cpu"},
        {"model.precision": "bfloat16", "facts.device": "cuda"},
        facts={"parameters": SMALL},
    ),
    Case(
        "checkpointing-small",
        {"model.gradient_checkpointing": "on", "facts.parameters": SMALL},
        {"model.gradient_checkpointing": "on", "facts.parameters": BILLIONS},
    ),
    Case("model-unpinned", {"model.revision": "main"}, {"model.revision": "main", "facts.model_on_hub": False}),
    Case(
        "prompts-unpinned", {"prompts.source": "hub:a/b"}, {"prompts.source": "hub:a/b", "prompts.revision": "a" * 40}
    ),
    Case("evaluation-off", {"evaluation.suite": None}, {"evaluation.suite": "suite"}),
    Case("evaluation-too-small", {"evaluation.limit": 100}, {"evaluation.limit": 120}),
    Case("cispo-cap", {f"{SURROGATE}.clip_high": 5.0}, {f"{SURROGATE}.clip_high": 0.28}, "cispo"),
    Case("clip-unused", {f"{SURROGATE}.clip_high": 0.28}, {f"{SURROGATE}.clip_high": 0.28, "training.iterations": 2}),
    Case(
        "correction-without-need",
        {"objective.correction.level": "token"},
        {"objective.correction.level": "token", "sampling.engine": "vllm"},
    ),
    Case("length-bias", {}, {"objective.aggregation": "token-mean"}),
    Case(
        "truncation-unpunished",
        {"sampling.max_completion_tokens": 4096},
        {"sampling.max_completion_tokens": 4096, "objective.soft_overlong_tokens": 800},
    ),
    Case(
        "generation-config-ignored",
        {"facts.generation": {"top_p": 0.8}},
        {"facts.generation": {"temperature": 0.7}, "sampling.temperature": 0.7},
    ),
    Case(
        "dynamic-sampling-shaped",
        {"rewards": [reward(), reward("format", weight=0.1)]},
        {"rewards": [reward(), reward("format", role="shadow")]},
        "dapo",
    ),
    Case("many-exposures", {"facts.prompts": 159}, {"facts.prompts": 160}),
    Case(
        "rewards-mixed-signs",
        {"rewards": [reward(), reward("length", weight=-0.1)]},
        {"rewards": [reward(), reward("length", weight=-0.1, role="shadow")]},
    ),
    Case("one-snapshot-kept", {"training.keep_snapshots": 1}, {"training.keep_snapshots": 2}),
    Case("prompts-no-licence", {"prompts.licence": None}, {"prompts.licence": None, "prompts.source": "builtin"}),
    Case("owner-missing", {"governance.owner": " "}, {"governance.owner": "somebody"}),
    Case(
        "unused-waiver",
        {"waive": {"evaluation-off": "why not"}},
        {"waive": {"evaluation-off": "why not"}, "evaluation.suite": None},
    ),
)

IDS = [case.rule for case in CASES]


def found(preflight: Preflight) -> set[str]:
    """Ids of the rules that found something."""
    return {item.rule.id for item in preflight.findings}


def test_every_rule_has_a_case() -> None:
    """No rule goes without a recipe that triggers it."""
    assert sorted(IDS) == sorted(RULES)


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_the_rule_finds_what_it_is_for(case: Case, look: Callable[..., Preflight]) -> None:
    """The recipe that has the mistake triggers the rule, and the finding names the key and its value."""
    items = [item for item in look(case.triggers, case.preset, case.facts).findings if item.rule.id == case.rule]
    assert items
    for item in items:
        assert item.where and item.value and item.message
        assert item.rule.id in item.line and item.where in item.line and "\n" not in item.line


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_the_near_miss_is_left_alone(case: Case, look: Callable[..., Preflight]) -> None:
    """The recipe that just avoids the mistake does not trigger the rule."""
    assert case.rule not in found(look(case.near_miss, case.preset, case.facts))


def test_a_finding_stands_at_the_key_that_is_wrong(look: Callable[..., Preflight]) -> None:
    """Of two clip values the wrong one is named; of several rewards, the one with the negative weight."""
    clip = look({f"{SURROGATE}.clip_high": 0.2}, "gspo").findings
    assert [item.where for item in clip if item.rule.id == "gspo-clip-too-wide"] == [f"{SURROGATE}.clip_high"]
    signs = look({"rewards": [reward(), reward("length", weight=-0.1)]}).findings
    assert [(item.where, item.value) for item in signs if item.rule.id == "rewards-mixed-signs"] == [
        ("rewards.1.weight", "-0.1")
    ]


@pytest.mark.parametrize(
    ("keys", "preset", "says"),
    [
        ({f"{KL}.beta": 0.0, f"{KL}.replace_reference_every": 50}, "grpo", "beta is 0"),
        ({"training.minibatches": 16, "sampling.prompts_per_step": 16}, "grpo", "16 prompts in 16 updates"),
        ({"objective.soft_overlong_tokens": 100}, "bnpo", "soft overlong punishment"),
        ({"rewards": [reward(weight=0.5), reward("b", weight=-0.5)]}, "bnpo", "negative weight"),
        ({f"{KL}.beta": 0.1, f"{KL}.placement": "reward", f"{KL}.estimator": "k1"}, "bnpo", "KL penalty inside"),
        ({"rewards": [reward(kind="judge")]}, "dapo", "graded rewards"),
        ({"sampling.group_size": 3}, "grpo", "2 others"),
        ({"sampling.temperature": 2.0}, "grpo", "unlikely tokens"),
        ({f"{SURROGATE}.dual_clip": 3.0}, "grpo", "one update a step"),
        ({"evaluation.limit": 200, "evaluation.margins": {"a": 0.01}}, "grpo", "a loss of 0.01"),
        ({"training.learning_rate": 2e-4, "facts.parameters": 200_000_000}, "grpo", "200 million"),
    ],
)
def test_the_message_says_which_way_it_went(
    keys: dict[str, Any], preset: str, says: str, look: Callable[..., Preflight]
) -> None:
    """A rule with several ways to go wrong says which one it was."""
    assert any(says in item.message for item in look(keys, preset).findings)
