"""The release table: what was planned before step 0, what was measured, and what the paired comparison says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from grpo_audit.catalogue.reader import Entry
from grpo_audit.record.events import (
    Comparison,
    EvalTask,
    EvaluationPlan,
    ModelSaved,
    Phase,
    RunRegistered,
    TaskComparison,
    TaskPlan,
    Verdict,
)
from grpo_audit.report.evidence import Evidence, Fact, Source, derived, measured
from grpo_audit.report.model import Release, ReleaseRow, Standing
from grpo_audit.report.numbers import share, significant

NOTABLE_RATE = 0.05
"""Share of empty or truncated answers from which a row carries a remark."""

STANDINGS = {
    Verdict.IMPROVED: Standing.GOOD,
    Verdict.REGRESSED: Standing.BAD,
    Verdict.NOT_WORSE: Standing.QUIET,
    Verdict.INCONCLUSIVE: Standing.OPEN,
    Verdict.NO_DISCORDANT_PAIRS: Standing.QUIET,
}
"""How a row of each verdict is coloured."""

Measured = Mapping[tuple[Phase, str], Entry[EvalTask]]
"""Newest result by phase and task."""


def release(
    registered: Entry[RunRegistered],
    tasks: Measured,
    comparison: Entry[Comparison] | None,
    saved: Entry[ModelSaved] | None,
) -> Release:
    """The release table of a run; rows in the order of the plan, then whatever was measured without being planned."""
    plan = registered.payload.evaluation
    if plan is None and not tasks and comparison is None:
        reason = "The recipe names no evaluation suite, so nothing was measured before or after training."
        return Release((), (), (), reason)
    planned = {task.task: task for task in plan.tasks} if plan else {}
    compared = {task.task: task for task in comparison.payload.tasks} if comparison else {}
    names = [*planned, *(name for name in compared if name not in planned)]
    names += sorted({name for _, name in tasks} - set(names))
    shared = len({task.method for task in compared.values()}) <= 1
    rows = tuple(
        _row(name, planned.get(name), compared.get(name), tasks, registered.seq, comparison, shared) for name in names
    )
    missing = "" if comparison else _why_no_comparison(tasks)
    return Release(rows, _facts(registered.seq, plan, comparison), _remarks(registered, comparison, saved), missing)


def outcome(found: Release) -> str:
    """The release table in one sentence."""
    counts = Counter(row.verdict for row in found.rows if row.verdict is not None)
    if not counts:
        return found.missing or "Nothing was compared."
    parts = [f"{count} {_PHRASES[Verdict(verdict)]}" for verdict, count in _in_order(counts)]
    without = sum(row.verdict is None for row in found.rows)
    if without:
        parts.append(f"{without} not compared")
    number = len(found.rows)
    sentence = f"Of {number} evaluation task{'s' if number != 1 else ''}: {', '.join(parts)}."
    unsafe = [row for row in found.rows if row.safety and row.verdict not in _ACCEPTED]
    safety = sum(row.safety for row in found.rows)
    if not safety:
        return f"{sentence} None of them is marked as a safety behaviour."
    if not unsafe:
        return f"{sentence} All {safety} safety behaviours stay within the margins fixed before step 0."
    names = ", ".join(f"{row.behaviour} ({row.verdict or 'not compared'})" for row in unsafe)
    return f"{sentence} Safety behaviours not shown to stay within their margin: {names}."


_PHRASES = {
    Verdict.IMPROVED: "improved",
    Verdict.REGRESSED: "regressed",
    Verdict.NOT_WORSE: "with no regression beyond the margin",
    Verdict.INCONCLUSIVE: "inconclusive",
    Verdict.NO_DISCORDANT_PAIRS: "without a single changed document",
}
_ACCEPTED = {Verdict.IMPROVED, Verdict.NOT_WORSE, Verdict.NO_DISCORDANT_PAIRS}


def _in_order(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return [(verdict, counts[verdict]) for verdict in Verdict if counts.get(verdict)]


def _row(
    name: str,
    plan: TaskPlan | None,
    found: TaskComparison | None,
    tasks: Measured,
    plan_seq: int,
    comparison: Entry[Comparison] | None,
    shared_method: bool,
) -> ReleaseRow:
    pre, post = tasks.get(("pre", name)), tasks.get(("post", name))
    described = plan or found
    shown = pre or post
    seqs = [plan_seq] if plan else []
    seqs += [entry.seq for entry in (pre, post) if entry]
    if found and comparison:
        seqs.append(comparison.seq)
    metric = described.metric if described else (shown.payload.metric if shown else "")
    return ReleaseRow(
        task=name,
        behaviour=described.behaviour if described else (shown.payload.behaviour if shown else name),
        metric=metric,
        higher_is_better=described.higher_is_better if described else True,
        safety=described.safety if described else False,
        planned=plan is not None,
        documents=found.documents if found else (shown.payload.documents if shown else None),
        pre=found.pre if found else _value(pre, metric),
        post=found.post if found else _value(post, metric),
        difference=found.difference if found else None,
        ci_low=found.ci_low if found else None,
        ci_high=found.ci_high if found else None,
        p_adjusted=found.p_adjusted if found else None,
        p_margin=found.p_margin if found else None,
        minimum_detectable=found.minimum_detectable if found else None,
        margin=found.margin if found else (plan.margin if plan else None),
        gained=found.gained if found else None,
        lost=found.lost if found else None,
        verdict=found.verdict.value if found else None,
        method=found.method if found and not shared_method else "",
        standing=STANDINGS[found.verdict] if found else Standing.OPEN,
        missing="" if found else _why_missing(pre, post),
        remarks=_row_remarks(plan, found, pre, post),
        source=Source(Evidence.MEASURED, tuple(dict.fromkeys(seqs))),
    )


def _value(entry: Entry[EvalTask] | None, metric: str) -> float | None:
    return entry.payload.metrics.get(metric) if entry else None


def _why_missing(pre: Entry[EvalTask] | None, post: Entry[EvalTask] | None) -> str:
    if pre is None and post is None:
        return "planned, not measured"
    if post is None:
        return "measured before training only"
    if pre is None:
        return "measured after training only"
    return "measured, not compared"


def _why_no_comparison(tasks: Measured) -> str:
    phases = {phase for phase, _ in tasks}
    if not phases:
        return "No evaluation was recorded, so nothing can be said about what training changed."
    if phases == {"pre"}:
        return "The run holds the evaluation of the base model only; the trained weights were never evaluated."
    return "No comparison was recorded; the values below stand beside each other without a test."


def _row_remarks(
    plan: TaskPlan | None,
    found: TaskComparison | None,
    pre: Entry[EvalTask] | None,
    post: Entry[EvalTask] | None,
) -> tuple[str, ...]:
    remarks = []
    if plan is None:
        remarks.append("not in the plan registered before step 0")
    if plan and found:
        for label, before, after in (
            ("margin", plan.margin, found.margin),
            ("metric", plan.metric, found.metric),
            ("documents", plan.documents, found.documents),
        ):
            if before != after:
                remarks.append(f"{label} differs from the plan: registered {before}, compared with {after}")
    for label in ("empty", "truncated"):
        rates = [getattr(entry.payload, f"{label}_rate") if entry else None for entry in (pre, post)]
        if any(rate is not None and rate >= NOTABLE_RATE for rate in rates):
            shown = " → ".join("not recorded" if rate is None else share(rate) for rate in rates)
            remarks.append(f"{label} answers {shown}")
    return tuple(remarks)


def _facts(seq: int, plan: EvaluationPlan | None, comparison: Entry[Comparison] | None) -> tuple[Fact, ...]:
    facts: list[Fact] = []
    if plan:
        facts += [
            measured("Suite", plan.suite, seq),
            measured("Harness", plan.harness, seq),
            measured("Protocol", plan.protocol_digest, seq, mono=True),
            measured("Tasks and documents", f"{len(plan.tasks)} and {sum(t.documents for t in plan.tasks)}", seq),
        ]
    if comparison:
        found = comparison.payload
        methods = dict.fromkeys(task.method for task in found.tasks if task.method)
        facts += [
            measured(
                "Family-wise error rate", f"{significant(found.alpha)}, Holm over the primary metrics", comparison.seq
            ),
            derived("Tests", "; ".join(methods) or None, comparison.seq, how="as named by each comparison"),
        ]
    return tuple(facts)


def _remarks(
    registered: Entry[RunRegistered], comparison: Entry[Comparison] | None, saved: Entry[ModelSaved] | None
) -> tuple[str, ...]:
    """Whether the comparison is about the protocol and the weights that were registered and saved."""
    if comparison is None:
        return ()
    found, plan = comparison.payload, registered.payload.evaluation
    remarks = []
    if plan is None:
        remarks.append("The comparison rests on no plan: none was registered before step 0.")
    elif plan.protocol_digest != found.protocol_digest:
        remarks.append("The protocol of the comparison is not the one registered before step 0.")
    if plan and plan.alpha != found.alpha:
        remarks.append(f"The error rate was registered as {plan.alpha} and compared with {found.alpha}.")
    if found.pre_weights != registered.payload.model.weights_digest:
        remarks.append("The weights evaluated before training are not those of the registered base model.")
    if saved is None:
        remarks.append("No saved model was recorded, so the evaluated weights cannot be tied to a release.")
    elif found.post_weights != saved.payload.model.weights_digest:
        remarks.append("The weights evaluated after training are not those that were saved for release.")
    return tuple(remarks)
