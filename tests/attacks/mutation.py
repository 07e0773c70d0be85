"""Flipping bits of a small record and of a bundle of it: is every change of what they say detected?

A flip of a record is *semantic* when a dump of its schema and of every row of every table comes out different, or not
at all; a flip in a free page or an unused part of a header is not. In a bundle every flip counts: it has no byte that
says nothing. Everything else than a verdict or an error of ours fails the campaign: a traceback, or no end.

Run the whole campaign, every byte once: make mutate. It prints a table and ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

from grpo_audit.errors import GrpoAuditError
from grpo_audit.export.bundle import BundleOptions, write_bundle
from grpo_audit.ledger.project import Project
from grpo_audit.verify import verify

LIMIT_S = 60
"""No verification of a small record may take longer."""
_SHOWN = 20


@dataclass
class Counts:
    """What became of the flips."""

    flipped: int = 0
    semantic: int = 0
    detected: int = 0
    """Semantic ones that verification reported."""
    harmless: int = 0
    """Flips that leave every row and the schema as they were."""
    reported: int = 0
    """Harmless ones that verification reported all the same: pages, indexes, the file's header."""
    missed: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    """Tracebacks and verifications without end."""

    def add(self, other: Counts) -> None:
        """Count these, too."""
        for name in ("flipped", "semantic", "detected", "harmless", "reported"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.missed += other.missed
        self.broken += other.broken

    @property
    def rate(self) -> float:
        """Share of semantic changes that were detected."""
        return self.detected / self.semantic if self.semantic else float("nan")


@dataclass(frozen=True)
class Small:
    """A small sealed record, a bundle of it with the model, and the key known from elsewhere."""

    folder: Path
    key: str

    @property
    def record(self) -> Path:
        """The database, alone in its folder: the run's files would be compared each time."""
        return self.folder / "alone" / "record.db"

    @property
    def bundle(self) -> Path:
        """The bundle."""
        return self.folder / "bundle.zip"


def make_small(folder: Path) -> Small:
    """Make both, in a home of their own. Sets GRPO_AUDIT_HOME."""
    import record_factory

    os.environ["GRPO_AUDIT_HOME"] = str(folder / "home")
    tasks, documents = record_factory.TASKS, record_factory._DOCUMENTS
    record_factory.TASKS, record_factory._DOCUMENTS = tasks[:1], 2
    try:
        run_id = record_factory.build_record(folder / "record.db", steps=1, prompts=1, group_size=2)
    finally:
        record_factory.TASKS, record_factory._DOCUMENTS = tasks, documents
    with Project.open(folder / "record.db", mode="read") as project:
        key = project.public_key
    write_bundle(folder / "record.db", run_id, folder / run_id, folder / "bundle.zip", BundleOptions(with_weights=True))
    small = Small(folder, key)
    small.record.parent.mkdir()
    small.record.write_bytes((folder / "record.db").read_bytes())
    for path in (small.record, small.bundle):
        assert verify(path, key=key).ok, verify(path, key=key).failures
    return small


def dump(path: Path) -> list[object] | None:
    """Schema and rows of all tables with their types, as SQLite reads them; None when it cannot.

    Of the schema: names, columns and indexes as SQLite understands them, and the text of what has no columns. The
    spelling of a table's definition (a space, ``INTEGAR`` for ``INTEGER``), or upper case in the name of the table that
    an entry belongs to, is not part of it: it changes no answer.
    """
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)) as connection:
            connection.text_factory = bytes
            found: list[object] = []
            for kind, name, table, sql in connection.execute(
                "SELECT * FROM (SELECT type, name, tbl_name, sql FROM sqlite_master) ORDER BY name"
            ).fetchall():
                found.append((kind, name, table.lower()))
                quoted = f"[{name.decode()}]"
                if kind == b"table":
                    columns = connection.execute(f"PRAGMA table_xinfo({quoted})").fetchall()
                    found += [(column[1], _affinity(column[2]), *column[3:]) for column in columns]
                    types = ", ".join(f"typeof([{column[1].decode()}])" for column in columns)
                    rows = connection.execute(f"SELECT *, {types} FROM {quoted} NOT INDEXED").fetchall()
                    found.append(sorted(rows, key=repr))
                elif kind == b"index":
                    found += connection.execute(f"PRAGMA index_xinfo({quoted})").fetchall()
                else:
                    found.append(sql)
            return found
    except (sqlite3.Error, UnicodeDecodeError, OverflowError, MemoryError):
        return None


def _affinity(declared: bytes) -> str:
    """https://www.sqlite.org/datatype3.html, 3.1."""
    name = declared.upper()
    for affinity, parts in (
        ("INTEGER", (b"INT",)),
        ("TEXT", (b"CHAR", b"CLOB", b"TEXT")),
        ("BLOB", (b"BLOB",)),
        ("REAL", (b"REAL", b"FLOA", b"DOUB")),
    ):
        if any(part in name for part in parts):
            return affinity
    return "NUMERIC" if name else "BLOB"


@contextmanager
def _limit() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TimeoutError(f"no verdict after {LIMIT_S} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LIMIT_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _is_reported(path: Path, key: str) -> bool:
    """Whether verification does not pass it. Only errors of ours are errors here."""
    with _limit():
        try:
            return not verify(path, key=key, jobs=1).ok
        except GrpoAuditError:
            return True


def flip(data: bytes, at: int, rng: random.Random) -> bytes:
    """One bit of one byte, drawn."""
    return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]


def mutate(original: Path, key: str, positions: Iterable[int], *, is_bundle: bool, seed: int = 0) -> Counts:
    """Flip one bit at each position, one position at a time, and judge."""
    counts = Counts()
    data = original.read_bytes()
    baseline = None if is_bundle else dump(original)
    assert is_bundle or baseline is not None
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / original.name
        for at in positions:
            changed = flip(data, at, random.Random(f"{seed} {at}"))
            copy.write_bytes(changed)
            is_semantic = is_bundle or dump(copy) != baseline
            counts.flipped += 1
            try:
                is_reported = _is_reported(copy, key)
            except Exception as error:  # noqa: BLE001  a traceback is what is looked for
                counts.broken.append(f"byte {at}: {type(error).__name__}: {error}")
                is_reported = False
            for extra in copy.parent.iterdir():
                if extra != copy:
                    extra.unlink()
            if is_semantic:
                counts.semantic += 1
                counts.detected += is_reported
                if not is_reported:
                    counts.missed.append(f"byte {at}")
            else:
                counts.harmless += 1
                counts.reported += is_reported
    return counts


def _in_parts(work: Callable[[range], Counts], size: int, stride: int, jobs: int, name: str) -> Counts:
    """All positions, a block at a time in several processes."""
    block = 512 * stride
    blocks = [range(start, min(start + block, size), stride) for start in range(0, size, block)]
    total = Counts()
    with ProcessPoolExecutor(jobs) as pool:
        for done, counts in enumerate(pool.map(work, blocks), 1):
            total.add(counts)
            print(f"{name}: {done}/{len(blocks)} blocks, {total.detected}/{total.semantic} detected", file=sys.stderr)
    return total


def main() -> int:
    """The campaign."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stride", type=int, default=1, help="every how manieth byte; 1 is all")
    parser.add_argument("--seed", type=int, default=0, help="which bit of each byte")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes")
    options = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        small = make_small(Path(folder))
        for name, path, is_bundle in (("bundle", small.bundle, True), ("record", small.record, False)):
            work = partial(mutate, path, small.key, is_bundle=is_bundle, seed=options.seed)
            results[name] = _in_parts(work, path.stat().st_size, options.stride, options.jobs, name)
    print(f"{'':8}{'flipped':>9}{'semantic':>9}{'detected':>9}{'rate':>8}{'harmless':>9}{'reported':>9}{'broken':>8}")
    for name, counts in results.items():
        print(
            f"{name:8}{counts.flipped:9}{counts.semantic:9}{counts.detected:9}{counts.rate:8.2%}"
            f"{counts.harmless:9}{counts.reported:9}{len(counts.broken):8}"
        )
        for line in [*counts.missed[:_SHOWN], *counts.broken[:_SHOWN]]:
            print(f"  {line}")
    met = all(
        counts.semantic and counts.detected == counts.semantic and not counts.broken for counts in results.values()
    )
    measured = {
        name: {**asdict(counts), "missed": len(counts.missed), "broken": len(counts.broken)}
        for name, counts in results.items()
    }
    print(json.dumps({"benchmark": "mutation", "target": "100 % of semantic flips", "measured": measured, "met": met}))
    return not met


if __name__ == "__main__":
    sys.exit(main())
