"""``grpo-audit witness``: who else remembers the heads of this record."""

from __future__ import annotations

import base64
import json as jsonlib
from collections.abc import Sequence
from typing import Annotated

import typer
from rich.markup import escape
from sqlalchemy import func, select

from grpo_audit.cli import console
from grpo_audit.cli.runs import DEFAULT_DB, Db, Json
from grpo_audit.errors import ConfigError, ExitCode
from grpo_audit.ledger.project import Project
from grpo_audit.ledger.tables import WitnessRow
from grpo_audit.witness import directory, kinds, pins
from grpo_audit.witness.ask import Asked, add as add_witness, ask_all, show

app = typer.Typer(
    no_args_is_help=True,
    help="Show the heads of the record to somebody else who remembers them.\n\n"
    "A record that was cut, or rewritten with the key, is consistent in itself: only another memory can tell. "
    "docs/witnesses.md says which kind shows what.",
)


@app.command("add")
def add(
    spec: Annotated[
        str,
        typer.Argument(
            help="dir:FOLDER (on another disk or host), tsa:URL#CA.pem (time-stamp authority, RFC 3161), "
            "git:CLONE[#BRANCH] or git:push:CLONE[#BRANCH]."
        ),
    ],
    db: Db = DEFAULT_DB,
    json: Json = False,
) -> None:
    """Let a witness see this record from now on, and pin the key or certificate that its statements are checked with.

    It is asked at once, then at each registration, after each phase and after the seal of a run.
    """
    with Project.open(db, mode="write") as project:
        pin = add_witness(project.project_id, spec)
        results = ask_all(project)
    if not json:
        console.out.print(f"added {pin.name} ({pin.kind})", soft_wrap=True, markup=False)
        console.out.print(f"pinned {pin.anchor.strip().splitlines()[0]}", soft_wrap=True, markup=False)
    _report(results, json=json)


@app.command("list")
def list_(db: Db = DEFAULT_DB, json: Json = False) -> None:
    """List the witnesses of this record and the newest head each has seen."""
    with Project.open(db, mode="read") as project:
        rows = _listed(project)
        size = project.head.size
    if json:
        typer.echo(jsonlib.dumps({"events": size, "witnesses": rows}, indent=2))
        return
    if not rows:
        console.out.print("no witness: add one with grpo-audit witness add dir:FOLDER")
        return
    for row in rows:
        seen = f"saw {row['seen']:,} of {size:,} events, kept {row['at']}" if row["statements"] else "has seen nothing"
        state = row["spec"] or "not asked any more"
        line = f"{row['name']}  {row['kind']}  {seen}  ({state})"
        console.out.print(console.visible(line), soft_wrap=True, markup=False)


@app.command("ask")
def ask(
    db: Db = DEFAULT_DB,
    size: Annotated[
        int | None, typer.Option("--size", help="Ask about the head over this many events: for time-stamps only.")
    ] = None,
    json: Json = False,
) -> None:
    """Show the newest head to every witness now.

    Exit code 0: all answered; 5: one could not be reached, or refused because it remembers another history.
    """
    with Project.open(db, mode="write") as project:
        if not pins.read(project.project_id):
            raise ConfigError("This record has no witness", next_step="Add one: grpo-audit witness add dir:FOLDER")
        results = ask_all(project, size=size)
    _report(results, json=json)


@app.command("see")
def see(
    spec: Annotated[str, typer.Argument(help="Your own memory: dir:FOLDER or git:CLONE, on your machine.")],
    db: Db = DEFAULT_DB,
    json: Json = False,
) -> None:
    """Be a witness yourself: look at somebody's record, read-only, and remember its head on your machine.

    Run it now and then (cron) where the writer of the record has no access: then nobody but you can change what is
    remembered. Prints the statement. Exit code 5: the record is not the one you saw before.
    """
    kind, rest = kinds.split(kinds.settled(spec))
    witness = kind.witness(rest)
    with Project.open(db, mode="read") as project:
        size, statement = show(project, witness)
    if json:
        said = base64.b64encode(statement).decode()
        typer.echo(jsonlib.dumps({"name": witness.name, "kind": kind.name, "size": size, "statement": said}, indent=2))
        return
    console.out.print(f"{witness.name}: saw {size:,} events", soft_wrap=True, markup=False)
    if kind.name == directory.KIND:
        typer.echo(statement.decode(), nl=False)


@app.command("remove")
def remove(
    name: Annotated[str, typer.Argument(help="Name or specification, as witness list shows it.")], db: Db = DEFAULT_DB
) -> None:
    """Do not ask a witness any more, and forget its key. What it said stays in the record."""
    with Project.open(db, mode="read") as project:
        if not pins.remove(project.project_id, name):
            known = ", ".join(pin.name for pin in pins.read(project.project_id)) or "none"
            raise ConfigError(f"{name} is no witness of this record", found=f"witnesses: {known}")
    console.out.print(f"removed {name}", soft_wrap=True, markup=False)


def ask_witnesses(project: Project, specs: Sequence[str]) -> None:
    """Show the newest head to the witnesses of the project and of the recipe; for the pipeline.

    One that cannot be reached is a warning. Raises WitnessRefused when one remembers another history: the run must
    stop.
    """
    for result in ask_all(project, specs):
        if result.problem is not None:
            console.err.print(f"[yellow]warning[/yellow]  {escape(_line(result))}", soft_wrap=True)


def _line(result: Asked) -> str:
    if result.problem is None:
        return f"{result.name}: saw {result.size:,} events"
    return f"no witness statement from {result.name}: {result.problem} Training goes on; verify shows the unseen tail"


def _report(results: Sequence[Asked], *, json: bool) -> None:
    if json:
        rows = [
            {"name": item.name, "kind": item.kind, "size": item.size, "problem": item.problem and str(item.problem)}
            for item in results
        ]
        typer.echo(jsonlib.dumps(rows, indent=2))
    for item in results:
        if item.problem is not None:
            console.err.print(f"grpo-audit: {item.name}: {item.problem}", soft_wrap=True, markup=False)
        elif not json:
            console.out.print(_line(item), soft_wrap=True, markup=False)
    if any(item.problem is not None for item in results):
        raise typer.Exit(ExitCode.STORAGE)


def _listed(project: Project) -> list[dict[str, object]]:
    query = select(
        WitnessRow.name, WitnessRow.kind, func.max(WitnessRow.size), func.count(), func.max(WitnessRow.at)
    ).group_by(WitnessRow.name, WitnessRow.kind)
    with project.session() as session:
        kept = {(name, kind): (size, count, at) for name, kind, size, count, at in session.execute(query)}
    known = {(pin.name, pin.kind): pin.spec for pin in pins.read(project.project_id)}
    rows: list[dict[str, object]] = []
    for name, kind in dict.fromkeys([*known, *kept]):
        size, count, at = kept.get((name, kind), (0, 0, None))
        spec = known.get((name, kind))
        rows.append({"name": name, "kind": kind, "seen": size, "statements": count, "at": at, "spec": spec})
    return rows
