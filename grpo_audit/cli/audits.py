"""The parts of the pipeline around training: contamination and probes before step 0, second verifiers and gates after
it. Each looks at the record first, so that a run that was killed does not do them twice."""

from __future__ import annotations

import os
from pathlib import Path

from grpo_audit.cli import console
from grpo_audit.cli.suite_documents import suite_documents
from grpo_audit.config.run import RunConfig
from grpo_audit.contamination.findings import findings
from grpo_audit.contamination.run import decontaminate_run
from grpo_audit.errors import ConfigError, PromptError
from grpo_audit.ledger.project import NewEvent, Project
from grpo_audit.prompts.loading import PromptSet
from grpo_audit.record.audits import Decontamination, RewardProbed, RewardRegraded
from grpo_audit.record.events import EvalSample, EvaluationPlan, EventKind, Severity
from grpo_audit.refusal.judged import Judgements
from grpo_audit.rewards.probes.run import probe_source
from grpo_audit.rewards.regrade import SecondVerifier, load_seconds, regrade
from grpo_audit.stats.evidence import read_figures
from grpo_audit.stats.gates import check_gates, refuse_unknown
from grpo_audit_evals.suite import Suite


def refuse_impossible(
    config: RunConfig, prompts: PromptSet, plan: EvaluationPlan | None, base_dir: Path
) -> list[SecondVerifier]:
    """What would only show after training: gates about nothing, tasks that are not there, second verifiers that cannot
    be loaded. Returns the second verifiers.

    Raises ConfigError, RewardError.
    """
    refuse_unknown(config, plan)
    tasks = {task.task for task in plan.tasks} if plan else set()
    for name in config.decontamination.expected:
        if name not in tasks and plan is not None and not config.evaluation.tasks:  # a run may leave some tasks out
            raise ConfigError(
                f"decontamination.expected names {name!r}, which is no task of the evaluation",
                expected=", ".join(sorted(tasks)) or "an evaluation suite",
            )
    return load_seconds(config.rewards, base_dir, sorted({name for row in prompts.rows for name in row.columns}))


def decontaminate(project: Project, run_id: str, config: RunConfig, prompts: PromptSet, suite: Suite | None) -> None:
    """Every prompt against every evaluation document. Raises PromptError when the recipe says to stop and some document
    is contaminated, or the check is void."""
    settings = config.decontamination
    if suite is None or not settings.check:
        return
    recorded = project.last(run_id, EventKind.DECONTAMINATION)
    if recorded is not None and isinstance(recorded.payload, Decontamination):
        found = recorded.payload
    else:
        with console.bar("decontaminate", len(prompts.rows)) as bar:
            found = decontaminate_run(
                prompts, suite.plan, suite_documents(suite), jobs=os.cpu_count() or 1, on_progress=bar.update
            )
        project.append([NewEvent(found, run_id)])
        for item in findings(found, set(settings.expected) & {task.task for task in found.tasks}):
            if item.severity is not Severity.INFO:
                console.err.print(str(item.severity), style="yellow", end=" ")
                console.err.print(console.visible(item.message), markup=False, soft_wrap=True)
    if settings.if_contaminated == "stop":
        _stop(found, settings.expected)


def _stop(found: Decontamination, expected: list[str]) -> None:
    if not found.valid:
        raise PromptError(
            "The contamination check is void: a control did not come out",
            next_step="See grpo-audit decontaminate, or set decontamination.if_contaminated: record",
        )
    dirty = [task for task in found.tasks if task.contaminated and task.task not in expected]
    if dirty:
        raise PromptError(
            "The prompts contaminate the evaluation",
            found=", ".join(f"{task.task} {task.contaminated} of {task.documents} documents" for task in dirty),
            next_step="Write a clean set with grpo-audit decontaminate --drop, or set decontamination.if_contaminated: "
            "record",
        )


def probe(project: Project, run_id: str, config: RunConfig, prompts: PromptSet, base_dir: Path) -> None:
    """Every reward source under the probe families."""
    if not config.probes.rewards:
        return
    done = {
        event.payload.source
        for event in project.events(run_id, kinds={EventKind.REWARD_PROBED})
        if isinstance(event.payload, RewardProbed)
    }
    for reward in config.rewards:
        if reward.name in done:
            continue
        with console.bar(f"probe {reward.name}", 1) as bar:
            result = probe_source(
                reward,
                base_dir,
                prompts.rows,
                probes=config.probes,
                seed=config.seed,
                on_progress=lambda number, total, _, bar=bar: bar.of(number, total),  # type: ignore[misc]
            )
        project.append([NewEvent(result.payload, run_id, {"examples": result.examples})])


def grade_again(project: Project, run_id: str, config: RunConfig, base_dir: Path) -> None:
    """Recorded rollouts by the second verifiers."""
    if not config.probes.regrade or all(reward.second is None for reward in config.rewards):
        return
    if project.last(run_id, EventKind.REWARD_REGRADED) is not None:
        return
    with console.bar("second verifier", config.probes.regrade) as bar:
        found: list[RewardRegraded] = regrade(project, run_id, config, base_dir, on_progress=bar.of)
    project.append([NewEvent(payload, run_id) for payload in found])


def judge_refusals(project: Project, run_id: str, plan: EvaluationPlan) -> Judgements:
    """The recorded answers to tasks about refusing, before and after, as the detector sees them."""
    judged = Judgements(plan)
    if judged.tasks:
        for event in project.events(run_id, kinds={EventKind.EVAL_SAMPLE}):
            if isinstance(event.payload, EvalSample) and judged.wants(event.payload):
                judged.add(event.payload, project.content(event.seq, "response"))
    return judged


def hold_gates(project: Project, run_id: str, config: RunConfig) -> None:
    """The release gates, last of all before the seal."""
    if config.gates and project.last(run_id, EventKind.GATES_CHECKED) is None:
        project.append([NewEvent(check_gates(config.gates, read_figures(project, run_id)), run_id)])
