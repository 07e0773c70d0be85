"""Does the shipped recipe raise held-out Countdown accuracy, and is the demonstration quick?

Runs the demonstration through its own command: once whole, for the time, and once for each further seed with the
Countdown evaluation only. The evaluation problems are disjoint from the training problems by construction.
The significance is the record's own: exact McNemar over the same problems before and after.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.verdict import report

TASK = "builtin_countdown"
SEEDS = (17, 1, 2, 3, 4)  # the shipped seed first
SECONDS = 240.0
P = 0.01


def demonstrate(folder: Path, seed: int, *, whole: bool) -> tuple[dict[str, object], float]:
    """Run the demonstration in an empty folder; returns the Countdown row of its comparison and the seconds it took."""
    command = [sys.executable, "-m", "grpo_audit", "run", "--json", "--set", f"seed={seed}"]
    if not whole:
        command += ["--set", f"evaluation.tasks=[{TASK}]", "--set", "gates=[]", "--set", "evaluation.margins={}"]
    begin = time.monotonic()
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, check=True)
    seconds = time.monotonic() - begin
    rows = json.loads(done.stdout)["comparison"]["tasks"]
    return next(row for row in rows if row["task"] == TASK), seconds


def main() -> None:
    """Print a row a seed, then the verdict."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    seeds = parser.parse_args().seeds
    table = Table("seed", "n", "pre", "post", "gained", "lost", "p", "seconds", title="Countdown before and after RL")
    significant, whole_seconds, rows = 0, 0.0, []
    for index, seed in enumerate(seeds):
        with tempfile.TemporaryDirectory() as name:
            row, seconds = demonstrate(Path(name), seed, whole=index == 0)
        whole_seconds = whole_seconds or seconds
        p = 1.0 if row["p"] is None else float(str(row["p"]))
        rose = float(str(row["difference"])) > 0 and p < P
        significant += rose
        rows.append({"seed": seed, "pre": row["pre"], "post": row["post"], "p": p, "seconds": round(seconds, 1)})
        cells = [str(seed), str(row["documents"]), f"{row['pre']:.3f}", f"{row['post']:.3f}"]
        table.add_row(*cells, str(row["gained"]), str(row["lost"]), f"{p:.2g}", f"{seconds:.0f}")
        Console(stderr=True).print(f"seed {seed}: {row['pre']:.3f} -> {row['post']:.3f}, p {p:.2g}, {seconds:.0f} s")
    Console().print(table)
    needed = round(0.8 * len(seeds))
    report(
        "demo_gain",
        target=f"accuracy rises with p < {P} for at least {needed} of {len(seeds)} seeds; "
        f"whole demonstration under {SECONDS:.0f} s",
        measured={"significant": significant, "seconds": round(whole_seconds, 1), "seeds": rows},
        met=significant >= needed and whole_seconds < SECONDS,
    )


if __name__ == "__main__":
    main()
