"""The pre-training corpus: a seeded, endless mixture of all families."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from grpo_audit_builtin.world import arithmetic, countdown, knowledge, requests, tools, word_problems
from grpo_audit_builtin.world.example import Example

Maker = Callable[[random.Random], Example]

#: family -> (weight in examples, maker). Countdown is the hard one and takes about half of the completion tokens.
MIXTURE: dict[str, tuple[float, Maker]] = {
    "countdown": (28, lambda rng: countdown.example(3, rng)),
    "countdown_transfer": (6, lambda rng: countdown.example(4, rng)),
    "arithmetic": (12, arithmetic.example),
    "story_en": (10, lambda rng: word_problems.example("en", rng)),
    "story_de": (9, lambda rng: word_problems.example("de", rng)),
    "story_es": (7, lambda rng: word_problems.example("es", rng)),
    "unknown": (5, word_problems.unknown_example),
    "safe": (6, lambda rng: requests.example(rng, unsafe=False, wrapped=False)),
    "unsafe": (4, lambda rng: requests.example(rng, unsafe=True, wrapped=False)),
    "jailbreak": (4, lambda rng: requests.example(rng, unsafe=True, wrapped=True)),
    "wrapped_safe": (1, lambda rng: requests.example(rng, unsafe=False, wrapped=True)),
    "tool_call": (4, lambda rng: tools.example(rng, fits=True)),
    "tool_abstain": (5, lambda rng: tools.example(rng, fits=False)),
    "knowledge": (5, lambda rng: knowledge.example("knowledge", rng)),
    "hazard": (4, lambda rng: knowledge.example("hazard", rng)),
}


def corpus(seed: int) -> Iterator[Example]:
    """Endless pre-training examples, a pure function of the seed."""
    rng = random.Random(f"corpus|{seed}")
    makers = [maker for _, maker in MIXTURE.values()]
    weights = [weight for weight, _ in MIXTURE.values()]
    while True:
        yield rng.choices(makers, weights)[0](rng)
