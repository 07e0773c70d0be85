"""``grpo-audit eval``: run a suite on a model folder, without training."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table

from grpo_audit.cli import console
from grpo_audit.config.sections import EvaluationConfig, ModelConfig
from grpo_audit.errors import ConfigError

if TYPE_CHECKING:
    from grpo_audit_evals.run import TaskResult


def evaluate(
    model: Annotated[str, typer.Argument(help="'builtin', a model folder or a hub id.")] = "builtin",
    suite: Annotated[
        str, typer.Option(help="'builtin', 'release', 'release-local' or a folder of lm-eval task files.")
    ] = "builtin",
    data: Annotated[str | None, typer.Option(help="Folder with the files that the release suite reads.")] = None,
    task: Annotated[list[str] | None, typer.Option(help="Only this task. May be repeated.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Documents per task.")] = None,
    batch_size: Annotated[int, typer.Option(min=1)] = 128,
    out: Annotated[Path | None, typer.Option(help="New folder for results.json and samples_TASK.jsonl.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Evaluate a model with lm-eval through our engine, and print one line a task.

    The results name the digest of the weights and of the protocol, so that only like is compared with like.
    """
    if out is not None and out.exists():
        raise ConfigError(f"Refusing to write into {out}, which exists", next_step="Name a new folder")
    from grpo_audit.record.identity import model_identity
    from grpo_audit_evals.run import evaluate as run_suite
    from grpo_audit_evals.suite import load_suite
    from grpo_audit_trainer.policy import Policy, resolve_folder

    here = Path.cwd()
    settings = ModelConfig(path=model)
    identity = model_identity(resolve_folder(settings, here), source=model)
    loaded = load_suite(
        EvaluationConfig(suite=suite, data=data, tasks=task or [], limit=limit, batch_size=batch_size), here
    )
    policy = Policy.load(settings, here)
    results: list[TaskResult] = []
    with console.bar("evaluate", sum(item.documents for item in loaded.plan.tasks)) as bar:
        finished = 0

        def on_progress(name: str, done: int, _: int) -> None:
            bar.update(finished + done, name)

        for result in run_suite(
            loaded,
            policy,
            phase="pre",
            weights_digest=identity.weights_digest,
            only=[item.task for item in loaded.plan.tasks],
            on_progress=on_progress,
        ):
            finished += result.task.documents
            bar.update(finished, result.task.task)
            results.append(result)
    summary: dict[str, object] = {
        "model": identity.model_dump(mode="json"),
        "plan": loaded.plan.model_dump(mode="json"),
        "tasks": [result.task.model_dump(mode="json", exclude={"phase"}) for result in results],
    }
    if out is not None:
        _write(out, summary, results)
    if json:
        typer.echo(jsonlib.dumps(summary, indent=2))
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("evaluation", "behaviour", "n", "metric", "value", "empty", "truncated"):
        table.add_column(name)
    for item in (result.task for result in results):
        rates = ["-" if rate is None else f"{rate:.1%}" for rate in (item.empty_rate, item.truncated_rate)]
        value = f"{item.metrics[item.metric]:.3f}"
        table.add_row(item.task, item.behaviour, str(item.documents), item.metric, value, *rates)
    console.out.print(table)
    console.out.print(f"weights {identity.weights_digest}\nprotocol {loaded.plan.protocol_digest}")
    if out is not None:
        console.out.print(f"results {out}")


def _write(out: Path, summary: dict[str, object], results: list[TaskResult]) -> None:
    out.mkdir(parents=True)
    (out / "results.json").write_text(jsonlib.dumps(summary, indent=2), encoding="utf-8")
    for result in results:
        with (out / f"samples_{result.task.task}.jsonl").open("w", encoding="utf-8") as file:
            for sample in result.samples:
                text = {"prompt": sample.prompt.decode(), "response": sample.response.decode()}
                file.write(jsonlib.dumps(sample.payload.model_dump(mode="json") | text, ensure_ascii=False) + "\n")
