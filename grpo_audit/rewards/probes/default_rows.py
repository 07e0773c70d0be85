"""Rows to probe with where there is no prompt set: a few of each sort of reference."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

from grpo_audit.rewards.probes.probe import PlainRow
from grpo_audit.rewards.puzzles import generate

_NUMBERS: Final = {
    "A crate holds 6 bottles. How many bottles are in 7 crates?": "42",
    "A shop sold 385 tickets on Monday and 849 on Tuesday. How many is that together?": "1234",
    "The sensor read 3 degrees and fell by 20. What does it read now?": "-17",
    "What part of an hour are 45 minutes, as a decimal?": "0.75",
    "Ana shares 56 stickers among 8 friends. How many does each get?": "7",
    "A circle is divided by its width. Give the ratio to two decimals.": "3.14",
    "How many days has a year that is no leap year?": "365",
    "A town of 250,000 grew four times as large. How many live there now?": "1000000",
    "How many minutes are 2 hours and 8 minutes?": "128",
    "A rope of 50 m is cut into 4 equal parts. How long is each, in metres?": "12.5",
    "A hall has 12 rows of 8 seats. How many seats are there?": "96",
    "What is left of 33 after taking away 10?": "23",
}
_EXPRESSIONS: Final = {
    "Simplify one half of one third.": "\\frac{1}{6}",
    "Expand the square of x and one.": "x^2+2x+1",
    "Give the diagonal of a unit square.": "\\sqrt{2}",
    "Solve for the pair.": "(1,2)",
    "What is the area of a circle of radius three?": "9\\pi",
    "Two raised to the tenth, as a power.": "2^{10}",
    "What share is three out of four?": "3/4",
    "Give the interval.": "[1,2)",
    "How long is the side?": "5 \\text{ m}",
    "What percentage is half?": "50\\%",
}
_LETTERS: Final = {
    "Which metal is liquid at room temperature? A. mercury B. iron C. tin D. zinc": "A",
    "Which of these is a bird? A. trout B. heron C. newt D. ant": "B",
    "Which is the largest? A. pea B. plum C. melon D. cherry": "C",
    "Which one flies? A. brick B. spoon C. lamp D. kite": "D",
}
_TEXTS: Final = {
    "What is the capital of France?": "Paris",
    "Who wrote the play about the prince of Denmark?": "William Shakespeare",
    "Which ocean lies between Africa and Australia?": "the Indian Ocean",
    "What do bees make?": "honey",
    "Is the sea salty?": "yes",
}
_COUNTDOWN: Final = (
    ([3, 7, 25], 46), ([2, 9, 10], 21), ([4, 5, 6], 26), ([8, 3, 1], 23), ([50, 7, 2], 64), ([6, 6, 5], 41),
    ([12, 3, 4, 5], 44), ([11, 2, 9], 31), ([75, 25, 3], 150), ([10, 4, 7], 47),
)  # fmt: skip
_TESTS: Final = (
    ("Write a function double(x).", [{"call": "double", "args": [2], "expected": 4},
                                     {"call": "double", "args": [-3], "expected": -6}]),
    ("Write a function joined(words).", ["assert joined(['a', 'b']) == 'a b'", "assert joined([]) == ''"]),
    ("Print the square of the number you read.", [{"input": "3\n", "output": "9"}, {"input": "12\n", "output": "144"}]),
)  # fmt: skip
_SCHEMAS: Final = (
    {"type": "object", "required": ["name", "age"], "additionalProperties": False,
     "properties": {"name": {"type": "string", "minLength": 1}, "age": {"type": "integer", "minimum": 0}}},
    {"type": "array", "minItems": 2, "items": {"type": "number", "exclusiveMinimum": 0}},
    {"type": "object", "required": ["state"], "properties": {"state": {"enum": ["open", "shut"]}}},
)  # fmt: skip


def default_rows(wanted: Collection[str]) -> Mapping[str, list[PlainRow]]:
    """Sets of rows that have the columns a function asks for, by name; none where no set has them."""
    sets: dict[str, list[PlainRow]] = {
        "numbers": _answers(_NUMBERS),
        "expressions": _answers(_EXPRESSIONS),
        "letters": _answers(_LETTERS),
        "texts": _answers(_TEXTS),
        "countdown": [_row(f"Make {target} from {numbers}.", numbers=numbers, target=target)
                      for numbers, target in _COUNTDOWN],
        "tests": [_row(prompt, tests=tests) for prompt, tests in _TESTS],
        "puzzles": [_row(puzzle.prompt, solution=puzzle.solution) for puzzle in map(generate, range(6))],
        "schemas": [_row("Answer in JSON.", json_schema=schema) for schema in _SCHEMAS],
    }  # fmt: skip
    return {name: _named(name, rows) for name, rows in sets.items() if set(wanted) <= rows[0].columns.keys()}


def _answers(pairs: Mapping[str, str]) -> list[PlainRow]:
    return [_row(prompt, answer=answer) for prompt, answer in pairs.items()]


def _row(prompt: str, **columns: Any) -> PlainRow:
    return PlainRow("", prompt, columns)


def _named(name: str, rows: list[PlainRow]) -> list[PlainRow]:
    return [PlainRow(f"{name}-{number}", row.text, row.columns) for number, row in enumerate(rows, start=1)]
