"""Tasks that are answered several times with chance: the noise, the scoring of each answer, pass@k beside avg@k.

lm-eval's default keeps the first of several answers and throws the others away. Here every answer goes through the
task's own filters and its own scorer, alone, as if it were the only one. A document's value is the mean over its
answers (avg@n); where every answer is right or wrong, pass@k stands beside it: the probability that at least one of k
answers is right, estimated without bias from all n (Chen et al. 2021, https://arxiv.org/abs/2107.03374, equation 1).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from lm_eval.filters.selection import MajorityVoteFilter, TakeKFilter
from scipy.stats import hypergeom
from torch import Tensor

from grpo_audit.errors import EvaluationError
from grpo_audit_evals.documents import Document
from grpo_audit_trainer import noise

SEED = 1234
"""Seed of the noise, part of the protocol: before and after training the same noise is added, so that the two differ by
the weights alone."""


@dataclass(frozen=True)
class Sampling:
    """How a task is sampled."""

    samples: int
    """Answers to each document."""
    temperature: float

    def protocol(self) -> dict[str, Any]:
        """What the protocol says about it."""
        return {
            "samples": self.samples,
            "temperature": self.temperature,
            "distribution": "softmax(logits / temperature), all of it",
            "noise": "Gumbel, SplitMix64 over (seed, task, document, sample, position)",
            "seed": SEED,
        }


def of(task: Any) -> Sampling | None:
    """How a task's file asks for its answers; None: greedily. As lm-eval reads it: ``do_sample`` decides, and where it
    is missing a temperature above 0 does. Raises EvaluationError for settings that are no numbers."""
    if task.OUTPUT_TYPE != "generate_until":
        return None
    options: Mapping[str, Any] = task.config.generation_kwargs or {}
    temperature = _number(task, "temperature", options.get("temperature") or 0.0)
    samples = _number(task, "repeats", task.config.repeats or 1)
    if samples < 1 or samples != int(samples):
        raise EvaluationError(f"Task {task.config.task}: repeats is {samples:g}", expected="a whole number from 1")
    wanted = options.get("do_sample")
    if wanted or (wanted is None and temperature > 0.0):
        return Sampling(int(samples), temperature)
    return None


def _number(task: Any, name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise EvaluationError(f"Task {task.config.task}: {name} is {value!r:.60}", expected="a number")
    return float(value)


def noise_keys(task: str, answers: Iterable[tuple[Document, int]], device: torch.device) -> Tensor:
    """Keys of the noise of (document, sample): [N] int64. What else is in the batch plays no part."""
    rows = [(f"{task}\n{document.doc_id}\n{document.digest}", sample) for document, sample in answers]
    return noise.row_keys(SEED, 0, rows, device)


class OneByOne:
    """A filter pipeline of lm-eval that sees one answer at a time."""

    def __init__(self, pipeline: Any) -> None:
        self.name = pipeline.name
        self._pipeline = pipeline

    def apply(self, instances: Sequence[Any]) -> None:
        """Leaves in ``filtered_resps`` of each instance the list of its filtered answers."""
        columns = []
        for number in range(len(instances[0].resps)):
            singles = [copy.copy(instance) for instance in instances]
            for single, instance in zip(singles, instances, strict=True):
                single.resps, single.filtered_resps = [instance.resps[number]], {}
            self._pipeline.apply(singles)
            columns.append([single.filtered_resps[self.name] for single in singles])
        for instance, answers in zip(instances, zip(*columns, strict=True), strict=True):
            instance.filtered_resps[self.name] = list(answers)


class Values(list[Any]):
    """The values of one metric, an answer each: told apart from a scorer that returns a list, which is no number."""


def one_by_one(score: Any) -> Any:
    """``process_results`` of a task for lists of answers: the list of values of each metric, None where it is missing
    for an answer."""

    def process_results(doc: Any, results: Sequence[Sequence[Any]]) -> dict[str, Values]:
        scored = [score(doc, list(answers)) for answers in zip(*results, strict=True)]
        names = dict.fromkeys(name for one in scored for name in one)
        return {name: Values(one.get(name) for one in scored) for name in names}

    return process_results


def usable_filters(task: Any) -> tuple[list[Any], list[str]]:
    """Pipelines that can judge one answer alone, and the names of those that vote over several or choose some."""
    usable, joint = [], []
    for pipeline in task._filters:
        steps = [step() for step in pipeline.filters]
        if any(
            isinstance(step, MajorityVoteFilter) or (isinstance(step, TakeKFilter) and step.k > 1) for step in steps
        ):
            joint.append(str(pipeline.name))
        else:
            usable.append(pipeline)
    return usable, joint


def pass_at(right: Sequence[int], samples: int, k: int) -> list[float]:
    """For each number of right answers: the probability that k of the ``samples`` answers, drawn without replacement,
    hold at least one of them."""
    missed = hypergeom.pmf(0, samples, np.asarray(right), k)
    return [float(share) for share in np.clip(1.0 - missed, 0.0, 1.0)]


def with_pass_at_k(documents: Sequence[Mapping[str, Sequence[float]]]) -> list[dict[str, float]]:
    """Figures of each document: the mean of every metric over its answers; and ``METRIC pass@k`` for k = 1, 2, 4 ... up
    to their number, for each metric that is 0 or 1 on every answer of every document."""
    figures = [{key: sum(values) / len(values) for key, values in scores.items()} for scores in documents]
    for key in documents[0]:
        columns = [scores[key] for scores in documents]
        samples = len(columns[0])
        if samples == 1 or not all(value in (0.0, 1.0) for column in columns for value in column):
            continue
        for k in (2**power for power in range(samples.bit_length()) if 2**power <= samples):
            estimates = pass_at([int(sum(column)) for column in columns], samples, k)
            for figure, estimate in zip(figures, estimates, strict=True):
                figure[f"{key} pass@{k}"] = estimate
    return figures
