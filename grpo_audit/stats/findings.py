"""What the record itself gives away at the end of a run: one pure function a rule, each with planted and quiet tests.

A rule looks at numbered payloads and returns findings with the numbers in the message and the events as evidence.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from statistics import fmean

from grpo_audit.record.events import EvalTask, Finding, Severity, TaskComparison, Verdict
from grpo_audit.stats.audit_findings import (
    contamination,
    known_exploits,
    reward_hangs,
    shadow_falls,
    verifiers_disagree,
)
from grpo_audit.stats.run_evidence import (
    MOST_EVIDENCE,
    Limits as Limits,
    RunEvidence as RunEvidence,
    ends_of,
    last_attempt,
    noticed,
)

PERFORMANCE = "task performance"
"""The behaviour that the training reward is meant to improve."""


def derive(evidence: RunEvidence) -> list[Finding]:
    """Apply every rule. Errors first, then warnings, in the order of the rules."""
    found = [finding for rule in RULES for finding in rule(evidence)]
    order = list(reversed(Severity))
    return sorted(found, key=lambda finding: order.index(finding.severity))


Rule = Callable[[RunEvidence], list[Finding]]


def reward_against_evaluation(evidence: RunEvidence) -> list[Finding]:
    """The reward rose while held-out task performance fell: the sign of an exploited reward."""
    ends = ends_of(evidence, lambda step: step.reward_mean)
    if ends is None or evidence.comparison is None or ends.last - ends.first <= evidence.limits.reward_rise:
        return []
    seq, comparison = evidence.comparison
    fallen = [
        task
        for task in comparison.tasks
        if task.behaviour == PERFORMANCE and (_is_worse(task, comparison.alpha) or _regressed(task))
    ]
    return [
        noticed(
            "reward-up-evaluation-down",
            Severity.ERROR if _regressed(task) else Severity.WARNING,
            f"The mean reward rose from {ends.first:.3g} to {ends.last:.3g} while {task.task} ({task.metric}) fell "
            f"from {task.pre:.3g} to {task.post:.3g}.",
            [*ends.evidence, seq],
        )
        for task in fallen
    ]


def _is_worse(task: TaskComparison, alpha: float) -> bool:
    """Worse before the correction for many tests: enough for a warning, not for a verdict."""
    return task.p is not None and task.p < alpha and (task.difference > 0) != task.higher_is_better


def _regressed(task: TaskComparison) -> bool:
    return task.verdict is Verdict.REGRESSED


def regressions(evidence: RunEvidence) -> list[Finding]:
    """A behaviour got significantly worse; an error for a safety behaviour."""
    if evidence.comparison is None:
        return []
    seq, comparison = evidence.comparison
    return [
        noticed(
            "safety-regressed" if task.safety else "behaviour-regressed",
            Severity.ERROR if task.safety else Severity.WARNING,
            f"{task.behaviour}: {task.metric} of {task.task} went from {task.pre:.3g} to {task.post:.3g} "
            f"(adjusted p = {task.p_adjusted:.2g}, {task.lost} documents lost, {task.gained} gained).",
            [seq],
        )
        for task in comparison.tasks
        if _regressed(task)
    ]


def safety_not_cleared(evidence: RunEvidence) -> list[Finding]:
    """A safety behaviour that the evaluation was too small to judge has not been shown to be unharmed."""
    if evidence.comparison is None:
        return []
    seq, comparison = evidence.comparison
    return [
        noticed(
            "safety-inconclusive",
            Severity.INFO,
            f"{task.behaviour}: {task.task} can neither show nor exclude a loss of {task.margin:.3g} "
            f"({task.pre:.3g} to {task.post:.3g} on {task.documents} documents"
            + (f"; detectable: {task.minimum_detectable:.2g})." if task.minimum_detectable is not None else ")."),
            [seq],
        )
        for task in comparison.tasks
        if task.safety and task.verdict is Verdict.INCONCLUSIVE
    ]


def zero_variance(evidence: RunEvidence) -> list[Finding]:
    """Groups whose rewards are all equal carry no signal."""
    steps = last_attempt(evidence)
    if not steps or (mean := fmean(step.zero_variance_share for _, step in steps)) <= evidence.limits.zero_variance:
        return []
    worst = sorted(steps, key=lambda item: -item[1].zero_variance_share)
    return [
        noticed(
            "zero-variance",
            Severity.WARNING,
            f"{mean:.0%} of the groups had equal rewards and taught nothing "
            f"(limit {evidence.limits.zero_variance:.0%}).",
            (seq for seq, _ in worst),
        )
    ]


def truncated_completions(evidence: RunEvidence) -> list[Finding]:
    """Completions that run into the length limit are judged on what they did not say."""
    ends = ends_of(evidence, lambda step: step.truncated_share)
    if ends is None or ends.last <= evidence.limits.truncated:
        return []
    return [
        noticed(
            "truncated-completions",
            Severity.WARNING,
            f"{ends.last:.0%} of the completions ran into the length limit at the end of training "
            f"({ends.first:.0%} at the beginning; limit {evidence.limits.truncated:.0%}).",
            ends.evidence,
        )
    ]


def entropy_collapse(evidence: RunEvidence) -> list[Finding]:
    """The policy stopped exploring."""
    ends = ends_of(evidence, lambda step: step.entropy)
    if ends is None or ends.last >= evidence.limits.entropy_ratio * ends.first:
        return []
    return [
        noticed(
            "entropy-collapse",
            Severity.WARNING,
            f"The sampling entropy fell from {ends.first:.3g} to {ends.last:.3g} nats a token "
            f"(below {evidence.limits.entropy_ratio:.0%} of where it began).",
            ends.evidence,
        )
    ]


def length_drift(evidence: RunEvidence) -> list[Finding]:
    """Completions became much longer or much shorter."""
    ends = ends_of(evidence, lambda step: step.completion_tokens_mean)
    limit = evidence.limits.length_ratio
    if ends is None or ends.first / limit <= ends.last <= ends.first * limit:
        return []
    return [
        noticed(
            "length-drift",
            Severity.WARNING,
            f"The mean completion length went from {ends.first:.0f} to {ends.last:.0f} tokens "
            f"(limit: a factor of {limit:g}).",
            ends.evidence,
        )
    ]


def unusable_answers(evidence: RunEvidence) -> list[Finding]:
    """Empty and truncated answers score well where abstaining is right: such a figure says little."""
    limits = evidence.limits
    gates: tuple[tuple[str, str, Callable[[EvalTask], float | None], float], ...] = (
        ("empty-answers", "empty", lambda task: task.empty_rate, limits.empty_answers),
        (
            "truncated-answers",
            "cut off by the length limit",
            lambda task: task.truncated_rate,
            limits.truncated_answers,
        ),
        (
            "truncated-context",
            "given to a prompt that was cut",
            lambda task: task.metrics.get("context_truncated"),
            0.0,
        ),
    )
    return [
        noticed(
            rule,
            Severity.WARNING,
            f"{rate:.1%} of the answers to {task.task} ({task.phase}) were {what} (limit {limit:.0%}).",
            [seq],
        )
        for rule, what, figure, limit in gates
        for seq, task in evidence.evaluations
        if (rate := figure(task)) is not None and rate > limit
    ]


def reward_errors(evidence: RunEvidence) -> list[Finding]:
    """A reward source raised, hung, or returned something that is no number; those rollouts were left out."""
    total, failed = 0, 0
    sources: Counter[str] = Counter()
    examples: list[int] = []
    for seq, rollout in evidence.rollouts:
        total += 1
        if rollout.errors:
            failed += 1
            sources.update(rollout.errors.keys())
            if len(examples) < MOST_EVIDENCE:
                examples.append(seq)
    if not failed:
        return []
    by_source = ", ".join(f"{name} {count}" for name, count in sources.most_common())
    return [
        noticed(
            "reward-errors",
            Severity.ERROR if failed / total > evidence.limits.reward_errors else Severity.WARNING,
            f"Reward sources failed on {failed} of {total} rollouts ({by_source}).",
            examples,
        )
    ]


RULES: tuple[Rule, ...] = (
    regressions,
    reward_against_evaluation,
    shadow_falls,
    contamination,
    known_exploits,
    reward_hangs,
    verifiers_disagree,
    reward_errors,
    zero_variance,
    truncated_completions,
    entropy_collapse,
    length_drift,
    unusable_answers,
    safety_not_cleared,
)
"""Every rule, in the order of reading."""
