"""``grpo-audit abandon``: say that a run was given up, by whom and why."""

from __future__ import annotations

import json as jsonlib
from typing import Annotated

import typer

from grpo_audit.cli import console
from grpo_audit.cli.runs import DEFAULT_DB, Db, Json
from grpo_audit.errors import ConfigError
from grpo_audit.ledger.project import NewEvent, Project
from grpo_audit.ledger.runs import RunState
from grpo_audit.record.events import RunAbandoned

Author = Annotated[str, typer.Option("--author", help="Who says so; goes into the record.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; goes into the record.")]


def abandon(
    run: Annotated[str, typer.Argument(help="Run id, unique prefix or name.")],
    author: Author,
    reason: Reason,
    db: Db = DEFAULT_DB,
    json: Json = False,
) -> None:
    """Record that a run was given up. Everything recorded of it stays; it can still be resumed, which shows too.

    Exit code 2: there is no such run, or it is sealed already.
    """
    said_by_whom_and_why(author, reason)
    with Project.open(db, mode="write") as project:
        overview = project.find_run(run)
        if overview.state in (RunState.SEALED, RunState.ABANDONED):
            raise ConfigError(f"Run {overview.run_id} is {overview.state} already")
        head = project.append([NewEvent(RunAbandoned(author=author, reason=reason), overview.run_id)])
    if json:
        typer.echo(jsonlib.dumps({"run": overview.run_id, "state": RunState.ABANDONED.value, "event": head.size - 1}))
        return
    console.out.print(f"{overview.run_id} abandoned, event {head.size - 1}", markup=False)


def said_by_whom_and_why(author: str, reason: str) -> None:
    """Raises ConfigError when either is empty: a statement without them is worth nothing later."""
    for name, value in (("--author", author), ("--reason", reason)):
        if not value.strip():
            raise ConfigError(f"{name} is empty", next_step="Say who decides, and why: both go into the record")
