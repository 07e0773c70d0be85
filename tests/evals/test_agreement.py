"""Our LM gives what lm-eval's own Hugging Face backend gives, document by document."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable
from typing import Any
from unittest import mock

import lm_eval.evaluator
import pytest
from lm_eval.models.huggingface import HFLM

from grpo_audit_evals import harness
from grpo_audit_evals.lm import PolicyLM
from grpo_audit_evals.suite import Suite
from grpo_audit_trainer.policy import Policy


def logged(model: Any, suite: Suite, *, chat: bool) -> dict[str, list[dict[str, Any]]]:
    """What simple_evaluate, as a user of lm-eval calls it, logs for each document."""
    tasks = [copy.copy(item.task) for item in suite.tasks]
    for task in tasks:
        task.aggregation = lambda: defaultdict(lambda: len)  # lm-eval's F1 crashes on three classes
    with (
        harness.quiet(),
        mock.patch.object(lm_eval.evaluator, "add_env_info"),  # lists every package, for several seconds
        mock.patch.object(lm_eval.evaluator, "get_git_commit_hash"),
        mock.patch.object(HFLM, "get_model_info", return_value={}),  # asks the hub for the model
    ):
        results = lm_eval.evaluator.simple_evaluate(
            model,
            tasks=tasks,
            task_manager=harness.task_index(None, defaults=False),
            bootstrap_iters=0,
            log_samples=True,
            apply_chat_template=chat,
        )
    return dict(results["samples"])


@pytest.mark.parametrize(("chat", "context"), [(False, 128), (True, 128), (False, 40)])
def test_answers_are_those_of_the_hugging_face_backend(
    make_policy: Callable[..., Policy], tiny_suite: Suite, chat: bool, context: int
) -> None:
    """Generation with mixed stop strings, likelihoods and multiple choice, few-shot or not, with room or cut: the same
    responses, the same filtered answers, the same metrics."""
    policy = make_policy(3, chat=chat, context=context)
    with harness.quiet():
        reference = HFLM(pretrained=policy.model, tokenizer=policy.tokenizer, batch_size=5)
    ours = logged(PolicyLM(policy, batch_size=7), tiny_suite, chat=chat)
    theirs = logged(reference, tiny_suite, chat=chat)
    assert ours.keys() == theirs.keys()
    texts = set()
    for task, samples in theirs.items():
        assert len(samples) == len(ours[task]) > 0
        for mine, other in zip(ours[task], samples, strict=True):
            assert (mine["doc_id"], mine["filter"], mine["prompt_hash"]) == (
                other["doc_id"], other["filter"], other["prompt_hash"]
            )  # fmt: skip
            if isinstance(other["resps"][0][0], str):
                assert (mine["resps"], mine["filtered_resps"]) == (other["resps"], other["filtered_resps"])
                texts.add(other["resps"][0][0])
            else:
                for (likelihood, greedy), (expected, expected_greedy) in zip(
                    mine["filtered_resps"], other["filtered_resps"], strict=True
                ):
                    assert likelihood == pytest.approx(expected, abs=1e-3)
                    assert greedy == expected_greedy
            numbers = [metric for metric in other["metrics"] if isinstance(other[metric], int | float)]
            assert numbers and [mine[metric] for metric in numbers] == [other[metric] for metric in numbers]
    assert len(texts) > 20, "a model that says the same everywhere would prove nothing"


def test_asked_a_second_time_it_answers_the_same(policy: Policy, tiny_suite: Suite) -> None:
    """One LM object may be handed to lm-eval as often as its user likes."""
    model = PolicyLM(policy, batch_size=8)
    first, second = (
        {
            task: [sample["resps"] for sample in samples]
            for task, samples in logged(model, tiny_suite, chat=False).items()
        }
        for _ in range(2)
    )
    assert first == second


def test_the_stop_strings_of_the_suite_really_stop_answers(policy: Policy, tiny_suite: Suite) -> None:
    """The agreement covers what it says: answers that end at a stop string of two characters, at a line end, at the end
    token and at the limit."""
    lm = PolicyLM(policy, batch_size=8)
    task = next(item for item in tiny_suite.tasks if item.name == "tiny_generate")
    endings = set()
    for stop in (["z"], ["\n"], []):
        task.task.config.generation_kwargs["until"], before = stop, task.task.config.generation_kwargs["until"]
        try:
            lm.begin()
            harness.run_task(lm, task.name, task.task, limit=None, chat_template=False)
        finally:
            task.task.config.generation_kwargs["until"] = before
        for (answer,) in lm.answers.values():
            endings.add((answer.finish_reason, answer.raw[-4:] if answer.raw.endswith("</s>") else answer.raw[-1:]))
    assert {("stop", "</s>"), ("stop", "\n"), ("stop", "z")} <= endings
    assert any(reason == "length" for reason, _ in endings)
