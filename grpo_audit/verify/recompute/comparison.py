"""(29) The comparison, from the samples and the plan that was fixed before step 0.

Interval, tests and effect sizes come from ``grpo_audit.stats`` (scipy and statsmodels); counts, means, the exact
McNemar test, Holm's correction and the verdict are computed here a second time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from grpo_audit.errors import ComparisonError
from grpo_audit.record.events import Comparison, EvaluationPlan, Finding, TaskComparison, TaskPlan, Verdict
from grpo_audit.stats.paired import PairedResult, Side, compare
from grpo_audit.verify.recompute.compare import same, shown
from grpo_audit.verify.recompute.evaluation import EvaluationCheck
from grpo_audit.verify.verdict import Tally

_LIBRARY_TOLERANCE = 1e-6
"""For what scipy and statsmodels compute: their versions differ in the last digits of distribution functions and, for
the detectable effect, in where a search stops."""
_TOLERANCE = 1e-9
_LIBRARY = ("ci_low", "ci_high", "p", "p_adjusted", "p_margin", "minimum_detectable")
_COUNTED = ("documents", "pre", "post", "difference", "gained", "lost", "margin")
_WORDS = ("behaviour", "metric", "higher_is_better", "safety", "method", "verdict")


class ComparisonCheck:
    """Compares the recorded comparison with one made anew."""

    def __init__(self, plan: EvaluationPlan | None, tally: Tally) -> None:
        self._tally = tally
        self._plan = plan
        self.findings: tuple[Finding, ...] = ()
        """What the comparison itself noticed."""

    def check(self, seq: int, recorded: Comparison, evaluation: EvaluationCheck) -> None:
        """One comparison event."""
        self._tally.saw()
        if self._plan is None:
            self._tally.wrong(f"event {seq} compares, although no evaluation was planned")
            return
        if recorded.alpha != self._plan.alpha:
            self._tally.wrong(f"alpha is {recorded.alpha}, fixed before step 0 as {self._plan.alpha}")
        if recorded.protocol_digest != self._plan.protocol_digest:
            self._tally.wrong("the protocol is not the one fixed before step 0")
        if [task.task for task in recorded.tasks] != [task.task for task in self._plan.tasks]:
            self._tally.wrong("the tasks compared are not those planned before step 0")
            return
        for task, planned in zip(recorded.tasks, self._plan.tasks, strict=True):
            self._independently(task, planned, evaluation)
        self._corrections(recorded)
        anew = self._anew(evaluation)
        if anew is None:
            return
        self.findings = anew.findings
        for side, one, other in (
            ("before", recorded.pre_weights, anew.comparison.pre_weights),
            ("after", recorded.post_weights, anew.comparison.post_weights),
        ):
            if one != other:
                self._tally.wrong(f"the weights compared {side} are {one[:20]}, those evaluated {other[:20]}")
        for task, found in zip(recorded.tasks, anew.comparison.tasks, strict=True):
            self._same(task, found)

    def _anew(self, evaluation: EvaluationCheck) -> PairedResult | None:
        assert self._plan is not None
        try:
            return compare(self._plan, _side(self._plan, evaluation, "pre"), _side(self._plan, evaluation, "post"))
        except ComparisonError as error:
            self._tally.wrong(str(error))
            return None

    def _same(self, recorded: TaskComparison, found: TaskComparison) -> None:
        for name in _COUNTED + _LIBRARY:
            self._tally.saw()
            one, other = getattr(recorded, name), getattr(found, name)
            tolerance = _LIBRARY_TOLERANCE if name in _LIBRARY else _TOLERANCE
            if not same(one, other, tolerance):
                self._tally.wrong(f"{recorded.task}: {name} is {shown(one)}, found {shown(other)}")
        for name in _WORDS:
            self._tally.saw()
            if getattr(recorded, name) != getattr(found, name):
                self._tally.wrong(
                    f"{recorded.task}: {name} is {getattr(recorded, name)!r:.80}, found {getattr(found, name)!r:.80}"
                )

    def _independently(self, recorded: TaskComparison, planned: TaskPlan, evaluation: EvaluationCheck) -> None:
        """What needs no library: counts, means, and the exact McNemar test (a binomial with p = 1/2)."""
        self._tally.saw(2)
        if recorded.margin != planned.margin:
            self._tally.wrong(
                f"{recorded.task}: the margin is {recorded.margin}, fixed before step 0 as {planned.margin}"
            )
        pairs = _pairs(planned, evaluation)
        if pairs is None:
            return
        sign = 1 if planned.higher_is_better else -1
        gained = sum(sign * (after - before) > 0 for before, after in pairs)
        lost = sum(sign * (after - before) < 0 for before, after in pairs)
        if (recorded.gained, recorded.lost) != (gained, lost):
            self._tally.wrong(
                f"{recorded.task}: {recorded.gained} gained and {recorded.lost} lost, the samples give {gained}, {lost}"
            )
        if recorded.method.startswith("exact McNemar"):
            self._tally.saw()
            p = mcnemar(gained, lost)
            if not same(recorded.p, p, _TOLERANCE):
                self._tally.wrong(f"{recorded.task}: p is {shown(recorded.p)}, the binomial gives {shown(p)}")

    def _corrections(self, recorded: Comparison) -> None:
        """Holm over all planned tasks, and the verdicts that follow from the plan's level."""
        assert self._plan is not None
        adjusted = holm([1.0 if task.p is None else task.p for task in recorded.tasks])
        for task, value in zip(recorded.tasks, adjusted, strict=True):
            self._tally.saw(2)
            expected = None if task.p is None else value
            if not same(task.p_adjusted, expected, _TOLERANCE):
                self._tally.wrong(f"{task.task}: adjusted p is {shown(task.p_adjusted)}, Holm gives {shown(expected)}")
            verdict = _verdict(task, expected, self._plan.alpha)
            if task.verdict is not verdict:
                self._tally.wrong(f"{task.task}: verdict {task.verdict.value!r}, its figures give {verdict.value!r}")

    def finish(self, *, sealed: bool, compared: bool) -> None:
        """A sealed run that planned an evaluation has a comparison."""
        if sealed and self._plan is not None and not compared:
            self._tally.wrong("an evaluation was planned, and the sealed run has no comparison")
        self._tally.nothing("no evaluation was planned" if self._plan is None else "the run is not that far")


def mcnemar(gained: int, lost: int) -> float:
    """Two-sided exact p of ``gained`` against ``lost`` discordant pairs."""
    pairs = gained + lost
    tail = sum(math.comb(pairs, count) for count in range(min(gained, lost) + 1))
    return min(1.0, float(2 * tail / 2**pairs))


def holm(values: Sequence[float]) -> list[float]:
    """Step-down adjusted p values, in the order given."""
    adjusted, largest = [0.0] * len(values), 0.0
    for rank, place in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        largest = max(largest, min(1.0, (len(values) - rank) * values[place]))
        adjusted[place] = largest
    return adjusted


def _verdict(task: TaskComparison, adjusted: float | None, alpha: float) -> Verdict:
    if task.gained == task.lost == 0:
        return Verdict.NO_DISCORDANT_PAIRS
    better = (task.difference > 0) == task.higher_is_better
    if adjusted is not None and adjusted < alpha:
        return Verdict.IMPROVED if better else Verdict.REGRESSED
    if task.p_margin is not None and task.p_margin < alpha:
        return Verdict.NOT_WORSE
    return Verdict.INCONCLUSIVE


def _pairs(planned: TaskPlan, evaluation: EvaluationCheck) -> list[tuple[float, float]] | None:
    sides = [evaluation.samples.get((phase, planned.task), []) for phase in ("pre", "post")]
    values = [{item.doc_id: item.metrics.get(planned.metric) for item in side} for side in sides]
    if values[0].keys() != values[1].keys():
        return None
    pairs = [(values[0][doc], values[1][doc]) for doc in values[0]]
    known = [(one, other) for one, other in pairs if one is not None and other is not None]
    return known if len(known) == len(pairs) else None


def _side(plan: EvaluationPlan, evaluation: EvaluationCheck, phase: str) -> Side:
    done = {task: entry for (found, task), entry in evaluation.tasks.items() if found == phase}
    weights = {task.weights_digest for _, task in done.values()}
    if len(weights) != 1:
        raise ComparisonError(f"the {phase} evaluation is missing or mixes weights", found=", ".join(sorted(weights)))
    return Side(
        weights=weights.pop(),
        protocol=plan.protocol_digest,
        samples={task: samples for (found, task), samples in evaluation.samples.items() if found == phase},
        responses=None
        if evaluation.erased_responses
        else {task: found for (name, task), found in evaluation.responses.items() if name == phase},
        evidence=tuple(seq for seq, _ in done.values()),
    )
