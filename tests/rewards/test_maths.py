"""Mathematical equality: what is equal is right however it is written, and the known holes of graders are closed."""

from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given, settings, strategies as st
from rewards.attacks import HOSTILE

from grpo_audit.config.sections import RewardConfig
from grpo_audit.rewards.maths import MAX_LENGTH, refused, score
from grpo_audit.rewards.runner import RewardRunner

EQUAL = [
    ("4", "4"),
    ("1/2", "0.5"),
    ("\\frac{1}{2}", "1/2"),
    ("4", "x=4"),
    ("1000", "1,000"),
    ("1000", "1\\,000"),
    ("5", "5 \\text{ apples}"),
    ("5", "5 apples"),
    ("10", "10 dollars"),
    ("10", "\\$10"),
    ("10", "$10"),
    ("10", "$10$"),
    ("(1,2)", "(1, 2)"),
    ("[1,2)", "\\left[1,2\\right)"),
    ("\\{1,2\\}", "\\{2,1\\}"),
    ("\\{1,2\\}", "2,1"),
    ("x^2+2x+1", "(x+1)^2"),
    ("2^{2024}", "2^{2024}"),
    ("2^{10}", "1024"),
    ("12", "\u0661\u0662"),
    ("12", "\uff11\uff12"),
    ("-3", "\u22123"),
    ("\\sqrt{2}", "\u221a2"),
    ("\\pi", "\u03c0"),
    ("\\frac{\\pi}{2}", "\\pi/2"),
    ("5!", "120"),
    ("e^{x^2}", "e^{x^2}"),
    (72, "72"),
    (0.5, "\\frac12"),
    ("#### 72", "72"),
    ("x>3", "x>3"),
    ("4.5", "4\\frac{1}{2}"),
    ("90^\\circ", "90"),
    ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\begin{pmatrix}1\\\\2\\end{pmatrix}"),
    ("\\text{Evelyn}", "\\text{Evelyn}"),
    ("2^{2^{10}}", "2^{2^{10}}"),
    ("10^{6}", "1000000"),
    ("(-\\infty,3]", "(-\u221e,3]"),
    ("50", "50\\%"),
    ("3x^{-2}", "\\frac{3}{x^2}"),
    ("e^{-x}", "1/e^x"),
    ("2\\sqrt{3}", "\\sqrt{12}"),
    ("16^{1/4}", "2"),
    ("$5$", "$5$"),
    ("5 \\text{ m}", "5 m"),
]
"""Reference and answer."""

NOT_EQUAL = [
    ("1", "1,2,3"),
    ("9", "4 5"),
    ("9", "4\\quad 5"),
    ("12", "\\text{1 2}"),
    ("4", "4 or 5"),
    ("4", "4\\lor5"),
    ("4", "5 or 4"),
    ("4", "4; 5"),
    ("52", "5\xb2"),
    ("(1,2)", "\\{1,2\\}"),
    ("(1,2)", "(2,1)"),
    ("(1,2)", "[1,2]"),
    ("5 \\text{ m}", "5 \\text{ cm}"),
    ("4", ""),
    ("4", " "),
    ("4", "\x00"),
    ("4", "\ud800"),
    ("4", "x"),
    ("listen", "silent"),
    ("4", "99**99**99"),
    ("4", "99^{99^{99}}"),
    ("4", "((9^9)^9)^9"),
    ("4", "(((((9^{99})^{99})^{99})^{99})^{99})^{99}"),
    ("4", "9^{9!}"),
    ("4", "99999!"),
    ("4", "(5!)!"),
    ("4", "5!!!!!!"),
    ("4", "1e999999999"),
    ("4", "10^{-999999999}"),
    ("4", "10^{10^{10}}"),
    ("4", "9^9^9^9"),
    ("4", "2^{9999\\cdot9999\\cdot 9999}"),
    ("4", "(a+b+c+d+e)^{99}"),
    ("4", "\\sum_{i=1}^{10^9} i"),
    ("4", "\\sqrt{\\sqrt{\\sqrt{\\sqrt{\\sqrt{\\sqrt{\\sqrt{\\sqrt{\\sqrt{\\sqrt{2}}}}}}}}}}"),
    ("4", "((((((((((((x+1)))))))))))"),
    ("4", "{4}{5}"),
    ("20", "{4}{5}"),
    ("4", "4=4=4=5"),
    ("4", "4,5"),
    ("4", "\\pm4"),
    ("4", "4\\\\"),
    ("4", "4&5"),
    ("4", "~4~5"),
    ("4", "4\\boxed{5}"),
    ("4", "\\{3,4\\}"),
    ("4", "\\sin^{99999}(99999^{99999})"),
    ("4", "9^{9^9}"),
    ("4", "9^{(9^9)}"),
    ("4", "9**(9**9)"),
    ("4", "9^{x^9}"),
    ("4", "9^{9}^{9}"),
    ("4", "e^{9^{9^{9}}}"),
    ("4", "e^{e^{e^{e^{e^{9}}}}}"),
    ("4", "\\log(9^{9999})"),
    ("4", "9^{99}9^{99}"),
    ("4", "9^{\\frac{99999999}{1}}"),
    ("4", "\\left(9^{999}\\right)^{999}"),
    ("4", "\\exp(\\exp(\\exp(\\exp(99))))"),
    ("4", "\\Gamma(999999)"),
    ("4", "\\cosh{9999999}"),
    ("x=4", "y=4"),
    ("4", "4_{5}"),
    ("45", "4_5"),
    ("45", "4{,}5"),
    ("14", "1\\%4"),
    ("(x+1)^{10}", "(x+1)^{10}+1"),
    ("4", "9^{\\sqrt{9^{\\sqrt{9^{99}}}}}"),
    ("4", "99999999999999999999999999999999999999999999999999999999999^{20000}"),
    *(("4", text) for text in ("(" * 200, "{" * 3000, "\\frac{" * 300, "4" * 5000, "9" * 299, "x" * 250)),
    ("4", "\\sqrt{" * 10 + "2" + "}" * 10),
    ("4", "\\frac{1}{" * 10 + "x" + "}" * 10),
    ("4", "+".join("x" * 120)),
    ("4", "9" * 59 + "^{20000}"),
]
"""Several answers, other brackets and units, values that explode."""


def one(gold, answer):
    """The reward of one answer in a block."""
    return score([f"<answer>{answer}</answer>"], [gold])[0]


@pytest.mark.parametrize(("gold", "answer"), EQUAL)
def test_equal_answers_are_right(gold, answer):
    """Notation, order of a set, scripts of digits and units left out make no difference."""
    assert one(gold, answer) == 1.0


@pytest.mark.parametrize(("gold", "answer"), NOT_EQUAL)
def test_other_answers_are_wrong_and_take_no_time(gold, answer):
    """Also where a computer algebra system would calculate for ever."""
    begin = time.monotonic()
    assert one(gold, answer) == 0.0
    assert time.monotonic() - begin < 5


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_completions_earn_nothing(text):
    """No exception, no hang."""
    begin = time.monotonic()
    assert score([text], ["4"]) == [0.0]
    assert time.monotonic() - begin < 2


@given(st.integers(-(10**9), 10**9), st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_a_number_equals_itself_and_not_its_neighbour(number, step):
    """Whole numbers in four notations; a value that differs is wrong in each."""
    for text in (str(number), f"{number:,}", f"{number}.0", f"\\frac{{{2 * number}}}{{2}}"):
        assert one(number, text) == 1.0
        assert one(number + step, text) == 0.0


@given(st.lists(st.integers(0, 99), min_size=2, max_size=4, unique=True), st.sampled_from([" or ", ";", " ", "\\lor "]))
@settings(max_examples=60, deadline=None)
def test_several_numbers_are_not_one_of_them(numbers, between):
    """Neither the first nor the last, nor their sum."""
    text = between.join(map(str, numbers))
    for gold in (*numbers, sum(numbers)):
        assert one(gold, text) == 0.0


@given(st.text(alphabet="0123456789^*!(){}\\+-/x eE.,_", max_size=60))
@settings(max_examples=250, deadline=10_000)
def test_no_short_string_of_mathematics_hangs_or_raises(text):
    """Fuzz over the characters that make numbers explode; the reference is one they cannot spell."""
    assert one("\\pi+\\sqrt{7919}", text) == 0.0


def test_only_the_last_answer_counts():
    """Several boxes, or several blocks."""
    assert score([r"\boxed{3} \boxed{4}", r"\boxed{4} \boxed{3}"], [4, 4]) == [1.0, 0.0]
    assert score(["the answer is 4"], [4]) == [0.0]


@pytest.mark.parametrize("gold", ["", "$$", "{{{", True, ["4"], "9" * (MAX_LENGTH + 1)])
def test_a_reference_that_cannot_be_read_is_an_error(gold):
    """Never a 0 for the completion: the fault is in the data."""
    assert isinstance(one(gold, "4"), ValueError)


def test_no_reference_no_reward():
    """None means that the source does not apply."""
    assert one(None, "4") is None


def test_it_works_in_a_thread():
    """math-verify's own timers would raise here."""
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(one("1/2", "0.5")))
    thread.start()
    thread.join()
    assert found == [1.0]


def test_what_is_refused_says_why():
    """So that a user can see what a 0 came from."""
    assert refused("99**99**99") == "a tower of powers"
    assert refused("4 or 5") == "several answers"
    assert refused("2^{10}") is None


def test_in_its_process_a_batch_is_scored(tmp_path):
    """The real path: own process, libraries named in the record."""
    source = RewardConfig(name="maths", source="grpo_audit.rewards.maths:score", time_limit_s=30)
    with RewardRunner([source], tmp_path) as runner:
        runner.check_columns(["answer"])
        rows = runner.score(
            ["p"] * 3, [r"\boxed{0.5}", "<answer>99**99**99</answer>", "x"], {"answer": ["1/2", 1, "$$"]}
        )
        identity = runner.identities()[0]
    assert [row.total for row in rows] == [1.0, 0.0, None]
    assert "cannot be read as mathematics" in rows[2].errors["maths"]
    assert identity.kind == "verifier"
    assert set(identity.facts) == {"math-verify", "sympy"}
