"""``grpo-audit report``: render the release report again."""

from __future__ import annotations

from typing import Annotated

import typer

from grpo_audit.cli.outcome import finish
from grpo_audit.cli.runs import DEFAULT_DB, Db, Folder, Json, located


def report(
    run: Annotated[str | None, typer.Argument(help="Run id, prefix or name. Left out: the newest run.")] = None,
    db: Db = DEFAULT_DB,
    folder: Folder = None,
    against: Annotated[
        list[str] | None,
        typer.Option("--against", metavar="RUN", help="Set the weights beside those of this run. Repeatable."),
    ] = None,
    json: Json = False,
) -> None:
    """Verify a run and write report.html, report.json and MODEL_CARD.md, from the record alone.

    With [bold]--against OTHER[/bold] the report has a section that compares the trained weights of both runs, document
    by document.
    """
    run_id, place = located(db, run)
    target = folder or place
    target.mkdir(parents=True, exist_ok=True)
    finish(db, run_id, place, json=json, target=target, against=against or ())
