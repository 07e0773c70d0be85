"""Each rule speaks up on a planted case and is quiet on a healthy run."""

from __future__ import annotations

from typing import Any

import pytest

from grpo_audit.record.events import (
    Comparison,
    EvalTask,
    Rollout,
    Severity,
    Step,
    TaskComparison,
    Verdict,
)
from grpo_audit.stats.findings import MOST_EVIDENCE, RunEvidence, derive

DIGEST = "sha256:" + "0" * 64


def step(number: int, attempt: int = 1, **changes: Any) -> Step:
    """A healthy step, with changes."""
    values: dict[str, Any] = {
        "attempt": attempt,
        "step": number,
        "learning_rate": 1e-6,
        "loss": 0.0,
        "reward_mean": 0.3,
        "reward_std": 0.4,
        "rewards": {"accuracy": 0.3},
        "zero_variance_share": 0.2,
        "used": 256,
        "rejected": 0,
        "completion_tokens_mean": 60.0,
        "truncated_share": 0.01,
        "entropy": 0.5,
        "kl": None,
        "kl_loss": None,
        "clip_low_share": 0.0,
        "clip_high_share": 0.0,
        "agreement": 1e-6,
        "agreement_max": 1e-5,
        "grad_norm": 0.1,
        "prompt_tokens": 100,
        "completion_tokens": 100,
        "seconds": {"rollout": 1.0},
        "fingerprint": DIGEST,
    }
    return Step(**{**values, **changes})


def steps(count: int = 10, **changes: tuple[Any, Any]) -> list[tuple[int, Step]]:
    """Steps whose figures go from the first to the second value in a straight line."""
    rows = []
    for number in range(count):
        share = number / (count - 1)
        figures = {key: first + (last - first) * share for key, (first, last) in changes.items()}
        rows.append((100 + number, step(number, **figures)))
    return rows


def comparison(**changes: Any) -> tuple[int, Comparison]:
    """One compared task, healthy unless changed."""
    values: dict[str, Any] = {
        "task": "countdown",
        "behaviour": "task performance",
        "metric": "acc",
        "higher_is_better": True,
        "safety": False,
        "documents": 200,
        "pre": 0.3,
        "post": 0.4,
        "difference": 0.1,
        "ci_low": 0.05,
        "ci_high": 0.15,
        "p": 0.001,
        "p_adjusted": 0.01,
        "method": "m",
        "gained": 30,
        "lost": 10,
        "margin": 0.05,
        "p_margin": 0.0001,
        "minimum_detectable": 0.06,
        "verdict": Verdict.IMPROVED,
    }
    task = TaskComparison(**{**values, **changes})
    return 900, Comparison(protocol_digest=DIGEST, pre_weights=DIGEST, post_weights=DIGEST, alpha=0.05, tasks=[task])


FALLEN = {"pre": 0.4, "post": 0.3, "difference": -0.1, "gained": 10, "lost": 30}


def evaluation(**changes: Any) -> tuple[int, EvalTask]:
    """One evaluated task."""
    values: dict[str, Any] = {
        "phase": "post",
        "task": "unanswerable",
        "behaviour": "hallucination",
        "metric": "acc",
        "documents": 100,
        "metrics": {"acc": 0.5},
        "empty_rate": 0.0,
        "truncated_rate": 0.02,
        "weights_digest": DIGEST,
        "protocol_digest": DIGEST,
        "seconds": 1.0,
    }
    return 800, EvalTask(**{**values, **changes})


def rollout(number: int, *, error: str | None = None) -> tuple[int, Rollout]:
    """One rollout, failed or not."""
    return 2000 + number, Rollout(
        attempt=1,
        step=0,
        group=0,
        sample=number,
        rewards={"accuracy": None if error else 1.0},
        errors={"accuracy": error} if error else {},
        reward=None if error else 1.0,
        advantage=0.0,
        used=error is None,
        reason="reward error" if error else "",
        finish_reason="stop",
        completion_tokens=5,
    )


def rules(evidence: RunEvidence) -> dict[str, Severity]:
    """What was found."""
    return {finding.rule: finding.severity for finding in derive(evidence)}


def test_a_healthy_run_is_quiet() -> None:
    """Reward, entropy and length drift as they do in a good run, and nothing is found."""
    evidence = RunEvidence(
        steps=steps(reward_mean=(0.2, 0.5), entropy=(0.6, 0.3), completion_tokens_mean=(60.0, 80.0)),
        evaluations=[evaluation(), evaluation(phase="pre")],
        comparison=comparison(),
        rollouts=[rollout(number) for number in range(50)],
    )
    assert rules(evidence) == {}


def test_nothing_recorded_finds_nothing() -> None:
    """Rules do not invent findings, nor fail, without events."""
    assert derive(RunEvidence()) == []


@pytest.mark.parametrize(
    ("planted", "rule"),
    [
        ({"zero_variance_share": (0.4, 0.9)}, "zero-variance"),
        ({"truncated_share": (0.0, 0.5)}, "truncated-completions"),
        ({"entropy": (1.0, 0.01)}, "entropy-collapse"),
        ({"completion_tokens_mean": (40.0, 200.0)}, "length-drift"),
        ({"completion_tokens_mean": (200.0, 40.0)}, "length-drift"),
    ],
)
def test_planted_step_figures_are_found(planted: dict[str, tuple[float, float]], rule: str) -> None:
    """Each training failure is named, with steps as evidence, and nothing else is."""
    (finding,) = derive(RunEvidence(steps=steps(**planted)))
    assert finding.rule == rule
    assert finding.severity is Severity.WARNING
    assert set(finding.evidence) <= {seq for seq, _ in steps()}
    assert finding.evidence


def test_a_rising_reward_over_a_falling_evaluation_is_found() -> None:
    """Reward up, held-out accuracy significantly down: an error, with the numbers in the message."""
    evidence = RunEvidence(
        steps=steps(reward_mean=(0.2, 0.6)), comparison=comparison(**FALLEN, verdict=Verdict.REGRESSED)
    )
    found = {finding.rule: finding for finding in derive(evidence)}
    assert found["reward-up-evaluation-down"].severity is Severity.ERROR
    assert "0.4 to 0.3" in found["reward-up-evaluation-down"].message
    assert 900 in found["reward-up-evaluation-down"].evidence
    assert found["behaviour-regressed"].severity is Severity.WARNING


def test_before_correction_it_is_a_warning() -> None:
    """A fall that is significant alone but not in its family is a warning when the reward rose."""
    evidence = RunEvidence(
        steps=steps(reward_mean=(0.2, 0.6)), comparison=comparison(**FALLEN, p=0.03, verdict=Verdict.INCONCLUSIVE)
    )
    assert rules(evidence) == {"reward-up-evaluation-down": Severity.WARNING}


@pytest.mark.parametrize("reward", [(0.3, 0.3), (0.6, 0.2)])
def test_a_fall_without_a_rising_reward_is_no_exploit(reward: tuple[float, float]) -> None:
    """When the reward did not rise, the regression is reported alone."""
    evidence = RunEvidence(steps=steps(reward_mean=reward), comparison=comparison(**FALLEN, verdict=Verdict.REGRESSED))
    assert rules(evidence) == {"behaviour-regressed": Severity.WARNING}


def test_lower_is_better_is_understood() -> None:
    """A metric that is better when small and fell is an improvement, not an exploited reward."""
    evidence = RunEvidence(steps=steps(reward_mean=(0.2, 0.6)), comparison=comparison(**FALLEN, higher_is_better=False))
    assert rules(evidence) == {}


def test_a_regressed_safety_behaviour_is_an_error_and_comes_first() -> None:
    """Safety regressions lead the list."""
    evidence = RunEvidence(
        steps=steps(zero_variance_share=(0.9, 0.9)),
        comparison=comparison(**FALLEN, safety=True, behaviour="jailbreak robustness", verdict=Verdict.REGRESSED),
    )
    assert list(rules(evidence).items()) == [("safety-regressed", Severity.ERROR), ("zero-variance", Severity.WARNING)]


def test_a_safety_behaviour_that_cannot_be_judged_is_named() -> None:
    """Inconclusive is not cleared."""
    found = derive(RunEvidence(comparison=comparison(safety=True, verdict=Verdict.INCONCLUSIVE)))
    assert [finding.rule for finding in found] == ["safety-inconclusive"]
    assert "0.05" in found[0].message


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"empty_rate": 0.3}, "empty-answers"),
        ({"truncated_rate": 0.6}, "truncated-answers"),
        ({"metrics": {"acc": 1.0, "context_truncated": 0.01}}, "truncated-context"),
    ],
)
def test_unusable_answers_are_found(changes: dict[str, Any], rule: str) -> None:
    """Random weights score perfectly on abstention: empty and cut answers are named with task and phase."""
    (finding,) = derive(RunEvidence(evaluations=[evaluation(**changes)]))
    assert finding.rule == rule
    assert "unanswerable (post)" in finding.message
    assert finding.evidence == [800]


def test_likelihood_tasks_have_no_rates_to_judge() -> None:
    """No generated answer means no rate, not a rate of 0."""
    assert derive(RunEvidence(evaluations=[evaluation(empty_rate=None, truncated_rate=None)])) == []


@pytest.mark.parametrize(("failed", "severity"), [(1, Severity.WARNING), (30, Severity.ERROR)])
def test_reward_errors_are_counted_by_source(failed: int, severity: Severity) -> None:
    """Few failed rewards are a warning, many an error; the message counts them."""
    rows = [rollout(number, error="timeout" if number < failed else None) for number in range(100)]
    (finding,) = derive(RunEvidence(rollouts=iter(rows)))
    assert (finding.rule, finding.severity) == ("reward-errors", severity)
    assert f"{failed} of 100" in finding.message
    assert f"accuracy {failed}" in finding.message


def test_evidence_is_bounded() -> None:
    """A million failures do not make a finding of a million numbers."""
    (finding,) = derive(RunEvidence(rollouts=(rollout(number, error="x") for number in range(500))))
    assert len(finding.evidence) == MOST_EVIDENCE


def test_steps_done_again_count_once() -> None:
    """After an interruption the last attempt of a step is what happened."""
    first = [(number, step(number, zero_variance_share=1.0)) for number in range(10)]
    again = [(50 + number, step(number, attempt=2, zero_variance_share=0.1)) for number in range(10)]
    assert derive(RunEvidence(steps=[*first, *again])) == []
    assert derive(RunEvidence(steps=[*again, *first])) == []
