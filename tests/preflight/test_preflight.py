"""What holds for all rules together: order, waivers, the record, the page, and every valid configuration."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import pytest
from hypothesis import given, settings, strategies as st
from pydantic import ValidationError

from grpo_audit.config.fields import dotted, is_open_mapping, section_of, walk
from grpo_audit.config.load import differences, resolve
from grpo_audit.config.presets import PRESETS
from grpo_audit.config.run import RunConfig
from grpo_audit.config.sections import LoraConfig
from grpo_audit.config.starter import starter_recipe
from grpo_audit.errors import ConfigError, ExitCode
from grpo_audit.ledger.canonical import dumps
from grpo_audit.preflight import PREFIX, RULES, Facts, Preflight, explain, gather, inspect
from grpo_audit.preflight.doc import render
from grpo_audit.preflight.rules import GRAVITY
from grpo_audit.record.events import Severity
from grpo_audit_builtin import RECIPE

Look = Callable[..., Preflight]
ROOT = Path(__file__).parents[2]


def ids(preflight: Preflight, *severities: Severity) -> list[str]:
    """Ids of the findings, in order."""
    return [item.rule.id for item in preflight.findings if item.rule.severity in (severities or GRAVITY)]


# --- false alarms ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", PRESETS)
def test_the_papers_own_numbers_raise_no_alarm(preset: str, look: Look) -> None:
    """A recipe that leaves everything to a preset has no error and no warning."""
    assert ids(look({}, preset), Severity.ERROR, Severity.WARNING) == []


def test_the_demonstration_raises_no_alarm() -> None:
    """The recipe that ships with the project has no error and no warning, with every fact known."""
    resolved = resolve(RECIPE)
    preflight = inspect(resolved.config, resolved.differences, gather(resolved.config, resolved.base_dir))
    assert ids(preflight, Severity.ERROR, Severity.WARNING) == [] and preflight.not_checked == ()


def test_the_starter_recipe_raises_no_alarm(tmp_path: Path) -> None:
    """What ``grpo-audit init`` writes has no error and no warning."""
    path = tmp_path / "recipe.yaml"
    path.write_text(starter_recipe(), encoding="utf-8")
    resolved = resolve(path)
    preflight = inspect(resolved.config, resolved.differences, gather(resolved.config, tmp_path))
    assert ids(preflight, Severity.ERROR, Severity.WARNING) == []


# --- order, words, page ----------------------------------------------------------------------------------------------


def test_findings_come_most_severe_first(look: Look) -> None:
    """Errors, then warnings, then what is worth knowing; within a severity in the order of the rules."""
    keys = {"sampling.engine": "vllm", "training.warmup_steps": 90, "sampling.group_size": 2, "governance.owner": None}
    found = ids(look(keys))
    order = list(RULES)
    assert found == sorted(found, key=order.index)
    assert {found[0], found[-1]} == {"sampler-not-corrected", "owner-missing"}


def test_every_rule_says_enough_and_not_too_much() -> None:
    """Slug, title, explanation, remedy and source are there and fit; ids are written down once."""
    for name, rule in RULES.items():
        assert name == rule.id and rule.id == rule.id.lower() and rule.id.replace("-", "").isalnum()
        assert 10 <= len(rule.title) <= 70 and not rule.title.endswith(".")
        assert 60 <= len(rule.explanation) <= 400 and rule.explanation.endswith(".")
        assert 8 <= len(rule.remedy) <= 160 and not rule.remedy.endswith(".")
        assert rule.source and not rule.source.endswith(".")
        assert {rule.id, rule.title + ".", rule.explanation} <= set(explain(rule).replace("  (", "\n(").splitlines())
        assert set(rule.needs) <= {item.name for item in dataclasses.fields(Facts)}
    assert len(RULES) >= 18


def test_the_page_is_current() -> None:
    """docs/preflight.md is what the rules say today: ``python -m grpo_audit.preflight.doc docs/preflight.md``."""
    page = (ROOT / "docs" / "preflight.md").read_text(encoding="utf-8")
    assert page == render()
    assert all(f"### {name}\n" in page for name in RULES)


def test_long_values_are_cut(look: Look) -> None:
    """A value of any length fits into a line."""
    long = {"rewards": [{"name": "format", "source": f"package.{'x' * 500}:format"}]}
    (item,) = [item for item in look(long).findings if item.rule.id == "rewards-form-only"]
    assert len(item.value) == 60 and item.value.endswith("...")


# --- waivers ---------------------------------------------------------------------------------------------------------

VLLM = {"sampling.engine": "vllm"}


def test_an_error_stops_and_a_waiver_with_a_reason_lets_go_on(look: Look) -> None:
    """An error is a ConfigError with its remedy; waived, the finding stays and carries the reason."""
    with pytest.raises(ConfigError, match=r"sampler-not-corrected.*objective.correction.level") as caught:
        look(VLLM).refuse_errors()
    assert caught.value.exit_code == ExitCode.BAD_INPUT and "\n" not in str(caught.value)
    waived = look(VLLM | {"waive": {"sampler-not-corrected": "measured: agreement 1e-6"}})
    waived.refuse_errors()
    (item,) = [item for item in waived.findings if item.rule.id == "sampler-not-corrected"]
    assert item.waived == "measured: agreement 1e-6" and waived.open(Severity.ERROR) == []


def test_further_errors_are_counted(look: Look) -> None:
    """The first error is told, the others are counted."""
    with pytest.raises(ConfigError, match="1 more error after this one"):
        look(VLLM | {"facts.context": 100}).refuse_errors()


@pytest.mark.parametrize(
    ("waive", "says"),
    [
        ({"evaluation-of": "x"}, "something like evaluation-off"),
        ({"": "x"}, "Unknown preflight rule"),
        ({"z" * 10_000: "x"}, "Unknown preflight rule"),
        ({"evaluation-off": " "}, "waive.evaluation-off has no reason"),
        ({"unused-waiver": "x"}, "waives nothing"),
        ({"evaluation-off": "caf\u00e9 \ud800"}, "cannot be recorded"),
    ],
)
def test_a_waiver_names_a_rule_and_gives_a_reason(waive: dict[str, str], says: str, look: Look) -> None:
    """A typo never waives anything, and nothing is waived without a reason."""
    with pytest.raises(ConfigError) as caught:
        look({"waive": waive})
    assert says in str(caught.value) and len(str(caught.value)) < 400


def test_a_waiver_of_a_rule_that_was_not_looked_at_is_not_called_unused(look: Look) -> None:
    """Where a fact is missing nobody knows whether the waiver is needed."""
    keys = {"waive": {"many-exposures": "a small set on purpose"}}
    assert "unused-waiver" in ids(look(keys))
    blind = look(keys | {"facts.prompts": None})
    assert "unused-waiver" not in ids(blind)
    assert {rule.id for rule, _ in blind.not_checked} == {"many-exposures", "prompts-repeat-in-step"}


def test_the_record_says_what_was_waived_and_why(look: Look) -> None:
    """The event names rule and evidence; a waived error is worth knowing and says that it was an error."""
    (item,) = [f for f in look(VLLM | {"waive": {"sampler-not-corrected": "why"}}).findings if f.waived]
    event = item.event([7])
    assert (event.rule, event.severity, event.evidence) == (PREFIX + "sampler-not-corrected", Severity.INFO, [7])
    assert "Waived (error): why" in event.message
    (item,) = look(VLLM).open(Severity.ERROR)
    assert item.event([0]).severity is Severity.ERROR


# --- any valid configuration -----------------------------------------------------------------------------------------

_HUGE = {int: 10**4000, float: 1e308}


def _leaves() -> dict[str, st.SearchStrategy[Any]]:
    """A strategy for every plain key, from its type and bounds; extremes are drawn often."""
    leaves: dict[str, st.SearchStrategy[Any]] = {}
    for path, field in walk():
        key = dotted(path)
        if section_of(field.annotation) or path[0] in ("rewards", "record", "name", "preset", "waive"):
            continue
        if (
            path[:2] == ("model", "lora")
            or is_open_mapping(field.annotation)
            or key in ("model.path", "prompts.source")
        ):
            continue
        kind = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
        values = st.from_type(kind)
        leaves[key] = values | st.just(_HUGE[field.annotation]) if field.annotation in _HUGE else values
    return leaves


LEAVES = _leaves()
OVERRIDES = st.lists(st.sampled_from(sorted(LEAVES)), max_size=16, unique=True).flatmap(
    lambda keys: st.fixed_dictionaries({key: LEAVES[key] for key in keys})
)
TEXTS = st.text(max_size=30)
REWARDS = st.lists(
    st.builds(
        dict,
        name=st.sampled_from(["accuracy", "format", "judge-1", "length"]),
        source=st.just("x.py:f"),
        weight=st.floats(allow_nan=False, allow_infinity=False),
        role=st.sampled_from(["train", "shadow"]),
        kind=st.sampled_from([None, "rule", "judge"]),
        time_limit_s=st.floats(0.1, 3600),
    ),
    min_size=1,
    max_size=3,
    unique_by=lambda item: item["name"],
)
FACTS = st.builds(
    Facts,
    prompts=st.none() | st.integers(1, 10**12),
    context=st.none() | st.integers(1, 10**12),
    parameters=st.none() | st.integers(0, 10**13),
    device=st.sampled_from([None, "cpu", "cuda"]),
    model_on_hub=st.sampled_from([None, True, False]),
    generation=st.none() | st.dictionaries(st.sampled_from(["top_p", "temperature"]), st.floats(allow_nan=False)),
)


@given(
    preset=st.sampled_from(sorted(PRESETS)),
    overrides=OVERRIDES,
    rewards=REWARDS,
    lora=st.sampled_from([None, LoraConfig()]),
    path=TEXTS,
    source=TEXTS,
    facts=FACTS,
)
@settings(max_examples=300, deadline=None)
def test_no_valid_configuration_makes_a_rule_raise(
    preset: str,
    overrides: dict[str, Any],
    rewards: list[dict[str, Any]],
    lora: LoraConfig | None,
    path: str,
    source: str,
    facts: Facts,
) -> None:
    """Whatever validates is looked at to the end, however large its numbers; each finding can be shown and recorded,
    and comes in order."""
    tree: dict[str, Any] = PRESETS[preset].tree()
    keys = {"model.path": path, "prompts.source": source, "model.lora": lora, "rewards": rewards} | overrides
    for key, value in keys.items():
        *parents, leaf = key.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    try:
        config = RunConfig.model_validate(tree)
        missing = differences(config, PRESETS[preset])
    except ValueError:  # ValidationError is one; the other is Python's limit on the digits of a number
        return
    preflight = inspect(config, missing, facts)
    order = [GRAVITY.index(item.rule.severity) for item in preflight.findings]
    assert order == sorted(order)
    for item in preflight.findings:
        assert item.value and len(item.value) <= 60 and "\n" not in item.line
        dumps(item.event([0]).model_dump(mode="json"))


@pytest.mark.parametrize(
    "keys",
    [
        {"training.steps": 10**4000, "sampling.prompts_per_step": 10**4000, "facts.prompts": 3},
        {"training.warmup_steps": 10**4000, "training.steps": 10**4000},
        {"sampling.prompts_per_step": 10**4000, "training.minibatches": 10**4000, "training.iterations": 10**4000},
        {"sampling.max_completion_tokens": 10**4000, "training.microbatch_tokens": 10**4001, "facts.context": 100},
        {"objective.soft_overlong_tokens": 10**4000 - 1, "sampling.max_completion_tokens": 10**4000,
         "training.microbatch_tokens": 10**4001},
        {"evaluation.limit": 10, "evaluation.margin": 5e-324, "evaluation.alpha": 5e-324},
        {"evaluation.limit": 10**4000, "evaluation.margins": {"a": -1e308, "b": 1e-320}},
        {"evaluation.limit": 10, "evaluation.margin": 0.9, "evaluation.alpha": 1 - 1e-16},
        {"training.learning_rate": 1e308, "training.agreement_tolerance": 1e308, "sampling.temperature": 1e-300},
        {"training.iterations": 2, "objective.surrogate.clip_high": 1e308, "objective.surrogate.clip_low": 1e308},
        {"objective.surrogate.kind": "cispo", "objective.surrogate.clip_high": 1e308},
        {"rewards": [{"name": "a", "source": "x:f", "weight": 1e308}, {"name": "b", "source": "x:f", "weight": 1e308}],
         "objective.advantage.normaliser": "beta"},
        {"sampling.group_size": 10**4000, "objective.kl.measure_every": 10**4000, "objective.kl.beta": 0.0},
        {"training.keep_snapshots": 1, "training.snapshot_every": 10**4000, "training.steps": 10**4000},
    ],
)  # fmt: skip
def test_numbers_nobody_means_are_looked_at_to_the_end(keys: dict[str, Any], look: Look) -> None:
    """Numbers with thousands of digits, the smallest and the largest floats: findings, each of them short."""
    preflight = look(keys)
    assert preflight.findings
    assert all(len(item.line) < 600 for item in preflight.findings)


def test_the_property_looks_at_configurations_that_validate() -> None:
    """Most of the drawn overrides are valid: the property is not about nothing."""
    valid = 0

    @given(overrides=OVERRIDES)
    @settings(max_examples=100, deadline=None, database=None, derandomize=True)
    def count(overrides: dict[str, Any]) -> None:
        nonlocal valid
        tree: dict[str, Any] = {
            "model": {"path": "x"},
            "prompts": {"source": "x"},
            "rewards": [{"name": "a", "source": "x:f"}],
        }
        for key, value in overrides.items():
            *parents, leaf = key.split(".")
            node = tree
            for parent in parents:
                node = node.setdefault(parent, {})
            node[leaf] = value
        try:
            RunConfig.model_validate(tree)
        except ValidationError:
            return
        valid += 1

    count()
    assert valid >= 15
