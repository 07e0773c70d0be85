"""(32) Contamination: the prompts that were drawn, looked up a second time in the evaluation prompts recorded.

The record holds the text of a prompt where a step drew it, and the text of a document where it was evaluated. Of
prompts that no step drew it has digests only, so their overlaps cannot be looked for; where every prompt was drawn,
every figure is recomputed.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from grpo_audit.config.checks import DecontaminationConfig
from grpo_audit.contamination.documents import Document, Hit, Kind, Test, cores, cores_digest
from grpo_audit.record.audits import DocumentOverlap
from grpo_audit.record.events import Decontamination, EvalSample, Group, RunRegistered
from grpo_audit.verify.recompute.compare import same, shown
from grpo_audit.verify.recompute.overlaps import Overlaps
from grpo_audit.verify.recompute.stream import Item
from grpo_audit.verify.verdict import Tally

_TOLERANCE = 1e-12
Key = tuple[str, str]
"""Task and document."""


@dataclass
class _Seen:
    """What the drawn prompts have of one document."""

    kind: Kind
    coverage: float
    contaminated: bool
    prompts: int = 0


@dataclass
class _Looked:
    """What was looked up so far."""

    overlaps: Overlaps
    skipped: dict[str, str]
    """Tasks that cannot be looked for, and why."""
    documents: dict[Key, _Seen] = field(default_factory=dict)
    prompts: Counter[str] = field(default_factory=Counter)
    """Prompts by what they have: ``contaminated``, ``flagged``, ``numbers``."""


class ContaminationCheck:
    """Follows a run: the check, the documents evaluated before training, and each prompt when it is drawn first."""

    def __init__(self, registered: RunRegistered, config: DecontaminationConfig, tally: Tally) -> None:
        self._tally = tally
        self._registered = registered
        # an older configuration has no such section: it asked for nothing
        self._expected = config.check and "decontamination" in registered.config and registered.evaluation is not None
        self._found: tuple[int, Decontamination] | None = None
        self._texts: dict[str, list[tuple[str, str | None]]] = defaultdict(list)
        self._looked: _Looked | None = None
        self._drawn: set[str] = set()
        self._erased = 0
        self._examples: dict[str, set[Key]] = defaultdict(set)
        """By prompt: documents that it is recorded to overlap with."""

    def follow(self, item: Item) -> None:
        """One event of the run."""
        match item.event.payload:
            case Decontamination() as payload:
                self._take(item.event.seq, payload)
            case EvalSample(phase="pre") as payload if self._looked is None:
                text = item.content.get("prompt")
                self._texts[payload.task].append(
                    (payload.doc_id, None if text is None else text.decode(errors="replace"))
                )
            case Group() as payload if self._found is not None and payload.prompt_id not in self._drawn:
                self._drawn.add(payload.prompt_id)
                self._look_up(payload.prompt_id, item.content.get("fields"))
            case _:
                pass

    def _take(self, seq: int, payload: Decontamination) -> None:
        self._tally.saw()
        if self._found is not None:
            self._tally.wrong(f"event {seq}: the prompts were checked twice, first in event {self._found[0]}")
            return
        self._found = (seq, payload)
        for overlap in payload.overlaps:
            for prompt in overlap.examples:
                self._examples[prompt].add((overlap.task, overlap.doc_id))
        self._agrees_with_itself(payload)

    # --- what must agree without any text -----------------------------------------------------------------------------

    def _agrees_with_itself(self, found: Decontamination) -> None:
        registered = self._registered
        self._same("prompts", found.prompts, registered.prompts.rows)
        self._same("the digest of the prompts", found.prompts_digest, registered.prompts.digest)
        planned = [] if registered.evaluation is None else registered.evaluation.tasks
        self._same(
            "tasks, documents and their digests",
            [(task.task, task.documents, task.documents_digest) for task in found.tasks],
            [(task.task, task.documents, task.documents_digest) for task in planned],
        )
        self._same("documents named twice", len(found.overlaps) - len({_key(item) for item in found.overlaps}), 0)
        for task in found.tasks:
            here = [item for item in found.overlaps if item.task == task.task]
            numbers = sum(_numbers_only(item.how) for item in here)
            self._same(f"{task.task}: contaminated", task.contaminated, sum(item.contaminated for item in here))
            self._same(f"{task.task}: flagged", task.flagged, len(here) - numbers)
            self._same(f"{task.task}: numbers only", task.numbers_only, numbers)
        known = {task.task for task in found.tasks}
        self._same("overlaps with tasks that are not there", sum(item.task not in known for item in found.overlaps), 0)
        counts = (found.prompts_contaminated, found.prompts_flagged, found.prompts)
        self._same("prompts contaminated at most those flagged, at most all", counts == tuple(sorted(counts)), True)
        held = bool(found.controls) and all(item.planted and item.found == item.expected for item in found.controls)
        self._same("valid", found.valid, held)

    def _same(self, what: str, recorded: object, expected: object) -> None:
        self._tally.saw()
        if recorded != expected:
            shows = isinstance(recorded, int | str)
            self._tally.wrong(
                f"{what}: recorded {recorded!r:.60}, must be {expected!r:.60}" if shows else f"{what} differ"
            )

    # --- looking up ---------------------------------------------------------------------------------------------------

    def _begin(self) -> _Looked:
        """All documents by the time the first prompt is drawn: they were evaluated before."""
        assert self._found is not None
        documents: list[Document] = []
        skipped: dict[str, str] = {}
        for task in self._found[1].tasks:
            texts = self._texts.get(task.task, [])
            why, chosen = _as_looked_for(task.task, texts, task.documents, task.texts_digest)
            if why:
                skipped[task.task] = why
            documents += chosen
        self._texts.clear()
        overlaps = Overlaps(documents)
        looked = _Looked(overlaps, skipped)
        known = {(document.task, document.id) for document in documents}
        for item in self._found[1].overlaps:
            if _key(item) not in known and item.task not in skipped:
                self._tally.wrong(f"{item.doc_id!r:.40} of {item.task} is recorded as an overlap and was not evaluated")
        for task in self._found[1].tasks:
            if task.task not in skipped:
                here = zip(documents, overlaps.tests, strict=True)
                count = sum(document.task == task.task and test is Test.EXACT_ONLY for document, test in here)
                self._same(f"{task.task}: untestable", task.untestable, count)
        return looked

    def _look_up(self, prompt_id: str, fields: bytes | None) -> None:
        self._looked = looked = self._looked or self._begin()
        text = None if fields is None else _prompt_text(fields)
        if text is None:
            self._erased += 1
            return
        self._tally.saw()
        hits = looked.overlaps.look_up(text)
        found = {_key_of(looked, hit) for hit in hits}
        for missed in sorted(self._examples.get(prompt_id, set()) - found):
            if missed[0] not in looked.skipped:
                self._tally.wrong(f"prompt {prompt_id!r:.40} does not overlap with {missed[1]!r:.40} of {missed[0]}")
        looked.prompts["contaminated"] += any(hit.contaminates for hit in hits)
        looked.prompts["flagged"] += any(not hit.kind.numbers_only for hit in hits)
        looked.prompts["numbers"] += bool(hits) and all(hit.kind.numbers_only for hit in hits)
        for hit in hits:
            seen = looked.documents.setdefault(_key_of(looked, hit), _Seen(hit.kind, hit.coverage, hit.contaminates))
            seen.prompts += 1
            if (hit.contaminates, hit.coverage) > (seen.contaminated, seen.coverage):
                seen.kind, seen.coverage, seen.contaminated = hit.kind, hit.coverage, hit.contaminates

    # --- the end ------------------------------------------------------------------------------------------------------

    def finish(self, *, sealed: bool) -> None:
        """Compare, and say what could not be recomputed."""
        if self._found is None:
            if self._expected and sealed:
                self._tally.wrong("the recipe asks for the check, and the sealed run has none")
            self._tally.nothing(
                "the run is not that far" if self._expected else "no check was asked for, or an old record"
            )
            return
        if self._looked is None:
            self._tally.remark("no prompt was drawn: nothing was looked up again")
            return
        self._compare(self._found[1], self._looked)

    def _compare(self, found: Decontamination, looked: _Looked) -> None:
        every = len(self._drawn) == found.prompts and not self._erased
        recorded = {_key(item): item for item in found.overlaps}
        for (task, doc_id), seen in looked.documents.items():
            if task in looked.skipped:
                continue
            self._tally.saw()
            item = recorded.get((task, doc_id))
            where = f"{doc_id!r:.40} of {task}"
            if item is None:
                self._tally.wrong(f"{where} overlaps with a prompt that was drawn ({seen.kind}), and is not recorded")
            elif (item.contaminated, item.coverage) < (seen.contaminated, seen.coverage - _TOLERANCE):
                self._tally.wrong(f"{where}: recorded {shown(item.coverage)} covered, found {shown(seen.coverage)}")
            elif item.prompts < seen.prompts:
                self._tally.wrong(
                    f"{where}: recorded for {item.prompts} prompts, {seen.prompts} of those drawn have it"
                )
            elif every:
                self._exactly(where, item.how, item.coverage, item.contaminated, item.prompts, seen)
        if every:
            invented = [key for key in recorded if key not in looked.documents and key[0] not in looked.skipped]
            for task, doc_id in invented:
                self._tally.wrong(f"{doc_id!r:.40} of {task} is recorded, and no prompt overlaps with it")
        self._prompt_counts(found, looked, exactly=every and not looked.skipped)
        self._say(found, looked, every)

    def _exactly(self, where: str, how: str, coverage: float, contaminated: bool, prompts: int, seen: _Seen) -> None:
        if (how, contaminated, prompts) != (seen.kind.value, seen.contaminated, seen.prompts) or not same(
            coverage, seen.coverage, _TOLERANCE
        ):
            self._tally.wrong(
                f"{where}: recorded {how!r:.40}, {shown(coverage)} covered, {prompts} prompts; found "
                f"{seen.kind.value!r}, {shown(seen.coverage)}, {seen.prompts}"
            )

    def _prompt_counts(self, found: Decontamination, looked: _Looked, *, exactly: bool) -> None:
        fits: Callable[[int, int], bool] = (lambda one, two: one == two) if exactly else (lambda one, two: one >= two)
        for name, recorded in (
            ("contaminated", found.prompts_contaminated),
            ("flagged", found.prompts_flagged),
            ("numbers", found.prompts_numbers_only if exactly else len(self._drawn)),
        ):
            self._tally.saw()
            if not fits(recorded, looked.prompts[name]):
                self._tally.wrong(
                    f"prompts {name}: recorded {recorded}, found {looked.prompts[name]} among those drawn"
                )

    def _say(self, found: Decontamination, looked: _Looked, every: bool) -> None:
        if self._erased:
            self._tally.remark(f"{self._erased} drawn prompts erased: not looked up")
        if not every:
            self._tally.remark(
                f"{len(self._drawn)} of {found.prompts} prompts were drawn; of the others the record has digests only, "
                "so their overlaps were not looked for, and counts are lower bounds"
            )
        for why in sorted(set(looked.skipped.values())):
            names = [name for name, reason in looked.skipped.items() if reason == why]
            self._tally.remark(f"not looked for again: {', '.join(names)} ({why})")


def _as_looked_for(
    task: str, texts: list[tuple[str, str | None]], planned: int, digest: str | None
) -> tuple[str, list[Document]]:
    """Why a task's recorded prompts are not what was looked for, or an empty string, and its documents."""
    known = [(doc_id, text) for doc_id, text in texts if text is not None]
    documents = [Document(task, doc_id, text) for doc_id, text in known]
    if len(known) != planned:
        return "prompts erased or not evaluated", documents
    if digest is None:
        return "the check has no digest of what it looked for", documents
    for chosen in (documents, [Document(task, doc_id, _choices(text)) for doc_id, text in known]):
        if cores_digest(cores(chosen)) == digest:
            return "", chosen
    return "recorded with other text around the question, such as few-shot examples", documents


def _choices(text: str) -> str:
    """Where each choice has a prompt of its own the record has a list of them."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return "\n".join(map(str, found)) if isinstance(found, list) else text


def _prompt_text(fields: bytes) -> str | None:
    """The text of a recorded row, as the prompt set had it; None when it is no such row (step (21) says so)."""
    try:
        prompt = json.loads(fields)["prompt"]
        if isinstance(prompt, str):
            return prompt
        if len(prompt) == 1:
            return str(prompt[0]["content"])
        return "\n\n".join(f"{item['role']}: {item['content']}" for item in prompt)
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _key(item: DocumentOverlap) -> Key:
    return (item.task, item.doc_id)


def _key_of(looked: _Looked, hit: Hit) -> Key:
    document = looked.overlaps.documents[hit.document]
    return (document.task, document.id)


def _numbers_only(how: str) -> bool:
    return how in (Kind.REORDERED.value, Kind.TRANSLATION.value)
