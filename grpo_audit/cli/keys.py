"""``grpo-audit keys``: the keys that sign, and the keys this machine has pinned."""

from __future__ import annotations

import json as jsonlib
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from grpo_audit.cli import console
from grpo_audit.cli.runs import DEFAULT_DB, Db, Json
from grpo_audit.errors import ConfigError, ExitCode, StorageError
from grpo_audit.ledger import keys
from grpo_audit.ledger.attestation_key import AttestationKey, attestation_path
from grpo_audit.ledger.folders import config_folder
from grpo_audit.ledger.project import Project

app = typer.Typer(
    no_args_is_help=True,
    help="The keys that sign records, and the keys this machine has pinned.\n\n"
    "One Ed25519 key signs the log of every project of yours; it is made on first use, stays in your configuration "
    "folder (mode 0600) and is never in a record. One ECDSA P-256 key signs what leaves a project. Give auditors the "
    "verifier key of your project (keys export) on another way than the record: they check with it, you never send "
    "a private key.",
)


@app.command("list")
def list_(json: Json = False) -> None:
    """List current, retired and attestation key, and the pinned verifier key of each project.

    Exit code 5: a private key may be read by others, or cannot be read.
    """
    rows = [_private("current", keys.current_path(), _signing)]
    rows += [_private("retired", path, _signing) for path in keys.retired_paths()]
    rows.append(_private("attestation", attestation_path(), _attestation))
    pinned = [_pin(path) for path in sorted((config_folder() / "pinned").glob("*.vkey"))]
    if json:
        typer.echo(jsonlib.dumps({"folder": str(config_folder()), "private": rows, "pinned": pinned}, indent=2))
    else:
        console.out.print(f"in {config_folder()}", soft_wrap=True, markup=False)
        for row in rows:
            line = f"{row['role']:<12}{row['public'] or '-'}  {row['file']}  {row['mode'] or 'not made yet'}"
            console.out.print(line, soft_wrap=True, markup=False)
        for row in pinned:
            console.out.print(f"{'pinned':<12}{row['key'] or row['problem']}", soft_wrap=True, markup=False)
    problems = [row["problem"] for row in rows + pinned if row["problem"]]
    for problem in problems:
        console.err.print(f"grpo-audit: {problem}", soft_wrap=True, markup=False)
    if problems:
        raise typer.Exit(ExitCode.STORAGE)


@app.command("create")
def create(json: Json = False) -> None:
    """Make the signing key and the attestation key now, if there are none. Nothing is replaced."""
    made = {
        "signing": keys.SigningKey.load_or_create().public.hex(),
        "attestation": AttestationKey.load_or_create().public_pem().decode(),
    }
    if json:
        typer.echo(jsonlib.dumps({"folder": str(config_folder()), **made}, indent=2))
        return
    console.out.print(f"{keys.current_path()}  Ed25519, public {made['signing']}", soft_wrap=True, markup=False)
    console.out.print(f"{attestation_path()}  ECDSA P-256", soft_wrap=True, markup=False)


@app.command("export")
def export(
    db: Db = DEFAULT_DB,
    attestation: Annotated[
        bool, typer.Option("--attestation", help="The public attestation key instead, in PEM; needs no record.")
    ] = False,
    json: Json = False,
) -> None:
    """Print the verifier key of a project, to hand to auditors: grpo-audit verify --key checks with it.

    Send it on another way than the record. It is the key in force; one from before a rotation verifies too.
    """
    if attestation:
        pem = AttestationKey.load_or_create().public_pem().decode()
        typer.echo(jsonlib.dumps({"key": pem}) if json else pem, nl=json)
        return
    with Project.open(db, mode="read") as project:
        periods = project.keys_in_force()
        own = keys.pinned(project.project_id)
    current = periods[-1].key
    if own is not None and all(period.key != own for period in periods):
        raise StorageError(
            f"{db} names another key than this machine has pinned for the project",
            found=str(current),
            expected=str(own),
            next_step="Run grpo-audit verify before you hand out either",
        )
    if json:
        history = [{"from_seq": period.from_seq, "key": str(period.key)} for period in periods]
        typer.echo(jsonlib.dumps({"project": current.name, "key": str(current), "history": history}, indent=2))
    else:
        typer.echo(str(current))


@app.command("rotate")
def rotate(
    author: Annotated[str, typer.Option(help="Who rotates the key; recorded.")],
    reason: Annotated[str, typer.Option(help="Why; recorded.")],
    db: Db = DEFAULT_DB,
    json: Json = False,
) -> None:
    """Sign this record with another key from now on. The change is an event, signed by both keys.

    A new key is made unless the project is still signed by a retired one: then it moves to the current key. The old
    private key is kept, so that your other projects can be rotated one by one. Ask the witnesses afterwards.
    """
    if not author.strip() or not reason.strip():
        raise ConfigError("A rotation needs an author and a reason")
    with Project.open(db, mode="write") as project:
        known = {period.key.public for period in project.keys_in_force()}
        new = keys.SigningKey.load_or_create()
        if new.public in known:
            new = keys.rotate()  # kept on disk before the record depends on it
        head = project.rotate_key(new, author=author, reason=reason)
        current = project.keys_in_force()[-1].key
    if json:
        typer.echo(jsonlib.dumps({"key": str(current), "events": head.size, "root": head.root.hex()}, indent=2))
        return
    console.out.print(f"event {head.size - 1}: the record is signed by a new key", soft_wrap=True, markup=False)
    console.out.print(str(current), soft_wrap=True, markup=False)
    console.say("Hand this key to your auditors; show witnesses the change with grpo-audit witness ask")


def _signing(path: Path) -> str:
    return keys.SigningKey.load(path).public.hex()


def _attestation(path: Path) -> str:
    return AttestationKey.load(path).key_id


def _private(role: str, path: Path, read: Callable[[Path], str]) -> dict[str, Any]:
    """Where a private key is, its mode and its public half; what is wrong with it, if anything."""
    row: dict[str, Any] = {"role": role, "file": str(path), "mode": None, "public": None, "problem": None}
    if path.exists():
        row["mode"] = f"{stat.S_IMODE(path.stat().st_mode):04o}"
        try:
            row["public"] = read(path)
        except StorageError as error:
            row["problem"] = str(error)
    return row


def _pin(path: Path) -> dict[str, Any]:
    try:
        return {"project": path.stem, "key": str(keys.pinned(path.stem)), "problem": None}
    except StorageError as error:
        return {"project": path.stem, "key": None, "problem": str(error)}
