"""The trainer's engine as an lm-eval LM.

Generation goes through the native engine, which reads each prompt once and drops finished rows; likelihoods stay those
of lm-eval's own Hugging Face backend. Both give its results (a test compares them answer by answer), and keep what it
throws away: raw text, token counts, why an answer ended, and how much of a prompt did not fit.

Where it differs on purpose: prompts that went through the chat template get no second set of special tokens, as in
training; an answer stops at a stop string whatever else is in the batch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from lm_eval.models.huggingface import HFLM

from grpo_audit.errors import EvaluationError
from grpo_audit_evals import harness
from grpo_audit_evals.checks import LENGTH_KEYS
from grpo_audit_trainer.policy import Policy
from grpo_audit_trainer.rollout.answers import Completion
from grpo_audit_trainer.rollout.native import NativeEngine

DEFAULT_NEW_TOKENS = 256
"""lm-eval's own limit for tasks that set none."""
LOGITS_BYTES = 1 << 30
"""Memory the likelihood pass may take for logits and their log-softmax."""

Place = tuple[str, int]
"""A document: its task and its position in it."""
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

    def __init__(self, policy: Policy, *, batch_size: int) -> None:
        tokenizer = policy.tokenizer
        pad_token = tokenizer.pad_token
        with harness.quiet():
            super().__init__(pretrained=policy.model, tokenizer=tokenizer, batch_size=batch_size)
        if pad_token is None:
            tokenizer.pad_token = None  # the parent sets one; the tokenizer is the trainer's and stays as it was
        self._policy = policy
        self._engine = NativeEngine(policy)
        self._rows = batch_size
        self._on_done: OnDone | None = None
        self._scored, self._to_score, self._documents = 0, 1, 1
        self.answers: dict[Place, Answer] = {}
        """What was generated since ``begin``."""
        self.dropped: dict[Place, int] = {}
        """Prompt tokens that did not fit and were cut off on the left; only where there were any."""
        self.working = False
        """Whether the model is at work: an error that comes up meanwhile is not the task's."""

    def begin(self, on_done: OnDone | None = None) -> None:
        """Forget the last task; report the progress of the next."""
        self.answers, self.dropped, self.working = {}, {}, False
        self._on_done = on_done

    # --- generation ---------------------------------------------------------------------------------------------

    def generate_until(self, requests: Sequence[Any], **_: Any) -> list[str]:
        """Greedy answers, cut at the first stop string, in the order of the requests."""
        self.working = True
        groups: dict[tuple[tuple[str, ...], int], list[Any]] = defaultdict(list)
        for request in requests:
            groups[_settings(request)].append(request)
        for (stop, new_tokens), members in groups.items():
            self._generate(members, stop, new_tokens)
        self.working = False
        return [self.answers[_place(request)].text for request in requests]

    def _generate(self, requests: Sequence[Any], stop: tuple[str, ...], new_tokens: int) -> None:
        before = len(self.answers)
        finished = 0

        def report(newly: int) -> None:
            nonlocal finished
            finished += newly
            if self._on_done is not None:
                self._on_done(before + finished)

        # The end token ends an answer anyway, so its text need not be looked for at each step, only once at the end.
        end = self.tokenizer.eos_token
        completions = self._engine.greedy(
            [self._prompt(request, new_tokens) for request in requests],
            max_new_tokens=new_tokens,
            stop=[text for text in stop if text != end],
            batch_size=self._rows,
            on_progress=report,
        )
        for request, completion in zip(requests, completions, strict=True):
            self.answers[_place(request)] = answer_of(completion, end)

    def _prompt(self, request: Any, new_tokens: int) -> list[int]:
        text = request.args[0]
        ids = self._encode(text)
        room = self.max_length - new_tokens
        if room < 1:
            raise EvaluationError(
                f"Task {request.task_name} asks for {new_tokens} new tokens",
                found=f"a model with a context of {self.max_length}",
                next_step="Lower max_gen_toks in generation_kwargs of a copy of the task file",
            )
        if not ids:
            raise EvaluationError(f"Task {request.task_name}: the prompt of document {request.doc_id} is empty")
        if len(ids) > room:
            self.dropped[_place(request)] = len(ids) - room
        return ids[-room:]

    def _encode(self, text: str) -> list[int]:
        if self._policy.execution.chat_template:
            return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        return self._policy.encode_prompt(text).ids

    # --- likelihoods --------------------------------------------------------------------------------------------

    def loglikelihood(self, requests: Sequence[Any], **_: Any) -> list[tuple[float, bool]]:
        """Log-likelihood of each continuation, and whether it is the greedy one."""
        self.working = True
        self._documents = len({_place(request) for request in requests})
        for request in requests:
            self._note_dropped(request)
        results = super().loglikelihood(requests, disable_tqdm=True)
        self.working = False
        return results  # type: ignore[no-any-return]

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
        if self._on_done is not None:
            self._on_done(self._documents * min(self._scored, self._to_score) // self._to_score)
        return logits.float()  # type: ignore[no-any-return]


def _place(request: Any) -> Place:
    return request.task_name, request.doc_id


def _settings(request: Any) -> tuple[tuple[str, ...], int]:
    """Stop strings and length limit of a generation request."""
    options = request.args[1]
    until = options.get("until") or []
    limit = next((options[key] for key in LENGTH_KEYS if options.get(key) is not None), DEFAULT_NEW_TOKENS)
    return tuple([until] if isinstance(until, str) else until), int(limit)


def answer_of(completion: Completion, end: str) -> Answer:
    """An answer ends at the text of the end token too, when a model spells it in ordinary tokens."""
    text, spelled_end, _ = completion.text.partition(end)
    reason: Literal["stop", "length"] = "stop" if spelled_end else completion.finish_reason
    return Answer(completion.raw, text, len(completion.token_ids), reason)
