"""How fast is the record: appending, verifying, verifying what is new, and how large is it?

One function a row of the table; each returns what it measured. A record of N realistic events (``_record.py``) is made
in a temporary folder unless one is named. Wall-clock is what counts; processor time is given beside it, because on a
machine that does other things at the same time the wall-clock says little.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks._record import EVENTS_A_STEP, make_record, steps
from benchmarks._usage import PeakMemory, cpu_seconds
from benchmarks._writing import ROLLOUTS, append_ms, size
from benchmarks.verdict import report
from grpo_audit.ledger.project import Project
from grpo_audit.verify.l0 import verify

EVENTS_A_SECOND = 150_000
NEW_EVENTS = 1000
NEW_SECONDS = 1.0
APPEND_MS = 5.0
SIZE = 1.3
LENGTHS = (80, 256, 512, 1024, 2048)
"""Mean tokens of a completion: what a record weighs depends on them. The one that counts is the third."""


@dataclass(frozen=True)
class Verified:
    """One verification of a whole record at level L0."""

    events: int
    seconds: float
    cpu_seconds: float
    """Of all processes."""
    peak_mib: float
    """Resident memory of all processes together, at its highest."""

    @property
    def rate(self) -> float:
        """Events a second."""
        return self.events / self.seconds


def verify_whole(path: Path, jobs: int | None = None) -> Verified:
    """Verify a record at level L0 with everything that belongs to it."""
    with PeakMemory() as memory:
        began, cpu = time.perf_counter(), cpu_seconds()
        verdict = verify(path, jobs=jobs)
        seconds, used = time.perf_counter() - began, cpu_seconds() - cpu
    if not verdict.ok:
        raise RuntimeError(f"the record does not hold: {verdict.failures}")
    return Verified(verdict.events, seconds, used, memory.peak / 2**20)


def verify_new(path: Path, run_id: str) -> tuple[int, float]:
    """Append about 1,000 events as somebody else would, and verify only those: their number, and seconds."""
    seen = verify(path, new=True).events  # the head is remembered: the record was verified just now
    heads = [(file, file.read_bytes()) for file in _home().rglob("heads/*.json")]
    with Project.open(path, mode="write") as project:
        for step in steps(run_id, -(-NEW_EVENTS // EVENTS_A_STEP), start=10**6, seed=1):
            project.append(step)
    for file, data in heads:
        file.write_bytes(data)  # the writer remembered its own head; the verifier is to begin where it was
    began = time.perf_counter()
    verdict = verify(path, new=True)
    seconds = time.perf_counter() - began
    if not verdict.ok or verdict.verified_from != seen:
        raise RuntimeError(f"not what was to be measured: {verdict}")
    return verdict.events - seen, seconds


def _home() -> Path:
    return Path(os.environ["GRPO_AUDIT_HOME"])


def main() -> None:
    """Print a row a measurement, then the verdict."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=2_000_000)
    parser.add_argument("--jobs", type=int, default=None)
    parser.add_argument("--folder", type=Path, default=None, help="keep the record here, and use it again")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        os.environ["GRPO_AUDIT_HOME"] = str(folder / "home")
        _measure(folder / f"{arguments.events}" / "record.db", arguments.events, arguments.jobs)


def _measure(path: Path, events: int, jobs: int | None) -> None:
    console, table = Console(), Table("what", "target", "measured", title="The record")
    if not path.exists():
        began = time.perf_counter()
        make_record(path, events)
        console.print(f"made {events:,} events in {time.perf_counter() - began:.0f} s")
    with Project.open(path, mode="read") as project:
        run_id = project.runs()[-1].run_id
    few = path.parent / "few" / "record.db"
    if not few.exists():
        make_record(few, events // 10)
    small, whole = verify_whole(few, jobs), verify_whole(path, jobs)
    table.add_row("verify L0", f"{EVENTS_A_SECOND:,} events/s", f"{whole.rate:,.0f} events/s")
    table.add_row("  processor time", "", f"{whole.cpu_seconds / whole.events * 1e6:.1f} us an event")
    table.add_row("  peak memory", "constant", f"{whole.peak_mib:.0f} MiB ({small.peak_mib:.0f} at a tenth)")
    new, seconds = verify_new(path, run_id)
    table.add_row(f"verify --new, {new:,} events", f"{NEW_SECONDS} s", f"{seconds:.2f} s")
    with tempfile.TemporaryDirectory() as temporary:
        append = append_ms(Path(temporary) / "append")
        sizes = [size(Path(temporary) / str(tokens), tokens) for tokens in LENGTHS]
    label = f"append a step with {ROLLOUTS} rollouts"
    table.add_row(label, f"median {APPEND_MS} ms", f"median {append['median']:.1f} ms, p99 {append['p99']:.1f} ms")
    for item in sizes:
        ratios = (
            f"{item['to_steps_compressed']:.2f} ({item['to_pieces_compressed']:.2f}; {item['to_plain']:.2f} of plain)"
        )
        table.add_row(
            f"size, {item['tokens']:,.0f} tokens a completion", f"{SIZE} of a step compressed (of each piece)", ratios
        )
    console.print(table)
    deciding = sizes[2]["to_steps_compressed"]
    constant = whole.peak_mib < 1.25 * small.peak_mib
    report(
        "ledger",
        target=f"verify L0 at least {EVENTS_A_SECOND:,} events/s in constant memory; {NEW_EVENTS:,} new events in "
        f"{NEW_SECONDS} s; append of {ROLLOUTS} rollouts in {APPEND_MS} ms (median); record at most {SIZE} of its "
        f"payload compressed, at {LENGTHS[2]} tokens a completion",
        measured={
            "events": whole.events,
            "verify_events_a_second": round(whole.rate),
            "verify_cpu_us_an_event": round(whole.cpu_seconds / whole.events * 1e6, 2),
            "verify_peak_mib": round(whole.peak_mib),
            "verify_peak_mib_at_a_tenth": round(small.peak_mib),
            "new_events": new,
            "new_seconds": round(seconds, 3),
            "append_median_ms": round(append["median"], 2),
            "append_p99_ms": round(append["p99"], 2),
            "size_to_compressed": {
                f"{item['tokens']:.0f} tokens": {
                    key: round(item[key], 2) for key in ("to_steps_compressed", "to_pieces_compressed", "to_plain")
                }
                for item in sizes
            },
        },
        met=whole.rate >= EVENTS_A_SECOND
        and constant
        and seconds < NEW_SECONDS
        and append["median"] < APPEND_MS
        and deciding <= SIZE,
    )


if __name__ == "__main__":
    main()
