"""Group J: what was evaluated before and after, under which plan, and what got worse."""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict

from grpo_audit.catalogue.field import (
    Field,
    Group,
    for_all,
    for_regulator,
    measured,
    not_applicable,
    unknown,
)
from grpo_audit.catalogue.run import Run, fill
from grpo_audit.record.events import EventKind, TaskComparison, Verdict

BEHAVIOURS: Final[dict[str, tuple[str, ...]]] = {
    "performance": ("performance",),
    "hallucination": ("hallucination", "unanswerable"),
    "refusal": ("refusal",),
    "jailbreak": ("jailbreak",),
    "harmful": ("harmful", "hazard"),
    "contamination": ("contamination",),
    "multilingual": ("multilingual", "language"),
    "tool_use": ("tool",),
}
"""Field, and the words by which a task's behaviour is recognised."""


class TaskResult(BaseModel):
    """One task before and after."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    task: str
    """Name of the task."""
    metric: str
    """Its primary metric."""
    pre: float
    """Mean over the documents before training."""
    post: float
    """Mean after."""
    difference: float
    """Paired, post - pre."""
    ci_low: float | None
    """Lower end of its 95 % interval."""
    ci_high: float | None
    """Upper end."""
    documents: int
    """Number of documents."""
    verdict: str
    """What the paired comparison says."""

    def __str__(self) -> str:
        ends = (
            None if self.ci_low is None or self.ci_high is None else f", 95 % [{self.ci_low:+.3f}, {self.ci_high:+.3f}]"
        )
        change = f"{self.difference:+.3f}{ends or ''}, n = {self.documents}"
        return f"{self.task} {self.pre:.3f} → {self.post:.3f} ({change}; {self.verdict})"


class Evaluation(Group):
    """What was evaluated."""

    plan: Annotated[Field[str], for_regulator()]
    """Digest of the evaluation protocol, registered before step 0."""
    suite: Annotated[Field[str], for_all()]
    """The suite and the number of tasks and documents."""
    harness: Annotated[Field[str], for_regulator()]
    """The harness and its version."""
    models_under_test: Annotated[Field[dict[str, str]], for_regulator()]
    """Digest of the weights that were evaluated, before and after."""
    samples: Annotated[Field[int], for_regulator()]
    """Per-sample results, each with document and prompt hash."""
    performance: Annotated[Field[list[TaskResult]], for_all()]
    """Task performance before and after."""
    hallucination: Annotated[Field[list[TaskResult]], for_all()]
    """Hallucination and abstention before and after."""
    refusal: Annotated[Field[list[TaskResult]], for_all()]
    """Refusal calibration before and after."""
    jailbreak: Annotated[Field[list[TaskResult]], for_all()]
    """Jailbreak robustness before and after."""
    harmful: Annotated[Field[list[TaskResult]], for_regulator()]
    """Harmful capability before and after."""
    contamination: Annotated[Field[list[TaskResult]], for_all()]
    """Signs of benchmark contamination before and after."""
    multilingual: Annotated[Field[list[TaskResult]], for_all()]
    """Multilingual behaviour before and after."""
    tool_use: Annotated[Field[list[TaskResult]], for_all()]
    """Tool use before and after."""
    safety: Annotated[Field[list[TaskResult]], for_all()]
    """Every task marked as a safety behaviour, before and after."""
    regressions: Annotated[Field[list[str]], for_all()]
    """Tasks that regressed beyond their margin."""
    statistics: Annotated[Field[str], for_regulator()]
    """Interval, tests, and the correction for multiplicity."""
    gates: Annotated[Field[dict[str, float]], for_regulator()]
    """Non-inferiority margin of each task, fixed before step 0."""
    release_gates: Annotated[Field[list[str]], for_all()]
    """Release conditions that were registered before step 0, and whether each holds."""
    clean_subset: Annotated[Field[list[str]], for_all()]
    """Headlines on the documents that no training prompt overlaps with."""
    limitations: Annotated[Field[str], for_all("governance.limitations")]
    """Known limitations of the model and of its evaluation."""
    adversarial_testing: Annotated[Field[str], for_regulator(annotate=True)]
    """Adversarial testing beyond the suite: red teams, inside or outside."""
    published: Annotated[Field[str], for_all(annotate=True)]
    """Where the evaluation results are published; this tool writes them into report, card and bundle."""


def evaluation(run: Run) -> Evaluation:
    """Group J of a run."""
    plan, at = run.registered.payload.evaluation, run.at
    if plan is None:
        none = not_applicable("evaluation.suite is null: nothing was planned", at)
        planned = {"plan": none, "suite": none, "harness": none, "gates": none}
    else:
        documents = sum(task.documents for task in plan.tasks)
        planned = {
            "plan": measured(plan.protocol_digest, at),
            "suite": measured(f"{plan.suite}: {len(plan.tasks)} tasks, {documents:,} documents", at),
            "harness": measured(plan.harness, at),
            "gates": measured({task.task: task.margin for task in plan.tasks}, at),
        }
    samples = run.span(EventKind.EVAL_SAMPLE)
    behaviours = {name: _behaviour(run, words) for name, words in BEHAVIOURS.items()}
    return fill(
        Evaluation,
        "evaluation",
        run,
        **planned,
        **behaviours,
        models_under_test=_models(run),
        samples=measured(samples.count if samples else None, samples, unknown="nothing was evaluated"),
        safety=_results(
            run, [task for task in _compared(run) if task.safety], "no task is marked as a safety behaviour"
        ),
        regressions=_regressions(run),
        statistics=_statistics(run),
        release_gates=_release_gates(run),
        clean_subset=_clean_subset(run),
    )


def _compared(run: Run) -> list[TaskComparison]:
    return run.comparison.payload.tasks if run.comparison else []


def _behaviour(run: Run, words: tuple[str, ...]) -> Field[Any]:
    plan = run.registered.payload.evaluation
    named = [task.behaviour for task in (plan.tasks if plan else ())] + [task.behaviour for task in _compared(run)]
    if not any(_is(behaviour, words) for behaviour in named):
        return unknown(f"a task of the suite whose behaviour names {' or '.join(words)} would measure it")
    return _results(run, [task for task in _compared(run) if _is(task.behaviour, words)], "planned, not compared yet")


def _is(behaviour: str, words: tuple[str, ...]) -> bool:
    return any(word in behaviour.lower() for word in words)


def _results(run: Run, tasks: list[TaskComparison], missing: str) -> Field[Any]:
    if run.comparison is None or not tasks:
        return unknown("no comparison was recorded" if run.comparison is None else missing)
    found = [
        TaskResult(
            **task.model_dump(
                include={"task", "metric", "pre", "post", "difference", "ci_low", "ci_high", "documents"}
            ),
            verdict=task.verdict.value,
        )
        for task in tasks
    ]
    sources = [run.evaluated.get((phase, task.task)) for task in tasks for phase in ("pre", "post")]
    return measured(found, run.comparison.seq, *(entry.seq for entry in sources if entry))


def _models(run: Run) -> Field[Any]:
    found = {phase: entry for (phase, _), entry in run.evaluated.items()}
    digests = {phase: entry.payload.weights_digest for phase, entry in found.items()}
    return measured(digests or None, *(entry.seq for entry in found.values()), unknown="nothing was evaluated")


def _regressions(run: Run) -> Field[Any]:
    if run.comparison is None:
        return unknown("no comparison was recorded")
    found = [task.task for task in _compared(run) if task.verdict is Verdict.REGRESSED]
    return measured(found, run.comparison.seq)


def _statistics(run: Run) -> Field[Any]:
    if run.comparison is None:
        return unknown("no comparison was recorded")
    methods = ", ".join(dict.fromkeys(task.method for task in _compared(run) if task.method))
    text = f"paired 95 % intervals; {methods}; Holm over the primary metrics at {run.comparison.payload.alpha:g}"
    return measured(text, run.comparison.seq)


def _release_gates(run: Run) -> Field[Any]:
    if not run.config.gates:
        return not_applicable("the recipe fixed no release gates", run.at)
    if run.gates is None:
        return unknown("the gates are checked at the end of the run, which it has not reached", run.at)
    found = [
        f"{gate.name}: {'holds' if gate.passed else 'fails'} ({gate.condition})" for gate in run.gates.payload.gates
    ]
    return measured(found, run.at, run.gates.seq)


def _clean_subset(run: Run) -> Field[Any]:
    if run.decontamination is None or not run.decontamination.payload.valid:
        return unknown("a valid check of the prompts against the evaluation documents would say which are clean")
    if run.comparison is None:
        return unknown("no comparison was recorded")
    clean = run.comparison.payload.clean
    if not clean:
        return measured(["all documents are clean"], run.decontamination.seq, run.comparison.seq)
    found = [
        f"{item.task}: {item.clean} clean documents, {_rate(item.pre)} → {_rate(item.post)}"
        f" ({item.verdict.value if item.verdict else 'not tested'})"
        for item in clean
    ]
    return measured(found, run.decontamination.seq, run.comparison.seq)


def _rate(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"
