"""``grpo-audit runs`` and ``grpo-audit show``: what the record holds."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.markup import escape
from rich.table import Table
from sqlalchemy import text

from grpo_audit.cli import console
from grpo_audit.errors import ConfigError, StorageError
from grpo_audit.ledger.project import Project
from grpo_audit.ledger.store import sqlite_path
from grpo_audit.record.events import EventKind, RunRegistered

DEFAULT_DB = "runs/record.db"
DB_HELP = "The record: a file, or postgresql+psycopg://USER@HOST/DATABASE?schema=NAME."
DB_VARIABLE = "GRPO_AUDIT_DB"
"""Names the record where --db does not: a URL with a password then shows in no list of processes."""
Db = Annotated[str, typer.Option("--db", help=DB_HELP, envvar=DB_VARIABLE)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Folder = Annotated[Path | None, typer.Option("--folder", help="Where to write. Default: the run folder.")]


WIDE = 100
"""Columns of a terminal from which on there is room for every column; --json has all."""


def runs(db: Db = DEFAULT_DB, json: Json = False) -> None:
    """List every run ever registered in the record, finished or not."""
    with Project.open(db, mode="read") as project:
        found = project.runs()
    if json:
        typer.echo(jsonlib.dumps([vars(run) for run in found], indent=2, default=str))
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    wide = console.out.width >= WIDE
    table.add_column("run", no_wrap=True)  # to be copied
    for name in ("state", *(("attempt",) if wide else ()), "registered (UTC)", *(("preset",) if wide else ()), "model"):
        table.add_column(name, overflow="fold")
    for run in found:
        moment = run.registered_at[:16].replace("T", " ")
        more = ((str(run.attempt),), (run.preset,)) if wide else ((), ())
        table.add_row(run.run_id, run.state, *more[0], moment, *more[1], escape(run.model))
    console.out.print(table)


def show(
    run: Annotated[str | None, typer.Argument(help="Run id, prefix or name. Left out: the newest run.")] = None,
    step: Annotated[int | None, typer.Option("--step", help="Show this step's rollouts.")] = None,
    db: Db = DEFAULT_DB,
    json: Json = False,
) -> None:
    """Show a run: its steps, or with --step the prompts and completions of one step."""
    with Project.open(db, mode="read") as project:
        overview = project.find_run(run)
        rows = _rollouts(project, overview.run_id, step) if step is not None else _steps(project, overview.run_id)
    if step is not None and not rows:
        raise ConfigError(f"Run {overview.run_id} has no step {step}", next_step="grpo-audit show lists the steps")
    if json:
        typer.echo(jsonlib.dumps({"run": vars(overview), "rows": rows}, indent=2, default=str))
        return
    console.out.print(f"[bold]{overview.run_id}[/bold]  {overview.state}, attempt {overview.attempt}", soft_wrap=True)
    if not rows:
        console.out.print("no steps yet")
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in rows[0]:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    console.out.print(table)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    shown = f"{value:.4g}" if isinstance(value, float) else str(value)
    return escape(console.visible(shown))


def _steps(project: Project, run_id: str) -> list[dict[str, object]]:
    query = text(
        "select step, attempt, reward_mean as reward, zero_variance_share as zero_var, "
        "completion_tokens_mean as length, entropy, kl, grad_norm, seconds from effective_step "
        "where run_id = :run order by step"
    )
    with project.session() as session:
        return [dict(row._mapping) for row in session.execute(query, {"run": run_id})]


def _rollouts(project: Project, run_id: str, step: int) -> list[dict[str, object]]:
    query = text(
        "select r.seq, g.seq as group_seq, r.group_index as grp, r.sample, r.reward, r.advantage, "
        "r.finish_reason as finish, r.used from effective_rollout as r join rollout_group as g "
        "on g.run_id = r.run_id and g.step = r.step and g.attempt = r.attempt and g.group_index = r.group_index "
        "where r.run_id = :run and r.step = :step order by r.group_index, r.sample"
    )
    with project.session() as session:
        found = [dict(row._mapping) for row in session.execute(query, {"run": run_id, "step": step})]
    for row in found:
        row["prompt"] = _content(project, row.pop("group_seq"), "prompt")
        row["completion"] = _content(project, row.pop("seq"), "completion")
    return found


def _content(project: Project, seq: int, name: str) -> str:
    found = project.content(seq, name)
    return "(erased)" if found is None else found.decode("utf-8", "replace")


def folder_beside(db: str | Path, run_id: str) -> Path | None:
    """Where a run's files lie beside a SQLite record that was moved with them; None when they do not."""
    path = sqlite_path(db)
    folder = None if path is None else path.parent / run_id
    return folder if folder is not None and folder.is_dir() else None


def located(db: str | Path, ref: str | None) -> tuple[str, Path]:
    """Id and folder of a run, the folder as its configuration names it."""
    with Project.open(db, mode="read") as project:
        overview = project.find_run(ref)
        event = project.last(overview.run_id, EventKind.RUN_REGISTERED)
    if event is None or not isinstance(event.payload, RunRegistered):
        raise StorageError(
            f"Run {overview.run_id} has no registration", next_step="grpo-audit verify says what is wrong"
        )
    return overview.run_id, Path(event.payload.config["record"]["folder"]) / overview.run_id
