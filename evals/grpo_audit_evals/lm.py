"""The trainer's engine as an lm-eval LM.

Generation goes through the native engine, which reads each prompt once and drops finished rows; likelihoods stay those
of lm-eval's own Hugging Face backend. Both give its results (a test compares them answer by answer), and keep what it
throws away: raw text, token counts, why an answer ended, and how much of a prompt did not fit.

Where it differs on purpose: prompts that went through the chat template get no second set of special tokens, as in
training; an answer stops at a stop string whatever else is in the batch; sampled answers come from noise that depends
on the document and on nothing else.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from lm_eval.models.huggingface import HFLM

import grpo_audit
from grpo_audit.errors import EvaluationError
from grpo_audit_evals import harness, sampling
from grpo_audit_evals.answer_cache import AnswerCache, key_of
from grpo_audit_evals.documents import Document
from grpo_audit_evals.questions import Batch, Place, Question, Settings, batches
from grpo_audit_evals.sampling import Sampling
from grpo_audit_trainer.policy import Policy
from grpo_audit_trainer.rollout.answers import Completion, Draw
from grpo_audit_trainer.rollout.native import NativeEngine

LOGITS_BYTES = 1 << 30
"""Memory the likelihood pass may take for logits and their log-softmax."""
LIKELIHOOD_BATCHES = 4
"""Batches of likelihoods that are computed, and kept, together."""

OnDone = Callable[[int], None]
"""Called with the number of documents answered so far in this task."""


@dataclass(frozen=True)
class Answer:
    """What became of one request."""

    raw: str
    """All that was generated, special tokens and trace included."""
    text: str
    """What is scored: up to the first stop string."""
    completion_tokens: int
    finish_reason: Literal["stop", "length"]


class PolicyLM(HFLM):
    """A policy under evaluation, for one process."""

    def __init__(self, policy: Policy, *, batch_size: int, cache: AnswerCache | None = None) -> None:
        tokenizer = policy.tokenizer
        pad_token = tokenizer.pad_token
        with harness.quiet():
            super().__init__(pretrained=policy.model, tokenizer=tokenizer, batch_size=batch_size)
        if pad_token is None:
            tokenizer.pad_token = None  # the parent sets one; the tokenizer is the trainer's and stays as it was
        self._policy = policy
        self._engine = NativeEngine(policy)
        self._rows = batch_size
        self._cache = cache
        self._identity = None if cache is None else _identity(policy, batch_size)
        self._scored, self._to_score, self._in_part = 0, 1, 0
        self.begin()

    def begin(
        self,
        on_done: OnDone | None = None,
        *,
        documents: Sequence[Document] = (),
        sampling: Sampling | None = None,
    ) -> None:
        """Forget the last task; get ready for the next.

        Args:
            on_done: Is told the progress.
            documents: The task's, by position. Needed for a cache and for sampling, which know documents by name.
            sampling: How it is sampled; None: greedily.
        """
        self.answers: dict[Place, list[Answer]] = defaultdict(list)
        """What was generated since ``begin``: of each document one answer, or as many as are sampled."""
        self.dropped: dict[Place, int] = {}
        """Prompt tokens that did not fit and were cut off on the left; only where there were any."""
        self.reused: set[Place] = set()
        """Documents that were answered out of the cache, at least in part."""
        self.working = False
        """Whether the model is at work: an error that comes up meanwhile is not the task's."""
        self._on_done = on_done
        self._documents = documents
        self._sampling = sampling
        self._finished, self._told = 0.0, 0

    def _report(self, documents: float) -> None:
        """So many more documents (or parts of them) are answered."""
        self._finished += documents
        self._tell(self._finished)

    def _tell(self, finished: float) -> None:
        self._told = max(self._told, int(finished + 1e-6))  # a bar does not go back
        if self._on_done is not None:
            self._on_done(self._told)

    # --- generation ---------------------------------------------------------------------------------------------

    def generate_until(self, requests: Sequence[Any], **_: Any) -> list[str]:
        """Answers, cut at the first stop string, in the order of the requests. Of several requests for one document
        each gets the next of its sampled answers."""
        self.working = True
        unique = {_place(request): request for request in requests}
        for place in unique:
            self.answers.pop(place, None)  # asked again
        questions = [self._question(place, request) for place, request in unique.items()]
        samples = self._sampling.samples if self._sampling else 1
        for batch in batches(questions, samples, self._rows):
            for (question, number), answer in zip(batch.answers(), self._answer(batch), strict=True):
                assert len(self.answers[question.place]) == number
                self.answers[question.place].append(answer)
        self.working = False
        taken: Counter[Place] = Counter()
        texts = []
        for request in requests:
            place = _place(request)
            texts.append(self.answers[place][taken[place]].text)
            taken[place] += 1
        return texts

    def _answer(self, batch: Batch) -> list[Answer]:
        """Out of the cache when all of them are there, else from the engine, and into the cache at once."""
        samples = self._sampling.samples if self._sampling else 1
        keys = [
            self._key("generate_until", q.place, [q.ids, asdict(q.settings), number]) for q, number in batch.answers()
        ]
        kept = self._kept(keys)
        if kept is not None:
            self._report(len(keys) / samples)
            self.reused.update(question.place for question in batch.questions)
            return [self._read(value) for value in kept]
        end = self.tokenizer.eos_token
        completions = self._engine.answer(
            [question.ids for question in batch.questions],
            max_new_tokens=batch.questions[0].settings.new_tokens,
            # the end token ends an answer anyway, so its text is looked for once at the end and not at each step
            stop=[[text for text in question.settings.stop if text != end] for question in batch.questions],
            group_size=batch.count,
            draw=self._draw(batch),
            on_progress=lambda newly: self._report(newly / samples),
        )
        answers = [answer_of(completion, end) for completion in completions]
        self._keep(keys, [asdict(answer) for answer in answers])
        return answers

    def _draw(self, batch: Batch) -> Draw | None:
        if self._sampling is None:
            return None
        task = batch.questions[0].place[0]
        rows = [(self._documents[question.place[1]], number) for question, number in batch.answers()]
        return Draw(sampling.noise_keys(task, rows, self._policy.device), self._sampling.temperature)

    def _question(self, place: Place, request: Any) -> Question:
        settings = Settings.of(request)
        ids = self._encode(request.args[0])
        room = self.max_length - settings.new_tokens
        if room < 1:
            raise EvaluationError(
                f"Task {request.task_name} asks for {settings.new_tokens} new tokens",
                found=f"a model with a context of {self.max_length}",
                next_step="Lower max_gen_toks in generation_kwargs of a copy of the task file",
            )
        if not ids:
            raise EvaluationError(f"Task {request.task_name}: the prompt of document {request.doc_id} is empty")
        if len(ids) > room:
            self.dropped[place] = len(ids) - room
        return Question(place, ids[-room:], settings)

    def _encode(self, text: str) -> list[int]:
        if self._policy.execution.chat_template:
            return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        return self._policy.encode_prompt(text).ids

    # --- likelihoods --------------------------------------------------------------------------------------------

    def loglikelihood(self, requests: Sequence[Any], **_: Any) -> list[tuple[float, bool]]:
        """Log-likelihood of each continuation, and whether it is the greedy one."""
        for request in requests:
            self._note_dropped(request)
        values = self._likelihoods("loglikelihood", requests, super().loglikelihood)
        return [(float(likelihood), bool(greedy)) for likelihood, greedy in values]

    def loglikelihood_rolling(self, requests: Sequence[Any], **_: Any) -> list[float]:
        """Log-likelihood of each whole text."""
        return [float(v) for v in self._likelihoods("loglikelihood_rolling", requests, super().loglikelihood_rolling)]

    def _likelihoods(self, kind: str, requests: Sequence[Any], compute: Callable[..., Any]) -> list[Any]:
        self.working = True
        found: dict[int, Any] = {}
        for part in _chunks(requests, self._rows):
            members = [requests[index] for index in part]
            keys = [self._key(kind, _place(request), list(request.args)) for request in members]
            self._in_part = len({_place(request) for request in members})
            values = self._kept(keys)
            if values is None:
                values = compute(members, disable_tqdm=True)
                self._keep(keys, values)
            else:
                self.reused.update(map(_place, members))
            self._report(self._in_part)
            found.update(zip(part, values, strict=True))
        self.working = False
        return [found[index] for index in range(len(requests))]

    def _note_dropped(self, request: Any) -> None:
        context, continuation = request.args
        if len((context + continuation).encode("utf-8")) < self.max_length or not context:
            return  # a token is at least one byte, so this fits, with a token to spare for the beginning
        excess = sum(map(len, self._encode_pair(context, continuation))) - (self.max_length + 1)
        if excess > 0:
            place = _place(request)
            self.dropped[place] = max(excess, self.dropped.get(place, 0))

    def _loglikelihood_tokens(
        self, requests: Sequence[Any], override_bs: int | None = None, **_: Any
    ) -> list[tuple[float, bool]]:
        # the parent runs one row for all continuations that differ in their last token only
        self._to_score = len({tuple(context + continuation[:-1]) for _, context, continuation in requests})
        self._scored = 0
        longest = max((len(context) + len(continuation) for _, context, continuation in requests), default=1)
        row_bytes = 2 * 4 * min(longest, self.max_length) * self._policy.vocabulary  # logits, log-softmax; float32
        self.batch_size_per_gpu = max(1, min(self._rows, LOGITS_BYTES // row_bytes))
        return super()._loglikelihood_tokens(  # type: ignore[no-any-return]
            requests, disable_tqdm=True, override_bs=override_bs
        )

    def _model_call(self, inps: torch.Tensor, **_: Any) -> torch.Tensor:
        with torch.no_grad(), self._policy.autocast():
            logits = self.model(inps, use_cache=False).logits
        self._scored += len(inps)
        self._tell(self._finished + self._in_part * min(1.0, self._scored / self._to_score))
        return logits.float()  # type: ignore[no-any-return]

    # --- the cache ----------------------------------------------------------------------------------------------

    def _key(self, kind: str, place: Place, asked: list[Any]) -> str:
        if self._cache is None:
            return ""
        document = self._documents[place[1]]
        chance = None if self._sampling is None else self._sampling.protocol()
        return key_of(self._identity, kind, place[0], document.doc_id, document.digest, chance, asked)

    def _kept(self, keys: Sequence[str]) -> list[Any] | None:
        """What the cache has for all of these, else None."""
        if self._cache is None:
            return None
        found = self._cache.get(keys)
        return [found[key] for key in keys] if all(key in found for key in keys) else None

    def _keep(self, keys: Sequence[str], values: Sequence[Any]) -> None:
        if self._cache is not None:
            self._cache.put(dict(zip(keys, values, strict=True)))

    def _read(self, value: Any) -> Answer:
        assert self._cache is not None
        try:
            return Answer(**value)
        except TypeError as error:
            raise self._cache.damaged(f"an answer {value!r:.80}") from error


def _place(request: Any) -> Place:
    return request.task_name, request.doc_id


def _chunks(requests: Sequence[Any], rows: int) -> Iterator[list[int]]:
    """Positions of the requests of some documents, the longest first; a document's requests stay together."""
    documents: dict[Place, list[int]] = defaultdict(list)
    for index, request in enumerate(requests):
        documents[_place(request)].append(index)
    length = {place: max(sum(map(len, requests[i].args)) for i in members) for place, members in documents.items()}
    part: list[int] = []
    for place in sorted(documents, key=lambda place: -length[place]):
        part += documents[place]
        if len(part) >= LIKELIHOOD_BATCHES * rows:
            yield part
            part = []
    if part:
        yield part


def _identity(policy: Policy, rows: int) -> dict[str, Any]:
    """All that decides the bits of an answer beside the weights, the protocol and the question."""
    tokenizer = policy.tokenizer
    backend = getattr(tokenizer, "backend_tokenizer", None)
    spelled = backend.to_str() if backend is not None else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    packages = {name: importlib.metadata.version(name) for name in ("torch", "transformers", "tokenizers")}
    return {
        "packages": packages | {"grpo-audit": grpo_audit.__version__},
        "tokenizer": hashlib.sha256(spelled.encode("utf-8")).hexdigest(),
        "ends": sorted(policy.eos_ids),
        "type": str(next(policy.model.parameters()).dtype),
        "attention": str(getattr(policy.model.config, "_attn_implementation", None)),
        "execution": {key: str(value) for key, value in asdict(policy.execution).items()},
        "rows": rows,
    }


def answer_of(completion: Completion, end: str) -> Answer:
    """An answer ends at the text of the end token too, when a model spells it in ordinary tokens."""
    text, spelled_end, _ = completion.text.partition(end)
    reason: Literal["stop", "length"] = "stop" if spelled_end else completion.finish_reason
    return Answer(completion.raw, text, len(completion.token_ids), reason)
