"""How a right completion is found, and what is said when none is."""

from __future__ import annotations

import textwrap

import pytest

from grpo_audit.config.checks import ProbeConfig
from grpo_audit.config.sections import RewardConfig
from grpo_audit.errors import RewardError
from grpo_audit.rewards.probes import PlainRow, probe_source
from grpo_audit.rewards.probes.probe import Kind
from grpo_audit.rewards.probes.tally import bounds

HEAD = """\
import re
def tag(text):
    found = re.findall(r"<answer>([^<]*)</answer>", text.rpartition("</think>")[2])
    return found[-1].strip() if found else None
"""


@pytest.fixture
def probe(tmp_path):
    """Probe a function ``f`` written here, on rows of one column."""

    def probe(code, values=("42", "7", "1250"), column="answer", kind=None, prompt="How many?", **more):
        (tmp_path / "own.py").write_text(HEAD + textwrap.dedent(code), encoding="utf-8")
        rows = [PlainRow(f"r{n}", prompt, {column: value}) for n, value in enumerate(values)]
        return probe_source(
            RewardConfig(name="f", source="own.py:f", kind=kind, time_limit_s=5), tmp_path, rows, **more
        )

    return probe


def families(result):
    """By name."""
    return {family.family: family for family in result.payload.families}


@pytest.mark.parametrize(
    ("value", "column", "gold"),
    [
        ("42", "answer", "column answer"),
        ("Six times seven is 42.\n#### 42", "solution", "column solution, behind ####"),
        ("so it is \\boxed{42}", "gold", "column gold, in its box"),
        (42, "wanted", "column wanted"),
        (["42", "forty-two"], "answers", "column answers"),
    ],
)
def test_the_reference_is_read_as_data_sets_write_it(probe, value, column, gold):
    """Plain, at the end of a worked solution, in a box, as a number, or as several right answers."""
    code = f"def f(completions, {column}):\n    return [float(tag(text) == '42') for text in completions]\n"
    result = probe(code, values=(value, value), column=column)
    assert result.payload.gold == gold
    assert result.payload.formats[0] == "tag"
    assert families(result)["gold"].false_negatives == 0


def test_a_source_that_wants_a_reasoning_block_is_given_one(probe):
    """The forms with a trace are tried when none without is rewarded."""
    code = """
    def f(completions, answer):
        return [float("</think>" in text and tag(text) == gold) for text, gold in zip(completions, answer)]
    """
    assert probe(code).payload.formats[0] == "think-tag"


def test_without_a_right_completion_nothing_passes_in_silence(probe):
    """Only what must never be rewarded is tried, and the result says why."""
    result = probe("def f(completions, answer):\n    return [0.0 for _ in completions]\n")
    assert result.payload.gold == ""
    assert "rewards none of what was tried" in result.payload.skipped["right completions"]
    assert "no right completion is known" in result.payload.skipped["two-answers"]
    assert all(family.positives == 0 for family in result.payload.families)
    assert families(result)["refusal"].negatives > 0


def test_a_rule_is_not_asked_to_know_the_answer(probe):
    """A function that takes any column and looks at none judges the form, declared or not."""
    code = """
    def f(completions, **columns):
        return [float(re.fullmatch(r"<answer>[^<]+</answer>", text) is not None) for text in completions]
    """
    for kind in (None, "rule"):
        result = probe(code, kind=kind)
        assert result.payload.kinds == {Kind.FORM: 3}
        assert not any(family.false_positives for family in result.payload.families), result.examples.decode()


def test_a_declared_verifier_has_to_know_the_answer(probe):
    """The same function, called a verifier, is found to reward wrong answers."""
    code = """
    def f(completions, **columns):
        return [float(tag(text) is not None) for text in completions]
    """
    assert families(probe(code, kind="verifier"))["wrong-answer"].false_positives > 0


def test_a_verifier_behind_kwargs_is_recognised(probe):
    """What it is given decides: it tells a wrong answer from the right one."""
    code = """
    def f(completions, **columns):
        return [float(tag(text) == gold) for text, gold in zip(completions, columns["answer"])]
    """
    assert probe(code).payload.gold == "column answer"


def test_examples_of_a_module_go_before_columns(probe):
    """What it says is right is tried; what it says is wrong must not be rewarded."""
    code = """
    def f(completions, answer):
        return [float("sesame" in text) for text in completions]
    def examples(answer):
        return [{"kind": "text", "right": ["open sesame"], "wrong": ["sesame seeds"]} for _ in answer]
    EXAMPLES = {"f": examples}
    """
    result = probe(code)
    assert result.payload.gold == "examples of the module"
    assert families(result)["wrong-answer"].false_positives > 0


@pytest.mark.parametrize(
    "examples",
    ["[1]", "[{'kind': 'poem', 'right': ['x']}]", "[{'kind': 'text', 'right': []}]", "[]", "1 / 0", "[object()]"],
)
def test_examples_that_cannot_be_used_are_an_error(probe, examples):
    """Of another kind or shape, too few, none, raised."""
    code = "def f(completions, answer):\n    return [1.0] * len(completions)\n"
    code += f"EXAMPLES = {{'f': lambda answer: {examples}}}\n"
    with pytest.raises(RewardError, match="EXAMPLES"):
        probe(code, values=("42",))


def test_rows_a_source_does_not_apply_to_are_left_out(probe):
    """None is no judgement; with nothing left there is no result, and it says so."""
    code = """
    def f(completions, answer):
        return [None if gold is None else float(tag(text) == gold) for text, gold in zip(completions, answer)]
    """
    assert probe(code, values=("42", None, "7")).payload.rows == 2
    assert probe(code, values=(None, None)).payload.not_probed


def test_a_named_column_that_is_missing_is_an_error(probe):
    """``gold`` chooses the column."""
    with pytest.raises(RewardError, match="no column 'truth'"):
        probe("def f(completions, answer):\n    return [1.0] * len(completions)\n", gold="truth")


def test_partial_credit_counts_from_the_threshold_on(probe, tmp_path):
    """A grade below the threshold is no reward."""
    code = """
    def f(completions, answer):
        return [1.0 if tag(text) == gold else 0.4 for text, gold in zip(completions, answer)]
    """
    assert not any(f.false_positives for f in probe(code).payload.families)
    low = probe(code, probes=ProbeConfig(threshold=0.3))
    assert families(low)["empty"].false_positives == 3


def test_the_same_rows_and_seed_make_the_same_probes(probe):
    """All counts agree; only the times differ."""
    code = "def f(completions, answer):\n    return [float(gold in text) for text, gold in zip(completions, answer)]\n"
    values = [str(number) for number in range(40, 80)]
    first, second, other = (probe(code, values=values, seed=seed) for seed in (1, 1, 2))
    assert first.payload.families == second.payload.families
    assert first.examples == second.examples
    assert first.examples != other.examples


@pytest.mark.parametrize(
    "values", [("a" * 5000,), ("\ud83d\ude00",), ("<answer>",), ("\x00",), ("{}",), ("",), (True,)]
)
def test_odd_references_make_no_false_alarm(probe, values):
    """Long, emoji, tags, NUL, JSON, empty, a truth value: an exact verifier is not accused."""
    code = """
    def f(completions, answer):
        return [float(text == f"[[{gold}]]" or text == str(gold) != "") for text, gold in zip(completions, answer)]
    """
    result = probe(code, values=values * 2)
    assert not any(family.false_positives for family in result.payload.families), result.examples.decode()


def test_hostile_prompts_and_source_output_do_no_harm(probe):
    """Terminal escapes, megabytes and a verifier that prints them."""
    code = """
    def f(completions, answer):
        print("\\x1b[31m" * 10)
        return [float(tag(text) == gold) for text, gold in zip(completions, answer)]
    """
    result = probe(code, prompt="\x1b]0;evil\x07" + "x" * 200_000)
    assert families(result)["gold"].false_negatives == 0
    assert len(result.examples) < 1_000_000


def test_bounds_are_those_of_clopper_and_pearson():
    """0 of 200 still allows 1.83 %; nothing observed, nothing said."""
    assert bounds(0, 200) == (0.0, pytest.approx(0.0183, abs=5e-5))
    assert bounds(200, 200)[1] == 1.0
    assert bounds(0, 0) == (None, None)
