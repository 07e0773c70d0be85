"""The one place that imports lm-eval: quietly, and without asking the network anything on the way.

lm-eval and datasets count downloads, draw progress bars and log warnings that are not for our users. All of that is
switched off here, for the time of a call and no longer.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import logging
import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

# Read by datasets when it is imported: otherwise loading a local file sends a request to count it.
os.environ.setdefault("HF_UPDATE_DOWNLOAD_COUNTS", "0")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import datasets
import lm_eval.api.metrics
import lm_eval.api.registry
import lm_eval.api.task
import lm_eval.evaluator
import lm_eval.tasks
import lm_eval.utils
from lm_eval.tasks._yaml_loader import load_yaml

from grpo_audit_evals import sampling

HARNESS = f"lm-eval {importlib.metadata.version('lm-eval')}"
"""Name and version, as the record states it."""
FEWSHOT_SEED = 1234
"""lm-eval's own default. Set again before each evaluation, or the second one would draw other examples."""
LOCAL_FORMATS = frozenset({"json", "csv", "parquet", "text", "arrow", "xml"})
"""Builders of ``datasets`` that read files and need no hub."""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and no warnings of the harness: ours are the only ones."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    silent_bar = functools.partial(lm_eval.api.task.tqdm, disable=True)
    bars = not datasets.are_progress_bars_disabled()
    logger.setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    try:
        with mock.patch.object(lm_eval.api.task, "tqdm", silent_bar):
            yield
    finally:
        logger.setLevel(level)
        if bars:
            datasets.enable_progress_bars()


@contextlib.contextmanager
def _templates_kept() -> Iterator[None]:
    """lm-eval compiles each template again for every document: two thirds of its time when the answers are quick."""
    with mock.patch.object(lm_eval.utils.env, "from_string", functools.cache(lm_eval.utils.env.from_string)):
        yield


@contextlib.contextmanager
def offline() -> Iterator[None]:
    """datasets may not use the network: what is read now lies on this machine."""
    with mock.patch.object(datasets.config, "HF_HUB_OFFLINE", True):
        yield


def read_task_file(path: Path, *, resolve: bool) -> dict[str, Any]:
    """One task file with its includes merged; ``resolve`` imports the functions it names."""
    return dict(load_yaml(path, resolve_func=resolve))


def task_index(folder: Path | None, *, defaults: bool) -> Any:
    """lm-eval's TaskManager over a folder of task files and, on request, its own 14,000 (4 to 7 s)."""
    with quiet():
        return lm_eval.tasks.TaskManager(
            include_path=None if folder is None else str(folder), include_defaults=defaults
        )


@contextlib.contextmanager
def _each_answer_alone(task: Any) -> Iterator[None]:
    """Filters and scorer see the sampled answers of a document one by one; see ``sampling``."""
    filters, _ = sampling.usable_filters(task)
    with (
        mock.patch.object(task, "_filters", [sampling.OneByOne(pipeline) for pipeline in filters]),
        mock.patch.object(task, "process_results", sampling.one_by_one(task.process_results)),
    ):
        yield


def run_task(
    model: Any, name: str, task: Any, *, limit: int | None, chat_template: bool, sampled: bool = False
) -> list[dict[str, Any]]:
    """Evaluate one task with lm-eval's ``evaluate``; returns its logged samples, one per document and filter.

    With ``sampled`` a filtered response is the list of a document's answers, and a metric the list of their values.

    No cache of any kind is used: lm-eval's has no model in its key, so that the second set of weights would be given
    the answers of the first. Its aggregates are not computed: some crash on valid answers (ragged Brier scores, F1 of
    three classes), after everything was generated, and what we record are the documents and their mean.
    """
    task.set_fewshot_seed(seed=FEWSHOT_SEED)
    alone = _each_answer_alone(task) if sampled else contextlib.nullcontext()
    with quiet(), _templates_kept(), alone, mock.patch.object(task, "aggregation", lambda: defaultdict(lambda: len)):
        results = lm_eval.evaluator.evaluate(
            model,
            {"tasks": {name: task}},
            limit=limit,
            bootstrap_iters=0,
            log_samples=True,
            apply_chat_template=chat_template,
            fewshot_as_multiturn=chat_template,
        )
    task._instances = None  # the prompts and answers would stay in memory with the task
    return list(results["samples"][name])


def is_mean(task: Any, metric: str) -> bool:
    """Whether the task's figure for this metric is the mean over documents of what each document got.

    Registered aggregations other than the mean (perplexity, F1, Matthews) take something else from a document. A
    function of the task's own over numbers is taken for a mean: the record then states the mean.
    """
    aggregation = task.aggregation().get(metric, lm_eval.api.metrics.mean)
    registered = lm_eval.api.registry.AGGREGATION_REGISTRY
    others = [registered[name] for name in registered if name not in ("mean", "nanmean")]
    return aggregation not in others
