"""Deliberately broken verifiers: each is found, by the family that is made for its fault."""

from __future__ import annotations

import pytest

BROKEN = {
    "substring": ("numbers", {"shotgun-list", "afterthought", "denied", "right-in-trace", "prefix"}),
    "last_number": ("numbers", {"afterthought", "calculation", "denied"}),
    "first_box": ("numbers", {"two-answers"}),
    "any_box": ("numbers", {"two-answers", "tags-spammed"}),
    "first_tag": ("numbers", {"two-answers"}),
    "accepts_empty": ("numbers", {"empty", "blank"}),
    "right_format": ("numbers", {"other-item", "wrong-answer", "refusal", "answer-absent"}),
    "reads_the_trace": ("numbers", {"right-in-trace"}),
    "tolerant": ("numbers", {"float-edge"}),
    "prefix_match": ("numbers", {"prefix"}),
    "digits_only": ("numbers", {"glued-digits", "sign"}),
    "without_commas": ("numbers", {"glued-digits", "thousands"}),
    "without_sign": ("numbers", {"sign"}),
    "believes": ("numbers", {"injection"}),
    "percent": ("numbers", {"percent"}),
    "unit_blind": ("numbers", {"units"}),
    "letters_any_case": ("letters", {"letter-in-prose"}),
    "fuzzy_text": ("texts", {"words-cut", "empty"}),
    "countdown_by_eval": ("countdown", {"wrong-answer"}),
    "form_anywhere": ("numbers", {"tags-spammed", "tags-duplicated", "tags-nested"}),
    "short": ("numbers", {"empty"}),
}
"""Function of ``broken/verifiers.py``: rows, and families that must find it."""
HANGING = {
    "evaluated": ("numbers", {"bomb-exponent"}),
    "countdown_by_eval": ("countdown", {"bomb-exponent"}),
    "backtracks": ("numbers", {"bomb-pattern"}),
}


def found(result):
    """Families with a false positive."""
    return {family.family for family in result.payload.families if family.false_positives}


@pytest.mark.parametrize("function", BROKEN)
def test_a_broken_verifier_is_found_by_the_right_family(probed, function):
    """The families named are among those that find it."""
    rows, families = BROKEN[function]
    assert families <= found(probed(function, rows, limit=2.0))


@pytest.mark.parametrize(
    ("function", "families"),
    [
        ("believes", {"injection"}),
        ("accepts_empty", {"empty", "blank"}),
        ("without_sign", {"sign"}),
        ("first_box", {"two-answers", "right-in-trace"}),
        ("backtracks", set()),
        ("unicode_raises", set()),
        ("with_alarm", set()),
        ("recursive", set()),
    ],
)
def test_no_other_family_cries_wolf(probed, function, families):
    """A verifier with one narrow fault is accused of nothing else."""
    assert found(probed(function, "numbers", limit=1.0)) == families


@pytest.mark.parametrize("function", HANGING)
def test_a_verifier_that_hangs_is_stopped_and_named(probed, function):
    """The time limit of the source ends it, and the probes go on."""
    rows, families = HANGING[function]
    result = probed(function, rows, limit=1.0)
    hung = {family.family for family in result.payload.families if family.hangs}
    assert families <= hung
    assert result.payload.families[-1].family == "threads"


@pytest.mark.parametrize("function", ["by_chance", "by_hash"])
def test_a_verifier_that_judges_by_chance_is_unstable(probed, function):
    """Another process, the reverse order: another judgement."""
    families = {family.family: family for family in probed(function, "numbers").payload.families}
    assert families["determinism"].unstable > 0


def test_a_time_limit_by_signal_fails_in_threads(probed):
    """signal.alarm works in the main thread only."""
    families = {family.family: family for family in probed("with_alarm", "numbers").payload.families}
    assert families["threads"].failures == families["threads"].open
    assert families["threads"].failures > 0
    assert families["determinism"].failures == 0


def test_shared_state_shows_in_threads(probed):
    """What one thread works on, another one overwrites."""
    families = {family.family: family for family in probed("with_a_global", "numbers").payload.families}
    assert families["threads"].unstable > 0
    assert families["determinism"].unstable == 0


def test_an_error_on_unicode_digits_is_an_error_of_that_family(probed):
    """NaN and ValueError are failures, neither rewards nor missed answers."""
    families = {family.family: family for family in probed("unicode_raises", "numbers").payload.families}
    assert families["unicode-digits"].failures > 10
    assert families["gold"].failures == 0


def test_depth_that_takes_a_parser_down_is_an_error(probed):
    """RecursionError on nested brackets."""
    families = {family.family: family for family in probed("recursive", "numbers").payload.families}
    assert families["bomb-nesting"].failures >= 1


def test_strict_equality_misses_and_is_not_fooled(probed):
    """False negatives are counted apart from false positives."""
    result = probed("strict_equality", "numbers")
    families = {family.family: family for family in result.payload.families}
    assert found(result) == set()
    assert families["outer-blanks"].false_negatives == families["outer-blanks"].positives > 0
