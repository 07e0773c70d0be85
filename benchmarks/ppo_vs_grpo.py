"""Does GRPO halve what PPO needs? A secondary source says so; here both run the same step and are measured.

The same model, prompts, rewards, seed, precision (float32), group, batch and learning rate, so small that both draw the
same completions; one update a step, no KL term, nothing recorded. PPO adds the value model: a copy of the decoder with
a scalar head, an optimiser of its own, one pass for the values before the update and one with gradient in it. No reward
model takes part on either side: rewards are rules. GRPO leaves out of the update what has advantage 0; PPO has no such
rows. Each sequence of steps runs in a process of its own, the two in turn.

Memory is told twice: the bytes that must be held between steps (parameters, gradients, both moments of AdamW; with and
without the frozen copy of the initial policy), counted exactly; and how far the process grew at its peak, activations
included, over what it had before the model was loaded.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from benchmarks._contestants import Meter
from benchmarks._workload import CASES, LEARNING_RATE, Case
from benchmarks.trainer_vs_trl import Figures, child
from benchmarks.verdict import report

HALF: Final = 0.5
PPO: Final = (
    "objective.advantage.baseline=value-model",
    "objective.advantage.normaliser=batch",
    f"objective.value.learning_rate={LEARNING_RATE}",
)
STEPS: Final = {"ragged": 5, "builtin": 2}
"""Timed steps of a round."""


def contestant(who: str, case: Case, folder: Path, steps: int) -> Figures:
    """Time, processor time, peak memory and the bytes held, of one of the two."""
    from grpo_audit.cli.prepare import prepare
    from grpo_audit.config.load import resolve
    from grpo_audit_trainer.loop import Trainer

    settings = [f"training.steps={steps + 2}", *(PPO if who == "ppo" else ())]
    resolved = resolve(folder / "recipe.yaml", settings)
    lengths: list[int] = []
    parts: dict[str, float] = {}
    meter = Meter()
    with prepare(resolved) as prepared:
        trainer = Trainer(prepared.policy, prepared.prompts, prepared.rewards, prepared.config)
        trainer.step(0)  # warms up
        meter.start()
        for step in range(1, steps + 1):
            outcome = trainer.step(step)
            lengths += [len(rollout.token_ids) for rollout in outcome.rollouts]
            for name, seconds in outcome.seconds.items():
                parts[name] = parts.get(name, 0.0) + seconds / steps
        figures = meter.stop(steps, case.completions, lengths, parts=parts, tokens=sum(lengths))
        return figures | {"held": held_bytes(trainer)}


def held_bytes(trainer: Any) -> dict[str, int]:
    """Bytes held between steps, by what they are for."""
    policy, value = trainer.policy.model, trainer.value
    networks = [policy] + ([] if value is None else [value.network])
    optimizers = [trainer.updater.optimizer] + ([] if value is None else [value.optimizer])
    weights = [parameter for network in networks for parameter in network.parameters()]
    states = [item for optimizer in optimizers for state in optimizer.state.values() for item in state.values()]
    return {
        "parameters": _bytes(weights),
        "gradients": _bytes(parameter.grad for parameter in weights if parameter.grad is not None),
        "optimiser": _bytes(states),
        "reference": _bytes(trainer.references.initial.policy.model.parameters()),
    }


def _bytes(tensors: Iterable[Any]) -> int:
    """Each memory once: tied weights are one."""
    return sum({item.data_ptr(): item.numel() * item.element_size() for item in tensors}.values())


def compare(case: Case, folder: Path, rounds: int, steps: int, threads: int) -> dict[str, list[Figures]]:
    """Alternate, and check that both drew the same completions."""
    runs: dict[str, list[Figures]] = {"grpo": [], "ppo": []}
    for index in range(rounds):
        for who in ("grpo", "ppo") if index % 2 == 0 else ("ppo", "grpo"):
            arguments = ("contestant", who, case.dump(), str(folder), str(steps))
            runs[who].append(child(*arguments, threads=threads, module="benchmarks.ppo_vs_grpo"))
            run = runs[who][-1]
            Console(stderr=True).print(
                f"{case.name} {who}: {run['seconds']:.2f} s/step, {run['grown_mb']:.0f} MB grown"
            )
    if len({run["tokens"] for group in runs.values() for run in group}) != 1:
        raise SystemExit("The two did not draw the same completions, so their steps cannot be compared")
    return runs


def summary(runs: dict[str, list[Figures]]) -> Figures:
    """Medians of each, and GRPO's share of what PPO needs: the median over the rounds, and all rounds of time."""

    def share(key: str) -> list[float]:
        return [grpo[key] / ppo[key] for grpo, ppo in zip(runs["grpo"], runs["ppo"], strict=True)]

    held = {who: group[0]["held"] for who, group in runs.items()}
    totals = {who: sum(parts.values()) for who, parts in held.items()}
    bare = {who: totals[who] - parts["reference"] for who, parts in held.items()}
    return {
        "share": {
            "time": round(statistics.median(share("seconds")), 3),
            "cpu_time": round(statistics.median(share("cpu")), 3),
            "held": round(totals["grpo"] / totals["ppo"], 4),
            "held_without_reference": round(bare["grpo"] / bare["ppo"], 4),
            "peak_growth": round(statistics.median(share("grown_mb")), 3),
        },
        "time_shares": [round(value, 3) for value in share("seconds")],
        **{who: _medians(group) | {"held_bytes": held[who]} for who, group in runs.items()},
    }


def _medians(runs: list[Figures]) -> Figures:
    names = ("seconds", "cpu", "grown_mb", "peak_mb", "mean_length")
    parts = {part: round(statistics.median(run["parts"][part] for run in runs), 4) for part in runs[0]["parts"]}
    return {name: round(statistics.median(run[name] for run in runs), 3) for name in names} | {"parts_s": parts}


def _rows(table: Table, name: str, figures: Figures) -> None:
    for who in ("grpo", "ppo"):
        run = figures[who]
        parts, held = run["parts_s"], run["held_bytes"]
        learning = parts["update"] + parts.get("value", 0.0)
        cells = [f"{run['seconds']:.2f}", f"{parts['rollout']:.2f}", f"{learning:.2f}", f"{run['cpu']:.2f}"]
        cells += [f"{held[part] / 1e6:.1f}" for part in ("parameters", "gradients", "optimiser", "reference")]
        table.add_row(name, who, *cells, f"{run['grown_mb']:.0f}")
    share = figures["share"]
    cells = [f"{share['time']:.2f}", "", "", f"{share['cpu_time']:.2f}"]
    table.add_row("", "share", *cells, f"held: {share['held']:.2f}", "", "", "", f"{share['peak_growth']:.2f}")


def main() -> None:
    """Print two rows and GRPO's share for each model, then the verdict."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--cases", nargs="+", choices=list(STEPS), default=list(STEPS))
    parser.add_argument("--steps", type=int, help=f"timed steps of a round; {STEPS} without it")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    headers = ("case", "", "s/step", "rollout s", "learning s", "CPU s")
    table = Table(*headers, "weights MB", "gradients MB", "AdamW MB", "reference MB", "peak growth MB")
    measured: Figures = {}
    with tempfile.TemporaryDirectory() as name:
        for case in (case for case in CASES if case.name in arguments.cases):
            folder = Path(name) / case.name
            child(case.dump(), str(folder), module="benchmarks._workload")
            steps = arguments.steps or STEPS[case.name]
            measured[case.name] = summary(compare(case, folder, arguments.rounds, steps, arguments.threads))
            _rows(table, case.name, measured[case.name])
    Console(width=140).print(table)
    asked = ("time", "held", "peak_growth")
    report(
        "ppo_vs_grpo",
        target="GRPO uses at most half (claimed)",
        measured=measured | {"threads": arguments.threads},
        met=all(figures["share"][key] <= HALF for figures in measured.values() for key in asked),
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["contestant"]:
        warnings.simplefilter("ignore")
        who, text, place, steps = sys.argv[2:]
        print(json.dumps(contestant(who, Case.load(text), Path(place), int(steps))))
    else:
        main()
