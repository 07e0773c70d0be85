"""JSON against a schema: the completion, or a part of it, is one JSON value that the schema accepts.

Strict JSON (RFC 8259): no duplicate keys, no NaN, no infinite or enormous numbers, no lone surrogates. Depth and size
are checked before anything is parsed. References in a schema are never fetched from a network.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Literal

import regex
from jsonschema import SchemaError, ValidationError, validators
from referencing import Registry

KIND = "verifier"
VERSION = "1"
DOMAIN = "JSON values that a schema describes"

MAX_DEPTH: Final = 64
MAX_DIGITS: Final = 40
MAX_VALUES: Final = 10_000
_PATTERN_LIMIT_S: Final = 0.2
_STRING: Final = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)

JsonIn = Literal["whole", "tag", "fence"]


class Refused(ValueError):
    """The text is no JSON that we read."""


def score(
    completions: list[str],
    json_schema: list[Any] | None = None,
    *,
    schema: str | None = None,
    schema_file: str | None = None,
    json_in: JsonIn = "whole",
    max_characters: int = 20_000,
    base_dir: str = ".",
) -> list[float | Exception | None]:
    """1.0 where the JSON is there and valid, else 0.0.

    Args:
        completions: one text a row.
        json_schema: a column with a schema a row, as a mapping or as JSON text; None: does not apply. It goes before
            the options.
        schema: JSON text of the schema for all rows.
        schema_file: a file with it, relative to the recipe.
        json_in: the whole completion, the last ``<answer>`` block, or the last fenced code block.
        max_characters: a longer JSON text is 0.
        base_dir: folder of the recipe.
    """
    fixed = _fixed(schema, schema_file, base_dir)
    schemas = [fixed] * len(completions) if json_schema is None else json_schema

    def judge(completion: str, wanted: Any) -> float | Exception | None:
        if wanted is None:
            return None
        try:
            validator = _validator(wanted if isinstance(wanted, str) else json.dumps(wanted))
        except (SchemaError, ValueError) as error:
            return ValueError(f"the schema cannot be used: {str(error).splitlines()[0]}")
        text = _json_text(completion, json_in)
        if text is None or len(text) > max_characters:
            return 0.0
        try:
            value = parse(text)
        except Refused:
            return 0.0
        return _judge(validator, value)

    return [judge(text, wanted) for text, wanted in zip(completions, schemas, strict=True)]


def parse(text: str) -> Any:
    """The value of a JSON text. Raises Refused, cheaply, for anything strict JSON or our limits do not allow."""
    bare = _STRING.sub('""', text)
    depth = 0
    for mark in re.findall(r"[\[\]{}]", bare):
        depth += 1 if mark in "[{" else -1
        if depth > MAX_DEPTH:
            raise Refused(f"more than {MAX_DEPTH} levels")
    if bare.count(",") + bare.count("[") + bare.count("{") > MAX_VALUES:
        raise Refused(f"more than {MAX_VALUES} values")
    try:
        value = json.loads(
            text, object_pairs_hook=_object, parse_int=_int, parse_float=_float, parse_constant=_constant
        )
        json.dumps(value, ensure_ascii=False).encode()  # lone surrogates have no UTF-8
    except (ValueError, RecursionError) as error:
        raise Refused(str(error)) from error
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Refused("a key occurs twice")
    return found


def _int(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise Refused("a number is too long")
    return int(text)


def _float(text: str) -> float:
    value = float(text) if len(text) <= 2 * MAX_DIGITS else math.inf
    if not math.isfinite(value):
        raise Refused("a number is too large")
    return value


def _constant(name: str) -> Any:
    raise Refused(f"{name} is no JSON")


def _json_text(completion: str, json_in: JsonIn) -> str | None:
    text = completion.rpartition("</think>")[2]
    if json_in == "whole":
        return text
    if json_in == "tag":
        inside = text.rpartition("<answer>")
        body, closed, _ = inside[2].partition("</answer>")
        return body if inside[1] and closed else None
    blocks = text.split("```")
    if len(blocks) < 3 or len(blocks) % 2 == 0:  # an odd number of fences
        return None
    return re.sub(r"\A(?:json)?[ \t]*\n", "", blocks[-2])


def _judge(validator: Any, value: Any) -> float | Exception:
    try:
        return float(validator.is_valid(value))
    except TimeoutError:
        return ValueError("a pattern of the schema took too long on this completion")
    except Exception as error:  # noqa: BLE001 - references that lead nowhere or in circles: the schema's fault
        return ValueError(f"the schema cannot be applied: {type(error).__name__}")


@lru_cache(maxsize=256)
def _validator(schema_text: str) -> Any:
    """A validator for a schema. Raises ValueError, SchemaError."""
    schema = json.loads(schema_text)
    if not isinstance(schema, dict | bool):
        raise ValueError("a schema is an object")
    base = validators.validator_for(schema, default=validators.Draft202012Validator)
    base.check_schema(schema)
    timed = validators.extend(base, {"pattern": _pattern, "patternProperties": _pattern_properties})
    return timed(schema, registry=Registry())  # the default registry would fetch references


def _matches(pattern: str, text: str) -> bool:
    return regex.search(pattern, text, timeout=_PATTERN_LIMIT_S) is not None


def _pattern(validator: Any, pattern: str, instance: Any, _: Any) -> Iterator[ValidationError]:
    if validator.is_type(instance, "string") and not _matches(pattern, instance):
        yield ValidationError("does not match")


def _pattern_properties(
    validator: Any, patterns: Mapping[str, Any], instance: Any, _: Any
) -> Iterator[ValidationError]:
    if validator.is_type(instance, "object"):
        for pattern, subschema in patterns.items():
            for key, value in instance.items():
                if _matches(pattern, key):
                    yield from validator.descend(value, subschema, path=key, schema_path=pattern)


def _fixed(schema: str | None, schema_file: str | None, base_dir: str) -> str | None:
    if schema is not None or schema_file is None:
        return schema
    return (Path(base_dir) / schema_file).read_text(encoding="utf-8")


def _check(schema: str | None, schema_file: str | None, base_dir: str, max_characters: int) -> dict[str, str]:
    if schema is not None and schema_file is not None:
        raise ValueError("options 'schema' and 'schema_file' are both given; expected one of them")
    if max_characters < 1:
        raise ValueError(f"option 'max_characters' is {max_characters}; expected 1 or more")
    try:
        text = _fixed(schema, schema_file, base_dir)
        if text is not None:
            _validator(text)
    except OSError as error:
        raise ValueError(f"option 'schema_file' cannot be read: {error}") from error
    except (SchemaError, ValueError) as error:
        raise ValueError(f"the schema cannot be used: {str(error).splitlines()[0]}") from error
    return {} if text is None else {"schema": text}


def _examples(
    prompts: list[str],
    json_schema: list[Any] | None = None,
    *,
    schema: str | None = None,
    schema_file: str | None = None,
    base_dir: str = ".",
) -> list[object]:
    """For the probes: a value that the schema accepts, and some that it does not."""
    from grpo_audit.rewards.examples import json_texts

    fixed = _fixed(schema, schema_file, base_dir)
    wanted = [fixed] * len(prompts) if json_schema is None else json_schema
    texts = [item if item is None or isinstance(item, str) else json.dumps(item) for item in wanted]
    return [None if text is None else json_texts(json.loads(text), _validator(text)) for text in texts]


ON_LOAD = {"score": _check}
EXAMPLES = {"score": _examples}
