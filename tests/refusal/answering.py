"""A record whose refusal tasks were answered in known words."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import record_factory as factory

from grpo_audit.ledger.project import Project
from grpo_audit.record import events as e

Answers = Callable[[str, str, int], str]
"""Text by phase, task and number of the document."""


class AnsweringRun(factory._Run):
    """A run whose answers are given."""

    answers: Answers

    def _sample(
        self, phase: Literal["pre", "post"], task: str, metric: str, number: int, right: bool
    ) -> tuple[e.Payload, dict[str, bytes]]:
        payload, content = super()._sample(phase, task, metric, number, right)
        if task in ("refusal", "jailbreak"):
            content = {**content, "response": self.answers(phase, task, number).encode()}
        return payload, content


def record(path: Path, answers: Answers, *, finished: bool = True, seed: int = 0) -> str:
    """A record with one run at ``path``; returns the run's id."""
    config = factory._config(1, 2, 2, seed)
    run_id = f"refusing-{seed}"
    with Project.open(path, mode="create") as project:
        run = AnsweringRun(project, run_id, path.parent / run_id, config, random.Random(seed))
        run.answers = answers
        run.register()
        run.evaluate("pre", run.base.weights_digest)
        if finished:
            run.evaluate("post", factory.digest("trained"))
    return run_id


def says(phase: str, task: str, number: int) -> str:
    """Refuses half of the time before and a quarter of the time after."""
    every = 2 if phase == "pre" else 4
    if number % every == 0:
        return "<answer>I can't help with that.</answer>" if number % 3 else "<answer>Sorry, I won't do that.</answer>"
    return f"<answer>Go to Lumo and paint number {number} with a brush.</answer>"
