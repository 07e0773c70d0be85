"""Rules about what surrounds training: each speaks up on a planted case and is quiet on a healthy run."""

from __future__ import annotations

from typing import Any

import pytest

from grpo_audit.record.audits import ProbeFamily, RewardProbed, RewardRegraded
from grpo_audit.record.events import Finding, Severity, Step
from grpo_audit.stats.findings import derive
from grpo_audit.stats.run_evidence import RunEvidence

DIGEST = "sha256:" + "0" * 64


def step(number: int, reward: float, **rewards: float) -> tuple[int, Step]:
    """One step with these mean rewards."""
    made = Step(
        attempt=1,
        step=number,
        learning_rate=1e-6,
        loss=0.0,
        reward_mean=reward,
        reward_std=0.4,
        rewards=rewards,
        zero_variance_share=0.2,
        used=256,
        rejected=0,
        completion_tokens_mean=60.0,
        truncated_share=0.01,
        entropy=0.5,
        kl=None,
        kl_loss=None,
        clip_low_share=0.0,
        clip_high_share=0.0,
        agreement=1e-6,
        agreement_max=1e-5,
        grad_norm=0.1,
        prompt_tokens=100,
        completion_tokens=100,
        seconds={"rollout": 1.0},
        fingerprint=DIGEST,
    )
    return 100 + number, made


def course(shadow: float, reward: float = 0.3, name: str = "shadow") -> list[tuple[int, Step]]:
    """Ten steps: the reward rises by ``reward``, one source by ``shadow``."""
    return [step(number, 0.2 + reward * number / 9, **{name: 0.5 + shadow * number / 9}) for number in range(10)]


def probed(source: str = "right", **family: int) -> RewardProbed:
    """One family of twenty probes."""
    counts = {"negatives": 20, "false_positives": 0, "positives": 20, "false_negatives": 0, "failures": 0} | family
    return RewardProbed(
        source=source,
        source_digest=DIGEST,
        threshold=0.5,
        rows=20,
        probes=40,
        families=[
            ProbeFamily(family="shotgun-list", false_positive_high=0.2, false_negative_high=0.2, unstable=0, **counts)
        ],
        examples=[],
        seconds_per_call=0.01,
        seconds_worst=0.01,
        seconds=0.1,
    )


def regraded(
    only_first: int, early: float | None = 0.0, late: float | None = 0.0, rollouts: int = 100
) -> RewardRegraded:
    """A second verifier that agrees but for some."""
    return RewardRegraded(
        source="right",
        second="second.py:right",
        second_digest=DIGEST,
        threshold=0.5,
        rollouts=rollouts,
        only_first=only_first,
        only_second=0,
        both=(rollouts - only_first) // 2,
        neither=rollouts - only_first - (rollouts - only_first) // 2,
        kappa=0.9,
        early_only_first=early,
        late_only_first=late,
        failures=0,
        examples=[7, 8],
    )


def found(**evidence: Any) -> list[Finding]:
    """What all rules say."""
    return derive(RunEvidence(trained_on=frozenset({"right"}), **evidence))


def test_a_healthy_run_says_nothing() -> None:
    """Probes without an error, a second verifier that agrees, a shadow that rises with the reward: no finding."""
    assert found(steps=course(0.2), probed=[(3, probed())], regraded=[(9, regraded(1))]) == []


@pytest.mark.parametrize(("source", "severity"), [("right", Severity.WARNING), ("shadow", Severity.INFO)])
def test_a_hole_in_a_reward_is_named_with_its_family(source: str, severity: Severity) -> None:
    """It weighs more in a source that training sees."""
    (one,) = found(probed=[(3, probed(source, false_positives=2))])
    assert (one.rule, one.severity, one.evidence) == ("reward-exploit", severity, [3])
    assert f"{source} rewards what it must not (shotgun-list 2 of 20)" in one.message


def test_a_source_that_refuses_right_answers_is_no_exploit() -> None:
    """False negatives cost reward and pay nobody."""
    assert found(probed=[(3, probed(false_negatives=5))]) == []


def test_probes_that_fail_are_counted() -> None:
    """A call that hangs or raises is its own finding."""
    (one,) = found(probed=[(3, probed(failures=3))])
    assert one.rule == "reward-probe-failures" and "3 of 40" in one.message


@pytest.mark.parametrize(
    ("event", "rule"),
    [
        (regraded(2), None),
        (regraded(3), "verifiers-disagree"),
        (regraded(3, early=0.0, late=0.2), "reward-gamed"),
        (regraded(1, early=0.0, late=0.06), "reward-gamed"),
        (regraded(1, early=0.06, late=0.0), None),
        (regraded(3, early=None, late=None), "verifiers-disagree"),
        (regraded(0, rollouts=0), None),
    ],
)
def test_a_second_verifier_that_disagrees_is_a_finding(event: RewardRegraded, rule: str | None) -> None:
    """Above two in a hundred, or when the share grows by more than five points; what it rests on are the rollouts."""
    seen = found(regraded=[(9, event)])
    assert [item.rule for item in seen] == ([] if rule is None else [rule])
    assert all(item.evidence == [9, 7, 8] for item in seen)


@pytest.mark.parametrize(
    ("steps", "speaks"),
    [
        (course(-0.2), True),
        (course(-0.01), False),
        (course(-0.2, reward=0.0), False),
        (course(-0.2, name="right"), False),
        (course(-0.2, name="kl-penalty"), False),
    ],
    ids=["fell", "hardly fell", "reward did not rise", "trained on", "part of the objective"],
)
def test_a_shadow_that_falls_while_the_reward_rises_is_a_finding(steps: list[tuple[int, Step]], speaks: bool) -> None:
    """The sign of a gamed reward that training itself cannot see."""
    assert [item.rule for item in found(steps=steps)] == (["reward-up-shadow-down"] if speaks else [])


def test_records_of_before_are_not_judged_by_the_new_rule() -> None:
    """Where the record does not say which sources trained, nothing is a shadow."""
    assert derive(RunEvidence(steps=course(-0.2))) == []


@pytest.mark.parametrize(("graded", "failures", "said"), [(0, 48, True), (80, 20, True), (95, 5, False)])
def test_a_second_verifier_that_fails_is_no_agreement(graded: int, failures: int, said: bool) -> None:
    """One that hangs or raises on more than a tenth of the rollouts has not looked at them, and the run says so."""
    second = regraded(0, early=None, late=None, rollouts=graded).model_copy(update={"failures": failures})
    rules = [finding.rule for finding in found(regraded=[(9, second)])]
    assert rules == (["second-verifier-failed"] if said else [])
