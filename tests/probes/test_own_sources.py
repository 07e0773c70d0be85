"""Our own reward sources cannot be fooled by any family, and none of them hangs."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from grpo_audit.config.checks import ProbeConfig
from grpo_audit.config.sections import RewardConfig
from grpo_audit.rewards.probes import PlainRow, probe_source
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


# --- real data --------------------------------------------------------------------------------------------------------
SHARED = os.environ.get("GRPO_AUDIT_SHARED_DATA")
"""Folder with the evaluation data that tests may read and never copy."""
needs_data = pytest.mark.skipif(not SHARED, reason="GRPO_AUDIT_SHARED_DATA does not name the evaluation data")


def _real(name):
    return (Path(SHARED) / name).read_text(encoding="utf-8")


@needs_data
@pytest.mark.parametrize("source", ["grpo_audit.rewards.maths:score", "grpo_audit.rewards.second:number"])
def test_no_false_alarm_on_real_problems(source):
    """GSM8K with its worked solutions as the reference: found behind ####, and no family is fooled or cries wolf."""
    rows = [
        PlainRow(str(number), row["question"], {"answer": row["answer"]})
        for number, row in enumerate(map(json.loads, _real("gsm8k/test.jsonl").splitlines()))
    ]
    result = probe_source(
        RewardConfig(name="real", source=source), Path.cwd(), rows, probes=ProbeConfig(rows=40), seed=3
    )
    assert result.payload.gold == "column answer, behind ####"
    sound(result)


@needs_data
def test_no_false_alarm_on_real_puzzles():
    """Published Temporal Clue puzzles."""
    name = sorted(path.name for path in (Path(SHARED) / "temporal_clue").glob("*.json"))[0]
    rows = [
        PlainRow(str(number), row["prompt"], {"solution": row["solution"]})
        for number, row in enumerate(json.loads(_real(f"temporal_clue/{name}")))
    ]
    config = RewardConfig(name="real", source="grpo_audit.rewards.temporal_clue:score")
    sound(probe_source(config, Path.cwd(), rows, probes=ProbeConfig(rows=20)))
