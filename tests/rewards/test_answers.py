"""Exact match, patterns and tags: the final answer counts, all of it, and nothing else."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given, settings, strategies as st
from rewards.attacks import HOSTILE

from grpo_audit.config.sections import RewardConfig
from grpo_audit.errors import RewardError
from grpo_audit.rewards import exact, pattern
from grpo_audit.rewards.answers import final_answer, fold
from grpo_audit.rewards.runner import RewardRunner


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<answer>4</answer>", "4"),
        ("<answer>3</answer> no, <answer> 4 </answer>", "4"),
        (r"first \boxed{3}, then \boxed{4}", "4"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1,2\}}", r"\{1,2\}"),
        (r"\boxed{3} <answer>4</answer>", "4"),
        ("<think><answer>3</answer></think><answer>4</answer>", "4"),
        ("<think><answer>3</answer></think> done", None),
        ("<answer>3</answer><answer>4", None),
        ("the answer is 4", None),
    ],
)
def test_the_last_answer_is_the_answer(text, answer):
    """The last closed block, else the last box; never one of the reasoning, never one of several."""
    assert final_answer(text) == answer


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("source", [exact.score])
def test_hostile_completions_earn_nothing_and_take_no_time(text, source):
    """Linear work, no exception, 0."""
    begin = time.monotonic()
    assert source([text], ["4"]) == [0.0]
    assert time.monotonic() - begin < 2


@given(st.text(max_size=40).filter(lambda text: exact.score(["x"], [text]) == [0.0]))
@settings(max_examples=150, deadline=None)
def test_the_reference_itself_is_right_and_a_longer_text_is_not(gold):
    """Exact match in both directions: whatever is added is another answer."""
    if "<answer>" in gold or "</answer>" in gold or "</think>" in gold:
        return
    assert exact.score([f"<answer>{gold}</answer>"], [gold]) == [1.0]
    assert exact.score([f"<answer>{gold} or x</answer>"], [gold]) == [0.0]


@given(st.text(max_size=300))
@settings(max_examples=200, deadline=None)
def test_no_text_without_the_reference_is_rewarded(text):
    """A reference that does not occur in the completion can never have been answered."""
    assert exact.score([text], ["needle 7391"]) == [float("7391" in text)]


@pytest.mark.parametrize(
    ("completion", "gold", "reward"),
    [
        ("<answer>PARIS.</answer>", "Paris", 1.0),
        ("<answer>\uff11\uff12</answer>", 12, 1.0),
        ("<answer>\u0661\u0662</answer>", "12", 1.0),
        ("<answer>5\u00b2</answer>", "52", 0.0),
        ("<answer>not Paris</answer>", "Paris", 0.0),
        ("<answer>Paris, London</answer>", "Paris", 0.0),
        ("<answer>London</answer>", ["Paris", "London"], 1.0),
        ("Paris", "Paris", 0.0),
        ("<answer>x</answer>", None, None),
    ],
)
def test_exact_match(completion, gold, reward):
    """Case, blanks and the script of digits aside; several accepted texts; no reference, no reward."""
    assert exact.score([completion], [gold]) == [reward]


def test_an_empty_reference_is_an_error():
    """An empty answer must never be the right one."""
    assert isinstance(exact.score(["<answer></answer>"], [""])[0], ValueError)
    assert isinstance(exact.score(["x"], ["..."])[0], float)


def test_digits_of_every_script_fold_to_ascii():
    """All decimal digits that Unicode has, and no superscripts."""
    digits = [chr(code) for code in range(0x110000) if chr(code).isdecimal()]
    assert len(digits) > 600
    assert set(fold("".join(digits))) == set("0123456789")
    assert fold("\u00b2\u2460") == "\u00b2\u2460"


# --- patterns --------------------------------------------------------------------------------------------------------


def test_a_pattern_is_about_the_whole_completion():
    """Unless the recipe says anywhere."""
    assert pattern.match(["ab", "xabx"], pattern="ab") == [1.0, 0.0]
    assert pattern.match(["ab", "xabx", "AB"], pattern="ab", where="anywhere") == [1.0, 1.0, 0.0]
    assert pattern.match(["AB"], pattern="ab", ignore_case=True) == [1.0]


@pytest.mark.parametrize("bomb", [r"(a+)+b", r"(a|aa)+b", r"(.*)*b", r"(a?){40}a{40}b"])
def test_a_pattern_that_explodes_is_stopped(bomb):
    """In a thread too; the row is an error, since a 0 would depend on the speed of the machine."""
    begin = time.monotonic()
    result = pattern.match(["a" * 40 + "c" * 2, "a" * 5000], pattern=bomb, row_limit_s=0.1)
    assert time.monotonic() - begin < 3
    assert all(item == 0.0 or "took longer than 0.1 s" in str(item) for item in result)


def test_the_bombs_are_bombs():
    """At least the first of them is really stopped by its limit, not by a clever engine."""
    assert isinstance(pattern.match(["a" * 5000 + "c"], pattern=r"(a|aa)+b", row_limit_s=0.05)[0], ValueError)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pattern": "(a"}, "option 'pattern' is no regular expression"),
        ({"pattern": "a*"}, "option 'pattern' matches the empty completion"),
        ({"pattern": "a", "row_limit_s": 0.0}, "option 'row_limit_s' is 0"),
    ],
)
def test_a_pattern_that_cannot_be_used_is_told_before_training(tmp_path, options, message):
    """One line."""
    source = RewardConfig(name="p", source="grpo_audit.rewards.pattern:match", options=options)
    with pytest.raises(RewardError, match=re.escape(message)):
        RewardRunner([source], tmp_path)


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        ("<think>a</think><answer>b</answer>", 1.0),
        (" <think>a</think>\n<answer>b</answer>\n", 1.0),
        ("<think></think><answer>b</answer>", 0.0),
        ("<think>a</think>x<answer>b</answer>", 0.0),
        ("<answer>b</answer><think>a</think>", 0.0),
        ("<think>a<answer>b</think></answer>", 0.0),
        ("<think>a</think><answer>b</answer><answer>c</answer>", 0.0),
        ("<think>a</think><answer>b</answer>c", 0.0),
        ("<think>a</think><answer>b", 0.0),
    ],
)
def test_tags_are_one_block_each_in_order(text, reward):
    """Nothing before, between or behind."""
    assert pattern.tags([text]) == [reward]


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_completions_have_no_form(text):
    """Tags and patterns alike."""
    assert pattern.tags([text]) == [0.0]
    assert pattern.match([text], pattern=r"<answer>[0-9]{1,5}</answer>") == [0.0]
