"""``grpo-audit verify``: does the record hold?"""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import Annotated, Literal

import typer

from grpo_audit.cli import console
from grpo_audit.cli.outcome import verdict_json, verdict_line
from grpo_audit.cli.runs import DEFAULT_DB, Db, Json
from grpo_audit.cli.traced import with_report
from grpo_audit.errors import ConfigError
from grpo_audit.verify.bundle import is_bundle_file
from grpo_audit.verify.l0 import verify as verify_l0
from grpo_audit.verify.l1 import verify_l1
from grpo_audit.verify.verdict import Outcome, VerifyReport

MARK = {
    Outcome.PASSED: "[green]passed [/green]",
    Outcome.FAILED: "[bold red]FAILED [/bold red]",
    Outcome.NOTHING: "[dim]nothing[/dim]",
    Outcome.NOT_REACHED: "[bold red]not reached[/bold red]",
}


def verify(
    run: Annotated[
        str | None,
        typer.Argument(
            help="Run id, unique prefix or name; left out: the newest run. Or the path of a bundle.", metavar="[RUN]"
        ),
    ] = None,
    db: Db = DEFAULT_DB,
    key: Annotated[
        str | None,
        typer.Option(help="Verifier key NAME+HASH+BASE64, or a file that holds it, obtained outside the record."),
    ] = None,
    level: Annotated[
        Literal["L0", "L1"],
        typer.Option(help="L0: integrity. L1: also rewards, advantages, figures and comparisons computed again."),
    ] = "L0",
    new: Annotated[
        bool, typer.Option("--new", help="Only what came after the head that this machine verified or wrote last.")
    ] = False,
    witness: Annotated[
        list[str] | None,
        typer.Option(
            help="A witness to believe: dir:FOLDER, git:CLONE[#BRANCH], tsa:CA.pem, a witness key or a file with it. "
            "Repeatable. Witnesses pinned on this machine count anyway.",
            metavar="SPEC",
        ),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(help="Processes. Default: one for a small record, else one a core.", min=1)
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(help="Run folder with weights and snapshots. Default: where the recipe put it.")
    ] = None,
    require_files: Annotated[
        bool, typer.Option("--require-files", help="Fail when the trained weights are not at hand.")
    ] = False,
    trust_rewards: Annotated[
        bool,
        typer.Option(
            "--trust-reward-code", help="L1 where there is no sandbox: run the recorded reward code all the same."
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Check a record or a bundle: every byte, number, hash, signature, table, seal, file and witness (level L0).

    Needs no GPU stack and changes nothing. The steps are those of docs/verification.md.

    Exit code 0: intact and sealed; 1: something was changed; 3: intact, but the run is unfinished; 5: the record cannot
    be opened.

    grpo-audit verify                        the newest run of the record
    grpo-audit verify bundle.zip --key KEY   what somebody sent you
    grpo-audit verify --level L1             recompute the numbers as well
    grpo-audit verify --new                  after each day of training
    """
    if key is not None and Path(key).is_file():
        key = Path(key).read_text(encoding="utf-8")
    if run is not None and (run.lower().endswith(".zip") or is_bundle_file(Path(run))):
        db, run = run, None
    if new and level != "L0":
        raise ConfigError("--new verifies integrity only", next_step="Leave out --new, or --level")
    with console.bar("verify", 1) as bar:
        artifacts: Literal["present", "required"] = "required" if require_files else "present"
        common = {"run": run, "key": key, "run_folder": folder, "artifacts": artifacts, "jobs": jobs}
        if level == "L1":
            isolation: Literal["strict", "limits"] = "limits" if trust_rewards else "strict"
            report = verify_l1(db, **common, witness=witness or (), isolation=isolation, progress=bar.of)  # type: ignore[arg-type]
            report = with_report(report, db, folder)
        else:
            report = verify_l0(db, **common, witness=witness or (), new=new, progress=bar.of)  # type: ignore[arg-type]
    if json:
        typer.echo(jsonlib.dumps(verdict_json(report), indent=2))
    else:
        _print(report)
    raise typer.Exit(report.exit_code)


def _print(report: VerifyReport) -> None:
    for check in report.checks:
        console.out.print(f"({check.number:>2}) {MARK[check.outcome]} {check.name:<19}", soft_wrap=True, end="")
        console.out.print(console.visible(check.detail), soft_wrap=True, markup=False)
    console.out.print()
    if report.tail is not None and report.tail.events:
        tail = report.tail
        text = f"unwitnessed: the newest {tail.events:,} events, over {tail.seconds:,.0f} seconds, up to {tail.newest}"
        console.out.print(console.visible(text), soft_wrap=True, markup=False)
    for item in report.not_shown:
        console.out.print(f"does not show: {console.visible(item)}", style="dim", markup=False)
    console.out.print(verdict_line(report), soft_wrap=True)
