"""Trace and answer told apart: nothing is lost, nothing is counted twice, and an open trace leaves no answer."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given, strategies as st

from grpo_audit_evals.traces import figures, split

PIECES = ["<think>", "</think>", "<THINKING>", "</reasoning>", "[THINK]", "[/THINK]", "a", " ", "\n", "<", "é", "</"]


@pytest.mark.parametrize(
    ("text", "trace", "answer", "present", "closed"),
    [
        ("4", "", "4", False, False),
        ("<think>2+2</think>4", "2+2", "4", True, True),
        ("2+2</think>4", "2+2", "4", True, True),
        ("<think>2+2", "2+2", "", True, False),
        ("<think></think>4", "", "4", False, False),
        ("[THINK]2+2[/THINK]4", "2+2", "4", True, True),
        ("<|begin_of_thought|>x<|end_of_thought|>y", "x", "y", True, True),
        ("<think>a</think>b<think>c", "ac", "b", True, False),
        ("<think>a<think>b</think>c</think>d", "abc", "d", True, True),
        ("<Think>a</THINK>b", "a", "b", True, True),
        ("x <thinker> y", "", "x <thinker> y", False, False),
    ],
)
def test_trace_and_answer(text: str, trace: str, answer: str, present: bool, closed: bool) -> None:
    """The forms that models write, and the broken ones."""
    parts = split(text)
    assert (parts.trace, parts.answer, parts.present, parts.closed) == (trace, answer, present, closed)


@given(st.lists(st.sampled_from(PIECES), max_size=20).map("".join))
def test_no_letter_is_lost_or_doubled(text: str) -> None:
    """Trace and answer together hold every character that is no tag."""
    parts = split(text)
    tags = re.compile(r"</?(think|thinking|reasoning)>|\[/?THINK\]", re.I)
    plain = sorted(tags.sub("", text))
    assert sorted(tags.sub("", parts.trace + "\0" + parts.answer)) == sorted([*plain, "\0"])


@given(st.lists(st.sampled_from(PIECES), max_size=20).map("".join))
def test_an_open_trace_leaves_nothing_behind_it(text: str) -> None:
    """Whatever comes after an opening tag that is never closed is no answer."""
    assert split(text + "<think>secret").answer.count("secret") == 0


def test_figures_count_characters_and_say_what_is_there() -> None:
    """Lengths are those of the two parts; blanks are no answer."""
    assert figures("<think>abc</think> \n") == {
        "trace_present": 1.0,
        "trace_closed": 1.0,
        "trace_characters": 3.0,
        "answer_present": 0.0,
        "answer_characters": 2.0,
    }


def test_a_megabyte_of_tags_takes_linear_time() -> None:
    """Hostile text costs less than two seconds."""
    start = time.perf_counter()
    for tag in ("<think>", "</think>", "<think></think>", "<"):
        split(tag * (1_000_000 // len(tag)))
    assert time.perf_counter() - start < 2
