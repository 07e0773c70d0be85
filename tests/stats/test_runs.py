"""Comparing runs out of a real record."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from grpo_audit.errors import ComparisonError
from grpo_audit.ledger.keys import SigningKey
from grpo_audit.ledger.project import NewEvent, Project
from grpo_audit.record.events import (
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
from grpo_audit.stats.evidence import read_run
from grpo_audit.stats.findings import derive
from grpo_audit.stats.runs import compare_runs, read_evaluation

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
