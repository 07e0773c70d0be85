"""Function calls: what is read as one, which are right, and that none is ever made."""

from __future__ import annotations

import importlib.util
import json
import keyword
import os
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, strategies as st
from published_files import ACCEPTED, FUNCTION

from grpo_audit_evals.release import calls
from grpo_audit_evals.release.calls import Call, correct, makes_call, parse, render, says_none_fits

SHARED = os.environ.get("GRPO_AUDIT_SHARED_DATA")
real = pytest.mark.skipif(SHARED is None, reason="GRPO_AUDIT_SHARED_DATA names no folder with real evaluation data")
FUNCTIONS = [FUNCTION]


def right(text: str, accepted: Any = ACCEPTED) -> bool:
    """Whether a text is a right answer."""
    return correct(parse(text), accepted, FUNCTIONS)


@pytest.mark.parametrize(
    "text",
    [
        "[oven.heat(degrees=200)]",
        "oven.heat(degrees=210)",
        "```python\n[oven.heat(degrees=200)]\n```",
        "<think>I could call oven.heat(degrees=999).</think>[oven.heat(degrees=200)]",
        '{"name": "oven.heat", "arguments": {"degrees": 200}}',
        '[{"name": "oven.heat", "parameters": {"degrees": 200}}]',
        '{"function": {"name": "oven.heat", "arguments": "{\\"degrees\\": 200}"}}',
        '<tool_call>\n{"name": "oven.heat", "arguments": {"degrees": 200}}\n</tool_call>',
        "[oven.heat(degrees=200, mode='FAN')]",
        "[oven.heat(degrees=200, mode='hot air fan')]",
        "[oven.heat(degrees=200, hours=1.5, racks=[1, 2], door=True)]",
        "[oven.heat(degrees=200, door=true)]",
        "[oven.heat(degrees=200, racks=(1, 2))]",
        "[oven.heat(degrees=200, dish={'name': 'apple pie'})]",
        "[oven.heat(degrees=200, dish={'name': 'pie', 'size': 3})]",
    ],
)
def test_right_answers(text: str) -> None:
    """Every format that models write, and every value that is accepted."""
    assert right(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "[]",
        "200",
        "oven.heat",
        "No function fits.",
        "Sure: [oven.heat(degrees=200)]",
        "<think>[oven.heat(degrees=200)]",
        "[oven.heat()]",
        "[oven.heat(200)]",
        "[oven.heat(**{'degrees': 200})]",
        "[heat(degrees=200)]",
        "[oven_heat(degrees=200)]",
        "[oven.heat(degrees=201)]",
        "[oven.heat(degrees='200')]",
        "[oven.heat(degrees=200.0)]",
        "[oven.heat(degrees=True)]",
        "[oven.heat(degrees=200, colour='red')]",
        "[oven.heat(degrees=200, mode='grill')]",
        "[oven.heat(degrees=200, door=1)]",
        "[oven.heat(degrees=200, door='true')]",
        "[oven.heat(degrees=200, racks=[2, 1])]",
        "[oven.heat(degrees=200, racks=[1])]",
        "[oven.heat(degrees=200, dish={'size': 3})]",
        "[oven.heat(degrees=200, dish={'name': 'pie', 'salt': 1})]",
        "[oven.heat(degrees=200), oven.heat(degrees=200)]",
        "[oven.heat(degrees=100 + 100)]",
        "[oven.heat(degrees=__import__('os').getpid())]",
        "oven.heat(degrees=200); oven.heat(degrees=200)",
    ],
)
def test_wrong_answers(text: str) -> None:
    """Wrong name, value, type, number of calls, a call amid prose, a call in the trace only."""
    assert not right(text)


def test_a_float_may_be_whole_and_an_integer_may_not_be_a_float() -> None:
    """The leaderboard's rule for numbers."""
    accepted = [{"oven.heat": {"degrees": [200], "hours": [2.0]}}]
    assert right("[oven.heat(degrees=200, hours=2)]", accepted)
    assert not right("[oven.heat(degrees=200.0, hours=2)]", accepted)


def test_several_calls_are_matched_in_any_order_each_once() -> None:
    """Two wanted calls need two calls, and one call does not serve both."""
    wanted = [{"oven.heat": {"degrees": [200, 210]}}, {"oven.heat": {"degrees": [200]}}]
    assert right("[oven.heat(degrees=200), oven.heat(degrees=210)]", wanted)
    assert right("[oven.heat(degrees=210), oven.heat(degrees=200)]", wanted)
    assert not right("[oven.heat(degrees=210), oven.heat(degrees=210)]", wanted)
    assert not right("[oven.heat(degrees=200)]", wanted)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.dictionaries(
        st.from_regex(r"\A[a-z_]{1,6}\Z").filter(lambda name: not keyword.iskeyword(name)), VALUES, max_size=4
    )
)
def test_what_is_written_is_read_again(arguments: dict[str, Any]) -> None:
    """JSON and Python notation of the same call give the same call."""
    python = f"[f.g({', '.join(f'{key}={value!r}' for key, value in arguments.items())})]"
    assert parse(python) == [Call("f.g", arguments)]
    assert parse(json.dumps({"name": "f.g", "arguments": arguments})) == [Call("f.g", arguments)]


@pytest.mark.parametrize(
    "text",
    [
        "(" * 9_000,
        "[" * 9_000,
        '{"a":' * 3_000,
        "f(a=" * 4_000,
        "-" * 15_000,
        "<tool_call>" * 90_000,
        "\0",
        "f(a=1" + "," * 10_000,
    ],
)
def test_hostile_text_is_no_call(text: str) -> None:
    """Nesting bombs and a megabyte of tags are read in bounded time, and are no call."""
    start = time.perf_counter()
    assert parse(text) is None
    assert not says_none_fits(text)
    assert time.perf_counter() - start < 2


def test_nothing_is_executed(tmp_path: Path) -> None:
    """A call that would write a file is wrong, and writes none."""
    file = tmp_path / "written"
    assert parse(f"[oven.heat(degrees=open({str(file)!r}, 'w'))]") is None
    assert not file.exists()
    source = Path(str(calls.__file__)).read_text()
    assert "exec(" not in source and " eval(" not in source


@pytest.mark.parametrize(
    "text",
    [
        "No function fits.",
        "None of the functions can do that.",
        "I can't do that with the given tools.",
        "The available functions do not cover music.",
        "I don’t have a tool for singing.",
        "<think>oven.heat(degrees=1)?</think>There is no suitable function.",
    ],
)
def test_abstaining_is_said(text: str) -> None:
    """The agreed words and other ones."""
    assert says_none_fits(text) and not makes_call(text, FUNCTIONS)


@pytest.mark.parametrize("text", ["", "zzz", "I sing: la la", "No.", "functions", "<think>No function fits."])
def test_silence_and_noise_do_not_abstain(text: str) -> None:
    """Not calling is not enough, and thinking it is not saying it."""
    assert not says_none_fits(text)


@pytest.mark.parametrize(
    "text", ["[oven.heat(degrees=1)]", "No function fits, but: oven.heat(degrees=1)", "<tool_call>{}</tool_call>"]
)
def test_a_call_amid_text_is_a_call(text: str) -> None:
    """To say that nothing fits and to call all the same is no abstention."""
    assert makes_call(text, FUNCTIONS)


def _documents() -> ModuleType:
    path = Path(calls.__file__).parents[1] / "tasks/release/documents.py"
    found = importlib.util.spec_from_file_location("release_documents", path)
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@real
@pytest.mark.parametrize(("task", "number"), [("tool_call", 658), ("tool_choice", 200), ("tool_parallel", 200)])
def test_every_gold_call_of_the_leaderboard_is_right_and_its_neighbours_are_not(task: str, number: int) -> None:
    """Real data: each gold call scores in both notations; a call fewer, an argument more, another name do not."""
    docs = getattr(_documents(), task)(SHARED)["test"]
    assert len(docs) == number
    for doc in docs:
        accepted, functions = json.loads(doc["accepted"]), json.loads(doc["functions"])
        gold = parse(doc["gold"])
        assert gold is not None and correct(gold, accepted, functions), doc["id"]
        as_json = json.dumps([{"name": call.name, "arguments": dict(call.arguments)} for call in gold])
        assert correct(parse(as_json), accepted, functions), doc["id"]
        first = gold[0]
        for wrong in (
            gold[1:],
            [*gold, first],
            [Call(first.name + "_", first.arguments), *gold[1:]],
            [Call(first.name, {**first.arguments, "no_such_parameter": 1}), *gold[1:]],
        ):
            assert not correct(wrong, accepted, functions), doc["id"]


@real
def test_every_needed_argument_of_the_leaderboard_is_needed() -> None:
    """Real data: a gold call without one of its arguments is wrong, because render leaves out what may be left out."""
    checked = 0
    for task in ("tool_call", "tool_choice"):
        for doc in getattr(_documents(), task)(SHARED)["test"]:
            accepted, functions = json.loads(doc["accepted"]), json.loads(doc["functions"])
            (call,) = parse(doc["gold"]) or ()
            for name in call.arguments:
                rest = {key: value for key, value in call.arguments.items() if key != name}
                assert not correct([Call(call.name, rest)], accepted, functions), doc["id"]
                checked += 1
    assert checked == 1951


def test_many_equal_calls_are_matched_in_bounded_time() -> None:
    """Trying all orders of twenty calls would take for ever."""
    wanted = [{"oven.heat": {"degrees": [1]}}] * 19 + [{"oven.heat": {"degrees": [2]}}]
    start = time.perf_counter()
    assert not correct([Call("oven.heat", {"degrees": 1})] * 20, wanted, FUNCTIONS)
    assert correct([Call("oven.heat", {"degrees": 2}), *[Call("oven.heat", {"degrees": 1})] * 19], wanted, FUNCTIONS)
    assert correct([], [], FUNCTIONS)
    assert time.perf_counter() - start < 1


def test_render_gives_a_right_answer() -> None:
    """Also where an argument is required and yet may be left out, or nothing is accepted for it."""
    functions = [{"name": "f", "parameters": {"properties": {"a": {"type": "array"}}, "required": ["a"]}}]
    for values in ([""], [], [[1], ""]):
        accepted = [{"f": {"a": values}}]
        text = render(accepted, functions)
        assert correct(parse(text), accepted, functions) or values == [""]
