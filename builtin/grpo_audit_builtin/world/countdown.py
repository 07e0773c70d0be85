"""Countdown: make the target from the given numbers with + - *, each number exactly once.

The pre-training completions are traces of a *noisy* solver: it tries combinations, two or three steps a try,
and often gives up. That leaves room for reinforcement learning: calculate carefully, aim the last step at the
target, try again before giving up.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from grpo_audit_builtin.world.example import Example, Split, distinct, split_of

SMALLEST, LARGEST = 2, 25
"""Range of the given numbers for three-number problems, both included."""
LARGEST_OF_FOUR = 8
TARGETS_OF_THREE = range(5, 151)
TARGETS_OF_FOUR = range(5, 31)
MAX_INTERMEDIATE = 400
"""A solver that meets a larger intermediate result chooses another operation."""

ATTEMPT_HITS = 0.36
"""Chance that the next try of the recorded solver is one that reaches the target."""
MAX_TRIES = 4
MALFORMED = 0.06
"""Share of pre-training completions whose tags are damaged in one of several ways."""
SLOPPY = {0: 0.1, 1: 0.7}
"""By parity of the target: share of recorded solvers that forget the answer tags. A habit that can be unlearnt: what
reinforcement learning on a rule reward mends first, as in R1-Zero."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Numbers in the order they are shown, and the target."""

    numbers: tuple[int, ...]
    target: int

    @property
    def key(self) -> str:
        """The canonical key: sorted numbers and target, so that reordering is no new problem."""
        return f"countdown|{','.join(map(str, sorted(self.numbers)))}|{self.target}"

    @property
    def prompt(self) -> str:
        """The raw prompt; the completion follows it directly."""
        return f"Q: Make {self.target} from {', '.join(map(str, self.numbers))}.\nA:"


@dataclass(frozen=True, slots=True)
class Term:
    """A value with the expression that gives it. `rank` is 3 for a number, 2 for a product, 1 for a sum."""

    value: int
    text: str
    rank: int


@dataclass(frozen=True, slots=True)
class Try:
    """One try of the solver: its steps as text, the final value and the whole expression."""

    steps: str
    value: int
    expression: str


def combine(left: Term, right: Term, operator: str) -> Term:
    """The term `left operator right`, with parentheses only where they are needed."""
    if operator == "*":
        texts = [f"({t.text})" if t.rank < 2 else t.text for t in (left, right)]
        return Term(left.value * right.value, "*".join(texts), 2)
    if operator == "+":
        return Term(left.value + right.value, f"{left.text}+{right.text}", 1)
    tail = f"({right.text})" if right.rank < 2 else right.text
    return Term(left.value - right.value, f"{left.text}-{tail}", 1)


def random_try(numbers: Sequence[int], rng: random.Random) -> Try:
    """Combine random pairs until one value is left; the larger operand stands first, nothing is negative."""
    terms = [Term(n, str(n), 3) for n in numbers]
    steps: list[str] = []
    while len(terms) > 1:
        first, second = rng.sample(range(len(terms)), 2)
        left, right = terms[first], terms[second]
        if left.value < right.value:
            left, right = right, left
        operators = ["+"]
        if left.value > right.value:
            operators.append("-")
        if left.value * right.value <= MAX_INTERMEDIATE:
            operators.append("*")
        operator = rng.choice(operators)
        result = combine(left, right, operator)
        steps.append(f"{left.value}{operator}{right.value}={result.value}")
        terms = [t for i, t in enumerate(terms) if i not in (first, second)] + [result]
    return Try(",".join(steps), terms[0].value, terms[0].text)


def random_problem(size: int, rng: random.Random) -> tuple[Problem, Try]:
    """A solvable problem with `size` numbers, and one try that solves it."""
    largest, targets = (LARGEST, TARGETS_OF_THREE) if size == 3 else (LARGEST_OF_FOUR, TARGETS_OF_FOUR)
    while True:
        numbers = tuple(rng.randint(SMALLEST, largest) for _ in range(size))
        solution = random_try(numbers, rng)
        if solution.value in targets:
            return Problem(numbers, solution.value), solution


def problems(size: int, split: Split, rng: random.Random) -> Iterator[tuple[Problem, Try]]:
    """Endless problems of one split, duplicates possible."""
    while True:
        problem, solution = random_problem(size, rng)
        if split_of(problem.key) is split:
            yield problem, solution


def unique_problems(size: int, split: Split, count: int, seed: int) -> list[Problem]:
    """`count` problems of one split with distinct canonical keys, a pure function of the arguments."""
    rng = random.Random(f"countdown|{size}|{split}|{seed}")
    drawn = (problem for problem, _ in problems(size, split, rng))
    return distinct(drawn, lambda problem: problem.key, count)


def trace(problem: Problem, solution: Try, rng: random.Random) -> tuple[str, str]:
    """What the noisy solver wrote down, and the expression it answers with (right or not)."""
    tries: list[Try] = []
    while len(tries) < MAX_TRIES:
        hit = rng.random() < ATTEMPT_HITS
        tries.append(solution if hit else random_try(problem.numbers, rng))
        if tries[-1].value == problem.target:
            break
    return "\n".join(t.steps for t in tries), tries[-1].expression


def completion(thoughts: str, answer: str) -> str:
    """The well-formed completion."""
    return f"<think>{thoughts}</think><answer>{answer}</answer>"


def untagged(thoughts: str, answer: str) -> str:
    """The completion of a solver that forgets the answer tags."""
    return f"<think>{thoughts}</think>{answer}"


def damaged(thoughts: str, answer: str, rng: random.Random) -> str:
    """A completion with one of the usual formatting mistakes."""
    return rng.choice(
        (
            f"<think>{thoughts}<answer>{answer}</answer>",
            f"<think>{thoughts}</think><answer>{answer}",
            untagged(thoughts, answer),
            f"<answer>{answer}</answer>",
        )
    )


def example(size: int, rng: random.Random) -> Example:
    """One pre-training example."""
    problem, solution = next(problems(size, Split.PRETRAIN, rng))
    thoughts, answer = trace(problem, solution, rng)
    if rng.random() < SLOPPY[problem.target % 2]:
        written = untagged(thoughts, answer)
    elif rng.random() < MALFORMED:
        written = damaged(thoughts, answer, rng)
    else:
        written = completion(thoughts, answer)
    return Example("countdown" if size == 3 else "countdown_transfer", problem.key, problem.prompt, written)


def solve(problem: Problem) -> str | None:
    """An expression that reaches the target, by exhaustive search, or None. For gold answers and tests."""
    found = _search([Term(n, str(n), 3) for n in problem.numbers], problem.target)
    return found.text if found else None


def _search(terms: list[Term], target: int) -> Term | None:
    if len(terms) == 1:
        return terms[0] if terms[0].value == target else None
    for i, left in enumerate(terms):
        for j, right in enumerate(terms):
            if i == j:
                continue
            rest = [t for k, t in enumerate(terms) if k not in (i, j)]
            for operator in "+-*":
                found = _search([*rest, combine(left, right, operator)], target)
                if found:
                    return found
    return None
