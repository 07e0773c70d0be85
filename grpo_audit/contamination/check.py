"""A prompt set against an index: every prompt once, streamed, with controls that say whether the check works at all."""

from __future__ import annotations

import multiprocessing
import random
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Final, NamedTuple

from grpo_audit.contamination.index import Hit, Index, Kind, Test

CHUNK: Final = 2000
"""Prompts handed to a process at once."""
SMALL: Final = 20_000
"""Prompts below which starting processes costs more than it saves."""
CONTROLS: Final = 500
"""Documents planted for a control; all when there are fewer."""
NAMED: Final = 3
"""Prompts that are named for each document."""


class PromptText(NamedTuple):
    """A prompt to look up."""

    id: str
    text: str


@dataclass
class DocumentFinding:
    """What the whole prompt set has of one document."""

    task: str
    id: str
    kind: Kind
    coverage: float
    """Largest share of the document that one prompt covers."""
    contaminated: bool
    prompts: int = 0
    """How many prompts overlap with it."""
    examples: list[str] = field(default_factory=list)
    """Ids of the first of them."""


@dataclass(frozen=True)
class Control:
    """A check of the check: documents planted on purpose."""

    name: str
    planted: int
    found: int
    expected_all: bool

    @property
    def ok(self) -> bool:
        """Whether it came out as it must. Nothing planted proves nothing."""
        return self.planted > 0 and self.found == (self.planted if self.expected_all else 0)


@dataclass(frozen=True)
class Contamination:
    """The result."""

    prompts: int
    words: int
    """Words of all prompts."""
    prompts_contaminated: int
    prompts_flagged: int
    """With an overlap of any kind, the contaminated ones included."""
    documents: dict[str, int]
    """By task."""
    tested_by: dict[str, dict[str, int]]
    """By task: documents that are tested by words, by characters, or only as a whole (untestable)."""
    findings: list[DocumentFinding]
    """One a document, in the documents' order."""
    controls: list[Control]

    @property
    def valid(self) -> bool:
        """Whether the controls came out; otherwise the check says nothing."""
        return all(control.ok for control in self.controls)

    @property
    def contaminated(self) -> list[DocumentFinding]:
        """Documents that one prompt covers."""
        return [finding for finding in self.findings if finding.contaminated]


def check(
    index: Index,
    prompts: Iterable[PromptText],
    *,
    jobs: int = 1,
    on_prompt: Callable[[bool, bool], None] | None = None,
) -> Contamination:
    """Look every prompt up. Memory grows with the documents, not with the prompts.

    ``on_prompt`` is called for each prompt, in order, with (contaminated, flagged).
    """
    total = contaminated = flagged = words = 0
    findings: dict[int, DocumentFinding] = {}
    for found, words_of_chunk in _scan(index, prompts, jobs):
        words += words_of_chunk
        for prompt_id, hits in found:
            is_contaminated = any(hit.contaminates for hit in hits)
            total += 1
            contaminated += is_contaminated
            flagged += bool(hits)
            for hit in hits:
                _note(index, findings, prompt_id, hit)
            if on_prompt is not None:
                on_prompt(is_contaminated, bool(hits))
    tested: dict[str, Counter[str]] = {}
    for document, test in zip(index.documents, index.tests, strict=True):
        tested.setdefault(document.task, Counter())[test.value] += 1
    return Contamination(
        prompts=total,
        words=words,
        prompts_contaminated=contaminated,
        prompts_flagged=flagged,
        documents={task: counts.total() for task, counts in tested.items()},
        tested_by={task: dict(counts) for task, counts in tested.items()},
        findings=[findings[number] for number in sorted(findings)],
        controls=controls(index),
    )


def _note(index: Index, findings: dict[int, DocumentFinding], prompt_id: str, hit: Hit) -> None:
    document = index.documents[hit.document]
    finding = findings.get(hit.document)
    if finding is None:
        finding = DocumentFinding(document.task, document.id, hit.kind, hit.coverage, hit.contaminates)
        findings[hit.document] = finding
    elif (hit.contaminates, hit.coverage) > (finding.contaminated, finding.coverage):
        finding.kind, finding.coverage, finding.contaminated = hit.kind, hit.coverage, hit.contaminates
    finding.prompts += 1
    if len(finding.examples) < NAMED:
        finding.examples.append(prompt_id)


_Found = tuple[list[tuple[str, list[Hit]]], int]


def _scan(index: Index, prompts: Iterable[PromptText], jobs: int) -> Iterator[_Found]:
    """Chunks in order; at most two for each process are on their way."""
    chunks = _chunks(prompts)
    first = list(islice(chunks, SMALL // CHUNK))
    if jobs <= 1 or len(first) < SMALL // CHUNK:
        for chunk in chain(first, chunks):
            yield _look_up(index, chunk)
        return
    # spawned: a forked process could inherit the locks of other threads
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _start, (index,)) as pool:
        waiting: deque[Future[_Found]] = deque()
        for chunk in chain(first, chunks):
            waiting.append(pool.submit(_look_up_here, chunk))
            if len(waiting) >= 2 * jobs:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _chunks(prompts: Iterable[PromptText]) -> Iterator[list[PromptText]]:
    source = iter(prompts)
    while chunk := list(islice(source, CHUNK)):
        yield chunk


def _look_up(index: Index, chunk: list[PromptText]) -> _Found:
    return [(prompt.id, index.look_up(prompt.text)) for prompt in chunk], sum(
        len(prompt.text.split()) for prompt in chunk
    )


_index: Index


def _start(index: Index) -> None:
    global _index
    _index = index


def _look_up_here(chunk: list[PromptText]) -> _Found:
    return _look_up(_index, chunk)


def controls(index: Index, seed: int = 0) -> list[Control]:
    """Plant documents in other text and look them up: as they are, with other numbers, and with their words shuffled.

    The first two must be found, each as the document it is, the last must not be.
    """
    rng = random.Random(seed)
    testable = [number for number, test in enumerate(index.tests) if test is not Test.EXACT_ONLY]
    chosen = sorted(rng.sample(testable, min(CONTROLS, len(testable))))
    as_is = sum(
        _is_found(index, number, f"Please read this. {index.documents[number].text} Answer.") for number in chosen
    )
    by_words = [number for number in chosen if index.tests[number] is Test.WORDS]
    shuffled = 0
    for number in by_words:
        words = index.documents[number].text.split()
        rng.shuffle(words)
        shuffled += any(hit.kind is not Kind.TRANSLATION for hit in index.look_up(" ".join(words)) if hit.contaminates)
    return [
        Control("documents planted as they are must be found", len(chosen), as_is, expected_all=True),
        Control("documents with their words shuffled must not be", len(by_words), shuffled, expected_all=False),
    ]


def _is_found(index: Index, number: int, text: str) -> bool:
    return any(hit.document == number and hit.contaminates for hit in index.look_up(text))
