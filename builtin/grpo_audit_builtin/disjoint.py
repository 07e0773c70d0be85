"""Proof on the shipped files that training, held-out and evaluation problems are disjoint.

The split of a problem is a pure function of its canonical key (`world.example.split_of`). This module computes
the keys again from the files, as text, and checks that each lies in the split its file stands for, that no key
or prompt stands in two files of different splits, and that a stretch of the pre-training corpus meets none.

One exception, and only in one file: the documents of the contamination probe that say `seen` are training prompts,
word for word. Each must be one.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpo_audit_builtin import HELD_OUT, PROMPTS
from grpo_audit_builtin.make_data import EVAL_DIR
from grpo_audit_builtin.world import Split, corpus, split_of
from grpo_audit_builtin.world.countdown import Problem

CORPUS_SAMPLE = 20_000
PROBE = "contamination_probe.jsonl"
"""The one file of evaluation documents that holds training prompts, marked as `seen`."""


class OverlapError(ValueError):
    """A problem is in a split it does not belong to."""


@dataclass(frozen=True, slots=True)
class Disjointness:
    """How much was checked: distinct keys by split, and pre-training examples looked at."""

    keys: dict[Split, int]
    corpus_examples: int


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def key_of(row: dict[str, Any]) -> str:
    """The canonical key; for Countdown it is computed from the numbers, for the rest it is the row's own."""
    if "numbers" in row:
        return Problem(tuple(row["numbers"]), row["target"]).key
    return str(row["key"])


def check_disjoint(
    prompts: Path = PROMPTS, held_out: Path = HELD_OUT, eval_dir: Path = EVAL_DIR, seed: int = 0
) -> Disjointness:
    """Check all shipped files and the start of the corpus with this seed.

    Raises:
        OverlapError: at the first problem that is in a wrong split or in two.
        FileNotFoundError: if a file is missing, or the folder holds no evaluation documents.
    """
    files = {Split.RL_TRAIN: [prompts], Split.HELD_OUT: [held_out], Split.EVAL: sorted(eval_dir.glob("*.jsonl"))}
    if not files[Split.EVAL]:
        raise FileNotFoundError(f"No evaluation documents (*.jsonl) in {eval_dir}")
    owner: dict[str, Split] = {}
    keys: dict[Split, set[str]] = {split: set() for split in Split}
    for split, paths in files.items():
        for name, row in itertools.chain.from_iterable(map(_named_rows, paths)):
            if name == PROBE and row["seen"]:
                _is_training(row, owner)
                continue
            _claim(row["prompt"], key_of(row), split, owner)
            keys[split].add(key_of(row))
    for example in itertools.islice(corpus(seed), CORPUS_SAMPLE):
        _claim(example.prompt, example.key, Split.PRETRAIN, owner)
        keys[Split.PRETRAIN].add(example.key)
    return Disjointness({split: len(found) for split, found in keys.items()}, CORPUS_SAMPLE)


def _named_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    return ((path.name, row) for row in read_jsonl(path))


def _is_training(row: dict[str, Any], owner: dict[str, Split]) -> None:
    """A document that says it was trained on is a training prompt, letter by letter; training files come first."""
    if owner.get(f"prompt {row['prompt']}") is not Split.RL_TRAIN:
        raise OverlapError(f"{row['id']} says that it was seen, but {row['prompt']!r} is no training prompt")


def _claim(prompt: str, key: str, split: Split, owner: dict[str, Split]) -> None:
    """Note that this split uses the key and the prompt; refuse if it may not, or if another one does."""
    if split_of(key) is not split:
        raise OverlapError(f"{key!r} stands in the {split} data but belongs to {split_of(key)}")
    for name in (f"key {key}", f"prompt {prompt}"):
        if owner.setdefault(name, split) is not split:
            raise OverlapError(f"{name!r} stands both in {owner[name]} and in {split}")
