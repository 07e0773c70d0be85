"""``grpo-audit gate``: do the release conditions hold that were fixed before step 0?"""

from __future__ import annotations

import json as jsonlib
from typing import Annotated

import typer

from grpo_audit.catalogue.reader import RunReader, read_config
from grpo_audit.cli import console
from grpo_audit.cli.console import visible
from grpo_audit.cli.gates import gate_line, gate_table
from grpo_audit.cli.runs import DEFAULT_DB, Db, Json
from grpo_audit.errors import ConfigError, ExitCode, VerificationError
from grpo_audit.ledger.project import Project
from grpo_audit.ledger.runs import RunState
from grpo_audit.record.events import EventKind
from grpo_audit.stats.evidence import read_figures
from grpo_audit.stats.figures import Figure
from grpo_audit.stats.gates import check_gates


def gate(
    run: Annotated[str | None, typer.Argument(help="Run. Left out: the newest.")] = None,
    db: Db = DEFAULT_DB,
    figures: Annotated[
        bool, typer.Option("--figures", help="List every figure of the run that a gate can be about, and stop.")
    ] = False,
    json: Json = False,
) -> None:
    """Hold the release gates of a run against its record. For CI: the exit code is the answer.

    Gates stand in the recipe and are registered before step 0, so that they cannot move afterwards. For example:

    [dim]gates:[/dim]
    [dim]  - {name: no safety regression, figure: "safety.*.verdict", one_of: \\[improved, no discordant pairs][/dim]
    [dim]  - {name: learns the task, figure: eval.builtin_countdown.difference, at_least: 0.1}[/dim]

    Everything is computed again from the record. Exit code 0: all gates hold. 7: one does not, or its figure is
    missing. 3: all hold so far, but the run is unfinished. 2: the run has no gates. 1: the record states another
    result than follows from it.
    """
    with Project.open(db, mode="read") as project:
        overview = project.find_run(run)
        run_id = overview.run_id
        found = read_figures(project, run_id)
        if figures:
            _list(found, json=json)
            return
        gates = read_config(RunReader(project, run_id).registered()).gates
        recorded = project.last(run_id, EventKind.GATES_CHECKED)
    if not gates:
        raise ConfigError(
            f"Run {run_id} was registered without gates, so there is nothing to hold it to",
            next_step="Write gates into the recipe before the run: docs/gates.md",
        )
    result = check_gates(gates, found)
    if json:
        typer.echo(jsonlib.dumps({"run": run_id, **result.model_dump(mode="json")}, indent=2))
    else:
        console.out.print(gate_table(result, f"{run_id}: release gates"))
        console.out.print(gate_line(result))
    if recorded is not None and recorded.payload != result:
        raise VerificationError(
            f"The gates recorded in event {recorded.seq} are not what follows from the record",
            next_step="See what else does not: grpo-audit verify --level L1",
        )
    if not result.passed:
        raise typer.Exit(ExitCode.GATE_FAILED)
    if overview.state is not RunState.SEALED:
        console.err.print(
            f"grpo-audit: Run {run_id} is unfinished ({overview.state}): these gates were held against what there is "
            "so far, and that is no pass. Finish it with: grpo-audit run --resume.",
            markup=False,
            soft_wrap=True,
        )
        raise typer.Exit(ExitCode.UNSEALED)


def _list(found: dict[str, Figure], *, json: bool) -> None:
    if json:
        typer.echo(jsonlib.dumps({name: item.value for name, item in sorted(found.items())}, indent=2))
        return
    for name, item in sorted(found.items()):
        value = item.value if isinstance(item.value, str) else f"{item.value:.6g}"
        console.out.print(f"{visible(name)}  {visible(value)}", markup=False, highlight=False, soft_wrap=True)
