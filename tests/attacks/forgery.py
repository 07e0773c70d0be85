"""What an attacker does to a record. They can write the database and every file, and know the format; what they lack
is the private key, unless a test says that they have it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attacks.bundles import write_consistent

from grpo_audit.export.bundle_log import OF_EVERY_RUN
from grpo_audit.ledger import canonical
from grpo_audit.ledger.keys import SigningKey
from grpo_audit.ledger.merkle import Frontier, leaf_hash
from grpo_audit.ledger.notes import Checkpoint, Note, sign
from grpo_audit.ledger.packing import unpack
from grpo_audit.ledger.project import Project
from grpo_audit.verify import Outcome, VerifyReport


@contextmanager
def database(path: Path) -> Iterator[sqlite3.Connection]:
    """The database as anybody can open it; committed at the end."""
    connection = sqlite3.connect(path)
    try:
        with connection:
            yield connection
    finally:
        connection.close()


def failed(report: VerifyReport) -> set[str]:
    """Names of the failed checks."""
    assert report.ok is not bool(report.failures)
    return {check.name for check in report.failures if check.outcome is Outcome.FAILED}


def body_of(connection: sqlite3.Connection, seq: int) -> bytes:
    """The stored body."""
    body: bytes = connection.execute("SELECT body FROM event WHERE seq = ?", (seq,)).fetchone()[0]
    return body


def seq_of(connection: sqlite3.Connection, kind: str) -> int:
    """The first event of a kind."""
    seq: int = connection.execute("SELECT min(seq) FROM event WHERE kind = ?", (kind,)).fetchone()[0]
    return seq


def set_body(connection: sqlite3.Connection, seq: int, body: bytes) -> None:
    """Another body, its leaf hash made to fit."""
    connection.execute("UPDATE event SET body = ?, leaf_hash = ? WHERE seq = ?", (body, leaf_hash(body), seq))


def edit_value(connection: sqlite3.Connection, seq: int, change: Callable[[dict[str, Any]], object]) -> None:
    """Another value in a body; nothing else is made to fit."""
    value = canonical.loads(body_of(connection, seq))
    change(value)
    connection.execute("UPDATE event SET body = ? WHERE seq = ?", (canonical.dumps(value), seq))


def rehash(connection: sqlite3.Connection, key: SigningKey | None = None, origin: str | None = None) -> None:
    """What a careful attacker does after an edit: fix every link, hash, root and frontier, and sign with ``key``."""
    tree, previous, roots = Frontier(), "0" * 64, {}
    for seq, body in connection.execute("SELECT seq, body FROM event ORDER BY seq").fetchall():
        value = canonical.loads(body)
        value["prev"], value["seq"] = previous, tree.size
        body = canonical.dumps(value)
        tree.append(leaf_hash(body))
        previous = leaf_hash(body).hex()
        roots[tree.size] = (tree.root(), tree.to_bytes())
        connection.execute(
            "UPDATE event SET body = ?, leaf_hash = ?, seq = ? WHERE seq = ?",
            (body, leaf_hash(body), tree.size - 1, seq),
        )
    sign_again(connection, roots, key, origin)


def rehash_raw(connection: sqlite3.Connection, key: SigningKey, origin: str) -> None:
    """Sign the bodies as they stand, canonical or not."""
    tree, roots = Frontier(), {}
    for seq, body in connection.execute("SELECT seq, body FROM event ORDER BY seq").fetchall():
        tree.append(leaf_hash(body))
        roots[tree.size] = (tree.root(), tree.to_bytes())
        connection.execute("UPDATE event SET leaf_hash = ? WHERE seq = ?", (leaf_hash(body), seq))
    sign_again(connection, roots, key, origin)


def sign_again(
    connection: sqlite3.Connection,
    roots: dict[int, tuple[bytes, bytes]],
    key: SigningKey | None,
    origin: str | None,
) -> None:
    """Put roots and frontiers into the checkpoints, those that stand at an event, and sign them when there is a key."""
    for (size,) in connection.execute("SELECT size FROM checkpoint").fetchall():
        if size not in roots:
            connection.execute("DELETE FROM checkpoint WHERE size = ?", (size,))
            continue
        root, frontier = roots[size]
        connection.execute("UPDATE checkpoint SET root = ?, frontier = ? WHERE size = ?", (root, frontier, size))
        if key is not None and origin is not None:
            note = sign(Checkpoint(origin, size, root).text(), key.signer(origin))
            connection.execute("UPDATE checkpoint SET note = ? WHERE size = ?", (note, size))


def own_key(record: Path) -> tuple[SigningKey, str]:
    """The maker's key, stolen, and the origin it signs for."""
    with Project.open(record, mode="read") as project:
        origin = f"grpo-audit/{project.project_id}"
    return SigningKey.load_or_create(), origin


def cut(record: Path, events: int) -> None:
    """Take away the newest events with everything derived from them and every checkpoint over them."""
    with database(record) as connection:
        sizes = [row[0] for row in connection.execute("SELECT size FROM checkpoint ORDER BY size")]
        last = connection.execute("SELECT max(seq) FROM event").fetchone()[0]
        size = max(item for item in sizes if item <= last + 1 - events)
        tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            if table not in ("checkpoint", "witness", "alembic_version"):
                connection.execute(f"DELETE FROM {table} WHERE seq >= ?", (size,))
        connection.execute("DELETE FROM checkpoint WHERE size > ?", (size,))
        connection.execute("DELETE FROM witness WHERE size > ?", (size,))


def rewrite(record: Path, key: SigningKey, *, rename: bool) -> None:
    """Change a result and make everything consistent, signed with ``key``; ``rename`` puts it into the record, too."""
    with Project.open(record, mode="read") as project:
        origin = f"grpo-audit/{project.project_id}"
    with database(record) as connection:
        if rename:
            public = str(key.signer(origin).verifier)
            edit_value(connection, 0, lambda value: value["data"].update(public_key=public))
        seq = seq_of(connection, "eval.task")
        edit_value(connection, seq, lambda value: value["data"].update(seconds="0.5"))
        connection.execute("UPDATE eval_task SET seconds = 0.5 WHERE seq = ?", (seq,))
        rehash(connection, key, origin)


def forge_bundle(record: Path, target: Path, files: Path | None = None, run: str | None = None) -> None:
    """A bundle of a run (the first unless named) as the tables stand: an attacker does not use our writer.

    Manifest, sizes and digests all fit. ``files`` is a folder to put in as the run's.
    """
    with database(record) as connection:
        rows = connection.execute("SELECT seq, run_id, kind, body, leaf_hash FROM event ORDER BY seq").fetchall()
        created = json.loads(rows[0][3])["data"]
        run = run or next(row[1] for row in rows if row[2] == "run.registered")
        own = (None, run)
        shown = {seq: body for seq, owner, kind, body, _ in rows if owner in own or kind in OF_EVERY_RUN}
        heads = connection.execute("SELECT size, root, note FROM checkpoint ORDER BY size").fetchall()
        contents = connection.execute("SELECT * FROM content ORDER BY seq, name").fetchall()
        witnesses = connection.execute(
            "SELECT size, name, kind, statement, at FROM witness ORDER BY size, name"
        ).fetchall()
    members = {
        "manifest.json": canonical.dumps(
            {
                "events": len(rows),
                "format": 1,
                "key": created["public_key"],
                "members": [],
                "project": created["project_id"],
                "run": run,
                "withheld": {"contents": [], "events": 0, "files": []},
            }
        ),
        "events.jsonl": b"".join(body + b"\n" for body in shown.values()),
        "leaves.bin": b"".join(row[4] for row in rows),
        "checkpoints.jsonl": _lines(
            {"note": note.decode(), "root": root.hex(), "size": size} for size, root, note in heads
        ),
        "contents.jsonl": _lines(_content(*row) for row in contents if row[0] in shown),
        "witness.jsonl": _lines(
            {"at": at, "kind": kind, "name": name, "size": size, "statement": _base64(statement)}
            for size, name, kind, statement, at in witnesses
        ),
    }
    if files is not None:
        for path in sorted(files.rglob("*")):
            if path.is_file():
                members[f"files/{path.relative_to(files).as_posix()}"] = path.read_bytes()
    write_consistent(target, members)


def _lines(values: Iterator[dict[str, object]]) -> bytes:
    return b"".join(canonical.dumps(value) + b"\n" for value in values)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _content(seq: int, name: str, salt: bytes, encoding: str, data: bytes | str) -> dict[str, object]:
    try:
        plain = unpack(encoding, data.encode() if isinstance(data, str) else data)
    except ValueError:
        plain = b"\xff broken"
    line: dict[str, object] = {"name": name, "salt": salt.hex(), "seq": seq}
    try:
        return {**line, "encoding": "text", "data": plain.decode()}
    except UnicodeDecodeError:
        return {**line, "encoding": "base64", "data": _base64(plain)}


def strip_signatures(note: bytes) -> bytes:
    """The text of a note alone."""
    return Note.parse(note).text.encode()


def digest(data: bytes) -> str:
    """``sha256:`` digest."""
    return "sha256:" + hashlib.sha256(data).hexdigest()
