"""What is shown while something runs: bars with the time left, and one live line for the trainer.

Progress goes to stderr, results to stdout, so that ``--json`` output can be piped.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from grpo_audit.config.load import Resolved

if TYPE_CHECKING:
    from grpo_audit_trainer.outcome import StepOutcome  # importing it here would load torch for every command

err = Console(stderr=True, highlight=False)
out = Console(highlight=False)
QUIET_SECONDS = 15.0
"""Without a terminal, a phase prints a line this often."""


@dataclass
class Bar:
    """One bar of a phase. On a terminal it moves; elsewhere it prints a line now and then."""

    progress: Progress
    task: TaskID
    name: str
    total: int
    quiet: bool
    last_print: float = 0.0
    last_done: int = -1

    def update(self, done: int, note: str = "") -> None:
        """Set how much is done."""
        self.progress.update(self.task, completed=done, note=note)
        now = time.monotonic()
        if self.quiet and done != self.last_done and (now - self.last_print > QUIET_SECONDS or done == self.total):
            self.last_print, self.last_done = now, done
            err.print(visible(f"{self.name}: {done}/{self.total}  {note}"), soft_wrap=True, markup=False)

    def of(self, done: int, total: int) -> None:
        """Set how much is done when the whole becomes known only now."""
        self.total = total
        self.progress.update(self.task, total=total)
        self.update(done)


@contextmanager
def bar(name: str, total: int, *, start: int = 0) -> Iterator[Bar]:
    """A progress bar with the time left."""
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=err, disable=not err.is_terminal) as progress:
        task = progress.add_task(name, total=total, completed=start, note="")
        yield Bar(progress, task, name, total, quiet=not err.is_terminal)


def step_line(figures: StepOutcome, kl: float | None) -> str:
    """The trainer's live line: reward, zero-variance share, length, KL, tokens/s."""
    reward = "-" if figures.reward_mean is None else f"{figures.reward_mean:.3f}"
    distance = "-" if kl is None else f"{kl:.4f}"
    speed = figures.completion_tokens / max(figures.total_seconds, 1e-9)
    return (
        f"reward {reward}  zero-var {figures.zero_variance_share:.0%}  "
        f"len {figures.completion_tokens_mean:.0f}  KL {distance}  {speed:,.0f} tok/s"
    )


def say(message: str) -> None:
    """One line about what happens next."""
    err.print(visible(message), style="dim", markup=False, soft_wrap=True)


def summary(resolved: Resolved) -> None:
    """The resolved configuration, a line a section, and how it differs from the preset."""
    config = resolved.config.model_dump(mode="json")
    err.print(
        f"[bold]{config['name']}[/bold]  preset {resolved.preset.name} ({resolved.preset.source})",
        soft_wrap=True,
    )
    for section, values in config.items():
        if isinstance(values, dict):
            text = ", ".join(f"{key}={_short(value)}" for key, value in values.items() if value is not None)
            err.print(visible(f"  {section:<16}{text}"), soft_wrap=True, markup=False)
        elif isinstance(values, list):
            for item in values:
                err.print(visible(f"  {section:<16}{_short(item)}"), soft_wrap=True, markup=False)
    if resolved.differences:
        text = ", ".join(f"{item.path} {item.preset} -> {item.value}" for item in resolved.differences)
        err.print(visible(f"  differs from the preset: {text}"), soft_wrap=True, markup=False)


def _short(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_short(item)}" for key, item in value.items() if item is not None) + "}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def visible(text: str) -> str:
    """Text of a model, safe for a terminal: what cannot be printed is shown as its escape."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
