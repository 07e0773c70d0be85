"""What is checked before anything is generated: that a task can be run greedily, and that its metrics come out.

A metric that cannot be computed would otherwise show after the last answer was generated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lm_eval.api.model import LM

from grpo_audit.errors import EvaluationError
from grpo_audit_evals import harness
from grpo_audit_evals.documents import Document
from grpo_audit_evals.metrics import Metric, by_document, usable_metrics
from grpo_audit_evals.task_files import first_line

LENGTH_KEYS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
"""lm-eval's names for the length limit, first one wins."""
_WITHOUT_EFFECT = frozenset({"until", "do_sample", "temperature", "top_p", "top_k", "min_p", "typical_p", *LENGTH_KEYS})
_NEUTRAL = {
    "num_beams": 1,
    "repetition_penalty": 1.0,
    "num_return_sequences": 1,
    "use_cache": True,
    "seed": None,
}


class EchoLM(LM):
    """Answers at once, every second time with the target and else with nothing, to try a task's scoring out."""

    def __init__(self, task: Any) -> None:
        super().__init__()
        self._task = task

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Empty text, or the target, by turns. Raises EvaluationError for several answers to one document."""
        if len({request.doc_id for request in requests}) < len(requests):
            raise EvaluationError(
                f"Task {self._task.task_name} wants several answers to one document",
                expected="one answer a document",
            )
        return [self._target(request.doc) if number % 2 else "" for number, request in enumerate(requests)]

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Different values, so that there is a largest one."""
        return [(-1.0 - number % 7, number % 2 == 0) for number, _ in enumerate(requests)]

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        """As above."""
        return [-1.0 - number % 7 for number, _ in enumerate(requests)]

    def _target(self, doc: Any) -> str:
        target = self._task.doc_to_target(doc)
        return str(target[0] if isinstance(target, list) and target else target)


def check_kind(name: str, task: Any) -> None:
    """Text only, no generated code to be executed. Raises EvaluationError."""
    if getattr(task, "MULTIMODAL", False):
        raise EvaluationError(f"Task {name} needs images or sound", expected="a text task")
    if getattr(task, "UNSAFE_CODE", False):
        raise EvaluationError(f"Task {name} executes generated code, which is not done here")


def check_greedy(name: str, task: Any) -> None:
    """Answers are generated greedily. Raises EvaluationError for a task that asks for anything else."""
    if task.OUTPUT_TYPE != "generate_until":
        return
    options: Mapping[str, Any] = task.config.generation_kwargs or {}
    samples = options.get("do_sample")
    wanted: list[str] = []
    if samples or (samples is None and float(options.get("temperature") or 0.0) > 0.0):
        wanted.append(f"sampling (do_sample {samples}, temperature {options.get('temperature')})")
    if int(task.config.repeats or 1) > 1:
        wanted.append(f"{task.config.repeats} answers a document")
    for key, value in options.items():
        if key not in _WITHOUT_EFFECT and not (key in _NEUTRAL and value == _NEUTRAL[key]):
            wanted.append(f"{key}: {value}")
    if wanted:
        raise EvaluationError(
            f"Task {name} cannot be answered greedily",
            found=", ".join(wanted),
            expected="do_sample: false, one answer a document, no other decoding settings",
            next_step="Change generation_kwargs and repeats in a copy of the task file",
        )


def check_scoring(name: str, task: Any, documents: Sequence[Document]) -> tuple[list[Metric], list[str]]:
    """Score every document with made-up answers; returns the usable metrics and why others are not.

    Raises EvaluationError when the scoring raises, or when no metric is a number on every document.
    """
    try:
        samples = harness.run_task(EchoLM(task), name, task, limit=len(documents), chat_template=False)
    except EvaluationError:
        raise
    except Exception as error:  # the task's own code runs here and may raise anything
        raise EvaluationError(
            f"Task {name}: its prompts or its scoring fail",
            found=first_line(error),
            next_step="Correct doc_to_text, doc_to_target, process_results, filters or metric_list of the task",
        ) from error
    usable, left_out = usable_metrics(task, by_document(name, documents, samples))
    if not usable:
        raise EvaluationError(
            f"Task {name} has no metric that can be compared document by document",
            found=", ".join(left_out) or "no metric at all",
            expected="at least one metric that is a number on every document",
        )
    return usable, left_out
