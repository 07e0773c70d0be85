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
    json: Json = False,
) -> None:
    """Verify a run and write report.html and MODEL_CARD.md, from the record alone."""
    run_id, place = located(db, run)
    target = folder or place
    target.mkdir(parents=True, exist_ok=True)
    finish(db, run_id, place, json=json, target=target)
