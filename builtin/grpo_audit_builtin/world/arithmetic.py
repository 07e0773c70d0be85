"""Plain arithmetic: two numbers, one operation."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from grpo_audit_builtin.world.example import Example, Split, distinct, split_of


@dataclass(frozen=True, slots=True)
class Sum:
    """`left operator right`, with + - or * and a result that is not negative."""

    left: int
    operator: str
    right: int

    @property
    def key(self) -> str:
        """Canonical key: the operands of + and * are sorted, because their order is no new problem."""
        pair = sorted((self.left, self.right)) if self.operator in "+*" else [self.left, self.right]
        return f"arithmetic|{self.operator}|{pair[0]}|{pair[1]}"

    @property
    def prompt(self) -> str:
        """The raw prompt."""
        return f"Q: {self.left}{self.operator}{self.right}?\nA:"

    @property
    def value(self) -> int:
        """The result."""
        if self.operator == "+":
            return self.left + self.right
        return self.left - self.right if self.operator == "-" else self.left * self.right


def random_sum(rng: random.Random) -> Sum:
    """A random problem: sums and differences of numbers up to 79, products of one up to 25 with one up to 12."""
    operator = rng.choice("+-*")
    if operator == "*":
        left, right = rng.randint(2, 25), rng.randint(2, 12)
        return Sum(left, operator, right) if rng.random() < 0.5 else Sum(right, operator, left)
    left, right = rng.randint(3, 79), rng.randint(3, 79)
    return Sum(max(left, right), operator, min(left, right)) if operator == "-" else Sum(left, operator, right)


def sums(split: Split, rng: random.Random) -> Iterator[Sum]:
    """Endless problems of one split, duplicates possible."""
    while True:
        problem = random_sum(rng)
        if split_of(problem.key) is split:
            yield problem


def unique_sums(split: Split, count: int, seed: int) -> list[Sum]:
    """`count` problems of one split with distinct canonical keys."""
    rng = random.Random(f"arithmetic|{split}|{seed}")
    return distinct(sums(split, rng), lambda problem: problem.key, count)


def example(rng: random.Random) -> Example:
    """One pre-training example."""
    problem = next(sums(Split.PRETRAIN, rng))
    return Example("arithmetic", problem.key, problem.prompt, f"<answer>{problem.value}</answer>")
