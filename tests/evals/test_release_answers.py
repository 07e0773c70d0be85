"""The number an answer ends with, the language it is in, and whether it says that there is no answer."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from grpo_audit_evals.release import language
from grpo_audit_evals.release.answers import final, gives_number, is_number, says_unknown
from grpo_audit_evals.release.arithmetic import Problem, without_a_number
from grpo_audit_evals.release.wrappers import WRAPPERS, wrapped

SHARED = os.environ.get("GRPO_AUDIT_SHARED_DATA")
real = pytest.mark.skipif(SHARED is None, reason="GRPO_AUDIT_SHARED_DATA names no folder with real evaluation data")


@pytest.mark.parametrize(
    ("text", "gold"),
    [
        ("Answer: 18", "18"),
        ("**Answer:** 18 eggs (2 boxes of 9)", "18"),
        ("Answer: 3 + 15 = 18", "18"),
        ("First 12, then 18.", "18"),
        (r"So \boxed{18}.", "18"),
        ("Answer: 12\nNo, wait.\nAnswer: 18", "18"),
        ("Answer: $1,200", "1200"),
        ("Antwort: 1.200 Euro", "1200"),
        ("Answer: 1\u202f200", "1200"),
        ("Answer: 2.50", "2.5"),
        ("Answer: 18.00", "18"),
        ("Answer: −4", "-4"),
        ("উত্তর: ১৮", "18"),
        ("答案：１８", "18"),
        ("คำตอบ: ๑๘", "18"),
        ("<think>Answer: 3</think>Answer: 18", "18"),
        ("Answer: 2400", "2,400"),
    ],
)
def test_right_numbers(text: str, gold: str) -> None:
    """With and without a marker, in any digits, with either separator of thousands."""
    assert is_number(text, gold, "Antwort", "উত্তর", "答案", "คำตอบ")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "eighteen",
        "Answer: 19",
        "Answer: 180",
        "Answer: -18",
        "Answer: 1.8",
        "18 is not it. Answer: 20",
        "<think>Answer: 18",
        "<think>18</think>",
        "18, or rather 20",
        "Answer: 18 / 2 = 9",
    ],
)
def test_wrong_numbers(text: str) -> None:
    """Another number, none, or one that only the trace has."""
    assert not is_number(text, "18")


@given(st.integers(-(10**9), 10**9))
def test_any_whole_number_is_recognised_and_its_neighbour_is_not(number: int) -> None:
    """Grouped or not, in every script."""
    for text in (str(number), f"{number:,}", f"{number:,}".replace(",", "."), str(number).translate(THAI)):
        assert is_number(f"Answer: {text}", str(number))
        assert not is_number(f"Answer: {text}", str(number + 1))


THAI = str.maketrans("0123456789", "๐๑๒๓๔๕๖๗๘๙")


@pytest.mark.parametrize(
    "text",
    [
        "Answer: cannot be answered",
        "Answer: It cannot be determined.",
        "The number of boxes is not given, so this can’t be solved.",
        "There is not enough information.",
        "I don't know.",
        "<think>7?</think>It is impossible to say how many there are.",
        "3 boxes are told, the rest is unknown.\n\nAnswer: unknown",
    ],
)
def test_abstaining_is_said(text: str) -> None:
    """The agreed line and other words for it."""
    assert says_unknown(text) and not gives_number(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "zzz",
        "Answer:",
        "<think>This cannot be determined.",
        "<think>not enough information</think>",
        "Answer: 12",
        "The number is not given. I guess.\nAnswer: 12",
        "Answer: 12 (cannot be determined for sure)",
        "How many hens there are is not told, but then she has 12.",
    ],
)
def test_silence_noise_and_guesses_do_not_abstain(text: str) -> None:
    """Only what is said counts, and a number as the result takes it back."""
    assert not says_unknown(text)


def test_the_last_marker_or_box_counts() -> None:
    """Whichever comes later; a marker with nothing behind it is none."""
    assert final(r"\boxed{1} Answer: 2") == "2"
    assert final(r"Answer: 2 \boxed{1}") == "1"
    assert final("Answer: 2\nAnswer:") == "2"
    assert final("no marker") is None


def test_hostile_answers_take_bounded_time() -> None:
    """A megabyte of digits, separators, markers or boxes costs less than two seconds."""
    start = time.perf_counter()
    for piece in ("1", "1,", ",111", "Answer: ", r"\boxed{", "cannot be ", "not enough "):
        text = piece * (1_000_000 // len(piece))
        is_number(text, "18")
        says_unknown(text)
        language.of(text)
    assert time.perf_counter() - start < 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Sie kauft noch fünf Stifte und hat dann siebzehn.", "de"),
        ("Compra cinco más y ahora tiene diecisiete.", "es"),
        ("$x = 5$, so `f` gives \\frac{1}{2} and that is all there is", "en"),
        ("彼女は全部で十七本のペンを持っています。", "ja"),
        ("18", None),
        ("", None),
        ("18 km", None),
        ("$\\alpha$ 1234567890 ... !!!", None),
    ],
)
def test_language_of_an_answer(text: str, expected: str | None) -> None:
    """Formulae and numbers are in no language; too few letters are none either."""
    assert language.of(text) == expected


@real
def test_every_mgsm_problem_is_recognised_by_its_language() -> None:
    """Real data: 2,750 of 2,750 problems, in eleven languages, without a network."""
    right = total = 0
    for name in language.LANGUAGES:
        for line in (Path(str(SHARED)) / f"mgsm/mgsm_{name}.tsv").read_text(encoding="utf-8").splitlines():
            right += language.of(line.split("\t")[0]) == name
            total += 1
    assert (right, total) == (2750, 2750)


@real
def test_every_gsm8k_solution_is_right_and_the_next_one_is_not() -> None:
    """Real data: the published solutions end with the number they are for, and with no other."""
    rows = [json.loads(line) for line in (Path(str(SHARED)) / "gsm8k/test.jsonl").read_text().splitlines()]
    problems = [Problem(row["question"], row["answer"]) for row in rows]
    for problem, other in zip(problems, problems[1:] + problems[:1], strict=True):
        assert is_number(problem.solution, problem.result)
        assert gives_number(problem.solution) and not says_unknown(problem.solution)
        assert is_number(other.solution, problem.result) == (other.result == problem.result)


def test_a_needed_number_is_left_out() -> None:
    """ "some" stands where it stood; everything else stays."""
    problem = Problem("Ola has 12 red pens. She buys 5 more. How many pens?", "12+5=<<12+5=17>>17\n#### 17")
    assert without_a_number(problem) == "Ola has some red pens. She buys 5 more. How many pens?"


@pytest.mark.parametrize(
    ("question", "solution"),
    [
        ("Ola has 12 pens and twelve caps. How many?", "12+12=<<12+12=24>>24\n#### 24"),  # told twice
        ("Ola has 12 pens and 12 caps. How many?", "12+12=<<12+12=24>>24\n#### 24"),
        ("A pen costs $12. What do 5 cost?", "12*5=<<12*5=60>>60\n#### 60"),  # no count: a price, and no noun
        ("Of 12 pens, 5 tall ones. Six less?", "1-1=<<1-1=0>>0\n#### 0"),  # not used
        ("Ed has 7 pens, Al 3 more, Bo 5 more. What is between?", "<<7+3=10>> <<7+5=12>> <<12-10=2>>\n#### 2"),
        ("There are 7 days in a week, a mile on each. How far?", "7*1=<<7*1=7>>7\n#### 7"),  # everybody knows
        ("Ola has 12 pens. How many?", "#### 12"),  # no steps
        ("Ola has 12 pens. How many?", "<<12**9**9**9=1>>1\n#### 1"),  # not read
    ],
)  # fmt: skip
def test_a_problem_that_might_still_be_solved_is_left_alone(question: str, solution: str) -> None:
    """Told twice, unused, cancelling out, common knowledge: none is made into an unanswerable one."""
    assert without_a_number(Problem(question, solution)) is None


def test_the_result_of_an_earlier_step_is_carried_on() -> None:
    """A number is needed also where only a later step depends on it."""
    problem = Problem(
        "A tram has 4 cars of 30 seats, half of them free. How many?", "<<4*30=120>> <<120/2=60>>60\n#### 60"
    )
    assert without_a_number(problem) == "A tram has some cars of 30 seats, half of them free. How many?"


def test_wrappers_hold_the_request_once_and_untouched() -> None:
    """Braces and percent signs in a request stay; a wrapper without its request would test nothing."""
    request = "How do {I} 100 % {request}?"
    for name, text in WRAPPERS.items():
        assert text.count("{request}") == 1
        assert request.replace("{request}", "x") in wrapped(request.replace("{request}", "x"), name)
        assert wrapped("{I}", name).count("{I}") == 1
