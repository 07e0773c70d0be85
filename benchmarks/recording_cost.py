"""What does recording every rollout cost a training step?

Trains the built-in model with the shipped recipe, with and without the recorder, alternating within one process, and
compares the wall-clock of the same steps. Durability is FULL: each step is one fsynced transaction. Both ways give
bit-identical weights; that is checked here too.

Wall-clock on a busy machine moves by more than the recorder costs. So the processor time of the recorder's own thread
is measured as well. As a share of the step time it is what recording costs at the most, when no core is free for it.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.verdict import report
from grpo_audit.cli.prepare import prepare, registration
from grpo_audit.config.load import Resolved, resolve
from grpo_audit.ledger.project import NewEvent, Project
from grpo_audit_builtin import RECIPE
from grpo_audit_trainer.loop import train
from grpo_audit_trainer.outcome import StepOutcome
from grpo_audit_trainer.recorder import Recorder

LIMIT = 0.01


class MeteredRecorder(Recorder):
    """Knows how much processor time its thread took."""

    cpu = 0.0

    def _work(self) -> None:
        super()._work()
        self.cpu = time.thread_time()


def seconds_per_step(resolved: Resolved, *, record: bool) -> tuple[list[float], float, str]:
    """Wall-clock of each step after the first, processor seconds of the recorder per step, and the fingerprint of the
    last weights."""
    stamps: list[float] = []
    prints: list[str] = []
    with tempfile.TemporaryDirectory() as name, prepare(resolved) as prepared:
        folder = Path(name)
        with Project.open(folder / "record.db", mode="create") as project:
            project.append([NewEvent(registration(prepared), "bench")])
            recorder = MeteredRecorder(project, "bench", 1) if record else None
            write: Callable[[StepOutcome], None] = recorder.step if recorder else lambda _: None

            def on_step(outcome: StepOutcome) -> None:
                write(outcome)
                stamps.append(time.perf_counter())
                prints.append(outcome.fingerprint)

            with recorder or nullcontext():
                train(
                    prepared.policy,
                    prepared.prompts,
                    prepared.rewards,
                    prepared.config,
                    folder=folder,
                    on_step=on_step,
                )
            if recorder:
                stamps[-1] = time.perf_counter()  # the last step counts until it is durable
    cpu = recorder.cpu / len(stamps) if recorder else 0.0
    return [later - earlier for earlier, later in pairwise(stamps)], cpu, prints[-1]


def main() -> None:
    """Print a row a round, then the verdict."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8)
    arguments = parser.parse_args()
    settings = [f"training.steps={arguments.steps}", f"training.snapshot_every={arguments.steps}"]
    resolved = resolve(RECIPE, [*settings, "evaluation.suite=null"])
    table = Table("round", "off, s/step", "on, s/step", "cost", "recorder, CPU s/step", title="Recording every rollout")
    ratios, shares, fingerprints = [], [], set()
    for index in range(arguments.rounds):
        order = (False, True) if index % 2 == 0 else (True, False)
        seconds: dict[bool, float] = {}
        recorder_cpu = 0.0
        for record in order:
            steps, cpu, weights = seconds_per_step(resolved, record=record)
            seconds[record] = statistics.median(steps)
            fingerprints.add(weights)
            recorder_cpu = cpu if record else recorder_cpu
        ratios.append(seconds[True] / seconds[False] - 1)
        shares.append(recorder_cpu / seconds[False])
        table.add_row(
            str(index), f"{seconds[False]:.3f}", f"{seconds[True]:.3f}", f"{ratios[-1]:+.1%}", f"{recorder_cpu:.4f}"
        )
    Console().print(table)
    cost, share = statistics.median(ratios), statistics.median(shares)
    report(
        "recording_cost",
        target=f"median cost of recording, and processor time of its thread, at most {LIMIT:.0%} of the step time; "
        "weights bit-identical",
        measured={
            "cost": round(cost, 4),
            "recorder_cpu_share": round(share, 4),
            "rounds": [round(ratio, 4) for ratio in ratios],
            "different_weights": len(fingerprints),
        },
        met=cost <= LIMIT and share <= LIMIT and len(fingerprints) == 1,
    )


if __name__ == "__main__":
    main()
