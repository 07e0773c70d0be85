"""``grpo-audit upgrade``: bring a record of an older version up to date."""

from __future__ import annotations

import json as jsonlib

import typer

from grpo_audit.cli import console
from grpo_audit.cli.runs import DEFAULT_DB, Db, Json
from grpo_audit.config.location import without_password
from grpo_audit.ledger.store import upgrade as upgrade_record


def upgrade(db: Db = DEFAULT_DB, json: Json = False) -> None:
    """Bring a record that an older version wrote to this version's tables. Needs no key.

    The events, their contents and the signed heads stay as they are, byte for byte; the tables derived from them are
    made anew. A file is copied beside itself first, as NAME.schema-VERSION; a schema of PostgreSQL is yours to back up
    (pg_dump). One transaction: a process killed in the middle leaves the record as it was. Writing to a record does the
    same by itself.
    """
    before, after, copy = upgrade_record(db)
    if json:
        result = {"record": without_password(db), "from": before, "to": after, "copy": str(copy) if copy else None}
        typer.echo(jsonlib.dumps(result))
        return
    if before == after:
        console.out.print(f"{without_password(db)} has schema version {after}: nothing to do", soft_wrap=True)
        return
    console.out.print(f"{without_password(db)}: schema version {before} to {after}", soft_wrap=True)
    if copy is not None:
        console.out.print(f"the older file is kept as {copy}", soft_wrap=True)
    console.out.print("grpo-audit verify checks that the new tables follow from the events", style="dim")
