"""``grpo-audit prove``: one event and the proof that it is in the record, in one small file."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import Annotated, Any

import typer

from grpo_audit.cli import console
from grpo_audit.cli.runs import DEFAULT_DB, Db, Json
from grpo_audit.errors import ConfigError, VerificationError
from grpo_audit.ledger import keys
from grpo_audit.ledger.canonical import CanonicalError
from grpo_audit.ledger.event import BodyError, parse
from grpo_audit.ledger.folders import replace_file
from grpo_audit.ledger.notes import Checkpoint, Note, NoteError, VerifierKey
from grpo_audit.ledger.project import Project
from grpo_audit.ledger.proof_file import MAX_BYTES, SUFFIX, ProofFile
from grpo_audit.ledger.proofs import RecordLeaves, prove_inclusion
from grpo_audit.record.events import EventKind
from grpo_audit.witness.kept import cosigned_note, newest_cosigned


def prove(
    what: Annotated[
        str | None,
        typer.Argument(help="Event number, or run (id, prefix or name).", metavar="[SEQ|RUN]"),
    ] = None,
    db: Db = DEFAULT_DB,
    kind: Annotated[
        EventKind, typer.Option(help="For a run: its newest event of this kind.")
    ] = EventKind.RUN_REGISTERED,
    witnessed: Annotated[
        bool, typer.Option("--witnessed", help="Prove it in the newest head that a witness cosigned.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", help=f"Write the proof to this file (customary: NAME{SUFFIX}).")
    ] = None,
    check: Annotated[Path | None, typer.Option("--check", help="Check this proof instead of making one.")] = None,
    key: Annotated[
        str | None,
        typer.Option(help="With --check: verifier key NAME+HASH+BASE64, or a file that holds it. Default: the pinned."),
    ] = None,
    json: Json = False,
) -> None:
    """Prove that an event is in the record, to somebody who does not have the record.

    For a run this proves its registration: model, rewards, prompts and gates as they were fixed before that head was
    signed (and, with --witnessed, cosigned by a witness at a stated time).

    The proof (https://c2sp.org/tlog-proof) holds the whole event: share it only with those who may read that. Check one
    with --check FILE --key KEY; it needs no record. Exit code 0: it holds; 1: it does not.
    """
    if check is not None:
        if what is not None:
            raise ConfigError("Give either an event to prove or --check FILE")
        _show(*_checked(check, key), json=json)
        return
    with Project.open(db, mode="read") as project:
        proof = _make(project, _seq(project, what, kind), witnessed=witnessed)
    if out is not None:
        replace_file(out.absolute(), proof.encode())
        console.say(f"proof of event {proof.index} in {out}")
    if json:
        typer.echo(jsonlib.dumps(_as_json(proof, Checkpoint.parse(_text(proof))), indent=2))
    elif out is None:
        typer.echo(proof.encode().decode(), nl=False)


def _seq(project: Project, what: str | None, kind: EventKind) -> int:
    if what is not None and what.isdecimal() and int(what) < project.head.size:
        return int(what)
    run = project.find_run(what)
    event = project.last(run.run_id, kind)
    if event is None:
        raise ConfigError(
            f"Run {run.run_id} has no {kind}", next_step="Choose another with --kind, or give the event's number"
        )
    return event.seq


def _make(project: Project, seq: int, *, witnessed: bool) -> ProofFile:
    head = project.checkpoint()
    if witnessed:
        size = newest_cosigned(project, at_least=seq + 1)
        if size is None:
            raise ConfigError(
                f"No witness cosigned a head that covers event {seq}", next_step="Ask one: grpo-audit witness ask"
            )
        head = project.checkpoint(size)
    path = prove_inclusion(RecordLeaves(project), seq, head.size, head.root)
    event = next(project.events(start=seq))
    return ProofFile(event.body, seq, tuple(path), cosigned_note(project, head.size, head.note))


def _checked(path: Path, key: str | None) -> tuple[ProofFile, Checkpoint, VerifierKey]:
    """The proof, the head it is about and the key it holds under. Raises VerificationError when it does not."""
    data = _read(path)
    try:
        proof = ProofFile.parse(data)
        verifier = _key(proof, key)
        return proof, proof.check(verifier), verifier
    except (NoteError, CanonicalError, BodyError) as error:
        raise VerificationError(f"The proof {path} does not hold", found=str(error)) from error


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"Cannot read {path}", found=error.strerror or str(error)) from error


def _key(proof: ProofFile, given: str | None) -> VerifierKey:
    if given is not None:
        try:
            text = _read(Path(given)).decode() if Path(given).is_file() else given
            return VerifierKey.parse(text.strip())
        except (NoteError, UnicodeDecodeError) as error:
            raise ConfigError("This is no verifier key", found=str(error)) from error
    project_id = _text(proof).split("\n", 1)[0].removeprefix("grpo-audit/")
    pinned = keys.pinned(project_id)
    if pinned is None:
        raise ConfigError(
            "No key is pinned here for the log of this proof",
            next_step="Give the one you got from elsewhere: --key NAME+HASH+BASE64",
        )
    return pinned


def _text(proof: ProofFile) -> str:
    return Note.parse(proof.note).text


def _as_json(proof: ProofFile, head: Checkpoint) -> dict[str, Any]:
    parsed = parse(proof.body).event
    return {
        "index": proof.index,
        "kind": parsed.kind.value,
        "run": parsed.run_id,
        "time": parsed.time,
        "event": jsonlib.loads(proof.body),
        "leaf_hash": parsed.leaf_hash.hex(),
        "path": [item.hex() for item in proof.path],
        "head": {"origin": head.origin, "size": head.size, "root": head.root.hex()},
        "checkpoint": proof.note.decode(),
        "proof": proof.encode().decode(),
    }


def _show(proof: ProofFile, head: Checkpoint, key: VerifierKey, *, json: bool) -> None:
    found = _as_json(proof, head)
    if json:
        typer.echo(jsonlib.dumps({"ok": True, "key": str(key), **found}, indent=2))
        return
    console.out.print(
        f"[bold green]PROVED[/bold green]  event {proof.index} ({found['kind']}), in the head over {head.size:,}",
        soft_wrap=True,
    )
    for name, value in (
        ("log", head.origin),
        ("signed by", key),
        ("run", found["run"] or "-"),
        ("time", f"{found['time']} (as the record says)"),
        ("root", head.root.hex()),
    ):
        console.out.print(f"{name:<10}{console.visible(str(value))}", soft_wrap=True, markup=False)
    typer.echo(jsonlib.dumps(found["event"]["data"], indent=2, ensure_ascii=True))
