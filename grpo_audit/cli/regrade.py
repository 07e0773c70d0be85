"""``grpo-audit regrade``: the rollouts of a finished run, graded again by a second verifier."""

from __future__ import annotations

import json as jsonlib
import os
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.table import Table

from grpo_audit.cli import console
from grpo_audit.cli.probe import options_of
from grpo_audit.cli.runs import DEFAULT_DB, Db, Json
from grpo_audit.config.run import RunConfig
from grpo_audit.errors import ConfigError, StorageError
from grpo_audit.ledger.project import Project
from grpo_audit.record.audits import RewardRegraded
from grpo_audit.record.events import EventKind, RunRegistered
from grpo_audit.rewards.regrade import regrade as grade_again

_WIDTH = 300
"""Characters of a text that are shown."""


def regrade(
    run: Annotated[str | None, typer.Argument(help="Run id, prefix or name. Left out: the newest run.")] = None,
    second: Annotated[
        str | None,
        typer.Option(help="package.module:function, or file.py:function relative to here. Default: the recipe's."),
    ] = None,
    reward: Annotated[str | None, typer.Option(help="The reward source it is compared with.")] = None,
    option: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE for the second verifier, instead of the source's options.")
    ] = None,
    most: Annotated[
        int | None, typer.Option(min=1, help="About so many rollouts, spread over the steps. [2000]")
    ] = None,
    examples: Annotated[int, typer.Option(min=0, help="Rollouts to show on which they disagree.")] = 4,
    db: Db = DEFAULT_DB,
    json: Json = False,
) -> None:
    """Grade recorded rollouts again with an independent verifier, and show where the two disagree.

    What only the trained-on source rewards, above all when its share grows from the first steps to the last, is what a
    policy that games its reward looks like.

    [bold]grpo-audit regrade --reward accuracy --second grpo_audit.rewards.second:countdown[/bold]

    Exit code 0: done, whatever the two say. 2: wrong input, or nothing could be compared.
    """
    with Project.open(db, mode="read") as project:
        overview = project.find_run(run)
        config = _config(project, overview.run_id, second, reward, options_of(option), most)
        results = _run(project, overview.run_id, config)
        if not any(result.rollouts for result in results):
            raise ConfigError(
                f"Nothing of run {overview.run_id} could be compared",
                found=_nothing(results),
                next_step="grpo-audit show lists the steps; --reward names another source",
            )
        texts = [_texts(project, result, examples) for result in results]
    if json:
        plain = [
            result.model_dump(mode="json") | {"texts": shown} for result, shown in zip(results, texts, strict=True)
        ]
        typer.echo(jsonlib.dumps({"run": overview.run_id, "regraded": plain}, indent=2))
        return
    for result, shown in zip(results, texts, strict=True):
        _show(result, shown)


def _config(
    project: Project, run_id: str, second: str | None, reward: str | None, options: dict[str, Any], most: int | None
) -> RunConfig:
    """The registered configuration with the second verifier that was asked for."""
    event = project.last(run_id, EventKind.RUN_REGISTERED)
    if event is None or not isinstance(event.payload, RunRegistered):
        raise StorageError(f"Run {run_id} has no registration", next_step="grpo-audit verify says what is wrong")
    config = RunConfig.model_validate(event.payload.config, strict=False)
    known = [item.name for item in config.rewards]
    if reward is not None and reward not in known:
        raise ConfigError(f"Run {run_id} has no reward source {reward}", expected=f"one of {', '.join(known)}")
    if second is not None and reward is None and len(known) > 1:
        raise ConfigError(
            "Which source is the second verifier for?", expected=f"one of {', '.join(known)}", next_step="Name --reward"
        )
    chosen = [item for item in config.rewards if reward in (None, item.name)]
    changed: dict[str, Any] = {} if second is None else {"second": _checked(second)}
    changed |= {"options": options} if options else {}
    chosen = [item.model_copy(update=changed) for item in chosen]
    if not any(item.second for item in chosen):
        raise ConfigError(
            f"The recipe of run {run_id} names no second verifier", next_step="Name one: --second module:function"
        )
    probes = config.probes.model_copy(update={"regrade": most or config.probes.regrade or 2000})
    return config.model_copy(update={"rewards": chosen, "probes": probes})


def _checked(second: str) -> str:
    module, _, function = second.rpartition(":")
    if not module or not function.isidentifier():
        raise ConfigError(f"{second} is no verifier", expected="package.module:function or file.py:function")
    return second


def _run(project: Project, run_id: str, config: RunConfig) -> list[RewardRegraded]:
    silent = os.open(os.devnull, os.O_WRONLY)  # what the verifier prints would tear the bar
    try:
        with console.bar("regrade", config.probes.regrade) as bar:
            return grade_again(project, run_id, config, Path.cwd(), log_fd=silent, on_progress=bar.of)
    finally:
        os.close(silent)


def _nothing(results: list[RewardRegraded]) -> str:
    counts = [
        pair
        for item in results
        for pair in (
            (item.failures, "errors"),
            (item.inapplicable, "that do not apply"),
            (item.unreadable, "without text or row"),
        )
    ]
    return ", ".join(f"{count:,} {what}" for count, what in counts if count) or "no rollouts"


def _texts(project: Project, result: RewardRegraded, most: int) -> list[dict[str, Any]]:
    found = []
    for seq in result.examples[:most]:
        event = next(project.events(start=seq))
        completion = project.content(seq, "completion")
        found.append(
            {
                "seq": seq,
                "step": getattr(event.payload, "step", None),
                "reward": getattr(event.payload, "rewards", {}).get(result.source),
                "completion": "(erased)" if completion is None else completion.decode("utf-8", "replace"),
            }
        )
    return found


def _show(result: RewardRegraded, texts: list[dict[str, Any]]) -> None:
    out = console.out.print
    out(console.visible(f"{result.source} against {result.second}"), markup=False, style="bold", soft_wrap=True)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("rollouts", "both", "neither", "only the source", "only the second", "errors", "kappa"):
        table.add_column(name, justify="right")
    counts = (result.rollouts, result.both, result.neither, result.only_first, result.only_second, result.failures)
    table.add_row(*(f"{count:,}" for count in counts), "-" if result.kappa is None else f"{result.kappa:.3f}")
    out(table)
    out(
        f"rewarded by the source only: {_share(result.early_only_first)} in the first fifth of the steps, "
        f"{_share(result.late_only_first)} in the last"
    )
    aside = [(result.inapplicable, "to which one of them does not apply"), (result.unreadable, "without text")]
    for count, what in aside:
        if count:
            out(f"{count:,} rollouts {what}")
    for item in texts:
        rewarded = "rewarded" if (item["reward"] or 0) >= result.threshold else "not rewarded"
        text = console.visible(item["completion"].replace("\n", "\u23ce"))
        text = text if len(text) <= _WIDTH else f"{text[:_WIDTH]}..."
        out(f"event {item['seq']}, step {item['step']}: {rewarded} by the source", style="bold", markup=False)
        out(f"  {text}", markup=False, soft_wrap=True)


def _share(value: float | None) -> str:
    return "nothing graded" if value is None else f"{value:.1%}"
