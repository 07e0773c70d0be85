"""The whole training step against TRL's GRPOTrainer: time, processor time and memory.

The same model, prompts in the same order, rewards, precision (float32), group, batch and objective (DAPO's token mean,
beta 0, one update). Ours records every rollout into a real record with FULL durability; TRL runs with reporting,
logging, checkpoints, bf16 and gradient checkpointing off, with transformers generation, at the faster of two
microbatch sizes. Every sequence of steps runs in a process of its own, two threads each, the two trainers in turn. A
ratio is the median over the rounds of (completions per second of ours / of TRL).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks._workload import CASES, Case
from benchmarks.verdict import report

SPEED = {"ragged": 7.0, "full": 3.5, "builtin": 2.0}
MEMORY = 0.25
"""Peak resident memory of the whole process, for the model of the two generated cases, against TRL with the whole step
as one batch, as ours has it. Against its smaller batch the share is told beside it."""

Figures = dict[str, Any]


def child(*arguments: str, threads: int = 2, module: str = "benchmarks._contestants") -> Figures:
    """Run one process; its last line of output is JSON."""
    environment = os.environ | {
        "OMP_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
    }
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments[:1])} failed:\n{done.stderr.decode(errors='replace')[-4000:]}")
    result: Figures = json.loads(done.stdout.decode().strip().splitlines()[-1])
    return result


def compare(case: Case, folder: Path, rounds: int, steps: int, trl_steps: int, threads: int) -> Figures:
    """Alternate; returns the case's figures. The first round also finds TRL's faster microbatch."""
    batches = list(case.trl_batches)
    ours: list[Figures] = []
    trl: dict[int, list[Figures]] = {batch: [] for batch in batches}
    for index in range(rounds):
        order = ["ours", "trl"] if index % 2 == 0 else ["trl", "ours"]
        for who in order:
            if who == "ours":
                ours.append(child("ours", case.dump(), str(folder), str(steps), threads=threads))
                _say(case, who, ours[-1])
                continue
            for batch in batches:
                trl[batch].append(child(f"trl-{batch}", case.dump(), str(folder), str(trl_steps), threads=threads))
                _say(case, f"trl-{batch}", trl[batch][-1])
            batches = [min(batches, key=lambda batch: trl[batch][0]["seconds"])]
    best = batches[0]
    return {"ours": ours, "trl": trl[best], "batch": best, "others": {b: runs for b, runs in trl.items() if b != best}}


def summary(result: Figures) -> Figures:
    """Medians and ratios of one case."""
    ours, trl = result["ours"], result["trl"]
    keys = ("seconds", "cpu", "peak_mb", "grown_mb", "mean_length")
    median = {
        who: {key: statistics.median(run[key] for run in runs) for key in keys}
        for who, runs in (("ours", ours), ("trl", trl))
    }

    def ratio(key: str) -> float:
        return statistics.median(theirs[key] / mine[key] for mine, theirs in zip(ours, trl, strict=True))

    every = {result["batch"]: trl, **result["others"]}
    peaks = {batch: statistics.median(run["peak_mb"] for run in runs) for batch, runs in every.items()}
    shares = {str(batch): round(median["ours"]["peak_mb"] / peak, 3) for batch, peak in peaks.items()}
    return {
        "speed": round(ratio("seconds"), 2),
        "rounds": [round(b["seconds"] / a["seconds"], 2) for a, b in zip(ours, trl, strict=True)],
        "cpu_time": round(ratio("cpu"), 2),
        "tokens_per_s": round(ratio("seconds") * median["ours"]["mean_length"] / median["trl"]["mean_length"], 2),
        "memory": shares[str(max(peaks))],
        "memory_by_trl_batch": shares,
        "memory_after_loading": round(1 / ratio("grown_mb"), 3),
        "trl_batch": result["batch"],
        "trl_other_batches": {
            str(batch): {"seconds": round(runs[0]["seconds"], 3), "peak_mb": round(runs[0]["peak_mb"])}
            for batch, runs in result["others"].items()
        },
        **{who: {key: round(value, 3) for key, value in figures.items()} for who, figures in median.items()},
        "ours_parts_s": {k: round(v, 4) for k, v in ours[-1]["parts"].items()},
    }


def _say(case: Case, who: str, run: Figures) -> None:
    text = f"{case.name} {who}: {run['seconds']:.2f} s/step, {run['cpu']:.2f} s CPU, {run['peak_mb']:.0f} MB"
    Console(stderr=True).print(text)


def _row(table: Table, name: str, who: str, run: Figures, completions: int) -> None:
    cells = [f"{run['seconds']:.2f}", f"{completions / run['seconds']:.1f}", f"{run['cpu']:.2f}"]
    table.add_row(name, who, *cells, f"{run['mean_length']:.1f}", f"{run['peak_mb']:.0f}", f"{run['grown_mb']:.0f}")


def main() -> None:
    """Print a row for each case and trainer, then the verdict."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="one round of one timed step, ragged and built-in only")
    parser.add_argument("--cases", nargs="+", choices=list(SPEED), default=list(SPEED))
    arguments = parser.parse_args()
    rounds, steps, trl_steps = (1, 1, 1) if arguments.quick else (arguments.rounds, 4, 4)
    names = [name for name in arguments.cases if not (arguments.quick and name == "full")]
    table = Table("case", "trainer", "s/step", "completions/s", "CPU s/step", "tokens each", "peak MB", "grown MB")
    measured: Figures = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for case in (case for case in CASES if case.name in names):
            place = folder / case.name
            child(case.dump(), str(place), module="benchmarks._workload")
            measured[case.name] = figures = summary(compare(case, place, rounds, steps, trl_steps, arguments.threads))
            _row(table, case.name, "grpo-audit", figures["ours"], case.completions)
            _row(table, "", f"TRL, batch {figures['trl_batch']}", figures["trl"], case.completions)
        first = next(case for case in CASES if case.name == names[0])
        measured["same_work"] = child("check", first.dump(), str(folder / first.name), "1")
    Console().print(table)
    speeds = {case: measured[case]["speed"] for case in names}
    memory = {case: measured[case]["memory"] for case in names if case != "builtin"}
    report(
        "trainer_vs_trl",
        target="completions/s against TRL: "
        + ", ".join(f"{case} >= {SPEED[case]}x" for case in names)
        + f"; peak memory <= {MEMORY}x with the generated model; one step's loss and gradient equal to 1e-4",
        measured={
            "speed": speeds,
            "memory": memory,
            "quick": arguments.quick,
            "threads": arguments.threads,
            **measured,
        },
        met=all(speeds[case] >= SPEED[case] for case in names)
        and all(share <= MEMORY for share in memory.values())
        and max(measured["same_work"].values()) <= 1e-4,
    )


if __name__ == "__main__":
    main()
