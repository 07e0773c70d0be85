"""The prompts of a run against the documents of its evaluation suite: what the record says before step 0."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from grpo_audit.contamination.check import Contamination, DocumentFinding, PromptText, check
from grpo_audit.contamination.documents import (
    CHARACTERS,
    COMMON,
    CONTAINED,
    COVERED,
    FEWEST_NUMBERS,
    PIECE,
    SHORTEST,
    SURPRISE,
    WORDS,
    Document,
    Test,
)
from grpo_audit.contamination.index import Index
from grpo_audit.errors import EvaluationError
from grpo_audit.prompts.loading import PromptSet
from grpo_audit.record.audits import ControlOutcome, Decontamination, DocumentOverlap, TaskContamination
from grpo_audit.record.events import EvaluationPlan

METHOD: Final = (
    "NFKC, case folded, without punctuation and without the words with which all documents of a task begin and end. "
    f"{WORDS}-grams of words, with numbers as they are and masked, that stand, masked, in at most {COMMON} documents "
    f"of the task; contaminated above {COVERED:.0%} of a document's distinctive words in one prompt, flagged from one "
    f"n-gram on. Short and unspaced documents of {SHORTEST} letters or more: {CONTAINED:.0%} of their character "
    f"{CHARACTERS}-grams. The rest is untestable: looked up whole, and as one piece from {PIECE} words on. "
    f"Numbers only: the same {FEWEST_NUMBERS} or more numbers with at least {SURPRISE:g} bits."
)
SPELLED: Final = 1000
"""Overlaps that name prompts, the strongest ones; with all of 100,000 the event would weigh twice as much."""


def decontaminate_run(
    prompts: PromptSet,
    plan: EvaluationPlan,
    documents: Iterable[Document],
    *,
    jobs: int = 1,
    on_progress: Callable[[int], None] | None = None,
) -> Decontamination:
    """Look every prompt of the set up in every document of the suite.

    Args:
        prompts: the registered set; of chat messages the contents with their roles.
        plan: the registered plan: its tasks, in its order.
        documents: of the same suite, by task in the plan's order, each with the id the record uses for it. Their text
            is the question as the task asks it, without few-shot examples, chat template and answer.
        jobs: processes, for sets of 20,000 prompts and more.
        on_progress: called with the number of prompts done.

    Raises EvaluationError when the documents are not those of the plan.
    """
    began = time.perf_counter()
    index = Index(documents)
    _check_plan(plan, index)
    done = 0

    def on_prompt(_: bool, __: bool) -> None:
        nonlocal done
        done += 1
        if on_progress is not None and (done % 1000 == 0 or done == len(prompts.rows)):
            on_progress(done)

    texts = (PromptText(row.id, row.text) for row in prompts.rows)
    found = check(index, texts, jobs=jobs, on_prompt=on_prompt)
    return Decontamination(
        method=METHOD,
        prompts_digest=prompts.identity.digest,
        prompts=found.prompts,
        words=found.words,
        prompts_contaminated=found.prompts_contaminated,
        prompts_flagged=found.prompts_flagged,
        prompts_numbers_only=found.prompts_numbers_only,
        tasks=list(_tasks(plan, found, index)),
        overlaps=_overlaps(found.findings),
        controls=[
            ControlOutcome(name=item.name, planted=item.planted, found=item.found, expected=item.expected)
            for item in found.controls
        ],
        valid=found.valid,
        seconds=time.perf_counter() - began,
    )


def _check_plan(plan: EvaluationPlan, index: Index) -> None:
    counts = Counter(document.task for document in index.documents)
    planned = {task.task: task.documents for task in plan.tasks}
    if counts != planned:
        differ = sorted(task for task in planned.keys() | counts.keys() if planned.get(task) != counts.get(task))
        raise EvaluationError(
            f"The documents to look for are not those of the plan ({', '.join(differ)})",
            found=", ".join(str(counts.get(task, 0)) for task in differ),
            expected=", ".join(str(planned.get(task, 0)) for task in differ) + " documents",
        )


def _tasks(plan: EvaluationPlan, found: Contamination, index: Index) -> Iterator[TaskContamination]:
    digests = index.core_digests()
    for planned in plan.tasks:
        here = [item for item in found.findings if item.task == planned.task]
        numbers_only = sum(item.kind.numbers_only for item in here)
        yield TaskContamination(
            task=planned.task,
            documents=planned.documents,
            documents_digest=planned.documents_digest,
            contaminated=sum(item.contaminated for item in here),
            flagged=len(here) - numbers_only,
            numbers_only=numbers_only,
            untestable=found.tested_by[planned.task].get(Test.EXACT_ONLY.value, 0),
            texts_digest=digests[planned.task],
        )


def _overlaps(findings: list[DocumentFinding]) -> list[DocumentOverlap]:
    """Strongest first. Every document is there, because the comparison leaves out each one that is; only the strongest
    name prompts."""
    ordered = sorted(findings, key=lambda item: (not item.contaminated, -item.coverage))
    return [
        DocumentOverlap(
            task=item.task,
            doc_id=item.id,
            how=item.kind.value,
            coverage=item.coverage,
            contaminated=item.contaminated,
            prompts=item.prompts,
            examples=item.examples if place < SPELLED else [],
        )
        for place, item in enumerate(ordered)
    ]
