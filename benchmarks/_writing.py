"""What writing a record costs: the time of a step's transaction, and bytes on disk."""

from __future__ import annotations

import statistics
import time
import zlib
from pathlib import Path

from benchmarks._record import CHARACTERS, PROMPTS, TOKENS, steps
from grpo_audit.ledger.event import NewEvent
from grpo_audit.ledger.project import Project
from tests.record_factory import build_record

ROLLOUTS = PROMPTS * 8
WARM_UP = 20
"""Steps before the first one that counts: caches fill, the write-ahead log reaches its size."""


def append_ms(folder: Path, count: int = 200) -> dict[str, float]:
    """Milliseconds of ``Project.append`` for a step with 128 rollouts: median and 99th percentile. Everything is in it:
    encoding, hashing, signing, projections, ``synchronous=FULL``."""
    folder.mkdir()
    run = build_record(folder / "record.db", steps=1, prompts=1, group_size=2, sealed=False)
    taken = []
    with Project.open(folder / "record.db", mode="write") as project:
        for events in steps(run, WARM_UP + count, start=1):
            start = time.perf_counter()
            project.append(events)
            taken.append((time.perf_counter() - start) * 1e3)
    taken = taken[WARM_UP:]
    return {"median": statistics.median(taken), "p99": statistics.quantiles(taken, n=100)[98]}


def size(folder: Path, tokens: int, count: int = 40) -> dict[str, float]:
    """Bytes on disk for each rollout, against its payload compressed by zlib (level 6): a whole step at once, and each
    body and content by itself, which is what can be erased alone."""
    folder.mkdir()
    path = folder / "record.db"
    run = build_record(path, steps=1, prompts=1, group_size=2, sealed=False)
    empty = path.stat().st_size
    together = apart = plain = 0
    with Project.open(path, mode="write") as project:
        characters = CHARACTERS if tokens == TOKENS else 4 * tokens
        for events in steps(run, count, start=1, tokens=tokens, characters=characters):
            begin = project.head.size
            project.append(events)
            pieces = _pieces(project, events, begin)
            plain += sum(map(len, pieces))
            together += len(zlib.compress(b"".join(pieces), 6))
            apart += sum(len(zlib.compress(piece, 6)) for piece in pieces)
    stored = path.stat().st_size - empty
    return {
        "tokens": tokens,
        "bytes_a_rollout": stored / (count * ROLLOUTS),
        "to_plain": stored / plain,
        "to_steps_compressed": stored / together,
        "to_pieces_compressed": stored / apart,
    }


def _pieces(project: Project, events: list[NewEvent], begin: int) -> list[bytes]:
    """Bodies, then contents by kind, in which order they compress best together."""
    contents = sorted(
        ((name, data) for event in events for name, data in event.content.items()), key=lambda item: item[0]
    )
    return [*(event.body for event in project.events(start=begin)), *(data for _, data in contents)]
