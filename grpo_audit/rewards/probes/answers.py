"""Right and wrong answers of a row, as texts: read from a column, and changed so that they surely differ."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import Any, Final

from grpo_audit.rewards.probes import values
from grpo_audit.rewards.probes.probe import Kind

GOLD_COLUMNS: Final = (
    "answer", "gold", "target", "solution", "reference", "ground_truth", "expected", "label", "final_answer", "answers",
)  # fmt: skip
"""What a column with the reference is usually called, the usual names first."""
_SPARE_WORDS: Final = ("an umbrella", "the far side of the moon", "nothing of the kind", "seventeen thousand geese")
_LETTERS: Final = "ABCDEFGHIJ"
_MATHEMATICS: Final = re.compile(
    r"[\\^=<>\u2264\u2265\u221a\u03c0]|[0-9]\s*[-+*/]\s*[0-9A-Za-z(]|[-+*/]\s*[0-9]|\A[\[({][^A-Z]*[\])}]\Z|\A[a-z]\Z"
)
_NUMBERS: Final = re.compile(r"([\[({]|\\\{)\s*([-+0-9.,\s]+?)\s*([\])}]|\\\})")


def readings(value: object) -> dict[str, list[str]]:
    """The right answers that a column's value may stand for, by how it is read.

    A list is a list of right answers; a worked solution has its answer behind ``####`` or in its last box.
    """
    if value is None:
        return {}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        texts = [_text(item) for item in value if isinstance(item, str | int | float)]
        return {"as it is": texts} if texts and len(texts) == len(value) and all(map(_is_visible, texts)) else {}
    text = _text(value)
    if not _is_visible(text):
        return {}
    found = {"as it is": [text]}
    if "####" in text and text.rpartition("####")[2].strip():
        found = {"behind ####": [text.rpartition("####")[2].strip()], **found}
    elif (inside := _last_box(text)) is not None and inside != text:
        found = {"in its box": [inside], **found}
    return found


def _text(value: object) -> str:
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, float) and math.isfinite(value) and value == int(value):
        return str(int(value))
    if isinstance(value, bool | int | float):
        return str(value)
    return json.dumps(value, ensure_ascii=False, default=str)


def _is_visible(text: str) -> bool:
    return any(char.isprintable() and not char.isspace() for char in text)


def _last_box(text: str) -> str | None:
    start = text.rfind("\\boxed{")
    depth = 0
    for position in range(start + 6, len(text) if start >= 0 else 0):
        depth += (text[position] == "{") - (text[position] == "}")
        if depth == 0:
            return text[start + 7 : position].strip() or None
    return None


def kind_of(answer: str) -> Kind:
    """What an answer is, by its looks."""
    value = as_json(answer)
    if isinstance(value, dict) or (isinstance(value, list) and any(isinstance(item, dict | str) for item in value)):
        return Kind.JSON
    if values.number(answer) is not None and "/" not in answer and "\\" not in answer:
        return Kind.NUMBER
    if answer in tuple(_LETTERS):
        return Kind.LETTER
    if values.quantity(answer) is not None:
        return Kind.QUANTITY
    return Kind.EXPRESSION if _MATHEMATICS.search(answer) else Kind.TEXT


def as_json(text: str) -> Any:
    """The value of a JSON text, None when it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def surely_wrong(candidate: str, accepted: Sequence[str], kind: Kind) -> bool:
    """Whether a text cannot be taken for any of the right answers."""
    if kind is Kind.JSON:
        return all(as_json(candidate) != as_json(right) for right in accepted)
    return all(values.differ(candidate, right) or _other_numbers(candidate, right) for right in accepted)


def _other_numbers(first: str, second: str) -> bool:
    """Lists of plain numbers in brackets that do not hold the same numbers."""
    pair = [_NUMBERS.fullmatch(text.strip()) for text in (first, second)]
    if not all(pair):
        return False
    numbers = [[values.number(part) for part in found.group(2).split(",")] for found in pair if found]
    return all(None not in items for items in numbers) and set(numbers[0]) != set(numbers[1])


def wrong_answers(accepted: Sequence[str], kind: Kind, others: Sequence[str]) -> list[str]:
    """Up to six answers of the same sort that are surely wrong; those of other rows come last."""
    right = accepted[0]
    makers: dict[Kind, Callable[[str], Iterator[str]]] = {
        Kind.NUMBER: _numbers,
        Kind.QUANTITY: _quantities,
        Kind.LETTER: _letters,
        Kind.EXPRESSION: _expressions,
        Kind.JSON: _json_values,
    }
    made = makers[kind](right) if kind in makers else iter(())
    found: list[str] = []
    for text in (*made, *others, *(_SPARE_WORDS if kind in (Kind.TEXT, Kind.EXPRESSION) else ())):
        if text not in found and surely_wrong(text, accepted, kind):
            found.append(text)
        if len(found) == 6:
            break
    return found


def shown(value: Fraction, like: str) -> str:
    """A number with as many decimals as another one has, or as many as it needs."""
    places = len(like.partition(".")[2])
    while places < 12 and value != round(value, places):
        places += 1
    return f"{float(value):.{places}f}" if places else str(int(value))


def _numbers(right: str) -> Iterator[str]:
    value = values.number(right)
    if value is not None:
        yield from (shown(item, right) for item in (value + 1, value - 1, value + 10, 2 * value + 7))


def _letters(right: str) -> Iterator[str]:
    yield from (letter for letter in _LETTERS[:5] if letter != right)


def _quantities(right: str) -> Iterator[str]:
    found = values.quantity(right)
    if found is not None:
        for number in _numbers(found[1]):
            yield right.replace(found[1], number)


def _expressions(right: str) -> Iterator[str]:
    digits = re.search(r"[0-9]+", right)
    if _NUMBERS.fullmatch(right) and digits:
        yield right[: digits.start()] + str(int(digits.group()) + 7) + right[digits.end() :]
    if "=" not in right:
        yield from (f"{right}+1", f"2({right})+3")


def _json_values(right: str) -> Iterator[str]:
    value = as_json(right)
    if isinstance(value, dict):
        yield json.dumps({**value, "surely_not_expected": 1})
        if value:
            yield json.dumps({key: item for key, item in list(value.items())[1:]})
    yield from ("[]", "{}", '"nothing"')
