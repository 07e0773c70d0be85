"""Release gates: what holds, what fails, and what is refused before step 0."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st
from pydantic import ValidationError
from true_record import RUN, build_true_record

from grpo_audit.config.checks import GateConfig
from grpo_audit.config.run import RunConfig
from grpo_audit.errors import ConfigError
from grpo_audit.ledger.project import Project
from grpo_audit.record.audits import ControlOutcome, Decontamination, ProbeFamily, RewardProbed, RewardRegraded
from grpo_audit.record.events import RunRegistered
from grpo_audit.stats.evidence import read_figures
from grpo_audit.stats.figures import Figure, figures, promised
from grpo_audit.stats.gates import _may_match, check_gates, refuse_unknown

DIGEST = "sha256:" + "0" * 64


def gate(figure: str, **condition: Any) -> GateConfig:
    """A gate of this figure."""
    return GateConfig(name=figure, figure=figure, **condition)


FOUND = {
    "eval.a.post": Figure(0.5, (7,)),
    "eval.a.verdict": Figure("improved", (9,)),
    "safety.b.verdict": Figure("regressed", (9,)),
    "safety.c.verdict": Figure("no discordant pairs", (9,)),
}


@pytest.mark.parametrize(
    ("held", "passes"),
    [
        (gate("eval.a.post", at_least=0.5), True),
        (gate("eval.a.post", at_least=0.51), False),
        (gate("eval.a.post", at_most=0.5), True),
        (gate("eval.a.post", at_most=0.49), False),
        (gate("eval.a.post", at_least=0.4, at_most=0.6), True),
        (gate("eval.a.verdict", one_of=["improved"]), True),
        (gate("eval.a.verdict", one_of=["regressed"]), False),
        (gate("eval.a.verdict", at_least=0.0), False),
        (gate("eval.a.post", one_of=["0.5"]), False),
        (gate("safety.*.verdict", one_of=["no discordant pairs"]), False),
        (gate("safety.*.verdict", one_of=["no discordant pairs", "regressed"]), True),
        (gate("eval.missing.post", at_least=0.0), False),
        (gate("nothing.*", at_most=1e9), False),
    ],
    ids=lambda item: str(item) if isinstance(item, bool) else f"{item.figure} {item.condition}",
)
def test_a_gate_holds_when_every_figure_it_names_meets_the_condition(held: GateConfig, passes: bool) -> None:
    """Bounds include their end; words and numbers never meet each other's condition; a figure that is missing, or a
    pattern without a figure, fails."""
    result = check_gates([held], FOUND)
    assert result.passed is result.gates[0].passed is passes


def test_a_failing_gate_names_what_failed_and_where_it_stands() -> None:
    """Of several figures only those that fail are named as such, with their events."""
    (found,) = check_gates([gate("safety.*.verdict", one_of=["no discordant pairs"])], FOUND).gates
    assert found.failed == ["safety.b.verdict"]
    assert found.found.keys() == {"safety.b.verdict", "safety.c.verdict"}
    assert found.evidence == [9]


def test_no_gates_are_no_pass() -> None:
    """Nothing to check is an error of the caller, never a pass."""
    with pytest.raises(ValueError, match="no gates"):
        check_gates([], FOUND)


@pytest.mark.parametrize(
    "condition", [{}, {"at_least": 1.0, "one_of": ["a"]}, {"at_least": 1.0, "at_most": 0.0}, {"one_of": []}]
)
def test_a_gate_that_says_nothing_or_can_never_hold_is_refused(condition: dict[str, Any]) -> None:
    """A condition is a bound or a set of words, and can hold."""
    with pytest.raises(ValidationError):
        gate("eval.a.post", **condition)


CLEAN = ProbeFamily(
    family="empty",
    negatives=5,
    false_positives=0,
    false_positive_high=0.5,
    positives=0,
    false_negatives=0,
    false_negative_high=None,
    failures=0,
    unstable=0,
)


def probed(**changes: Any) -> RewardProbed:
    """A source without a hole."""
    values: dict[str, Any] = {
        "source": "right",
        "source_digest": DIGEST,
        "threshold": 0.5,
        "rows": 1,
        "probes": 5,
        "families": [CLEAN],
        "examples": [],
        "seconds_per_call": 0.1,
        "seconds_worst": 0.1,
        "seconds": 0.5,
    }
    return RewardProbed(**{**values, **changes})


def test_what_was_not_looked_at_is_no_figure() -> None:
    """A source that could not be probed, a void contamination check and a regrade of nothing give no numbers: a gate
    about them fails for want of a figure."""
    void = Decontamination(
        method="m",
        prompts_digest=DIGEST,
        prompts=1,
        words=1,
        prompts_contaminated=0,
        prompts_flagged=0,
        tasks=[],
        overlaps=[],
        controls=[ControlOutcome(name="planted", planted=1, found=0, expected=1)],
        valid=False,
        seconds=0.1,
    )
    nothing = RewardRegraded(
        source="right",
        second="m:f",
        second_digest=DIGEST,
        threshold=0.5,
        rollouts=0,
        only_first=0,
        only_second=0,
        both=0,
        neither=0,
        kappa=None,
        early_only_first=None,
        late_only_first=None,
        failures=0,
        examples=[],
    )
    unprobed = probed(probes=0, families=[], not_probed="a judge")
    found = figures([(1, void), (2, nothing), (3, unprobed)])
    assert found.keys() == {"contamination.valid"}  # findings are made at the end, so they are not there either
    assert found["contamination.valid"].value == "no"
    held = [gate("probe.right.false_positives", at_most=0), gate("contamination.prompts_contaminated", at_most=0)]
    assert not any(item.passed for item in check_gates(held, found).gates)
    asked = figures([(3, probed())])
    assert check_gates(held[:1], asked).passed
    assert "probe.right.false_negatives" not in asked, "nothing was asked that must be rewarded"


def test_a_family_without_probes_that_must_not_be_rewarded_has_no_false_positives() -> None:
    """``determinism`` asks nothing that must not be rewarded: a gate about its false positives fails, and is no pass
    for want of a probe."""
    only_open = CLEAN.model_copy(update={"family": "determinism", "negatives": 0, "open": 9})
    found = figures([(3, probed(probes=14, families=[CLEAN, only_open]))])
    assert found["probe.right.empty.false_positives"].value == 0.0
    assert "probe.right.determinism.false_positives" not in found
    assert not check_gates([gate("probe.right.determinism.false_positives", at_most=0)], found).passed
    nothing_asked = figures([(3, probed(probes=9, families=[only_open]))])
    assert "probe.right.false_positives" not in nothing_asked


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A record whose numbers are true, with gates."""
    return build_true_record(tmp_path_factory.mktemp("gates") / "record.db")


def registered(path: Path) -> RunRegistered:
    """Its registration."""
    with Project.open(path, mode="read") as project:
        payload = next(project.events(RUN)).payload
    assert isinstance(payload, RunRegistered)
    return payload


def test_every_figure_of_a_run_is_one_that_was_promised(record: Path) -> None:
    """Before step 0 it is known which figures there can be, so that a gate about any of them is accepted."""
    run = registered(record)
    names = promised(RunConfig.model_validate(run.config, strict=False), run.evaluation)
    with Project.open(record, mode="read") as project:
        found = read_figures(project, RUN)
    assert len(found) > 20
    for name in found:
        assert any(_may_match(name, pattern) for pattern in names), name


@pytest.mark.parametrize("figure", ["eval.wrods.post", "safety.words.verdict", "probe.nobody.failures", "nonsense"])
def test_a_gate_about_nothing_is_refused_before_step_0(record: Path, figure: str) -> None:
    """A slip of the pen is one line with the nearest name, before anything is trained."""
    run = registered(record)
    config = RunConfig.model_validate(run.config, strict=False)
    with pytest.raises(ConfigError, match="cannot have"):
        refuse_unknown(config.model_copy(update={"gates": [gate(figure, at_most=1)]}), run.evaluation)
    refuse_unknown(config.model_copy(update={"gates": [gate("eval.words.post", at_most=1)]}), run.evaluation)
    refuse_unknown(config.model_copy(update={"gates": [gate("eval.*.length.post", at_most=1)]}), run.evaluation)


@given(st.text("ab*", max_size=8), st.text("ab*", max_size=8))
def test_two_patterns_meet_when_some_text_matches_both(one: str, other: str) -> None:
    """Against a search by brute force over short texts: whatever it finds is found."""
    import itertools
    from fnmatch import fnmatchcase

    texts = ("".join(item) for size in range(6) for item in itertools.product("ab", repeat=size))
    if any(fnmatchcase(text, one) and fnmatchcase(text, other) for text in texts):
        assert _may_match(one, other)
