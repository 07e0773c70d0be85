"""The recorder: turns outcomes into events on a thread of its own, one transaction a step.

Training never waits for the disk unless the recorder is ``QUEUE`` steps behind. An error of the record (full disk, say)
reaches the training thread at its next call. Whether anything is recorded changes no bit of the weights.
"""

from __future__ import annotations

import queue
import threading
from types import TracebackType
from typing import Final

from grpo_audit.ledger.project import NewEvent, Project
from grpo_audit.prompts.canonical import row_fields
from grpo_audit.record import events
from grpo_audit_trainer.outcome import GroupOutcome, RolloutOutcome, StepOutcome
from grpo_audit_trainer.snapshot import Snapshot

QUEUE: Final = 4
"""Steps that may wait to be written."""

_Item = StepOutcome | Snapshot | None
"""None ends the thread."""


class Recorder:
    """Appends the steps and snapshots of one attempt to a project. A context manager; use it from one thread."""

    def __init__(self, project: Project, run_id: str, attempt: int) -> None:
        self._project = project
        self._run_id = run_id
        self._attempt = attempt
        self._queue: queue.Queue[_Item] = queue.Queue(QUEUE)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="recorder", daemon=True)
        self._thread.start()

    def step(self, outcome: StepOutcome) -> None:
        """Record a step; returns at once, unless ``QUEUE`` steps wait. Raises the error of an earlier one."""
        self._submit(outcome)

    def snapshot(self, snapshot: Snapshot) -> None:
        """Record a snapshot and everything before it; durable when this returns, so that older ones may be removed."""
        self._submit(snapshot)
        self.flush()

    def flush(self) -> None:
        """Wait until everything submitted is durable. Raises the error that kept it from being so."""
        self._queue.join()
        self._raise()

    def close(self) -> None:
        """Write what waits and end the thread. Raises the error of what could not be written."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()
        self._raise()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.close()
        except BaseException:
            if error is None:  # otherwise the caller's own error is on its way, which came first
                raise

    def _submit(self, item: StepOutcome | Snapshot) -> None:
        self._raise()
        self._queue.put(item)

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        while True:
            item = self._queue.get()
            try:
                if item is None:
                    return
                if self._error is None:  # after an error the rest is drained: a gap in the steps must not be recorded
                    self._project.append(self._events(item))
            except BaseException as error:  # noqa: BLE001 - it is raised in the training thread
                self._error = error
            finally:
                self._queue.task_done()

    def _events(self, item: StepOutcome | Snapshot) -> list[NewEvent]:
        if isinstance(item, Snapshot):
            return [NewEvent(snapshot_event(item, self._attempt), self._run_id)]
        return step_events(item, self._run_id, self._attempt)


def step_events(outcome: StepOutcome, run_id: str, attempt: int) -> list[NewEvent]:
    """Groups, rollouts and the step itself, which comes last: a step whose event is there is complete."""
    result = [_group(group, outcome.step, run_id, attempt) for group in outcome.groups]
    result += [_rollout(rollout, outcome.step, run_id, attempt) for rollout in outcome.rollouts]
    result.append(NewEvent(events.Step(attempt=attempt, **outcome.figures()), run_id))
    return result


def snapshot_event(snapshot: Snapshot, attempt: int) -> events.Snapshot:
    """The event of a snapshot."""
    return events.Snapshot(
        attempt=attempt,
        step=snapshot.step,
        weights_digest=snapshot.weights_digest,
        location=snapshot.location,
        files=list(snapshot.files),
    )


def _group(group: GroupOutcome, step: int, run_id: str, attempt: int) -> NewEvent:
    payload = events.Group(
        attempt=attempt,
        step=step,
        group=group.group,
        prompt_id=group.prompt_id,
        prompt_tokens=group.prompt_tokens,
        exposure=group.exposure,
        reward_mean=group.reward_mean,
        reward_std=group.reward_std,
    )
    return NewEvent(payload, run_id, {"prompt": group.prompt_text.encode(), "fields": row_fields(group.row)})


def _rollout(rollout: RolloutOutcome, step: int, run_id: str, attempt: int) -> NewEvent:
    payload = events.Rollout(
        attempt=attempt,
        step=step,
        group=rollout.group,
        sample=rollout.sample,
        rewards=rollout.rewards,
        errors=rollout.errors,
        reward=rollout.reward,
        advantage=rollout.advantage,
        used=rollout.used,
        reason=rollout.reason,
        finish_reason=rollout.finish_reason,
        completion_tokens=len(rollout.token_ids),
    )
    trace = rollout.token_ids.astype("<u4").tobytes() + rollout.logp.astype("<f4").tobytes()
    # a tokenizer may decode half a character to a lone surrogate, which UTF-8 cannot hold
    return NewEvent(payload, run_id, {"completion": rollout.text.encode("utf-8", "replace"), "trace": trace})
