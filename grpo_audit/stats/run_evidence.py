"""What the finding rules look at: the events of one run, and how a rule says what it noticed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from grpo_audit.config.run import RunConfig
from grpo_audit.record.audits import Decontamination, RewardProbed, RewardRegraded
from grpo_audit.record.events import (
    Comparison,
    EvalTask,
    EventKind,
    Finding,
    Payload,
    Rollout,
    RunRegistered,
    Severity,
    Step,
)

MOST_EVIDENCE = 50
"""Events a finding names at most; the message says how many there were."""


@dataclass(frozen=True)
class Limits:
    """When a figure becomes a finding. The values are conventions, wide enough to stay quiet on a healthy run."""

    window: float = 0.2
    """Share of the steps that counts as the beginning, and as the end, of training (at least one step)."""
    reward_rise: float = 0.02
    """Rise of the mean reward, end against beginning, that counts as "the reward rose"."""
    zero_variance: float = 0.5
    """Share of groups without signal, mean over the run."""
    truncated: float = 0.2
    """Share of completions that ran into the length limit, at the end."""
    entropy_ratio: float = 0.2
    """Entropy at the end as a share of that at the beginning."""
    length_ratio: float = 2.0
    """Mean completion length, end over beginning or beginning over end."""
    empty_answers: float = 0.05
    truncated_answers: float = 0.1
    disagreement: float = 0.02
    """Share of rollouts that only the reward source rewards, and its second verifier does not."""
    disagreement_rise: float = 0.05
    """Rise of that share, last fifth of the steps against the first, that is a sign of a gamed reward."""
    reward_errors: float = 0.1
    """Share of rollouts without a reward above which it is an error and no warning."""


@dataclass(frozen=True)
class RunEvidence:
    """The events of one run that the rules read, each with its sequence number."""

    steps: Sequence[tuple[int, Step]] = ()
    evaluations: Sequence[tuple[int, EvalTask]] = ()
    comparison: tuple[int, Comparison] | None = None
    decontamination: tuple[int, Decontamination] | None = None
    expected: frozenset[str] = frozenset()
    """Tasks that are contaminated on purpose."""
    probed: Sequence[tuple[int, RewardProbed]] = ()
    regraded: Sequence[tuple[int, RewardRegraded]] = ()
    trained_on: frozenset[str] = frozenset()
    """Names of the reward sources that training used; all others are shadows."""
    rollouts: Iterable[tuple[int, Rollout]] = ()
    """Read once; may be a generator over a million of them."""
    limits: Limits = field(default_factory=Limits)


def noticed(rule: str, severity: Severity, message: str, evidence: Iterable[int]) -> Finding:
    """A finding that rests on these events; of many it names the first."""
    return Finding(rule=rule, severity=severity, message=message, evidence=list(evidence)[:MOST_EVIDENCE])


def last_attempt(evidence: RunEvidence) -> list[tuple[int, Step]]:
    """A step that was done again after an interruption counts once, as it was done last."""
    newest: dict[int, tuple[int, Step]] = {}
    for seq, step in evidence.steps:
        if step.step not in newest or step.attempt >= newest[step.step][1].attempt:
            newest[step.step] = (seq, step)
    return [newest[number] for number in sorted(newest)]


@dataclass(frozen=True)
class Ends:
    """A step figure at the beginning and at the end of training."""

    first: float
    last: float
    evidence: list[int]


def ends_of(evidence: RunEvidence, figure: Callable[[Step], float | None]) -> Ends | None:
    """A figure of the steps at both ends of training; None when there are too few steps that have it."""
    values = [(seq, value) for seq, step in last_attempt(evidence) if (value := figure(step)) is not None]
    size = max(1, int(len(values) * evidence.limits.window))
    if len(values) < 2 * size:
        return None
    first, last = values[:size], values[-size:]
    return Ends(
        fmean(value for _, value in first),
        fmean(value for _, value in last),
        [seq for seq, _ in [*first, *last]],
    )


KINDS = frozenset(
    {
        EventKind.RUN_REGISTERED,
        EventKind.STEP,
        EventKind.EVAL_TASK,
        EventKind.COMPARISON,
        EventKind.DECONTAMINATION,
        EventKind.REWARD_PROBED,
        EventKind.REWARD_REGRADED,
    }
)
"""Kinds of event that ``Gathered`` takes; rollouts are too many and come by themselves."""


class Gathered:
    """The events of one run, gathered one by one as the record is read."""

    def __init__(self) -> None:
        self._steps: list[tuple[int, Step]] = []
        self._evaluations: list[tuple[int, EvalTask]] = []
        self._probed: list[tuple[int, RewardProbed]] = []
        self._regraded: list[tuple[int, RewardRegraded]] = []
        self._decontamination: tuple[int, Decontamination] | None = None
        self._expected: frozenset[str] = frozenset()
        self._trained_on: frozenset[str] = frozenset()
        self.comparison: tuple[int, Comparison] | None = None

    def follow(self, seq: int, payload: Payload) -> None:
        """Take an event into account; others than ``KINDS`` are nothing to it."""
        match payload:
            case RunRegistered():
                self._register(payload)
            case Step():
                self._steps.append((seq, payload))
            case EvalTask():
                self._evaluations.append((seq, payload))
            case Comparison():
                self.comparison = (seq, payload)
            case Decontamination():
                self._decontamination = (seq, payload)
            case RewardProbed():
                self._probed.append((seq, payload))
            case RewardRegraded():
                self._regraded.append((seq, payload))
            case _:
                pass

    def _register(self, registered: RunRegistered) -> None:
        """Records from before there were checks around training have no section for them: the rules about shadow
        sources did not exist then, and are not applied."""
        if "decontamination" not in registered.config:
            return
        config = RunConfig.model_validate(registered.config, strict=False)
        planned = {task.task for task in registered.evaluation.tasks} if registered.evaluation else set()
        self._expected = frozenset(config.decontamination.expected) & planned
        self._trained_on = frozenset(reward.name for reward in config.rewards if reward.role == "train")

    def evidence(self, rollouts: Iterable[tuple[int, Rollout]], limits: Limits | None = None) -> RunEvidence:
        """Everything gathered, with the rollouts."""
        return RunEvidence(
            steps=self._steps,
            evaluations=self._evaluations,
            comparison=self.comparison,
            decontamination=self._decontamination,
            expected=self._expected,
            probed=self._probed,
            regraded=self._regraded,
            trained_on=self._trained_on,
            rollouts=rollouts,
            limits=limits or Limits(),
        )
