"""Progress of an evaluation: for each task documents done, documents a second, and time left."""

from __future__ import annotations

import time

from grpo_audit.cli.console import Bar


class EvaluationBar:
    """Moves a bar over all documents as ``grpo_audit_evals.run.evaluate`` reports them."""

    def __init__(self, bar: Bar, *, finished: int = 0) -> None:
        """``finished`` documents are those of tasks that an earlier attempt completed."""
        self._bar = bar
        self._finished = finished
        self._began = time.monotonic()
        self._first = finished

    def start(self, task: str, documents: int) -> None:
        """For ``on_task_start``."""
        self._bar.update(self._finished, f"{task} 0/{documents}")

    def progress(self, task: str, done: int, documents: int) -> None:
        """For ``on_progress``."""
        whole = self._finished + done
        rate = (whole - self._first) / max(time.monotonic() - self._began, 1e-6)
        note = f"{task} {done}/{documents}"
        if rate > 0:
            note += f"  {rate:.3g} documents/s"
            if self._bar.quiet:  # on a terminal the bar itself shows it
                note += f"  {max(0, self._bar.total - whole) / rate:.0f} s left"
        self._bar.update(whole, note)

    def finish(self, task: str, documents: int) -> None:
        """All documents of a task are answered and scored."""
        self.progress(task, documents, documents)
        self._finished += documents
