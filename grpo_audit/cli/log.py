"""``grpo-audit log``: the project's own log. Every run that was ever registered, and what became of each attempt."""

from __future__ import annotations

import json as jsonlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Annotated

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from grpo_audit.cli import console
from grpo_audit.cli.runs import DEFAULT_DB, Db, Json
from grpo_audit.ledger.project import Event, Project
from grpo_audit.record import events as e
from grpo_audit.record.events import EventKind

LIFE = frozenset(
    {
        EventKind.PROJECT_CREATED,
        EventKind.RUN_REGISTERED,
        EventKind.RUN_RESUMED,
        EventKind.RUN_SEALED,
        EventKind.RUN_ABORTED,
        EventKind.RUN_ABANDONED,
        EventKind.ANNOTATION,
        EventKind.ERASURE,
        EventKind.KEY_ROTATED,
    }
)


@dataclass(frozen=True)
class Line:
    """One entry of the project's log."""

    seq: int
    at: str
    run: str | None
    kind: str
    detail: str


def log(
    run: Annotated[str | None, typer.Argument(help="Only this run: id, prefix or name. Left out: all.")] = None,
    db: Db = DEFAULT_DB,
    json: Json = False,
) -> None:
    """Show the project's log: each run registered, resumed, aborted, abandoned, sealed; notes, erasures, keys.

    A run is registered before its first step, so one that was given up or left out of a report stands here too.
    """
    with Project.open(db, mode="read") as project:
        chosen = project.find_run(run).run_id if run is not None else None
        lines = list(entries(project, chosen))
        unfinished = [item.run_id for item in project.runs() if item.state in ("registered", "resumed")]
    if json:
        typer.echo(jsonlib.dumps({"entries": [asdict(line) for line in lines], "unfinished": unfinished}, indent=2))
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("event", justify="right", no_wrap=True)
    table.add_column("time (UTC)", no_wrap=True)
    table.add_column("what", no_wrap=True)
    table.add_column("run and detail", overflow="fold", min_width=24)
    for line in lines:
        said = f"{line.run}: {line.detail}" if line.run else line.detail
        cells = (line.at[:19].replace("T", " "), line.kind, said)
        table.add_row(f"{line.seq:,}", *(escape(console.visible(cell)) for cell in cells))
    console.out.print(table)
    if unfinished:
        console.out.print(
            f"{len(unfinished)} without an end: {', '.join(unfinished[:5])}. "
            "Go on with grpo-audit run --resume, or say why not with grpo-audit abandon.",
            style="yellow",
            markup=False,
        )


def entries(project: Project, run_id: str | None = None) -> Iterator[Line]:
    """The log of a project, or of one of its runs, oldest first."""
    for event in project.events(run_id, kinds=LIFE):
        yield Line(event.seq, event.time, event.run_id, event.kind.value, _detail(event))


def _detail(event: Event) -> str:
    match event.payload:
        case e.ProjectCreated() as created:
            return f"{created.name}, key {_short(created.public_key)}"
        case e.RunRegistered() as registered:
            return f"{registered.name}: {registered.preset} on {registered.model.source}, {registered.tool}"
        case e.RunResumed() as resumed:
            return f"attempt {resumed.attempt}: {resumed.phase}, from step {resumed.from_step}"
        case e.RunSealed() as sealed:
            return f"{sealed.events:,} events, weights {(sealed.weights_digest or 'none')[:19]}"
        case e.RunAborted() as aborted:
            return aborted.error
        case e.RunAbandoned() as abandoned:
            return f"{abandoned.author}: {abandoned.reason}"
        case e.Annotation() as note:
            return f"{note.author}: {note.field} = {note.value} ({note.reason})"
        case e.Erasure() as erasure:
            pieces = sum(len(item.names) for item in erasure.contents)
            return f"{erasure.author}: {pieces} of {len(erasure.contents)} events ({erasure.reason})"
        case e.KeyRotated() as rotated:
            old, new = _short(rotated.old_key), _short(rotated.new_key)
            return f"{rotated.author}: key {old} gives way to {new} ({rotated.reason})"
        case _:
            return ""


def _short(verifier_key: str) -> str:
    """The hash in ``NAME+KEYHASH+BASE64``: all keys of a project have one name."""
    return verifier_key.split("+")[1] if verifier_key.count("+") >= 2 else verifier_key
