"""``grpo-audit annotate``: say a field of the catalogue afterwards, signed, with author and reason."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import TypeAdapter, ValidationError
from rich import box
from rich.markup import escape
from rich.table import Table

from grpo_audit.catalogue.collect import FIELDS, collect, declarable
from grpo_audit.catalogue.coverage import asked_by
from grpo_audit.catalogue.field import value_type
from grpo_audit.catalogue.run import nearest, parse_said
from grpo_audit.cli import console
from grpo_audit.cli.runs import DEFAULT_DB, Db, Json
from grpo_audit.config.fields import field_at
from grpo_audit.errors import ConfigError
from grpo_audit.export.hub import BENCHMARK_FIELD, is_benchmark
from grpo_audit.ledger.annotations import check_annotation, sign_annotation
from grpo_audit.ledger.folders import config_folder
from grpo_audit.ledger.keys import SigningKey
from grpo_audit.ledger.notes import NoteError
from grpo_audit.ledger.project import NewEvent, Project
from grpo_audit.record.events import Annotation


def annotate(
    run: Annotated[str | None, typer.Argument(help="Run id, unique prefix or name.")] = None,
    field: Annotated[str | None, typer.Argument(help="Field of the catalogue, e.g. accountability.approver.")] = None,
    value: Annotated[str | None, typer.Argument(help="What is to stand there.")] = None,
    author: Annotated[str | None, typer.Option("--author", help="Your name, as it shall stand in the record.")] = None,
    reason: Annotated[str | None, typer.Option("--reason", help="Why you say it, and why now.")] = None,
    project_wide: Annotated[
        bool,
        typer.Option("--project-wide", help="For every run that says nothing of its own; give - as RUN."),
    ] = False,
    key: Annotated[
        Path | None,
        typer.Option("--key", help="Your own private key (PEM, Ed25519). Default: author-key.pem, made on first use."),
    ] = None,
    list_fields: Annotated[bool, typer.Option("--list", help="List the fields that may be said.")] = False,
    db: Db = DEFAULT_DB,
    json: Json = False,
) -> None:
    """Add a signed statement about a run: who approves, what it is for, where the plan is.

    The statement is signed by your own key, beside the key of the record, and names project, run, field, value and
    reason. It never replaces anything: of several about a field the newest counts, and all stay visible. A sealed run
    takes annotations too. What the record measures cannot be said: --list names what can. Beside these, benchmark.TASK
    says which data set of the Hub a task is (owner/name:task_id), for grpo-audit export.

    Example: grpo-audit annotate RUN accountability.approver "C. Approver" --author "C. Approver" --reason "read it"
    """
    if list_fields:
        _list(json)
        return
    if run is None or field is None or value is None or author is None or reason is None:
        raise ConfigError(
            "Something is missing",
            expected="RUN FIELD VALUE --author NAME --reason WHY",
            next_step="grpo-audit annotate --list names the fields",
        )
    name = check_field(field, value)
    _check_texts(author=author, reason=reason, value=value)
    signing = SigningKey.load_or_create(key or config_folder() / "author-key.pem")
    with Project.open(db, mode="write") as project:
        run_id = None if project_wide else project.find_run(run).run_id
        note = signed(signing, project.project_id, run_id, author, name, value, reason)
        seq = project.append([NewEvent(note, run_id)]).size - 1
        counts = (
            run_id is None or name.startswith(BENCHMARK_FIELD) or collect(project, run_id)[name].pointer.seqs == (seq,)
        )
    _report(json, seq, run_id, note, counts)


def signed(
    key: SigningKey, project_id: str, run_id: str | None, author: str, field: str, value: str, reason: str
) -> Annotation:
    """The signed annotation. Raises ConfigError when a text cannot be signed."""
    try:
        text, public = sign_annotation(key, project_id, run_id, author, field, value, reason)
        note = Annotation(author=author, field=field, value=value, reason=reason, signed=text, public_key=public)
        check_annotation(note, project_id, run_id)
    except NoteError as error:
        raise ConfigError("The annotation cannot be signed", found=str(error)) from error
    return note


def check_field(field: str, value: str) -> str:
    """The full name of a field that may be said. Raises ConfigError: unknown, measured, or an unfit value."""
    if field.startswith(BENCHMARK_FIELD):
        if not is_benchmark(value):
            raise ConfigError(
                f"{field} cannot be {value!r}", expected="a data set of the Hub: owner/name or owner/name:task_id"
            )
        return field
    known = declarable()
    by_key = {about.recipe: name for name, about in known.items() if about.recipe is not None}
    name = by_key.get(field, by_key.get(f"governance.{field}", field))
    if name not in known:
        near = None if name in FIELDS else nearest(field, known)
        raise ConfigError(
            f"{field} is measured, not said" if name in FIELDS else f"There is no field {field}",
            expected=near or "a field of the catalogue that may be said",
            next_step="grpo-audit annotate --list names them",
        )
    try:
        parsed = parse_said(value, value_type(FIELDS[name]))
        _check_range(known[name].recipe, parsed)
    except ValueError as error:
        raise ConfigError(f"{name} cannot be {value!r}", found=" ".join(str(error).split())) from error
    return name


def _check_range(recipe: str | None, value: object) -> None:
    """The bounds of the recipe's key hold for an annotation too. Raises ValueError."""
    info = field_at(tuple(recipe.split("."))) if recipe else None
    if info is not None:
        try:
            bounded: Any = Annotated[info.annotation, info]
            TypeAdapter(bounded).validate_python(value)
        except ValidationError as error:
            raise ValueError(error.errors()[0]["msg"]) from error


def _check_texts(**texts: str) -> None:
    for name, text in texts.items():
        if not text.strip():
            raise ConfigError(f"--{name} is empty", expected="a text that stands in the record for ever")


def _report(json: bool, seq: int, run_id: str | None, note: Annotation, counts: bool) -> None:
    if json:
        typer.echo(jsonlib.dumps({"event": seq, "run": run_id, **note.model_dump()}, indent=2, ensure_ascii=False))
        return
    where = f"run {run_id}" if run_id else "every run of the project"
    console.out.print(f"event {seq}: {note.field} of {where} is", markup=False, soft_wrap=True, end=" ")
    console.out.print(console.visible(note.value), markup=False, soft_wrap=True)
    console.out.print(f"signed by {console.visible(note.public_key)}", markup=False, soft_wrap=True)
    if not counts:
        console.out.print(
            "The record knows this field by itself, so the statement stands beside it and does not replace it.",
            style="yellow",
            soft_wrap=True,
        )


def _list(json: bool) -> None:
    known = declarable()
    if json:
        rows = [
            {
                "field": name,
                "meaning": FIELDS[name].description,
                "recipe": about.recipe,
                "asked_by": asked_by(name),
            }
            for name, about in known.items()
        ]
        typer.echo(jsonlib.dumps(rows, indent=2, ensure_ascii=False))
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("field", "what it says", "recipe key"):
        table.add_column(column, overflow="fold")
    for name, about in known.items():
        table.add_row(name, escape(FIELDS[name].description or ""), about.recipe or "-")
    console.out.print(table)
