"""What people say: in the recipe, by annotation, and about the stages before."""

from __future__ import annotations

from typing import Any

import pytest

from grpo_audit.catalogue.collect import Catalogue, collect
from grpo_audit.catalogue.evidence import BasisKind, Evidence
from grpo_audit.catalogue.links import broken_links, check_links
from grpo_audit.config.run import RunConfig
from grpo_audit.errors import ConfigError
from grpo_audit.ledger.annotations import sign_annotation
from grpo_audit.ledger.keys import SigningKey
from grpo_audit.ledger.project import NewEvent, Project
from grpo_audit.record.events import Annotation, EventKind

APPROVER = "accountability.approver"


def say(project: Project, run_id: str | None, value: str, field: str = APPROVER, **more: str) -> int:
    """Append an annotation; its event number."""
    note = Annotation(author="Ada", field=field, value=value, reason="r", **more)
    return project.append([NewEvent(note, run_id)]).size - 1


def signed(project: Project, run_id: str | None, value: str) -> dict[str, str]:
    """Ada's signature over it."""
    text, key = sign_annotation(SigningKey.generate(), project.project_id, run_id, "Ada", APPROVER, value, "r")
    return {"signed": text, "public_key": key}


def test_the_recipe_declares_and_nothing_else_is_invented(bare: Catalogue) -> None:
    """What the recipe says is declared with the registration's number; the rest says where to supply it."""
    assert bare.accountability.owner.value == "A. Person"
    assert bare.accountability.owner.evidence is Evidence.DECLARED
    assert "governance.approver in the recipe" in str(bare.accountability.approver.unknown)
    assert "annotate RUN accountability.approver" in str(bare.accountability.approver.unknown)


def test_the_newest_annotation_of_the_run_counts_then_the_projects_then_the_recipe(registered: Any) -> None:
    """An order of precedence, each with its own event number."""
    with registered.project({"governance": {"approver": "recipe"}}) as project:
        assert collect(project, "r-1").accountability.approver.value == "recipe"
        wide = say(project, None, "project")
        found = collect(project, "r-1").accountability.approver
        assert (found.value, found.pointer.seqs) == ("project", (wide,))
        first = say(project, "r-1", "first", field="governance.approver")
        found = collect(project, "r-1").accountability.approver
        assert (found.value, found.pointer.seqs) == ("first", (first,))
        say(project, None, "project again")
        second = say(project, "r-1", "second", field="approver")
        found = collect(project, "r-1").accountability.approver
        assert (found.value, found.pointer.seqs) == ("second", (second,))


def test_a_signature_that_holds_is_named_and_one_that_does_not_makes_it_unknown(registered: Any) -> None:
    """The author's key stands in the note; a signature over another value, or for another run, does not count."""
    with registered.project() as project:
        say(project, "r-1", "yes", **signed(project, "r-1", "yes"))
        assert "signed by grpo-audit-author/Ada+" in collect(project, "r-1").accountability.approver.note
        for forged in (signed(project, "r-1", "no"), signed(project, None, "yes")):
            seq = say(project, "r-1", "yes", **forged)
            found = collect(project, "r-1").accountability.approver
            assert found.is_unknown and f"event {seq} does not count" in str(found.unknown)
        say(project, "r-1", "later")
        assert "not signed" in collect(project, "r-1").accountability.approver.note


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("data.synthetic_share", "most of them"),
        ("data.synthetic_share", "nan"),
        ("data.personal_data", "perhaps"),
        ("accountability.reasoning_trace_policy", "secret"),
        (APPROVER, "  "),
    ],
)
def test_an_annotation_that_is_no_value_of_its_field_stays_unknown(registered: Any, field: str, value: str) -> None:
    """Another tool may have appended it; it never becomes a value, and the event is named."""
    with registered.project() as project:
        seq = say(project, "r-1", value, field=field)
        found = collect(project, "r-1")[field]
        assert found.is_unknown and found.pointer.seqs == (seq,)


def test_what_is_measured_is_not_replaced_by_an_annotation(registered: Any) -> None:
    """An annotation of a measured field stays an annotation."""
    with registered.project() as project:
        say(project, "r-1", "1", field="lineage.parameters")
        assert collect(project, "r-1").lineage.parameters.evidence is Evidence.MEASURED


def test_an_annotated_base_compute_enters_the_ratio(registered: Any) -> None:
    """Once somebody states the base model's compute, the ratio uses it and points at the event."""
    with registered.project() as project:
        assert "1e+23" in str(collect(project, "r-1").budget.modifier_ratio.value)
        seq = say(project, "r-1", "2e12", field="budget.base_flop")
        found = collect(project, "r-1").budget.modifier_ratio
        assert "base model's 2e+12 FLOP" in str(found.value) and seq in found.pointer.seqs


@pytest.mark.parametrize(("name", "rewarded"), [("format", True), ("accuracy", False)])
def test_whether_traces_were_rewarded_is_derived_from_the_train_sources(
    registered: Any, name: str, rewarded: bool
) -> None:
    """A train source that is named after traces counts; the same as a shadow source does not."""
    source = registered.registration().rewards[0].model_copy(update={"name": name, "source": f"m:{name}"})
    for role, expected in (("train", rewarded), ("shadow", False)):
        others = [source.model_copy(update={"name": "plain", "source": "m:plain", "role": "train"})]
        rewards = [source.model_copy(update={"role": role}), *others]
        with registered.project(rewards=rewards, whole=False) as project:
            assert collect(project, "r-1").accountability.traces_rewarded.value is expected


def test_an_earlier_run_is_linked_by_the_digest_of_its_weights(registered: Any) -> None:
    """The same weights make the link measured, with the event that shows it; others leave it declared."""
    stage = {"kind": "GRPO", "name": "first round", "run": "r-1"}
    with registered.project() as project:
        saved = project.last("r-1", EventKind.MODEL_SAVED)
        assert saved is not None
        released = saved.payload.model
        for model, evidence in ((released, Evidence.MEASURED), (registered.registration().model, Evidence.DECLARED)):
            run_id = f"second-{evidence}"
            project.append([NewEvent(registered.registration({"lineage": [stage]}, model=model), run_id)])
            found = collect(project, run_id).lineage
            assert found.stages_before.value is not None
            (shown,) = found.stages_before.value
            assert shown.evidence is found.stages_before.evidence is evidence
            assert shown.pointer.seqs[-1] == saved.seq
            assert (shown.basis.kind is BasisKind.MEASURED_HERE) == (evidence is Evidence.MEASURED)
            assert found.parent_runs.value == ["r-1"]


def test_a_run_of_another_project_cannot_be_checked(registered: Any) -> None:
    """It is shown as declared, and the start does not depend on it."""
    stage = {"kind": "SFT", "name": "elsewhere", "run": "x", "project": "f" * 32}
    with registered.project({"lineage": [stage]}) as project:
        (shown,) = collect(project, "r-1").lineage.stages_before.value or ()
        assert shown.evidence is Evidence.DECLARED and "not read here" in shown.check
        check_links(project, _config(registered, [stage]))


def test_a_linked_run_must_exist(registered: Any) -> None:
    """An earlier run that the record does not have is an error that names those it has; other weights are a finding."""
    with registered.project() as project:
        with pytest.raises(ConfigError, match=r"lineage\.0\.run names a run .* found typo; expected one of r-1"):
            check_links(project, _config(registered, [{"kind": "SFT", "name": "s", "run": "typo"}]))
        there = _config(registered, [{"kind": "SFT", "name": "s", "run": "r-1"}])
        check_links(project, there)
        (finding,) = broken_links(project, there, "sha256:" + "0" * 64, registered=7)
        assert finding.rule == "preflight/lineage-link" and 7 in finding.evidence
        saved = project.last("r-1", EventKind.MODEL_SAVED)
        assert saved is not None
        assert broken_links(project, there, saved.payload.model.weights_digest, registered=7) == []


def _config(registered: Any, stages: list[dict[str, Any]]) -> RunConfig:
    return RunConfig.model_validate(registered.registration({"lineage": stages}).config, strict=False)


@pytest.mark.parametrize(
    "stage",
    [
        {"kind": "SFT", "name": "s", "basis": "paper"},
        {"kind": "SFT", "name": "s", "flop": 1e20},
        {"kind": "SFT", "name": "s", "project": "f" * 32},
        {"kind": "magic", "name": "s"},
        {"kind": "SFT", "name": "s", "digest": "sha256:abc"},
    ],
)
def test_a_stage_that_rests_on_nothing_is_refused(registered: Any, stage: dict[str, Any]) -> None:
    """A basis without citation, FLOP without source, a project without a run, an unknown kind, a broken digest."""
    with pytest.raises(ValueError, match="lineage"):
        _config(registered, [stage])


def test_a_configuration_of_an_older_version_still_reads(registered: Any) -> None:
    """A record written before these sections existed has neither budget nor lineage, and few governance keys."""
    payload = registered.registration()
    old = {key: value for key, value in payload.config.items() if key not in ("budget", "lineage")}
    old["governance"] = {"owner": "A. Person"}
    old["model"] = {key: value for key, value in old["model"].items() if not key.startswith("training_flop")}
    with registered.project(whole=False) as project:
        project.append([NewEvent(payload.model_copy(update={"config": old}), "old")])
        assert collect(project, "old").accountability.owner.value == "A. Person"
