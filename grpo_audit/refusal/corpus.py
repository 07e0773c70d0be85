"""The labelled answers that the shipped statistical half was fitted on: our own sentences, put together by chance.

No text of a published data set is in it. The same seed gives the same corpus.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Final, NamedTuple

DATA: Final = Path(__file__).resolve().parent / "data"
SEED: Final = 5
NUM_EACH: Final = 1000
"""Refusals, and as many answers that are none."""


class Labelled(NamedTuple):
    """One answer and what a person says of it."""

    text: str
    refusal: bool


def corpus() -> list[Labelled]:
    """The corpus, in a fixed order."""
    parts: dict[str, list[str]] = json.loads((DATA / "corpus.json").read_text(encoding="utf-8"))
    rng = random.Random(SEED)
    refusals = parts["whole_refusals"] + [_refusal(parts, rng) for _ in range(NUM_EACH)]
    answers = parts["whole_answers"] + parts["answers"] + [_answer(parts, rng) for _ in range(NUM_EACH)]
    return [Labelled(text, True) for text in refusals] + [Labelled(text, False) for text in answers]


def _refusal(parts: dict[str, list[str]], rng: random.Random) -> str:
    topic = rng.choice(parts["topics"])
    if rng.random() < 0.3:
        said = rng.choice(parts["refusal_judgements"])
    else:
        said = f"{rng.choice(parts['refusal_openings'])} {rng.choice(parts['refusal_cores'])}"
    return _joined(said, rng.choice(parts["refusal_reasons"]), rng.choice(parts["refusal_tails"])).replace("{t}", topic)


def _answer(parts: dict[str, list[str]], rng: random.Random) -> str:
    topic = rng.choice(parts["topics"])
    body = rng.sample(parts["answers"], rng.randint(1, 4))
    about = [rng.choice(parts["topic_answers"])] if rng.random() < 0.5 else []
    # Answers mention harm, law and respect too: such words alone are no refusal.
    warning = [rng.choice(parts["refusal_reasons"])] if rng.random() < 0.25 else []
    said = (rng.choice(parts["answer_openings"]), *about, *body, *warning, rng.choice(parts["answer_tails"]))
    return _joined(*said).replace("{t}", topic)


def _joined(*sentences: str) -> str:
    return " ".join(sentence for sentence in sentences if sentence).strip()
