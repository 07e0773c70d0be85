"""The recorder: everything of a step is in the record, nothing of the weights depends on it, its errors arrive."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grpo_audit.errors import StorageError
from grpo_audit.ledger.project import NewEvent, Project
from grpo_audit.record import events
from grpo_audit.record.events import EventKind
from grpo_audit_trainer.loop import StepOutcome, train
from grpo_audit_trainer.recorder import QUEUE, Recorder

RUN = "run-1"


@pytest.fixture(scope="module")
def registration(tmp_path_factory: pytest.TempPathFactory, build_record: Callable[..., str]) -> events.Payload:
    """Any registration: the record demands one before a run's events."""
    folder = tmp_path_factory.mktemp("registration")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRPO_AUDIT_HOME", str(folder / "home"))
        run_id = build_record(folder / "record.db", steps=1, prompts=1, sealed=False)
        with Project.open(folder / "record.db", mode="read") as made:
            event = made.last(run_id, EventKind.RUN_REGISTERED)
    assert event is not None
    return event.payload


@pytest.fixture
def project(tmp_path: Path, registration: events.Payload) -> Iterator[Project]:
    """A record with one registered run."""
    with Project.open(tmp_path / "record.db", mode="create") as opened:
        opened.append([NewEvent(registration, RUN)])
        yield opened


def train_once(make_policy: Any, make_config: Any, prompts: Any, rewards: Any, folder: Path, **hooks: Any) -> Any:
    """A run of four steps."""
    return train(make_policy(), prompts, rewards, make_config(), folder=folder, **hooks)


def test_recorder_on_or_off_the_weights_are_the_same(
    make_policy: Any, make_config: Any, prompts: Any, rewards: Any, project: Project, tmp_path: Path
) -> None:
    """Bit for bit, by the digest of the final weights."""
    parts = (make_policy, make_config, prompts, rewards)
    without = train_once(*parts, tmp_path / "off")
    with Recorder(project, RUN, 1) as recorder:
        hooks = {"on_step": recorder.step, "on_snapshot": recorder.snapshot}
        recorded = train_once(*parts, tmp_path / "on", **hooks)
    assert recorded.snapshot.weights_digest == without.snapshot.weights_digest


def test_the_record_holds_every_rollout(
    make_policy: Any, make_config: Any, prompts: Any, rewards: Any, project: Project, tmp_path: Path
) -> None:
    """Each step is there with its groups and rollouts, texts and traces included, in order, the step's own event last
    in its transaction, and a snapshot after its step."""
    outcomes: list[StepOutcome] = []

    with Recorder(project, RUN, 2) as recorder:

        def on_step(outcome: StepOutcome) -> None:
            outcomes.append(outcome)
            recorder.step(outcome)

        hooks = {"on_step": on_step, "on_snapshot": recorder.snapshot}
        train_once(make_policy, make_config, prompts, rewards, tmp_path / "run", **hooks)
    recorded = [event for event in project.events(RUN) if event.kind != EventKind.RUN_REGISTERED]
    per_step = [EventKind.GROUP] * 3 + [EventKind.ROLLOUT] * 12 + [EventKind.STEP, EventKind.SNAPSHOT]
    assert [event.kind for event in recorded] == per_step * 4
    position = 0
    for outcome in outcomes:
        group_events, rollout_events = recorded[position : position + 3], recorded[position + 3 : position + 15]
        for group, event in zip(outcome.groups, group_events, strict=True):
            assert project.content(event.seq, "prompt") == group.prompt_text.encode()
            assert event.payload.prompt_id == group.prompt_id and event.payload.attempt == 2
        for rollout, event in zip(outcome.rollouts, rollout_events, strict=True):
            assert project.content(event.seq, "completion") == rollout.text.encode()
            trace = project.content(event.seq, "trace")
            count = event.payload.completion_tokens
            assert np.frombuffer(trace[: 4 * count], "<u4").tolist() == rollout.token_ids.tolist()
            assert np.frombuffer(trace[4 * count :], "<f4").tolist() == rollout.logp.tolist()
            assert event.payload.reward == rollout.reward and event.payload.advantage == rollout.advantage
        assert recorded[position + 15].payload == events.Step(attempt=2, **outcome.figures())
        snapshot = recorded[position + 16].payload
        assert snapshot.step == outcome.step + 1
        assert (tmp_path / "run" / snapshot.location / snapshot.files[0].name).is_file()
        position += 17


class FailingProject:
    """A record on a disk that is full after some appends."""

    def __init__(self, good: int, gate: threading.Event | None = None) -> None:
        self.good, self.gate, self.appends = good, gate, 0

    def append(self, batch: Any) -> None:
        if self.gate is not None:
            self.gate.wait(10)
        self.appends += 1
        if self.appends > self.good:
            raise StorageError("The disk is full")


@pytest.fixture
def step(make_policy: Any, make_config: Any, prompts: Any, rewards: Any, tmp_path: Path) -> StepOutcome:
    """Any step."""
    kept: list[StepOutcome] = []
    config = make_config(training={"steps": 1})
    train(make_policy(), prompts, rewards, config, folder=tmp_path / "step", on_step=kept.append)
    return kept[0]


def test_an_error_reaches_the_training_thread(step: StepOutcome) -> None:
    """At the next step, at a flush and at the end; what comes after the failed step is not recorded, so that no gap
    can look like a complete record."""
    project = FailingProject(good=1)
    recorder = Recorder(project, RUN, 1)  # type: ignore[arg-type]
    for _ in range(3):
        recorder._queue.put(step)  # as if the training thread had been quicker than the error
    with pytest.raises(StorageError, match="full"):
        recorder.flush()
    with pytest.raises(StorageError, match="full"):
        recorder.step(step)
    with pytest.raises(StorageError, match="full"):
        recorder.close()
    assert project.appends == 2


def test_the_context_ends_with_the_error(step: StepOutcome) -> None:
    """A record that could not be written is never a silent success; an error of the caller comes first."""
    with pytest.raises(StorageError, match="full"), Recorder(FailingProject(0), RUN, 1) as recorder:  # type: ignore[arg-type]
        recorder.step(step)
    with pytest.raises(KeyError), Recorder(FailingProject(0), RUN, 1) as recorder:  # type: ignore[arg-type]
        recorder.step(step)
        raise KeyError


def test_the_queue_is_bounded(step: StepOutcome) -> None:
    """Training runs ahead of a slow disk by a few steps, then waits: memory does not grow with the run."""
    gate = threading.Event()
    with Recorder(FailingProject(100, gate), RUN, 1) as recorder:  # type: ignore[arg-type]
        for _ in range(QUEUE + 1):
            recorder.step(step)
        late = threading.Thread(target=recorder.step, args=(step,))
        late.start()
        time.sleep(0.1)
        assert late.is_alive()
        gate.set()
        late.join(10)
        assert not late.is_alive()
