"""The catalogue: what a field is, and that nothing is silently missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st
from pydantic import ValidationError

from grpo_audit.catalogue.collect import FIELDS, Catalogue, collect, declarable, facts_of, groups
from grpo_audit.catalogue.coverage import asked_by
from grpo_audit.catalogue.doc import render
from grpo_audit.catalogue.evidence import Basis, Evidence, Pointer, Span, at
from grpo_audit.catalogue.field import Field, words
from grpo_audit.config.declared import GovernanceConfig
from grpo_audit.ledger.project import NewEvent, Project

DOCS = Path(__file__).parents[2] / "docs" / "catalogue.md"


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_is_described_and_asked_for(name: str) -> None:
    """Each field has a docstring, an audience, and at least one row of a standard that it answers."""
    assert FIELDS[name].description, f"{name} has no docstring"
    assert facts_of(name).audience
    assert asked_by(name), f"no row of a standard or of our own list names {name}"


def test_there_is_a_group_for_each_letter() -> None:
    """Groups A to K, and every key of the governance section is a field that it declares."""
    assert len(groups()) == len("ABCDEFGHIJK")
    recipe = {about.recipe for about in declarable().values()}
    assert {f"governance.{key}" for key in GovernanceConfig.model_fields} <= recipe


@given(
    value=st.none() | st.text(),
    excused=st.none() | st.text(),
    unknown=st.none() | st.text(),
    evidence=st.sampled_from(Evidence),
    seqs=st.lists(st.integers(0, 9), max_size=2),
)
def test_a_field_says_exactly_one_thing(
    value: str | None, excused: str | None, unknown: str | None, evidence: Evidence, seqs: list[int]
) -> None:
    """A field is made exactly when it is a value with evidence and a pointer, or one reason and absent."""
    is_value = value is not None and excused is None and unknown is None
    is_reason = value is None and bool((excused is None) != (unknown is None) and (excused or unknown))
    fits = (is_value and evidence is not Evidence.ABSENT and bool(seqs)) or (is_reason and evidence is Evidence.ABSENT)
    try:
        field = Field[str](value=value, not_applicable=excused, unknown=unknown, evidence=evidence, pointer=at(*seqs))
    except ValidationError:
        assert not fits
    else:
        assert fits and (field.value is None) == bool(field.reason)


def _check(catalogue: Catalogue, project: Project) -> None:
    size = project.head.size
    digests = {event.payload.digest for event in project.events() if hasattr(event.payload, "digest")}
    seen = dict(catalogue.fields())
    assert set(seen) == set(FIELDS)
    for name, field in seen.items():
        assert field.audience == facts_of(name).audience
        named = [*field.pointer.seqs, *(end for span in field.pointer.spans for end in (span.first, span.last))]
        assert all(0 <= seq < size for seq in named), name
        assert set(field.pointer.artifacts) <= digests, name
        if field.value is None:
            assert field.evidence is Evidence.ABSENT and field.reason, name
        else:
            assert field.evidence is not Evidence.ABSENT and not field.pointer.is_empty, name


def test_every_field_has_a_value_with_a_pointer_into_the_record_or_a_reason(bare: Catalogue, project: Project) -> None:
    """A value implies evidence and events (or artifacts) that exist; no value implies a reason."""
    _check(bare, project)


def test_a_run_killed_right_after_its_registration_has_a_whole_catalogue(registered: Any) -> None:
    """Nothing but the registration: every field is there, and what did not happen is unknown, not 0."""
    with registered.project(whole=False) as alone:
        catalogue = collect(alone, "r-1")
        _check(catalogue, alone)
    for name in (
        "rollouts.steps",
        "budget.flop",
        "budget.tokens",
        "evaluation.performance",
        "lineage.released_weights",
    ):
        assert catalogue[name].is_unknown, name


def test_the_json_is_deterministic_and_comes_back(project: Project, record: tuple[Path, str]) -> None:
    """Collecting twice gives the same bytes, and they validate as the same catalogue."""
    one, two = (collect(project, record[1]).model_dump_json() for _ in range(2))
    assert one == two
    assert Catalogue.model_validate_json(one).model_dump_json() == one
    assert json.loads(one)["accountability"]["owner"]["value"] == "A. Person"


def test_the_page_is_current() -> None:
    """docs/catalogue.md is what the models and the mapping say."""
    assert DOCS.read_text(encoding="utf-8") == render(), "run: python -m grpo_audit.catalogue.doc docs/catalogue.md"


def test_values_are_written_for_people() -> None:
    """Numbers with separators, yes and no, short lists, and an empty list is none."""
    assert (words(True), words(12345), words(0.123456), words([])) == ("yes", "12,345", "0.1235", "none")
    assert words(list(range(9))).endswith("and 3 more")
    assert words({"a": 1, "b": [2, 3]}) == "a: 1; b: 2; 3"


def test_claims_about_methods_have_a_basis(bare: Catalogue) -> None:
    """Every choice of the method names a paper, a library's documentation or the operator, with the citation."""
    with_basis = {
        name for name, field in bare.method.fields() if isinstance(field.basis, Basis) and field.basis.citation
    }
    assert {"algorithm", "formula", "group_size", "normalisation", "clip", "kl", "loss", "optimiser"} <= with_basis
    assert bare.method.schedule.evidence is Evidence.DECLARED  # its learning rate differs from the preset
    assert bare.method.clip.evidence is Evidence.CITED and "2402.03300" in str(bare.method.clip.basis)


def test_a_pointer_names_each_place_once() -> None:
    """``at`` keeps the order, drops None and repetitions."""
    assert at(3, None, 3, Span(1, 2, 2), "sha256:x") == Pointer(
        seqs=(3,), spans=(Span(1, 2, 2),), artifacts=("sha256:x",)
    )


def test_a_record_in_postgresql_has_the_same_catalogue(
    project: Project, record: tuple[Path, str], postgres_url: str
) -> None:
    """The same events in PostgreSQL give the same values; only times, hashes and event numbers of this copy differ."""
    payloads = [(event.payload, event.run_id) for event in project.events(start=1)]
    with Project.open(postgres_url, mode="create") as copy:
        copy.append([NewEvent(payload, run_id) for payload, run_id in payloads])
        there = dict(collect(copy, record[1]).fields())
    here = dict(collect(project, record[1]).fields())
    own = {"accountability.project", "accountability.registered_at", "integrity.root", "integrity.key"}
    for name in set(FIELDS) - own:
        assert (there[name].value, there[name].pointer) == (here[name].value, here[name].pointer), name
