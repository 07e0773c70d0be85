"""A record with rollouts of one source, written through ``Project.append``, whose rewards a test decides."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from record_factory import build_record

from grpo_audit.ledger.project import NewEvent, Project
from grpo_audit.record import events as e

RUN = "graded"


def graded_record(
    folder: Path,
    steps: int,
    samples: int,
    reward: Callable[[int, int], float | None],
    *,
    groups: int = 1,
    completion: Callable[[int], str] = lambda sample: f"<answer>{sample}</answer>",
) -> Project:
    """Open for appending. ``reward(step, sample)`` is what the source ``first`` gave; group g has the target g + 1."""
    path = folder / "record.db"
    if not path.exists():
        build_record(path, steps=1, sealed=False)
    project = Project.open(path, mode="append")
    registered = project.last(project.runs()[0].run_id, e.EventKind.RUN_REGISTERED)
    config = registered.payload.config
    config = {**config, "rewards": [{**config["rewards"][0], "name": "first", "second": None}]}
    project.append([NewEvent(registered.payload.model_copy(update={"config": config}), RUN)])
    for step in range(steps):
        events = []
        for group in range(groups):
            fields = {"id": f"p{group}", "prompt": "Say it", "columns": {"target": group + 1}}
            payload = e.Group(
                attempt=1, step=step, group=group, prompt_id=f"p{group}", prompt_tokens=1, exposure=0,
                reward_mean=0.0, reward_std=0.0,
            )  # fmt: skip
            events.append(NewEvent(payload, RUN, {"prompt": b"Say it", "fields": json.dumps(fields).encode()}))
            for sample in range(samples):
                value = reward(step, sample)
                payload = e.Rollout(
                    attempt=1, step=step, group=group, sample=sample, rewards={"first": value}, errors={},
                    reward=value, advantage=0.0, used=True, reason="", finish_reason="stop", completion_tokens=1,
                )  # fmt: skip
                events.append(NewEvent(payload, RUN, {"completion": completion(sample).encode()}))
        events.append(NewEvent(_step(step), RUN))
        project.append(events)
    return project


def _step(step: int) -> e.Step:
    return e.Step(
        attempt=1, step=step, learning_rate=0.1, loss=0.0, reward_mean=0.0, reward_std=0.0, rewards={},
        zero_variance_share=0.0, used=1, rejected=0, completion_tokens_mean=1.0, truncated_share=0.0, entropy=0.0,
        kl=None, kl_loss=None, clip_low_share=0.0, clip_high_share=0.0, agreement=0.0, agreement_max=0.0, grad_norm=0.0,
        prompt_tokens=1, completion_tokens=1, seconds={}, fingerprint="sha256:" + "0" * 64,
    )  # fmt: skip
