"""The pipeline: register, evaluate, train, evaluate again, compare, seal. Each part looks at the record first, so a run
that was killed goes on where it stopped.
"""

from __future__ import annotations

import secrets
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from grpo_audit.catalogue.links import broken_links, check_links
from grpo_audit.cli import audits, console
from grpo_audit.cli.evaluation_bar import EvaluationBar
from grpo_audit.cli.prepare import Prepared, registration
from grpo_audit.cli.resuming import refuse_changes
from grpo_audit.cli.witness import ask_witnesses
from grpo_audit.errors import GrpoAuditError, StorageError
from grpo_audit.ledger.project import NewEvent, Project
from grpo_audit.preflight.inspect import PREFIX, Finding as Noticed
from grpo_audit.prompts.canonical import index_lines
from grpo_audit.record.energy import EnergyMeter
from grpo_audit.record.environment import lock_file
from grpo_audit.record.events import (
    Artifact,
    EvalTask,
    EventKind,
    Finding,
    ModelSaved,
    Payload,
    Phase,
    PhaseFinished,
    RunAborted,
    RunRegistered,
    RunResumed,
    Snapshot as SnapshotEvent,
)
from grpo_audit.record.identity import bytes_digest, chat_template, model_identity, weights_digest
from grpo_audit.refusal.findings import style_findings
from grpo_audit.refusal.judged import corrected_rates
from grpo_audit.stats.evidence import read_run
from grpo_audit.stats.findings import derive
from grpo_audit.stats.runs import compare_runs
from grpo_audit_evals.run import evaluate
from grpo_audit_trainer.loop import train
from grpo_audit_trainer.outcome import StepOutcome
from grpo_audit_trainer.policy import Policy
from grpo_audit_trainer.recorder import Recorder
from grpo_audit_trainer.snapshot import Snapshot, save_adapter, save_model

ANSWERS = "answers"
"""In the run folder: answers to the evaluation as they came, so that a killed run does not ask again. Not part of the
record, and of no use once a task is in it."""


@dataclass
class Pipeline:
    """One run in one project."""

    prepared: Prepared
    project: Project
    run_id: str
    attempt: int = 1

    @property
    def folder(self) -> Path:
        """Snapshots, weights and reports of this run."""
        return Path(self.prepared.config.record.folder) / self.run_id

    # --- what the record says ----------------------------------------------------------------------------------------

    def last(self, kind: EventKind) -> Payload | None:
        """Payload of the newest event of a kind in this run."""
        event = self.project.last(self.run_id, kind)
        return event.payload if event else None

    def append(self, *payloads: Payload) -> None:
        """Record payloads without content, in one transaction."""
        self.project.append([NewEvent(payload, self.run_id) for payload in payloads])

    def evaluated(self, phase: Phase) -> set[str]:
        """Tasks this phase has finished."""
        events = self.project.events(self.run_id, kinds={EventKind.EVAL_TASK})
        return {
            event.payload.task
            for event in events
            if isinstance(event.payload, EvalTask) and event.payload.phase == phase
        }

    # --- register and resume -----------------------------------------------------------------------------------------

    def register(self, noticed: Sequence[Noticed] = ()) -> None:
        """Fix everything before step 0, with what the preflight found and the texts it rests on.

        Raises ConfigError when the recipe names an earlier run that the record does not have.
        """
        check_links(self.project, self.prepared.config)
        registered = NewEvent(registration(self.prepared), self.run_id)
        texts = []
        for role, name, text in self._texts():
            artifact = Artifact(
                role=role,
                name=name,
                digest=bytes_digest(text),
                size=len(text),
                media_type="text/plain",
                location=None,
            )
            texts.append(NewEvent(artifact, self.run_id, {"text": text}))

        def rest_on(seq: int) -> list[NewEvent]:
            found = [finding.event([seq]) for finding in noticed]
            found += broken_links(self.project, self.prepared.config, self.prepared.model.weights_digest, seq)
            return [registered, *(NewEvent(finding, self.run_id) for finding in found), *texts]

        self.project.append_from(rest_on)

    def _texts(self) -> list[tuple[str, str, bytes]]:
        resolved = self.prepared.resolved
        texts = [("recipe", "recipe.yaml", resolved.recipe_text.encode())]
        texts.append(("prompt index", "prompts.jsonl", index_lines(self.prepared.prompts.rows)))
        for name, source in self.prepared.rewards.source_texts().items():
            texts.append(("reward source", name, source))
        for second in self.prepared.seconds:
            texts += [("second verifier", name, source) for name, source in second.texts.items()]
        if self.prepared.suite is not None:
            texts.append(("evaluation protocol", "protocol.json", self.prepared.suite.protocol))
        template = chat_template(self.prepared.model_folder)
        if template is not None:
            texts.append(("chat template", "chat_template.jinja", template.encode()))
        card = self.prepared.model_folder / "README.md"
        if card.is_file():
            texts.append(("base model card", "README.md", card.read_bytes()))
        lock = lock_file()
        if lock is not None:
            texts.append(("lock", lock.name, lock.read_bytes()))
        return texts

    def resume(self) -> Snapshot | None:
        """Start a new attempt where the record and the snapshots on disk say; returns the snapshot to go on from."""
        registered = self.last(EventKind.RUN_REGISTERED)
        assert isinstance(registered, RunRegistered)
        refuse_changes(registered, registration(self.prepared))
        resumed = self.last(EventKind.RUN_RESUMED)
        self.attempt = (resumed.attempt if isinstance(resumed, RunResumed) else 1) + 1
        snapshot = self._newest_snapshot()
        phase: Phase = "pre"
        if self.prepared.plan is None or len(self.evaluated("pre")) == len(self.prepared.plan.tasks):
            phase = "post" if self.last(EventKind.MODEL_SAVED) else "train"
        self.append(
            RunResumed(
                attempt=self.attempt,
                phase=phase,
                from_step=snapshot.step if snapshot else 0,
                snapshot_digest=snapshot.weights_digest if snapshot else None,
                processes=self.prepared.world.size,
                strategy=self.prepared.world.strategy,
            )
        )
        return snapshot

    def _newest_snapshot(self) -> Snapshot | None:
        """The newest recorded snapshot that is on disk and unchanged."""
        recorded = [
            event.payload
            for event in self.project.events(self.run_id, kinds={EventKind.SNAPSHOT})
            if isinstance(event.payload, SnapshotEvent)
        ]
        for event in sorted(recorded, key=lambda item: item.step, reverse=True):
            folder = self.folder / event.location
            if folder.is_dir():
                snapshot = Snapshot.open(folder)
                if snapshot.weights_digest == event.weights_digest:
                    return snapshot
        return None

    # --- the phases --------------------------------------------------------------------------------------------------

    def evaluate(self, phase: Phase, policy: Policy, digest: str) -> None:
        """Run the tasks that this phase has not finished; one transaction a task."""
        suite = self.prepared.suite
        if suite is None:
            return
        done = self.evaluated(phase)
        todo = [task.task for task in suite.plan.tasks if task.task not in done]
        if not todo:
            self._forget_answers()
            return
        documents = {task.task: task.documents for task in suite.plan.tasks}
        total, finished = sum(documents.values()), sum(documents[name] for name in done)
        start = time.monotonic()
        with EnergyMeter() as energy, console.bar(f"evaluate ({phase})", total, start=finished) as bar:
            shown = EvaluationBar(bar, finished=finished)
            for result in evaluate(
                suite,
                policy,
                phase=phase,
                weights_digest=digest,
                only=todo,
                on_task_start=shown.start,
                on_progress=shown.progress,
                cache=self.folder / ANSWERS,
            ):
                events = [
                    NewEvent(item.payload, self.run_id, {"prompt": item.prompt, "response": item.response})
                    for item in result.samples
                ]
                self.project.append([*events, NewEvent(result.task, self.run_id)])
                shown.finish(result.task.task, documents[result.task.task])
        self._forget_answers()
        figures = {"documents": float(total)}
        seconds = time.monotonic() - start
        self.append(
            PhaseFinished(phase=phase, attempt=self.attempt, seconds=seconds, figures=figures, energy=energy.so_far())
        )

    def _forget_answers(self) -> None:
        """The record has them all now; the files hold answers in plain text, and erasing does not reach them."""
        if (self.folder / ANSWERS).is_dir():
            shutil.rmtree(self.folder / ANSWERS)

    def check_inputs(self) -> None:
        """Prompts against the evaluation, rewards against the probes; before step 0."""
        prepared, config = self.prepared, self.prepared.config
        audits.decontaminate(self.project, self.run_id, config, prepared.prompts, prepared.suite)
        audits.probe(self.project, self.run_id, config, prepared.prompts, prepared.resolved.base_dir)

    def train(self, start: Snapshot | None) -> ModelSaved:
        """Train, recording beside it, and save the released weights."""
        config, world = self.prepared.config, self.prepared.world
        begin = time.monotonic()
        world.tell({"run": self.run_id, "start": start.step if start else None})
        with (
            EnergyMeter() as energy,
            Recorder(self.project, self.run_id, self.attempt) as recorder,
            console.bar("train", config.training.steps, start=start.step if start else 0) as bar,
        ):
            distance: float | None = None

            def on_step(outcome: StepOutcome) -> None:
                nonlocal distance
                distance = outcome.kl if outcome.kl is not None else distance
                recorder.step(outcome)
                bar.update(outcome.step + 1, console.step_line(outcome, distance))

            result = train(
                self.prepared.policy,
                self.prepared.prompts,
                self.prepared.rewards,
                config,
                folder=self.folder,
                start=start,
                on_step=on_step,
                on_snapshot=recorder.snapshot,
                world=world,
            )
            recorder.flush()
        saved = self._save()
        finished = PhaseFinished(
            phase="train",
            attempt=self.attempt,
            seconds=time.monotonic() - begin,
            figures={"steps": float(result.steps)},
            energy=energy.so_far(),
        )
        self.append(saved, finished)
        return saved

    def _save(self) -> ModelSaved:
        """Write the released weights; with LoRA merged, and the adapters beside them."""
        policy = self.prepared.policy
        folder = save_model(policy, self.folder / "model")
        identity = model_identity(folder, source=f"{self.run_id}/model", revision=None)
        if policy.adapter is None:
            return ModelSaved(location="model", model=identity)
        return ModelSaved(
            location="model",
            model=identity,
            adapter=policy.adapter.identity,
            adapter_location="adapter",
            adapter_digest=weights_digest(save_adapter(policy, self.folder / "adapter")),
        )

    def compare(self) -> None:
        """Pair pre and post, and note what the checks noticed; one transaction."""
        seen = read_run(self.project, self.run_id)
        if self.prepared.plan is None:
            noticed = derive(seen)
            if noticed:
                self.append(*noticed)
            return
        result = compare_runs(self.project, self.run_id, self.run_id, first_phase="pre", second_phase="post")
        judged = audits.judge_refusals(self.project, self.run_id, self.prepared.plan)
        comparison = result.comparison.model_copy(update={"corrected": corrected_rates(judged)})

        def rest_on(seq: int) -> list[NewEvent]:
            noticed = [*result.findings, *derive(replace(seen, comparison=(seq, comparison)))]
            noticed += style_findings(judged, seq)
            return [NewEvent(payload, self.run_id) for payload in (comparison, *noticed)]

        self.project.append_from(rest_on)

    def _compared(self) -> bool:
        """Comparison and findings are one transaction, and the last before the seal. The preflight's findings came
        before."""
        return self.last(EventKind.COMPARISON) is not None or any(
            isinstance(event.payload, Finding) and not event.payload.rule.startswith(PREFIX)
            for event in self.project.events(self.run_id, kinds={EventKind.FINDING})
        )

    def seal(self) -> None:
        """State the record's size: nothing but annotations follows."""
        saved = self.last(EventKind.MODEL_SAVED)
        self.project.seal(self.run_id, saved.model.weights_digest if isinstance(saved, ModelSaved) else None)

    # --- top to bottom ------------------------------------------------------------------------------------------------

    def execute(self, start: Snapshot | None) -> None:
        """All phases in order. An error is recorded as ``run.aborted`` and raised on; the run can be resumed."""
        try:
            self._show_witnesses()
            self.check_inputs()
            self.evaluate("pre", self.prepared.policy, self.prepared.model.weights_digest)
            self._show_witnesses()
            saved = self._saved_and_unchanged()
            if saved is None:
                saved = self.train(start)
            else:
                self.prepared.world.tell(None)  # to the other processes: nothing is left to train
            self._show_witnesses()
            audits.grade_again(self.project, self.run_id, self.prepared.config, self.prepared.resolved.base_dir)
            self._evaluate_saved(saved)
            self._show_witnesses()
            if not self._compared():
                self.compare()
            audits.hold_gates(self.project, self.run_id, self.prepared.config)
            self.seal()
        except GrpoAuditError as error:
            if not isinstance(error, StorageError):  # a record that cannot be written cannot say so
                self.append(RunAborted(error=str(error)))
            raise
        self._show_witnesses()

    def _show_witnesses(self) -> None:
        """Somebody else shall remember the newest head. Raises WitnessRefused when one remembers another history."""
        ask_witnesses(self.project, self.prepared.config.record.witnesses)

    def _saved_and_unchanged(self) -> ModelSaved | None:
        saved = self.last(EventKind.MODEL_SAVED)
        if not isinstance(saved, ModelSaved):
            return None
        folder = self.folder / saved.location
        if not folder.is_dir() or weights_digest(folder) != saved.model.weights_digest:
            raise StorageError(
                f"The trained weights in {folder} are not the recorded ones",
                expected=saved.model.weights_digest,
                next_step="Put the folder back, or start a new run",
            )
        return saved

    def _evaluate_saved(self, saved: ModelSaved) -> None:
        """Evaluate the very files that were saved, not what happens to be in memory."""
        suite = self.prepared.suite
        if suite is None or len(self.evaluated("post")) == len(suite.plan.tasks):
            return
        folder = self.folder / saved.location
        settings = self.prepared.config.model.model_copy(
            update={"path": str(folder.absolute()), "revision": None, "lora": None}  # adapters are merged
        )
        self.prepared.policy.release()
        self.evaluate("post", Policy.load(settings, folder), weights_digest(folder))


def new_run_id(name: str) -> str:
    """``NAME-YYYYMMDD-HHMMSS-xxxx`` in UTC."""
    return f"{name}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
