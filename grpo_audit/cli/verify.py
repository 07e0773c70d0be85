"""``grpo-audit verify``: does the record hold?"""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import Annotated

import typer

from grpo_audit.cli import console
from grpo_audit.cli.outcome import verdict_json, verdict_line
from grpo_audit.cli.runs import DEFAULT_DB, Db, Json
from grpo_audit.verify.l0 import verify as verify_l0
from grpo_audit.verify.verdict import Outcome

MARK = {
    Outcome.PASSED: "[green]passed [/green]",
    Outcome.FAILED: "[bold red]FAILED [/bold red]",
    Outcome.NOTHING: "[dim]nothing[/dim]",
    Outcome.NOT_REACHED: "[bold red]not reached[/bold red]",
}


def verify(
    run: Annotated[
        str | None, typer.Argument(help="Run id, unique prefix or name. Left out: the newest run.", metavar="[RUN]")
    ] = None,
    db: Db = DEFAULT_DB,
    key: Annotated[
        str | None,
        typer.Option(help="Verifier key NAME+HASH+BASE64, or a file that holds it, obtained outside the record."),
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(help="Run folder with weights and snapshots. Default: where the recipe put it.")
    ] = None,
    require_files: Annotated[
        bool, typer.Option("--require-files", help="Fail when the trained weights are not at hand.")
    ] = False,
    json: Json = False,
) -> None:
    """Check integrity (level L0): every byte, number, hash, signature, projection, seal and artifact.

    Needs no GPU stack. Exit code 0: intact and sealed; 1: something was changed; 3: intact, but the run is
    unfinished; 5: the record cannot be opened.
    """
    if key is not None and Path(key).is_file():
        key = Path(key).read_text(encoding="utf-8")
    with console.bar("verify", 1) as bar:
        report = verify_l0(
            db,
            run=run,
            key=key,
            run_folder=folder,
            artifacts="required" if require_files else "present",
            progress=bar.of,
        )
    if json:
        typer.echo(jsonlib.dumps(verdict_json(report), indent=2))
    else:
        for check in report.checks:
            console.out.print(f"({check.number:>2}) {MARK[check.outcome]} {check.name:<18}", soft_wrap=True, end="")
            console.out.print(console.visible(check.detail), soft_wrap=True, markup=False)
        console.out.print()
        for item in report.not_shown:
            console.out.print(f"does not show: {item}", style="dim", markup=False)
        console.out.print(verdict_line(report), soft_wrap=True)
    raise typer.Exit(report.exit_code)
