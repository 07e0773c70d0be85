"""Evaluate a policy, one task at a time, into the payloads of the record."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from grpo_audit.errors import EvaluationError, GrpoAuditError
from grpo_audit.record.events import EvalSample, EvalTask, Phase
from grpo_audit.record.identity import bytes_digest
from grpo_audit_evals import harness
from grpo_audit_evals.answer_cache import AnswerCache
from grpo_audit_evals.documents import Document
from grpo_audit_evals.lm import Answer, PolicyLM
from grpo_audit_evals.metrics import by_document, values
from grpo_audit_evals.sampling import with_pass_at_k
from grpo_audit_evals.suite import Suite, SuiteTask
from grpo_audit_evals.task_files import first_line, nearest
from grpo_audit_trainer.policy import Policy

CONTEXT_TRUNCATED = "context_truncated"
"""Metric that a task has when a prompt did not fit: 1 for each document whose prompt was cut."""

OnTaskStart = Callable[[str, int], None]
"""Task and number of documents."""
OnProgress = Callable[[str, int, int], None]
"""Task, documents answered so far, number of documents."""


@dataclass(frozen=True)
class SampleResult:
    """One answered document: the event, and the texts that become its content."""

    payload: EvalSample
    prompt: bytes
    """As sent; its SHA-256 is ``payload.prompt_hash``."""
    response: bytes
    """Raw, trace and special tokens included; a JSON list of them where several answers were sampled; the
    log-likelihoods as JSON for tasks that score likelihoods."""

    @property
    def response_digest(self) -> str:
        """What ``stats.paired.Side.responses`` holds."""
        return bytes_digest(self.response)


@dataclass(frozen=True)
class TaskResult:
    """All documents of one task under one set of weights."""

    task: EvalTask
    samples: tuple[SampleResult, ...]
    reused: int
    """Documents that were answered out of the cache, at least in part."""
    logged: tuple[Mapping[str, Any], ...]
    """What lm-eval logs: one entry for each document and filter."""


def evaluate(
    suite: Suite,
    policy: Policy,
    *,
    phase: Phase,
    weights_digest: str,
    only: Collection[str] | None = None,
    cache: Path | None = None,
    on_task_start: OnTaskStart | None = None,
    on_progress: OnProgress | None = None,
) -> Iterator[TaskResult]:
    """Run the tasks of a suite, in its order, and yield each one when it is done.

    The model is evaluated as it is in memory, and left as it was (mode, weights).

    Args:
        phase: What the events say: ``pre`` or ``post``.
        weights_digest: Digest of the weights in memory.
        only: Names of the tasks to run, for a run that resumes; None means all.
        cache: Folder where answers are kept as they come, in a file for these weights and this protocol. What is
            already there is not generated again; the results are the same bit for bit. None: nothing is kept.

    Raises:
        EvaluationError: A name in ``only`` that is no task, an answer that cannot be scored, a prompt without room, a
            damaged cache.
        StorageError: The cache cannot be written.
    """
    names = {item.name for item in suite.tasks}
    if unknown := sorted(set(only or ()) - names):
        raise EvaluationError(f"Unknown evaluation task {unknown[0]!r}", expected=nearest(unknown[0], sorted(names)))
    was_training = policy.model.training
    with contextlib.ExitStack() as stack:
        stack.callback(policy.model.train, was_training)
        kept = None
        if cache is not None:
            digests = {"weights_digest": weights_digest, "protocol_digest": suite.plan.protocol_digest}
            kept = stack.enter_context(AnswerCache(cache, **digests))
        lm = PolicyLM(policy, batch_size=suite.batch_size, cache=kept)
        for item in suite.tasks:
            if only is None or item.name in only:
                policy.model.eval()
                yield _run(item, suite, lm, policy, phase, weights_digest, on_task_start, on_progress)
                policy.model.train(was_training)


def _run(
    item: SuiteTask,
    suite: Suite,
    lm: PolicyLM,
    policy: Policy,
    phase: Phase,
    weights_digest: str,
    on_task_start: OnTaskStart | None,
    on_progress: OnProgress | None,
) -> TaskResult:
    total = len(item.documents)
    if on_task_start is not None:
        on_task_start(item.name, total)
    lm.begin(
        None if on_progress is None else lambda done: on_progress(item.name, min(done, total), total),
        documents=item.documents,
        sampling=item.sampling,
    )
    started = time.perf_counter()
    logged = _answer_and_score(item, lm, chat_template=policy.execution.chat_template)
    samples = _samples(item, lm, logged, phase)
    seconds = time.perf_counter() - started
    generated = [sample.payload for sample in samples if sample.payload.finish_reason != "likelihood"]
    task = EvalTask(
        phase=phase,
        task=item.name,
        behaviour=item.plan.behaviour,
        metric=item.plan.metric,
        documents=total,
        metrics={key: fmean(sample.payload.metrics[key] for sample in samples) for key in samples[0].payload.metrics},
        empty_rate=_share(not answer.text.strip() for answers in lm.answers.values() for answer in answers),
        truncated_rate=_share(payload.finish_reason == "length" for payload in generated),
        weights_digest=weights_digest,
        protocol_digest=suite.plan.protocol_digest,
        seconds=seconds,
    )
    return TaskResult(task, samples, len(lm.reused), tuple(logged))


def _share(flags: Iterable[bool]) -> float | None:
    """None when nothing was generated: 0.0 would say that no answer was empty."""
    found = list(flags)
    return fmean(found) if found else None


def _answer_and_score(item: SuiteTask, lm: PolicyLM, *, chat_template: bool) -> list[dict[str, Any]]:
    try:
        return harness.run_task(
            lm,
            item.name,
            item.task,
            limit=len(item.documents),
            chat_template=chat_template,
            sampled=item.sampling is not None,
        )
    except Exception as error:  # the task's own scorer runs here and may raise anything
        if lm.working or isinstance(error, GrpoAuditError):
            raise  # the model failed (memory, for one): the pipeline knows which setting to lower
        raise EvaluationError(
            f"Task {item.name}: an answer cannot be scored",
            found=first_line(error),
            next_step="Correct process_results, filters or metric_list of the task",
        ) from error


def _samples(
    item: SuiteTask, lm: PolicyLM, logged: Sequence[Mapping[str, Any]], phase: Phase
) -> tuple[SampleResult, ...]:
    rows = by_document(item.name, item.documents, logged)
    figures = with_pass_at_k(
        [
            values(item.metrics, row, task=item.name, doc_id=document.doc_id)
            for document, row in zip(item.documents, rows, strict=True)
        ]
    )
    return tuple(
        _sample(item, lm, document, position, row, figures[position], phase)
        for position, (document, row) in enumerate(zip(item.documents, rows, strict=True))
    )


def _sample(
    item: SuiteTask,
    lm: PolicyLM,
    document: Document,
    position: int,
    row: Mapping[str, Mapping[str, Any]],
    figures: dict[str, float],
    phase: Phase,
) -> SampleResult:
    scored = row[item.primary.filter]
    answers = lm.answers.get((item.name, position), [])
    prompt, response = _prompt(scored), _response(answers) if answers else _likelihoods(scored)
    if lm.dropped:
        figures[CONTEXT_TRUNCATED] = float((item.name, position) in lm.dropped)
    target, prediction = _as_scored(item, scored, likelihood=not answers)
    payload = EvalSample(
        phase=phase,
        task=item.name,
        doc_id=document.doc_id,
        cluster=document.cluster,
        doc_hash=document.digest,
        prompt_hash=bytes_digest(prompt),
        target=target,
        prediction=prediction,
        metrics=figures,
        completion_tokens=round(fmean(answer.completion_tokens for answer in answers)) if answers else None,
        finish_reason=_finish_reason(answers),
    )
    return SampleResult(payload, prompt, response)


def _response(answers: Sequence[Answer]) -> bytes:
    """The raw answer; of several a JSON list of them."""
    raw = [answer.raw for answer in answers]
    return (raw[0] if len(raw) == 1 else json.dumps(raw, ensure_ascii=False)).encode("utf-8")


def _finish_reason(answers: Sequence[Answer]) -> Literal["stop", "length", "likelihood"]:
    """``length`` when one of the answers was cut off."""
    if not answers:
        return "likelihood"
    return "length" if any(answer.finish_reason == "length" for answer in answers) else "stop"


def _prompt(scored: Mapping[str, Any]) -> bytes:
    """The text sent to the tokenizer; as a JSON list where each choice has a prompt of its own."""
    contexts = list(dict.fromkeys(str(arguments[0]) for arguments in scored["arguments"]))
    text = contexts[0] if len(contexts) == 1 else json.dumps(contexts, ensure_ascii=False)
    return text.encode("utf-8")


def _likelihoods(scored: Mapping[str, Any]) -> bytes:
    rows = [
        {"continuation": arguments[1], "loglikelihood": responses[0][0], "greedy": responses[0][1]}
        for arguments, responses in zip(scored["arguments"], scored["resps"], strict=True)
    ]
    return json.dumps(rows, ensure_ascii=False).encode("utf-8")


def _as_scored(item: SuiteTask, scored: Mapping[str, Any], *, likelihood: bool) -> tuple[str, str]:
    """Target and prediction as texts; of multiple choice the texts of the choices."""
    target, answers = scored["target"], scored["filtered_resps"]
    if not likelihood:
        return _text(target), _text(answers[0] if len(answers) == 1 else answers)
    if item.task.OUTPUT_TYPE != "multiple_choice":
        return _text(target), "greedy" if answers[0][1] else "not greedy"
    choices = item.task.doc_to_choice(scored["doc"])
    gold = item.task.doc_to_text(scored["doc"]) if item.task.multiple_input else target
    best = max(range(len(choices)), key=lambda index: answers[index][0])
    return _text(choices[gold] if isinstance(gold, int) and gold < len(choices) else gold), _text(choices[best])


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
