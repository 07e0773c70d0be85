"""Comparing runs out of a real record."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from grpo_audit.errors import ComparisonError
from grpo_audit.ledger.keys import SigningKey
from grpo_audit.ledger.project import NewEvent, Project
from grpo_audit.record.audits import DocumentOverlap, TaskContamination
from grpo_audit.record.events import (
    Artifact,
    Decontamination,
    Environment,
    EvalTask,
    EvaluationPlan,
    EventKind,
    ModelIdentity,
    PromptSetIdentity,
    Rollout,
    RunRegistered,
    Verdict,
)
from grpo_audit.record.identity import bytes_digest
from grpo_audit.stats.evidence import read_run
from grpo_audit.stats.findings import derive
from grpo_audit.stats.runs import against, compare_evaluations, compare_runs, read_evaluation
from grpo_audit.stats.versus import as_json, versus

PRE = [1.0] * 20 + [0.0] * 20
BETTER = [1.0] * 20 + [1.0] * 15 + [0.0] * 5
WORSE = [0.0] * 12 + [1.0] * 8 + [0.0] * 20


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """A new record, signed with a key of its own."""
    monkeypatch.setenv("GRPO_AUDIT_HOME", str(tmp_path / "home"))
    with Project.open(tmp_path / "record.db", mode="create", key=SigningKey.generate()) as opened:
        yield opened


def registration(plan: EvaluationPlan | None, digest: Callable[[str], str]) -> RunRegistered:
    """A run that fixes this plan before its first step."""
    empty = digest("")
    return RunRegistered(
        name="run",
        tool="grpo-audit 0",
        config={"name": "run", "seed": 0, "preset": "grpo"},
        preset="grpo",
        preset_source="s",
        preset_differences=[],
        formula={},
        model=ModelIdentity(
            source="builtin",
            revision=None,
            architecture="A",
            parameters=1,
            weights_digest=digest("base"),
            tokenizer_digest=empty,
            chat_template_digest=None,
            config_digest=empty,
            files=[],
            licence=None,
            notice=None,
            card_digest=None,
        ),
        reference="initial weights",
        rewards=[],
        prompts=PromptSetIdentity(
            source="builtin",
            split=None,
            revision=None,
            rows=1,
            digest=empty,
            file_digest=None,
            duplicates=0,
            licence=None,
            provenance="synthetic",
            description=None,
            fields={},
            order="shuffled",
        ),
        evaluation=plan,
        environment=Environment(
            python="3",
            platform="p",
            processor="p",
            cpu_count=1,
            memory_bytes=None,
            accelerator=None,
            driver=None,
            threads=1,
            deterministic_algorithms=True,
            packages={},
            lock_digest=None,
            code_revision=None,
            code_dirty_digest=None,
            sqlite="3",
        ),
    )


class Recorder:
    """Writes runs into a record as the pipeline does."""

    def __init__(self, project: Project, world: Any, digest: Callable[[str], str]) -> None:
        self.project, self.world, self.digest = project, world, digest
        self.plan = world.plan(world.task("t", 40))

    def register(self, run: str, plan: EvaluationPlan | None) -> None:
        """Register a run."""
        self.project.append([NewEvent(registration(plan, self.digest), run)])

    def evaluation(self, run: str, phase: Any, values: list[float], weights: str, protocol: str | None = None) -> None:
        """Record one evaluation, in one transaction."""
        samples = [
            sample.model_copy(update={"phase": phase, "prediction": f"{weights} {sample.metrics['m']}"})
            for sample in self.world.samples("t", values)
        ]
        task = EvalTask(
            phase=phase,
            task="t",
            behaviour="task performance",
            metric="m",
            documents=len(values),
            metrics={"m": sum(values) / len(values)},
            empty_rate=0.0,
            truncated_rate=0.0,
            weights_digest=self.digest(weights),
            protocol_digest=protocol or self.plan.protocol_digest,
            seconds=1.0,
        )
        events = [NewEvent(sample, run, {"response": sample.prediction.encode()}) for sample in samples]
        self.project.append([*events, NewEvent(task, run)])


@pytest.fixture
def recorder(project: Project, world: Any, digest: Callable[[str], str]) -> Recorder:
    """Two runs: ``a`` got better, ``b`` got worse, from the same start."""
    recorder = Recorder(project, world, digest)
    for run, values in (("a", BETTER), ("b", WORSE)):
        recorder.register(run, recorder.plan)
        recorder.evaluation(run, "pre", PRE, "base")
        recorder.evaluation(run, "post", values, run)
    return recorder


def test_pre_and_post_of_a_run_are_compared_from_the_record(recorder: Recorder) -> None:
    """The verdict out of the record, and each document that changed, with the events that show it."""
    result = compare_runs(recorder.project, "a", "a", first_phase="pre", second_phase="post")
    (task,) = result.comparison.tasks
    assert (task.verdict, task.gained, task.lost) == (Verdict.IMPROVED, 15, 0)
    assert (result.comparison.pre_weights, result.comparison.post_weights) == (
        recorder.digest("base"),
        recorder.digest("a"),
    )
    assert len(result.flips) == 15 and all(flip.improved for flip in result.flips)
    flip = result.flips[0]
    assert recorder.project.content(flip.pre_seq, "response") == b"base 0.0" == flip.pre_prediction.encode()
    assert recorder.project.content(flip.post_seq, "response") == b"a 1.0" == flip.post_prediction.encode()


def test_two_runs_are_compared_by_their_trained_weights(recorder: Recorder) -> None:
    """Post against post; what got worse comes first."""
    result = compare_runs(recorder.project, "a", "b")
    assert result.comparison.tasks[0].verdict is Verdict.REGRESSED
    assert (len(result.flips), result.flips[0].improved) == (27, False)
    assert result.findings == ()


def test_replayed_answers_are_found_in_the_record(recorder: Recorder) -> None:
    """A run whose second evaluation repeats the first one's responses under another digest is an error."""
    recorder.register("c", recorder.plan)
    recorder.evaluation("c", "pre", PRE, "base")
    samples = [sample.model_copy(update={"phase": "post"}) for sample in recorder.world.samples("t", PRE)]
    events = [NewEvent(s, "c", {"response": f"base {s.metrics['m']}".encode()}) for s in samples]
    last = recorder.project.last("c", EvalTask.kind)
    assert last is not None
    task = last.payload.model_copy(update={"phase": "post", "weights_digest": recorder.digest("c")})
    recorder.project.append([*events, NewEvent(task, "c")])
    result = compare_runs(recorder.project, "c", "c", first_phase="pre")
    assert [finding.rule for finding in result.findings] == ["evaluation-did-not-see-the-weights"]
    assert result.comparison.tasks[0].verdict is Verdict.NO_DISCORDANT_PAIRS


def test_runs_under_different_protocols_are_refused(recorder: Recorder, digest: Callable[[str], str]) -> None:
    """Two suites, or two versions of one, are not compared."""
    other = recorder.plan.model_copy(update={"protocol_digest": digest("other")})
    recorder.register("c", other)
    recorder.evaluation("c", "post", PRE, "c", protocol=digest("other"))
    with pytest.raises(ComparisonError, match="different protocols"):
        compare_runs(recorder.project, "a", "c")


def test_an_unfinished_evaluation_is_refused(recorder: Recorder) -> None:
    """A run that was interrupted has nothing to compare yet."""
    recorder.register("c", recorder.plan)
    recorder.evaluation("c", "pre", PRE, "base")
    with pytest.raises(ComparisonError, match="post evaluation of run c is not complete"):
        compare_runs(recorder.project, "a", "c")


def test_a_run_without_evaluation_and_an_unknown_run_are_refused(recorder: Recorder) -> None:
    """Each gets its own line."""
    recorder.register("c", None)
    with pytest.raises(ComparisonError, match="without an evaluation"):
        compare_runs(recorder.project, "a", "c")
    with pytest.raises(ComparisonError, match="no run nowhere"):
        compare_runs(recorder.project, "nowhere", "a")


def test_mixed_weights_in_one_evaluation_are_refused(recorder: Recorder, world: Any) -> None:
    """All tasks of an evaluation must have seen the same weights."""
    plan = world.plan(world.task("t", 40), world.task("u", 40))
    recorder.register("c", plan)
    recorder.evaluation("c", "post", PRE, "one")
    last = recorder.project.last("c", EvalTask.kind)
    assert last is not None
    task = last.payload.model_copy(update={"task": "u", "weights_digest": recorder.digest("two")})
    recorder.project.append([NewEvent(task, "c")])
    with pytest.raises(ComparisonError, match="mixes weights"):
        read_evaluation(recorder.project, "c", "post")


def test_findings_are_derived_from_the_record(recorder: Recorder) -> None:
    """Evaluations, comparison and rollouts of the run alone are read, with their sequence numbers."""
    comparison = compare_runs(recorder.project, "b", "b", first_phase="pre").comparison
    failed = Rollout(
        attempt=1,
        step=0,
        group=0,
        sample=0,
        rewards={"accuracy": None},
        errors={"accuracy": "timeout"},
        reward=None,
        advantage=0.0,
        used=False,
        reason="reward error",
        finish_reason="stop",
        completion_tokens=1,
    )
    recorder.project.append([NewEvent(comparison, "b"), NewEvent(failed, "b")])
    found = {finding.rule: finding for finding in derive(read_run(recorder.project, "b"))}
    assert found.keys() == {"behaviour-regressed", "reward-errors"}
    (event,) = recorder.project.events(run_id="b", kinds={EventKind.COMPARISON})
    assert found["behaviour-regressed"].evidence == [event.seq]
    assert found["reward-errors"].evidence == [event.seq + 1]
    assert derive(read_run(recorder.project, "a")) == []


# --- what differs is named, and what else is compared -----------------------------------------------------------------


PROTOCOL = {"harness": "h", "tasks": {"t": {"config": {"num_fewshot": 0}}, "u": {"config": {}}}}


def with_text(recorder: Recorder, run: str, protocol: dict[str, Any]) -> None:
    """A finished run under this protocol, whose text is in the record."""
    text = json.dumps(protocol, sort_keys=True, ensure_ascii=False, indent=1).encode()
    digest = bytes_digest(text)
    plan = recorder.world.plan(recorder.world.task("t", 40)).model_copy(update={"protocol_digest": digest})
    recorder.register(run, plan)
    artifact = Artifact(
        role="evaluation protocol", name="protocol.json", digest=digest, size=len(text), media_type="text/plain",
        location=None,
    )  # fmt: skip
    recorder.project.append([NewEvent(artifact, run, {"text": text})])
    recorder.evaluation(run, "pre", PRE, "base", protocol=digest)
    recorder.evaluation(run, "post", BETTER, run, protocol=digest)


def changed_protocol(value: int) -> dict[str, Any]:
    """The protocol with another number of examples."""
    return {"harness": "h", "tasks": {"t": {"config": {"num_fewshot": value}}, "u": {"config": {}}}}


def test_a_refusal_names_what_differs(recorder: Recorder) -> None:
    """Two protocols whose texts are recorded are refused with the first differences in words."""
    with_text(recorder, "c", PROTOCOL)
    with_text(recorder, "d", changed_protocol(5))
    with pytest.raises(ComparisonError, match="different protocols: task t: num_fewshot 0 against 5"):
        compare_runs(recorder.project, "c", "d")


def test_a_refusal_without_the_texts_says_that_they_are_missing(recorder: Recorder) -> None:
    """An old record keeps digests alone: they are shown, and why there is no more."""
    with_text(recorder, "c", PROTOCOL)
    with pytest.raises(ComparisonError, match="does not hold the protocol of a"):
        compare_runs(recorder.project, "a", "c")


def test_a_protocol_text_that_is_not_the_one_evaluated_under_is_not_used(recorder: Recorder) -> None:
    """The artifact counts by its digest, not by its name."""
    with_text(recorder, "c", PROTOCOL)
    assert read_evaluation(recorder.project, "c", "post").protocol is not None
    assert read_evaluation(recorder.project, "a", "post").protocol is None


def test_an_evaluation_can_be_cut_down_to_some_tasks(recorder: Recorder) -> None:
    """Under the protocol of those tasks alone, which differs from the whole one; without its text it cannot."""
    with_text(recorder, "c", PROTOCOL)
    whole = read_evaluation(recorder.project, "c", "post")
    part = whole.only(["t"])
    assert part.side.protocol == part.plan.protocol_digest == bytes_digest(part.protocol or b"")
    assert part.side.protocol != whole.side.protocol
    assert compare_evaluations(read_evaluation(recorder.project, "c", "pre").only(["t"]), part).flips
    with pytest.raises(ComparisonError, match="different protocols: task u is only in the first"):
        compare_evaluations(whole, part)
    with pytest.raises(ComparisonError, match="cannot be cut down"):
        read_evaluation(recorder.project, "a", "post").only(["t"])


def test_the_clean_subset_comes_from_the_recorded_checks_of_both_runs(recorder: Recorder) -> None:
    """A document that either run's prompts overlap with is flagged; without a check there is no clean subset."""
    assert compare_runs(recorder.project, "a", "b").comparison.clean == []
    for run, documents in (("a", ["d0", "d1"]), ("b", ["d1", "d2"])):
        recorder.project.append([NewEvent(contamination(recorder, documents), run)])
    (both,) = compare_runs(recorder.project, "a", "b").comparison.clean
    assert (both.flagged, both.clean) == (3, 37)
    (own,) = compare_runs(recorder.project, "a", "a", first_phase="pre").comparison.clean
    assert (own.flagged, own.clean, own.verdict) == (2, 38, Verdict.IMPROVED)


def contamination(recorder: Recorder, documents: list[str], *, valid: bool = True) -> Decontamination:
    """A check that found these documents in a prompt."""
    return Decontamination(
        method="m",
        prompts_digest=recorder.digest("prompts"),
        prompts=1,
        words=1,
        prompts_contaminated=1,
        prompts_flagged=1,
        tasks=[
            TaskContamination(
                task="t", documents=40, documents_digest=recorder.plan.tasks[0].documents_digest,
                contaminated=len(documents), flagged=len(documents), numbers_only=0, untestable=0,
            )
        ],
        overlaps=[
            DocumentOverlap(
                task="t", doc_id=name, how="exact", coverage=1.0, contaminated=True, prompts=1, examples=["p"]
            )
            for name in documents
        ],
        controls=[],
        valid=valid,
        seconds=1.0,
    )  # fmt: skip


def test_other_runs_are_held_against_one_and_what_cannot_be_says_why(recorder: Recorder) -> None:
    """One entry each, in order: figures, or the reason in words."""
    with_text(recorder, "c", PROTOCOL)
    better, other, missing = against(recorder.project, "b", ["a", "c", "nowhere"])
    assert better.result is not None and better.result.comparison.tasks[0].verdict is Verdict.REGRESSED
    assert (other.result, missing.result) == (None, None)
    assert "different protocols" in other.refused and "no run nowhere" in missing.refused


def test_several_are_compared_with_one_baseline(recorder: Recorder) -> None:
    """Each column against the first, with the flipped documents and the texts of both answers."""
    sides = [read_evaluation(recorder.project, "a", "pre"), *(
        read_evaluation(recorder.project, run, "post") for run in ("a", "b")
    )]  # fmt: skip
    found = versus(sides[0], sides[1:], examples=2)
    assert [column.result.comparison.tasks[0].verdict for column in found.columns] == [
        Verdict.IMPROVED,
        Verdict.REGRESSED,
    ]
    assert (found.columns[0].regressed, found.columns[1].regressed, found.regressed) == (False, True, True)
    examples = found.columns[1].examples
    assert [(example.before, example.after) for example in examples] == [("base 1.0", "b 0.0")] * 2
    assert [example.flip.improved for example in examples] == [False, False]
    plain = as_json(found)
    assert json.loads(json.dumps(plain)) == plain
    assert [len(item["flips"]) for item in plain["comparisons"]] == [15, 12]
    with pytest.raises(ComparisonError, match="cannot be compared"):
        versus(sides[0], [])
