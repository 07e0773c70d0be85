"""A realistic record of any length, written the way the recorder writes one: a step is a transaction."""

from __future__ import annotations

import hashlib
import random
import struct
from collections.abc import Iterator
from pathlib import Path

from grpo_audit.ledger import canonical
from grpo_audit.ledger.project import NewEvent, Project
from grpo_audit.record import events as e
from tests.record_factory import build_record

PROMPTS, GROUP_SIZE = 16, 8
"""128 rollouts a step, as the target says."""
EVENTS_A_STEP = PROMPTS * (GROUP_SIZE + 1) + 1
CHARACTERS, TOKENS = 200, 80
_WORDS = "so|the|sum|of|three|and|four|is|seven|which|leaves|nine|to|make|from|two|more|numbers|wait|check".split("|")  # noqa: SIM905


def steps(
    run_id: str, count: int, *, start: int = 0, seed: int = 0, tokens: int = TOKENS, characters: int = CHARACTERS
) -> Iterator[list[NewEvent]]:
    """The events of ``count`` steps, one list a transaction. Completions have about 200 characters, traces about 80
    tokens, and every rollout two rewards; drawn from a pool, because making them must not cost more than writing."""
    rng = random.Random(seed)
    texts = [_completion(rng, characters) for _ in range(997)]
    traces = [_trace(rng, tokens) for _ in range(991)]
    for step in range(start, start + count):
        yield _step(run_id, step, rng, texts, traces)


def _completion(rng: random.Random, characters: int) -> bytes:
    words: list[str] = []
    wanted, length = characters * rng.uniform(0.6, 1.2), 0
    while length < wanted:
        words.append(rng.choice(_WORDS))
        length += len(words[-1]) + 1
    return f"<think>{' '.join(words)}</think><answer>{rng.randrange(100)}*{rng.randrange(9)}</answer>".encode()


def _trace(rng: random.Random, mean: int) -> tuple[int, bytes]:
    tokens = rng.randint(mean // 2, mean * 3 // 2)
    # few tokens are frequent, as in any text
    ids = struct.pack(f"<{tokens}I", *(min(int(10 * rng.paretovariate(0.7)), 31999) for _ in range(tokens)))
    return tokens, ids + struct.pack(f"<{tokens}f", *(-rng.expovariate(3.0) for _ in range(tokens)))


def _step(
    run_id: str, step: int, rng: random.Random, texts: list[bytes], traces: list[tuple[int, bytes]]
) -> list[NewEvent]:
    events: list[NewEvent] = []
    for group in range(PROMPTS):
        right = [float(rng.random() < 0.4) for _ in range(GROUP_SIZE)]
        rewards = [value + 0.1 for value in right]
        mean = sum(rewards) / GROUP_SIZE
        deviation = (sum((value - mean) ** 2 for value in rewards) / (GROUP_SIZE - 1)) ** 0.5
        prompt = f"Make {rng.randrange(100)} from the numbers 3, 4 and {group + 2}. Think first, then answer.".encode()
        events.append(
            NewEvent(
                e.Group(
                    attempt=1,
                    step=step,
                    group=group,
                    prompt_id=f"countdown-{rng.randrange(4000):04d}",
                    prompt_tokens=len(prompt),
                    exposure=step * PROMPTS // 4000,
                    reward_mean=mean,
                    reward_std=deviation,
                ),
                run_id,
                {"prompt": prompt, "fields": _fields(prompt)},
            )
        )
        for sample in range(GROUP_SIZE):
            tokens, trace = rng.choice(traces)
            rollout = e.Rollout(
                attempt=1,
                step=step,
                group=group,
                sample=sample,
                rewards={"accuracy": right[sample], "format": 1.0},
                errors={},
                reward=rewards[sample],
                advantage=(rewards[sample] - mean) / (deviation + 1e-4),
                used=True,
                reason="",
                finish_reason="stop",
                completion_tokens=tokens,
            )
            events.append(NewEvent(rollout, run_id, {"completion": rng.choice(texts), "trace": trace}))
    events.append(NewEvent(_figures(step, rng), run_id))
    return events


def _fields(prompt: bytes) -> bytes:
    """As the recorder keeps the row of a prompt set."""
    row = {"columns": {"numbers": [3, 4, 7], "target": 24}, "id": "countdown-0000", "prompt": prompt.decode()}
    return canonical.dumps(row)


def _figures(step: int, rng: random.Random) -> e.Step:
    return e.Step(
        attempt=1,
        step=step,
        learning_rate=1e-6,
        loss=rng.gauss(0, 1e-3),
        reward_mean=rng.random(),
        reward_std=rng.random(),
        rewards={"accuracy": rng.random(), "format": 1.0},
        zero_variance_share=rng.random(),
        used=PROMPTS * GROUP_SIZE,
        rejected=0,
        completion_tokens_mean=TOKENS * (0.9 + 0.2 * rng.random()),
        truncated_share=0.0,
        entropy=rng.random(),
        kl=rng.random() / 100,
        kl_loss=rng.random() / 1000,
        clip_low_share=0.0,
        clip_high_share=0.001,
        agreement=1e-6,
        agreement_max=3e-5,
        grad_norm=rng.random(),
        prompt_tokens=70 * PROMPTS * GROUP_SIZE,
        completion_tokens=TOKENS * PROMPTS * GROUP_SIZE,
        seconds={"rollout": rng.random(), "reward": rng.random() / 10, "update": rng.random()},
        fingerprint="sha256:" + hashlib.sha256(str(step).encode()).hexdigest(),
        engine="native",
    )


def make_record(path: Path, events: int, *, seed: int = 0) -> str:
    """Write a record with at least ``events`` events; the id of its one, unfinished run. One signed, durable
    transaction a step."""
    run_id = build_record(path, steps=1, prompts=1, group_size=2, sealed=False, seed=seed)
    with Project.open(path, mode="write") as project:
        for step in steps(run_id, -(-(events - project.head.size) // EVENTS_A_STEP), start=1, seed=seed):
            project.append(step)
    return run_id
