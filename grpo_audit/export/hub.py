"""What the Hugging Face Hub reads: the model card with its metadata, and ``.eval_results/*.yaml``.

Card: https://huggingface.co/docs/hub/model-cards. Results: https://huggingface.co/docs/hub/eval-results.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from grpo_audit.export.facts import ExportFacts
from grpo_audit.export.statements import suite_name
from grpo_audit.report.card import as_yaml
from grpo_audit.report.model import ReleaseRow
from grpo_audit.report.numbers import figure, signed
from grpo_audit.report.render import render_card

CARD = "README.md"
RESULTS_FOLDER = ".eval_results"
BENCHMARK_FIELD = "benchmark."
"""An annotation of the field ``benchmark.TASK`` says which Hub data set a task is: ``owner/name`` or
``owner/name:task_id``."""

_HUB_DATASET = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_PLAIN_NAME = re.compile(r"[^A-Za-z0-9._-]+")


def card_bytes(facts: ExportFacts, beside: Iterable[tuple[str, str]]) -> bytes:
    """The model card. ``beside`` names the other files of the export and says what each is."""
    return render_card(facts.data, mark=facts.mark, beside=tuple(beside)).encode("utf-8")


def result_files(facts: ExportFacts) -> dict[str, bytes]:
    """One file a data set. A task that nobody declared to be a Hub benchmark stands under the name of its suite, which
    is no data set of the Hub: the Hub shows no such row, and the note says so."""
    by_dataset: dict[str, list[dict[str, Any]]] = {}
    for row in facts.data.release.rows:
        if row.post is not None:
            dataset, task = _dataset(facts, row)
            by_dataset.setdefault(dataset, []).append(_entry(facts, row, dataset, task))
    return {
        f"{RESULTS_FOLDER}/{file_name(dataset)}.yaml": as_yaml(entries).encode("utf-8")
        for dataset, entries in by_dataset.items()
    }


def is_benchmark(value: str) -> bool:
    """Whether an annotation of ``benchmark.TASK`` names a data set of the Hub."""
    return _HUB_DATASET.fullmatch(value.partition(":")[0]) is not None


def file_name(dataset: str) -> str:
    """A file name for a data set: no separators, no leading dot."""
    return _PLAIN_NAME.sub("-", dataset.replace("/", "__")).strip(".-")[:120] or "suite"


def benchmarks(facts: ExportFacts) -> dict[str, str]:
    """Hub data set by task, as the newest annotation declares it; a malformed one counts as none."""
    found: dict[str, str] = {}
    for note in facts.annotations:
        if note.field.startswith(BENCHMARK_FIELD):
            found[note.field.removeprefix(BENCHMARK_FIELD)] = note.value
    return {task: value for task, value in found.items() if is_benchmark(value)}


def _dataset(facts: ExportFacts, row: ReleaseRow) -> tuple[str, str]:
    declared = benchmarks(facts).get(row.task)
    if declared is not None:
        name, _, task = declared.partition(":")
        return name, task or "default"
    plan = facts.registered.payload.evaluation
    return (suite_name(plan.suite) if plan else "unplanned"), row.task


def _entry(facts: ExportFacts, row: ReleaseRow, dataset: str, task: str) -> dict[str, Any]:
    entry: dict[str, Any] = {"dataset": {"id": dataset, "task_id": task}, "value": row.post}
    finished = facts.results.get(row.task)
    if finished is not None:
        entry["date"] = finished.at
    entry["notes"] = _notes(facts, row, on_hub="/" in dataset)
    return entry


def _notes(facts: ExportFacts, row: ReleaseRow, *, on_hub: bool) -> str:
    parts = [facts.mark] if facts.is_draft else []
    parts.append(f"{row.metric} after training")
    if row.documents is not None:
        parts.append(f"n = {row.documents}")
    if row.pre is not None:
        parts.append(f"before {figure(row.pre)}")
    if row.difference is not None:
        interval = ""
        if row.ci_low is not None and row.ci_high is not None:
            interval = f" [{signed(row.ci_low)}, {signed(row.ci_high)}], 95 %"
        parts.append(f"difference {signed(row.difference)}{interval}")
    parts.append(f"verdict: {row.verdict or row.missing}")
    parts.append("events " + ", ".join(f"#{seq}" for seq in row.source.named))
    if not on_hub:
        parts.append("the suite of this run, no benchmark of the Hub")
    return "; ".join(parts)
