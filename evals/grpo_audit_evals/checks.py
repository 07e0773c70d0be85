"""What is checked before anything is generated: that there is a way to answer, and that its metrics come out.

A metric that cannot be computed would otherwise show after the last answer was generated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lm_eval.api.model import LM

from grpo_audit.errors import EvaluationError
from grpo_audit_evals import harness, sampling
from grpo_audit_evals.documents import Document
from grpo_audit_evals.metrics import Metric, by_document, usable_metrics
from grpo_audit_evals.sampling import Sampling
from grpo_audit_evals.task_files import first_line

LENGTH_KEYS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
"""lm-eval's names for the length limit, first one wins."""
_READ = frozenset({"until", "do_sample", "temperature", *LENGTH_KEYS})
_NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "num_beams": (1,),
    "repetition_penalty": (1.0,),
    "num_return_sequences": (1,),
    "use_cache": (True,),
    "seed": (None,),
}
_WHEN_SAMPLED: Mapping[str, tuple[object, ...]] = {
    "top_p": (None, 1.0),
    "top_k": (None, 0, -1),
    "min_p": (None, 0.0),
    "typical_p": (None, 1.0),
}
"""Without effect on greedy answers; where answers are sampled, only these values are."""


class EchoLM(LM):
    """Answers at once, every second time with the target and else with nothing, to try a task's scoring out."""

    def __init__(self, task: Any) -> None:
        super().__init__()
        self._task = task

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Empty text, or the target, by turns. Raises EvaluationError for several prompts of one document."""
        if len({request.doc_id for request in requests}) < len({id(request) for request in requests}):
            raise EvaluationError(
                f"Task {self._task.task_name} asks several questions about one document",
                expected="one prompt a document",
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


def check_decoding(name: str, task: Any) -> Sampling | None:
    """How the task is sampled; None: greedily. Raises EvaluationError for a task that asks for anything else."""
    sampled = sampling.of(task)
    if task.OUTPUT_TYPE != "generate_until":
        return None
    options: Mapping[str, Any] = task.config.generation_kwargs or {}
    wanted = [f"{key}: {value}" for key, value in options.items() if not _allowed(key, value, sampled)]
    if sampled is None and (task.config.repeats or 1) > 1:
        wanted.append(f"{task.config.repeats} equal answers a document, without a temperature")
    if sampled is not None and not 0 < sampled.temperature < math.inf:
        wanted.append(f"sampling at temperature {options.get('temperature')}")
    if wanted:
        raise EvaluationError(
            f"Task {name} asks for a way to answer that there is not",
            found=", ".join(wanted),
            expected="greedy answers, one a document, or sampling with a temperature alone",
            next_step="Change generation_kwargs and repeats in a copy of the task file",
        )
    return sampled


def _allowed(key: str, value: object, sampled: Sampling | None) -> bool:
    if key in _READ or (sampled is None and key in _WHEN_SAMPLED):
        return True
    neutral = _WHEN_SAMPLED if key in _WHEN_SAMPLED else _NEUTRAL
    return key in neutral and value in neutral[key]


def check_scoring(
    name: str, task: Any, documents: Sequence[Document], sampled: Sampling | None = None
) -> tuple[list[Metric], list[str]]:
    """Score every document with made-up answers; returns the usable metrics and why others are not.

    Raises EvaluationError when the scoring raises, or when no metric is a number on every document.
    """
    joint = _check_filters(name, task) if sampled else []
    try:
        samples = harness.run_task(
            EchoLM(task), name, task, limit=len(documents), chat_template=False, sampled=sampled is not None
        )
    except EvaluationError:
        raise
    except Exception as error:  # the task's own code runs here and may raise anything
        raise EvaluationError(
            f"Task {name}: its prompts or its scoring fail",
            found=first_line(error),
            next_step="Correct doc_to_text, doc_to_target, process_results, filters or metric_list of the task",
        ) from error
    usable, left_out = usable_metrics(task, by_document(name, documents, samples))
    left_out += [f"everything of the filter {item} (needs several answers at once)" for item in joint]
    if not usable:
        raise EvaluationError(
            f"Task {name} has no metric that can be compared document by document",
            found=", ".join(left_out) or "no metric at all",
            expected="at least one metric that is a number on every document",
        )
    return usable, left_out


def _check_filters(name: str, task: Any) -> list[str]:
    """Names of the filters that cannot judge one answer alone; EvaluationError when no other is left."""
    usable, joint = sampling.usable_filters(task)
    if not usable:
        raise EvaluationError(
            f"Task {name} has no filter that judges one sampled answer alone",
            found=f"only filters that need several answers at once: {', '.join(joint)}",
            next_step="Add one with take_first to a copy of the task file; the mean and pass@k follow from it",
        )
    return joint
