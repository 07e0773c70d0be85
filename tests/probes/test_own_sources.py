"""Our own reward sources cannot be fooled by any family, and none of them hangs."""

from __future__ import annotations

import pytest

from grpo_audit.rewards.sandbox import Limits, SandboxError, describe

OWN = [
    ("grpo_audit.rewards.maths:score", ("numbers", "expressions"), {}),
    ("grpo_audit.rewards.maths:score", ("numbers",), {"answer_in": "whole"}),
    ("grpo_audit.rewards.exact:score", ("numbers", "letters", "texts"), {}),
    ("grpo_audit.rewards.exact:score", ("letters", "texts"), {"answer_in": "whole"}),
    ("grpo_audit.rewards.countdown:accuracy", ("countdown",), {}),
    ("grpo_audit.rewards.countdown:format", ("countdown",), {}),
    ("grpo_audit.rewards.pattern:tags", ("texts",), {}),
    ("grpo_audit.rewards.pattern:tags", ("texts",), {"names": ("plan", "result")}),
    ("grpo_audit.rewards.pattern:match", ("texts",), {"pattern": r"<answer>\d+</answer>\s*"}),
    ("grpo_audit.rewards.json_schema:score", ("schemas",), {"json_in": "whole"}),
    ("grpo_audit.rewards.json_schema:score", ("schemas",), {"json_in": "fence"}),
    ("grpo_audit.rewards.json_schema:score", ("schemas",), {"json_in": "tag"}),
    ("grpo_audit.rewards.temporal_clue:score", ("puzzles",), {}),
    ("grpo_audit.rewards.second:countdown", ("countdown",), {}),
    ("grpo_audit.rewards.second:number", ("numbers",), {}),
]


def sound(result):
    """Nothing rewarded that must not be, no hang, no error, judged alike; and it was really tried."""
    payload = result.payload
    for family in payload.families:
        faults = (family.false_positives, family.hangs, family.failures, family.unstable)
        assert faults == (0, 0, 0, 0), (family, result.examples.decode())
    assert sum(family.negatives for family in payload.families) > 50
    assert payload.gold
    by_name = {family.family: family for family in payload.families}
    assert by_name["gold"].positives == payload.rows
    assert by_name["gold"].false_negatives == 0
    assert by_name["determinism"].open
    assert by_name["threads"].open
    return by_name


@pytest.mark.parametrize(("source", "sets", "options"), OWN)
def test_our_sources_cannot_be_fooled(probed, source, sets, options):
    """Every family, on rows whose right answer the source knows."""
    sound(probed(source, *sets, **options))


def test_code_cannot_be_fooled(probed):
    """The same for programs, in the strictest sandbox this machine has; two rows, since each probe runs a program."""
    try:
        describe(Limits(isolation="strict"))
        isolation = "strict"
    except (SandboxError, OSError):
        isolation = "limits"
    families = sound(
        probed("grpo_audit.rewards.code:score", "tests", rows=3, isolation=isolation, seconds=1.0, parallel=2)
    )
    assert families["wrong-answer"].negatives >= 4
    assert families["bomb-exponent"].negatives == 2


def test_what_is_right_in_another_notation_is_not_missed(probed):
    """``maths`` reads every notation that the families hold to be the same number."""
    families = sound(probed("grpo_audit.rewards.maths:score", "numbers", "expressions"))
    missed = {name: family.false_negatives for name, family in families.items() if family.false_negatives}
    assert missed == {}
    assert {"unicode-digits", "thousands", "odd-blanks", "latex"} <= {n for n, f in families.items() if f.positives}
