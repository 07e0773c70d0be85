"""A prompt set against an index: every prompt once, streamed, with controls that say whether the check works at all."""

from __future__ import annotations

import gc
import multiprocessing
import signal
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Final, NamedTuple

from grpo_audit.contamination.controls import Control, controls
from grpo_audit.contamination.documents import Hit, Kind
from grpo_audit.contamination.index import Index

CHUNK: Final = 2000
"""Prompts handed to a process at once."""
SMALL: Final = 50_000
"""Prompts that are looked up in this process: starting others takes a second or two."""
SOIL: Final = 200
"""Prompts from the beginning in which documents are hidden as a control."""
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
class Contamination:
    """The result."""

    prompts: int
    words: int
    """Words of all prompts."""
    prompts_contaminated: int
    prompts_flagged: int
    """With an overlap of words or characters, the contaminated ones included."""
    prompts_numbers_only: int
    """With nothing but the same numbers."""
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

    ``on_prompt`` is called for each prompt, in order, with (contaminated, any overlap).
    """
    total = contaminated = flagged = numbers = words = 0
    findings: dict[int, DocumentFinding] = {}
    soil = _Soil(prompts)
    for chunk in _scan(index, soil, jobs):
        words += chunk.words
        total += chunk.prompts
        for prompt_id, hits in chunk.found.values():
            contaminated += any(hit.contaminates for hit in hits)
            overlaps = any(not hit.kind.numbers_only for hit in hits)
            flagged, numbers = flagged + overlaps, numbers + (not overlaps)
            for hit in hits:
                _note(index, findings, prompt_id, hit)
        if on_prompt is not None:
            for place in range(chunk.prompts):
                hits = chunk.found[place][1] if place in chunk.found else []
                on_prompt(any(hit.contaminates for hit in hits), bool(hits))
    tested: dict[str, Counter[str]] = {}
    for document, test in zip(index.documents, index.tests, strict=True):
        tested.setdefault(document.task, Counter())[test.value] += 1
    return Contamination(
        prompts=total,
        words=words,
        prompts_contaminated=contaminated,
        prompts_flagged=flagged,
        prompts_numbers_only=numbers,
        documents={task: counts.total() for task, counts in tested.items()},
        tested_by={task: dict(counts) for task, counts in tested.items()},
        findings=[findings[number] for number in sorted(findings)],
        controls=controls(index, soil.kept),
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


class _Soil:
    """Passes prompts on and keeps the first ones, for the controls."""

    def __init__(self, prompts: Iterable[PromptText]) -> None:
        self._prompts = prompts
        self.kept: list[str] = []

    def __iter__(self) -> Iterator[PromptText]:
        for prompt in self._prompts:
            if len(self.kept) < SOIL:
                self.kept.append(prompt.text[:2000])
            yield prompt


class _Scanned(NamedTuple):
    """What was found in a chunk."""

    prompts: int
    words: int
    found: dict[int, tuple[str, list[Hit]]]
    """By place in the chunk: the prompt's id and what it has. Prompts without a hit are left out."""


def _scan(index: Index, prompts: Iterable[PromptText], jobs: int) -> Iterator[_Scanned]:
    """Chunks in order: the first ones here, the rest in ``jobs`` processes, at most two for each on their way."""
    chunks = _chunks(prompts)
    for chunk in chunks if jobs <= 1 else islice(chunks, SMALL // CHUNK):
        yield _look_up(index, chunk)
    following = next(chunks, None)
    if following is None:
        return
    # spawned: a forked process could inherit the locks of other threads
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _start, (index,)) as pool:
        waiting: deque[Future[_Scanned]] = deque()
        for chunk in chain([following], chunks):
            waiting.append(pool.submit(_look_up_here, chunk))
            if len(waiting) >= 2 * jobs:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _chunks(prompts: Iterable[PromptText]) -> Iterator[list[PromptText]]:
    source = iter(prompts)
    while chunk := list(islice(source, CHUNK)):
        yield chunk


def _look_up(index: Index, chunk: list[PromptText]) -> _Scanned:
    hits = index.look_up_all([prompt.text for prompt in chunk])
    found = {place: (chunk[place].id, these) for place, these in hits.items()}
    return _Scanned(len(chunk), sum(len(prompt.text.split()) for prompt in chunk), found)


_index: Index


def _start(index: Index) -> None:
    global _index
    _index = index
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the first process, and that one ends this
    gc.freeze()  # a million objects that stay: no need to look at them at every collection


def _look_up_here(chunk: list[PromptText]) -> _Scanned:
    return _look_up(_index, chunk)
