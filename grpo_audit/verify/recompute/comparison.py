"""(29) The comparison, from the samples and the plan that was fixed before step 0.

Interval, tests and effect sizes come from ``grpo_audit.stats`` (scipy and statsmodels); counts, means, the exact
McNemar test, the corrections of Holm and of Benjamini and Hochberg, the verdicts and which documents are clean are
computed here a second time.

Records made before there were secondary metrics have none, no lengths and no clean subset, and were made by earlier
statistics. Their registered configuration has no section ``decontamination``, which every later one spells out before
step 0: that, and that the comparison has none of the new parts either, makes a record an earlier one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from pydantic import BaseModel

from grpo_audit.errors import ComparisonError
from grpo_audit.record.events import (
    Comparison,
    Decontamination,
    EvaluationPlan,
    Finding,
    RunRegistered,
    TaskComparison,
    TaskPlan,
    Verdict,
)
from grpo_audit.refusal.findings import RULE as STYLE_CHANGED
from grpo_audit.stats.clean import flagged_documents
from grpo_audit.stats.paired import NOT_SEEN, PairedResult, Side, compare, compare_earlier
from grpo_audit.stats.protocol import directions
from grpo_audit.verify.recompute.compare import same, shown
from grpo_audit.verify.recompute.evaluation import EvaluationCheck
from grpo_audit.verify.recompute.refusals import check_refusals, made_by_others
from grpo_audit.verify.verdict import Tally

_LIBRARY_TOLERANCE = 1e-6
"""For what scipy and statsmodels compute: their versions differ in the last digits of distribution functions and, for
the detectable effect, in where a search stops."""
_TOLERANCE = 1e-9
_LIBRARY = frozenset(
    {"ci_low", "ci_high", "p", "p_adjusted", "p_margin", "minimum_detectable", "p_shift", "p_distribution"}
)


class ComparisonCheck:
    """Compares the recorded comparison with one made anew."""

    def __init__(self, registered: RunRegistered, tally: Tally) -> None:
        self._tally = tally
        self._plan = registered.evaluation
        self._earlier = "decontamination" not in registered.config
        self._contamination: Decontamination | None = None
        self.findings: tuple[Finding, ...] = ()
        """What the comparison itself noticed."""
        self.unknown: frozenset[str] = frozenset()
        """Rules of findings that rest on answers which cannot be read here: erased, withheld, or judged by another
        detector."""

    def contamination(self, found: Decontamination) -> None:
        """The newest contamination check so far: the clean subset rests on it."""
        self._contamination = found

    def check(self, seq: int, recorded: Comparison, evaluation: EvaluationCheck, protocol: bytes | None) -> None:
        """One comparison event. ``protocol``: the recorded text of the evaluation protocol, if it is there."""
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
        earlier = self._earlier and not (recorded.secondary or recorded.lengths or recorded.clean)
        anew = self._anew(evaluation, protocol, earlier)
        if anew is None:
            return
        self.findings = anew.findings
        if evaluation.erased_responses:
            self.unknown = frozenset({NOT_SEEN, STYLE_CHANGED})
        elif evaluation.judged is not None and made_by_others(recorded, evaluation.judged):
            self.unknown = frozenset({STYLE_CHANGED})
        for side, one, other in (
            ("before", recorded.pre_weights, anew.comparison.pre_weights),
            ("after", recorded.post_weights, anew.comparison.post_weights),
        ):
            if one != other:
                self._tally.wrong(f"the weights compared {side} are {one[:20]}, those evaluated {other[:20]}")
        for task, found in zip(recorded.tasks, anew.comparison.tasks, strict=True):
            self._same(task.task, task, found)
        if not earlier:
            self._discoveries(recorded)
            self._clean(recorded, evaluation)
            self._parts(recorded, anew.comparison, directions_known=protocol is not None)
            if evaluation.judged is not None:
                refusals = check_refusals(seq, recorded, evaluation.judged, self._tally)
                self.findings = (*self.findings, *refusals)

    def _anew(self, evaluation: EvaluationCheck, protocol: bytes | None, earlier: bool) -> PairedResult | None:
        assert self._plan is not None
        try:
            sides = _side(self._plan, evaluation, "pre"), _side(self._plan, evaluation, "post")
            if earlier:
                return compare_earlier(self._plan, *sides)
            checked = self._contamination
            return compare(
                self._plan,
                *sides,
                flagged=None if checked is None else flagged_documents(self._plan, checked),
                directions=directions(protocol),
            )
        except ComparisonError as error:
            self._tally.wrong(str(error))
            return None

    def _parts(self, recorded: Comparison, found: Comparison, *, directions_known: bool) -> None:
        """Secondary metrics, lengths and the clean subset: the same entries in the same order, each the same."""
        unknown = () if directions_known else ("higher_is_better",)
        for part in ("secondary", "lengths", "clean"):
            self._tally.saw()
            ours, theirs = getattr(found, part), getattr(recorded, part)
            keys = [[(item.task, getattr(item, "metric", "")) for item in items] for items in (theirs, ours)]
            if keys[0] != keys[1]:
                lacking = [key for key in keys[1] if key not in keys[0]]
                said = f"lacks {' '.join(lacking[0]).strip()}" if lacking else "has other entries than the samples give"
                self._tally.wrong(f"the part {part!r} {said}")
                continue
            for one, other in zip(theirs, ours, strict=True):
                self._same(f"{part}, {one.task} {getattr(one, 'metric', '')}".strip(), one, other, unknown)

    def _same(self, where: str, recorded: BaseModel, found: BaseModel, leave_out: Sequence[str] = ()) -> None:
        """Every field: numbers within what a library's versions differ by, the rest exactly."""
        for name in type(found).model_fields:
            if name in leave_out:
                continue
            self._tally.saw()
            one, other = getattr(recorded, name), getattr(found, name)
            if isinstance(one, float) or isinstance(other, float):
                if not same(one, other, _LIBRARY_TOLERANCE if name in _LIBRARY else _TOLERANCE):
                    self._tally.wrong(f"{where}: {name} is {shown(one)}, found {shown(other)}")
            elif one != other:
                self._tally.wrong(f"{where}: {name} is {one!r:.80}, found {other!r:.80}")

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

    def _discoveries(self, recorded: Comparison) -> None:
        """Benjamini and Hochberg over all secondary metrics, and what counts as changed."""
        assert self._plan is not None
        adjusted = benjamini_hochberg([1.0 if item.p is None else item.p for item in recorded.secondary])
        for item, value in zip(recorded.secondary, adjusted, strict=True):
            self._tally.saw()
            expected = None if item.p is None else value
            changed = None if expected is None else expected < self._plan.alpha
            if not same(item.p_adjusted, expected, _TOLERANCE) or item.changed is not changed:
                self._tally.wrong(
                    f"secondary, {item.task} {item.metric}: adjusted p {shown(item.p_adjusted)} ({item.changed}), "
                    f"Benjamini-Hochberg gives {shown(expected)} ({changed})"
                )

    def _clean(self, recorded: Comparison, evaluation: EvaluationCheck) -> None:
        """How many documents are clean, and both means of either kind, from the overlaps as recorded."""
        assert self._plan is not None
        found = self._contamination
        if found is None or not found.valid:
            if recorded.clean:
                self._tally.wrong("a clean subset is compared, and no valid contamination check says what is clean")
            return
        for row in recorded.clean:
            planned = next((task for task in self._plan.tasks if task.task == row.task), None)
            pairs = None if planned is None else _values(planned, evaluation)
            if pairs is None:
                continue  # said where the task itself is compared
            self._tally.saw()
            flagged = {
                item.doc_id for item in found.overlaps if item.task == row.task and (item.coverage or item.contaminated)
            }
            dirty = [pair for document, pair in pairs.items() if document in flagged]
            clean = [pair for document, pair in pairs.items() if document not in flagged]
            expected = (*_means(clean), *_means(dirty))
            stated = (row.pre, row.post, row.flagged_pre, row.flagged_post)
            if (row.clean, row.flagged) != (len(clean), len(dirty)) or not all(
                same(one, other, _TOLERANCE) for one, other in zip(stated, expected, strict=True)
            ):
                self._tally.wrong(
                    f"clean, {row.task}: {row.clean} clean and {row.flagged} flagged with means "
                    f"{', '.join(map(shown, stated))}; the overlaps give {len(clean)}, {len(dirty)} and "
                    f"{', '.join(map(shown, expected))}"
                )

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


def benjamini_hochberg(values: Sequence[float]) -> list[float]:
    """Step-up adjusted p values, in the order given."""
    adjusted, smallest = [0.0] * len(values), 1.0
    ranked = sorted(range(len(values)), key=values.__getitem__)
    for rank in range(len(values), 0, -1):
        place = ranked[rank - 1]
        smallest = min(smallest, values[place] * len(values) / rank)
        adjusted[place] = smallest
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
    found = _values(planned, evaluation)
    return None if found is None else list(found.values())


def _values(planned: TaskPlan, evaluation: EvaluationCheck) -> dict[str, tuple[float, float]] | None:
    """By document: the primary metric before and after; None where one is missing."""
    sides = [evaluation.samples.get((phase, planned.task), []) for phase in ("pre", "post")]
    values = [{item.doc_id: item.metrics.get(planned.metric) for item in side} for side in sides]
    if values[0].keys() != values[1].keys():
        return None
    pairs = {document: (before, values[1][document]) for document, before in values[0].items()}
    known = {
        document: (one, other) for document, (one, other) in pairs.items() if one is not None and other is not None
    }
    return known if len(known) == len(pairs) else None


def _means(pairs: Sequence[tuple[float, float]]) -> tuple[float | None, float | None]:
    if not pairs:
        return None, None
    return math.fsum(one for one, _ in pairs) / len(pairs), math.fsum(two for _, two in pairs) / len(pairs)


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
