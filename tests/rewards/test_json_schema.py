"""JSON against a schema: strict, and cheap on bombs."""

from __future__ import annotations

import json
import re
import socket
import threading
import time

import pytest
from hypothesis import given, settings, strategies as st
from rewards.attacks import HOSTILE

from grpo_audit.config.sections import RewardConfig
from grpo_audit.errors import RewardError
from grpo_audit.rewards.json_schema import MAX_DEPTH, Refused, parse, score
from grpo_audit.rewards.runner import RewardRunner

PERSON = {
    "type": "object",
    "required": ["name", "age"],
    "properties": {"name": {"type": "string", "pattern": "^[a-z]+$"}, "age": {"type": "integer", "minimum": 0}},
    "additionalProperties": False,
}
SCHEMA = json.dumps(PERSON)
GOOD = '{"name": "ada", "age": 36}'


def test_valid_is_one_and_invalid_is_zero():
    """The whole completion is the JSON, blanks aside."""
    texts = [GOOD, f" \n{GOOD}\n", '{"name": "ada"}', '{"name": "Ada", "age": 36}', f"{GOOD} x", f"Here: {GOOD}"]
    assert score(texts, schema=SCHEMA) == [1.0, 1.0, 0.0, 0.0, 0.0, 0.0]


def test_it_may_stand_in_a_fence_or_a_block():
    """The last one, closed, outside of the reasoning."""
    fence = f"```json\n{{}}\n```\nno:\n```json\n{GOOD}\n```"
    assert score([fence, f"```\n{GOOD}", GOOD], schema=SCHEMA, json_in="fence") == [1.0, 0.0, 0.0]
    block = f"<think><answer>{GOOD}</answer></think>"
    assert score([f"<answer>{GOOD}</answer>", block], schema=SCHEMA, json_in="tag") == [1.0, 0.0]


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "ada", "name": "bob", "age": 1}',
        '{"name": "ada", "age": NaN}',
        '{"name": "ada", "age": Infinity}',
        '{"name": "ada", "age": 1e999}',
        '{"name": "ada", "age": ' + "9" * 5000 + "}",
        '{"name": "ada", "age": 1' + "0" * 50 + "}",
        '{"name": "\\ud800", "age": 1}',
        "[" * 100_000 + "]" * 100_000,
        '{"a":' * 10_000 + "1" + "}" * 10_000,
        "[" + "{}," * 15_000 + "{}]",
        "{'name': 'ada', 'age': 1}",
        '{"name": "ada", "age": 36,}',
        '{"name": "ada", "age": 36} {"name": "ada", "age": 36}',
        '"' + "\\" * 100_001,
        *HOSTILE.values(),
    ],
)
def test_what_is_no_strict_json_is_zero_at_once(text):
    """Against a schema that accepts everything: it is the reading that refuses."""
    begin = time.monotonic()
    assert score([text], schema="true", max_characters=2_000_000) == [0.0]
    assert time.monotonic() - begin < 2


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("ab\"[]{},\\", max_size=4), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


@given(VALUES, st.booleans())
@settings(max_examples=200, deadline=None)
def test_every_ordinary_value_is_read_back(value, ascii_only):
    """Brackets, quotes and backslashes inside strings do not count as structure."""
    assert parse(json.dumps(value, ensure_ascii=ascii_only)) == value


def test_depth_has_a_limit_at_the_stated_level():
    """Exactly there."""
    assert parse("[" * MAX_DEPTH + "]" * MAX_DEPTH) is not None
    with pytest.raises(Refused):
        parse("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1))


def test_a_pattern_of_the_schema_that_explodes_is_an_error_of_the_row():
    """The schema is ours, the text is not."""
    schema = json.dumps({"patternProperties": {"(a|aa)+b$": {}}, "properties": {"x": {"pattern": "(a|aa)+b$"}}})
    begin = time.monotonic()
    results = score([json.dumps({"a" * 60 + "c": 1}), json.dumps({"x": "a" * 60 + "c"})], schema=schema)
    assert time.monotonic() - begin < 3
    assert all(item == 1.0 or item == 0.0 or "took too long" in str(item) for item in results)


def test_references_are_never_fetched(tmp_path):
    """Neither http nor file: an error of the row, though the one is served and the other is there."""
    (tmp_path / "schema.json").write_text("true")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        url = f"http://127.0.0.1:{server.getsockname()[1]}/x"
        for reference in (url, (tmp_path / "schema.json").as_uri()):
            found: list[object] = []
            schema = json.dumps({"$ref": reference})
            thread = threading.Thread(target=lambda out=found, text=schema: out.extend(score(["1"], schema=text)))
            thread.start()
            with pytest.raises(TimeoutError):
                server.accept()
            thread.join()
            assert "the schema cannot be applied" in str(found[0])


def test_a_schema_may_come_with_each_row():
    """As a mapping or as text; none: does not apply; one that is no schema: an error."""
    given_schemas = [{"type": "integer"}, '{"type": "string"}', None, {"type": "nonsense"}, "{"]
    results = score(["1"] * 5, given_schemas)
    assert results[:3] == [1.0, 0.0, None]
    assert all(isinstance(item, ValueError) for item in results[3:])


def test_a_schema_file_is_relative_to_the_recipe_and_recorded(tmp_path):
    """Its text is a fact of the record."""
    (tmp_path / "person.json").write_text(SCHEMA)
    options = {"schema_file": "person.json"}
    source = RewardConfig(name="j", source="grpo_audit.rewards.json_schema:score", options=options)
    with RewardRunner([source], tmp_path) as runner:
        runner.check_columns([])
        assert runner.score(["p"], [GOOD], {})[0].total == 1.0
        assert runner.identities()[0].facts["schema"] == SCHEMA


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schema": '{"type": "nonsense"}'}, "the schema cannot be used"),
        ({"schema": "{"}, "the schema cannot be used"),
        ({"schema_file": "none.json"}, "option 'schema_file' cannot be read"),
        ({"schema": "{}", "schema_file": "x"}, "are both given"),
    ],
)
def test_a_schema_that_cannot_be_used_is_told_before_training(tmp_path, options, message):
    """One line."""
    source = RewardConfig(name="j", source="grpo_audit.rewards.json_schema:score", options=options)
    with pytest.raises(RewardError, match=re.escape(message)):
        RewardRunner([source], tmp_path)
