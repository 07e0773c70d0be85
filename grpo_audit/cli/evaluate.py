"""``grpo-audit eval``: run a suite on a model folder, without training."""

from __future__ import annotations

import json as jsonlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from grpo_audit.cli import console
from grpo_audit.cli.contenders import cache_folder
from grpo_audit.cli.evaluation_bar import EvaluationBar
from grpo_audit.config.sections import EvaluationConfig, ModelConfig
from grpo_audit.errors import ConfigError

WIDE = 100
"""Columns a terminal needs to have room for the behaviour of each task; ``--json`` always has it."""

if TYPE_CHECKING:
    from grpo_audit.record.identities import TaskPlan
    from grpo_audit_evals.run import TaskResult
    from grpo_audit_evals.suite import Suite
    from grpo_audit_trainer.policy import Policy


def evaluate(
    model: Annotated[str, typer.Argument(help="'builtin', a model folder or a hub id.")] = "builtin",
    suite: Annotated[
        str, typer.Option(help="'builtin', 'release', 'release-local' or a folder of lm-eval task files.")
    ] = "builtin",
    data: Annotated[str | None, typer.Option(help="Folder with the files that the release suite reads.")] = None,
    task: Annotated[
        list[str] | None, typer.Option(help="Only this task, also one of lm-eval's. May be repeated.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Documents per task.")] = None,
    batch_size: Annotated[int, typer.Option(min=1)] = 128,
    chat_template: Annotated[
        Literal["auto", "never"], typer.Option(help="auto: used when the model has one. lm-eval's own default is off.")
    ] = "auto",
    out: Annotated[
        Path | None, typer.Option(help="New folder for lm-eval's files: results_DATE.json, samples_TASK_DATE.jsonl.")
    ] = None,
    cache: Annotated[
        bool, typer.Option(help="Keep answers as they come; after a crash the same command goes on where it was.")
    ] = True,
    json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Evaluate a model with lm-eval through our engine, and print one line a task.

    The results name the digest of the weights and of the protocol, so that only like is compared with like.

    Example: grpo-audit eval ./my-model --suite ./my-tasks --limit 100 --out results
    """
    if out is not None and out.exists():
        raise ConfigError(f"Refusing to write into {out}, which exists", next_step="Name a new folder")
    from grpo_audit.record.identity import model_identity
    from grpo_audit_evals import harness_files
    from grpo_audit_evals.suite import load_suite
    from grpo_audit_trainer.policy import Policy, resolve_folder

    started, here = time.time(), Path.cwd()
    settings = ModelConfig(path=model, chat_template=chat_template)
    identity = model_identity(resolve_folder(settings, here), source=model)
    loaded = load_suite(
        EvaluationConfig(suite=suite, data=data, tasks=task or [], limit=limit, batch_size=batch_size), here
    )
    policy = Policy.load(settings, here)
    results = _run(loaded, policy, identity.weights_digest, cache_folder() if cache else None)
    if out is not None:
        harness_files.write(out, loaded, results, model=identity, policy=policy, limit=limit, started=started)
    if json:
        typer.echo(jsonlib.dumps(harness_files.summary(loaded, results, identity), indent=2))
        return
    _show(loaded, results)
    console.out.print(f"weights {identity.weights_digest}\nprotocol {loaded.plan.protocol_digest}", soft_wrap=True)
    if out is not None:
        console.out.print(Text(f"results {console.visible(str(out))}"), soft_wrap=True)


def _run(suite: Suite, policy: Policy, weights: str, cache: Path | None) -> list[TaskResult]:
    from grpo_audit_evals.run import evaluate as run_suite

    results: list[TaskResult] = []
    with console.bar("evaluate", sum(item.documents for item in suite.plan.tasks)) as bar:
        shown = EvaluationBar(bar)
        for result in run_suite(
            suite,
            policy,
            phase="pre",
            weights_digest=weights,
            cache=cache,
            on_task_start=shown.start,
            on_progress=shown.progress,
        ):
            shown.finish(result.task.task, result.task.documents)
            results.append(result)
    if reused := sum(result.reused for result in results):
        total = sum(result.task.documents for result in results)
        console.say(f"{reused} of {total} documents had been answered before, by these weights under this protocol")
    return results


def _show(suite: Suite, results: list[TaskResult]) -> None:
    wide = console.out.width >= WIDE
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("evaluation", *(["behaviour"] if wide else []), "n", "metric", "value", "empty", "truncated"):
        table.add_column(name, overflow="fold", no_wrap=name == "evaluation")
    plans = {plan.task: plan for plan in suite.plan.tasks}
    for item in (result.task for result in results):
        rates = ["-" if rate is None else f"{rate:.1%}" for rate in (item.empty_rate, item.truncated_rate)]
        value = _value(plans[item.task], item.metrics)
        behaviour = [item.behaviour] if wide else []
        cells = [item.task, *behaviour, str(item.documents), item.metric, value, *rates]
        table.add_row(*(Text(console.visible(cell)) for cell in cells))
    console.out.print(table)
    for task in suite.tasks:
        if task.left_out:
            reasons = console.visible(f"{task.name}: not recorded: {', '.join(task.left_out)}")
            console.out.print(Text(reasons, style="dim"), soft_wrap=True)


def _value(plan: TaskPlan, metrics: dict[str, float]) -> str:
    """The primary metric; of a sampled task avg@n, with pass@k beside it where there is one."""
    value = f"{metrics[plan.metric]:.3f}"
    if plan.samples == 1:
        return value
    largest = [key for key in metrics if key.startswith(f"{plan.metric} pass@")][-1:]
    beside = [f"{metrics[key]:.3f} {key.removeprefix(plan.metric).strip()}" for key in largest]
    return ", ".join([f"{value} avg@{plan.samples}", *beside])
