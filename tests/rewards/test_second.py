"""The second verifiers agree with the first, and share nothing with them."""

from __future__ import annotations

import ast
import inspect

import pytest
from hypothesis import given, settings, strategies as st

from grpo_audit.rewards import countdown, maths, second

GIVEN, GOAL = [3, 7, 25], 46
PIECES = [
    "25+3*7",
    "(25)",
    "3*7",
    "25",
    "3",
    "7",
    "+",
    "-",
    "*",
    "(",
    ")",
    " ",
    "\n",
    "**",
    "/",
    "=",
    "07",
    "\u0663",
    "_",
]
MARKS = ["<think>", "</think>", "<answer>", "</answer>", "<answer>25+3*7</answer>", "\n", "word"]
expressions = st.lists(st.sampled_from(PIECES), max_size=6).map("".join)
answers = st.tuples(st.sampled_from(["", "<think>a</think>"]), expressions, st.sampled_from(["", " ", "\n", "."])).map(
    lambda parts: f"{parts[0]}<answer>{parts[1]}</answer>{parts[2]}"
)
completions = answers | st.lists(st.sampled_from(MARKS + PIECES), max_size=10).map("".join) | st.text(max_size=40)
NUMBERS = ["42", "-7", "1,234", "3.14", "0.5", "1/2", "\\frac{3}{4}", "1000000", "12.50"]
DRESSES = [
    "{}", "${}$", "\\${}", "{} apples", "{}.", "\\text{{{}}}", "{} million", "{}\\%", "x={}", "{}!", "4{}",
    "{}1", "-{}",    "{} or 7", "\u0664{}", "{} {}", "\\frac{{{}}}{{2}}",
]  # fmt: skip


@given(completions)
@settings(max_examples=600, deadline=None)
def test_both_countdown_verifiers_agree(completion):
    """On random completions, right and wrong, well-formed and not."""
    first = countdown.accuracy([completion], [GIVEN], [GOAL])
    assert second.countdown([completion], [GIVEN], [GOAL]) == first


@pytest.mark.parametrize("expression", ["25+3*7", "(3*7)+25", " 25 +\n3*7 ", "025+3*7", "((25))+7*3"])
def test_both_countdown_verifiers_reward_a_solution(expression):
    """So that agreement is not that of two that never reward."""
    text = [f"<think>so</think>\n<answer>{expression}</answer>\n"]
    assert second.countdown(text, [GIVEN], [GOAL]) == countdown.accuracy(text, [GIVEN], [GOAL]) == [1.0]


@given(st.sampled_from(NUMBERS), st.sampled_from(NUMBERS), st.sampled_from(DRESSES), st.booleans())
@settings(max_examples=400, deadline=None)
def test_where_the_second_number_verifier_judges_it_agrees(gold, answer, dress, in_box):
    """With computer algebra; None is no judgement."""
    shown = dress.format(answer, answer) if dress.count("{}") > 1 else dress.format(answer)
    text = f"\\boxed{{{shown}}}" if in_box else f"<answer>{shown}</answer>"
    said = second.number([text], [gold])[0]
    assert said is None or said == maths.score([text], [gold])[0]


@pytest.mark.parametrize(
    ("gold", "completion", "said"),
    [
        ("42", "<answer>42</answer>", 1.0),
        ("42", "\\boxed{42.0}", 1.0),
        ("1/2", "<answer>\\frac{2}{4}</answer>", 1.0),
        (0.5, "<answer>.5</answer>", 1.0),
        ("#### 1,234", "<answer>1234</answer>", 1.0),
        ("42", "<answer>43</answer>", 0.0),
        ("42", "<think><answer>42</answer></think>", 0.0),
        ("42", "no answer", 0.0),
        ("42", "<answer>42 million</answer>", 0.0),
        ("42", "<answer>forty-two</answer>", None),
        ("x^2", "<answer>x^2</answer>", None),
        (None, "<answer>1</answer>", None),
        (True, "<answer>1</answer>", None),
    ],
)
def test_the_second_number_verifier_judges_plain_numbers_only(gold, completion, said):
    """1 or 0 where both are plain numbers, or where there is no answer at all; else None."""
    assert second.number([completion], [gold]) == [said]


@given(st.text(max_size=300))
@settings(max_examples=200, deadline=None)
def test_the_second_verifiers_raise_on_no_text(text):
    """Whatever a model writes."""
    for completion in (text, f"<answer>{text}</answer>"):
        assert second.number([completion], ["42"])[0] in (None, 0.0, 1.0)
        assert second.countdown([completion], [GIVEN], [GOAL])[0] in (0.0, 1.0)


def test_the_second_verifiers_share_no_code_with_the_first():
    """No import from this project, of computer algebra or of the first verifier's parser."""
    tree = ast.parse(inspect.getsource(second))
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    assert imported == {"__future__", "ast", "decimal", "fractions", "re", "typing", "unicodedata"}
