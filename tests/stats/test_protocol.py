"""Where two protocols differ, in words."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, strategies as st

from grpo_audit.errors import ComparisonError
from grpo_audit.stats.protocol import directions, protocol_difference, restricted

PROTOCOL: dict[str, Any] = {
    "harness": "lm-eval 0.4.13",
    "decoding": "greedy",
    "fewshot_seed": 1234,
    "tasks": {
        "maths": {
            "config": {
                "generation_kwargs": {"until": ["\n"], "max_gen_toks": 160},
                "num_fewshot": 0,
                "metric_list": [
                    {"metric": "exact_match", "higher_is_better": True},
                    {"metric": "tokens", "higher_is_better": False},
                    {"metric": {"function": "own"}, "higher_is_better": True},
                    {"metric": "undirected"},
                ],
            },
            "version": "1",
            "documents": 200,
            "documents_digest": "sha256:" + "a" * 64,
            "examples_digest": None,
            "sources": {"scoring.py": "sha256:" + "b" * 64},
        },
        "tools": {"config": {}, "version": "2", "documents": 5, "documents_digest": "x", "sources": {}},
    },
}


def text(protocol: dict[str, Any]) -> bytes:
    """As a suite writes it."""
    return json.dumps(protocol, sort_keys=True, ensure_ascii=False, indent=1).encode()


def put(path: str, value: object) -> Callable[[dict[str, Any]], None]:
    """Sets one value."""

    def change(protocol: dict[str, Any]) -> None:
        *parents, last = path.split("/")
        for parent in parents:
            protocol = protocol[parent]
        protocol[last] = value

    return change


CHANGES: dict[str, tuple[Callable[[dict[str, Any]], object], list[str]]] = {
    "harness": (put("harness", "lm-eval 0.5"), ['the harness "lm-eval 0.4.13" against "lm-eval 0.5"']),
    "decoding": (put("decoding", "sampled"), ['decoding "greedy" against "sampled"']),
    "a task less": (lambda it: it["tasks"].pop("tools"), ["task tools is only in the first"]),
    "a task more": (put("tasks/new", {}), ["task new is only in the second"]),
    "tokens": (
        put("tasks/maths/config/generation_kwargs/max_gen_toks", 256),
        ["task maths: generation_kwargs.max_gen_toks 160 against 256"],
    ),
    "stop": (
        put("tasks/maths/config/generation_kwargs/until", ["\n", "Q:"]),
        ['task maths: generation_kwargs.until ["\\n"] against ["\\n", "Q:"]'],
    ),
    "another option": (
        put("tasks/maths/config/generation_kwargs/do_sample", False),
        ["task maths: generation_kwargs.do_sample false is only in the second"],
    ),
    "few-shot": (put("tasks/maths/config/num_fewshot", 5), ["task maths: num_fewshot 0 against 5"]),
    "few-shot pool": (
        put("tasks/maths/examples_digest", "sha256:" + "c" * 64), ["task maths: another pool of few-shot examples"]
    ),
    "documents": (put("tasks/maths/documents_digest", "sha256:" + "c" * 64), ["task maths: other documents"]),
    "number of documents": (put("tasks/maths/documents", 100), ["task maths: documents 200 against 100"]),
    "version": (put("tasks/maths/version", "1.1"), ['task maths: the task\'s version "1" against "1.1"']),
    "scorer": (
        put("tasks/maths/sources/scoring.py", "sha256:" + "d" * 64), ["task maths: the source file scoring.py differs"]
    ),
    "one more source": (
        put("tasks/tools/sources/helper.py", "x"), ["task tools: the source file helper.py is only in the second"]
    ),
    "one of the metrics": (
        put("tasks/maths/config/metric_list", [*PROTOCOL["tasks"]["maths"]["config"]["metric_list"][:3],
                                               {"metric": "f1"}]),
        ['task maths: metric_list[3].metric "undirected" against "f1"'],
    ),
    "true is not one": (put("fewshot_seed", True), ["fewshot_seed 1234 against true"]),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_each_difference_is_named(name: str) -> None:
    """One value changed gives one sentence about that value, in the order first, second."""
    change, sentences = CHANGES[name]
    other = copy.deepcopy(PROTOCOL)
    change(other)
    assert protocol_difference(text(PROTOCOL), text(other)) == sentences


def test_equal_protocols_have_no_difference_and_others_always_have_one() -> None:
    """Empty means equal bytes: what differs in form only, or cannot be read, is said to."""
    assert protocol_difference(text(PROTOCOL), text(PROTOCOL)) == []
    assert protocol_difference(text(PROTOCOL), json.dumps(PROTOCOL).encode()) == [
        "the texts of the protocols differ in form only"
    ]
    for bad in (b"", b"\xff", b"[]", b'{"tasks": []}', b'{"tasks": {"a": 1}}', b"[" * 100_000):
        assert protocol_difference(bad, text(PROTOCOL)) == ["the first protocol is not one that this version can read"]
        assert protocol_difference(text(PROTOCOL), bad) == ["the second protocol is not one that this version can read"]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=8,
    )
)
def test_whatever_a_protocol_contains_the_sentences_are_lines_of_ascii(value: object) -> None:
    """A task file is a stranger's text: nothing of it reaches the terminal as a control character."""
    other = copy.deepcopy(PROTOCOL)
    other["tasks"]["maths"]["config"]["num_fewshot"] = value
    other["tasks"]["\x1b[31m\u202e"] = {}
    sentences = protocol_difference(text(PROTOCOL), text(other))
    assert sentences and all(line.isascii() and line.isprintable() for line in sentences)


def test_a_restricted_protocol_is_that_of_a_suite_of_these_tasks() -> None:
    """Cutting a protocol down gives the bytes that a suite of fewer tasks writes; all of its tasks, the same bytes."""
    alone = PROTOCOL | {"tasks": {"maths": PROTOCOL["tasks"]["maths"]}}
    assert restricted(text(PROTOCOL), ["maths"]) == text(alone)
    assert restricted(text(PROTOCOL), ["tools", "maths"]) == text(PROTOCOL)
    with pytest.raises(ComparisonError, match="no task nope"):
        restricted(text(PROTOCOL), ["nope"])


def test_directions_are_those_the_task_states() -> None:
    """What ``metric_list`` leaves open stays open, and a text that is no protocol says nothing."""
    assert directions(text(PROTOCOL)) == {"maths": {"exact_match": True, "tokens": False, "own": True}, "tools": {}}
    assert directions(None) == directions(b"no protocol") == {}
