"""Prompts read in parts, with what they have in common read once: the same as each prompt alone."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from grpo_audit_trainer import noise
from grpo_audit_trainer.policy import Policy
from grpo_audit_trainer.rollout import prefill
from grpo_audit_trainer.rollout.answers import Draw, common_prefix
from grpo_audit_trainer.rollout.native import NativeEngine
from grpo_audit_trainer.rollout.prefill import read_in_parts


def prompts(shared: int, lengths: list[int]) -> list[list[int]]:
    """Token lists that begin alike and go on differently."""
    rng = random.Random(0)
    beginning = [rng.randrange(4, 40) for _ in range(shared)]
    return [[*beginning, 4 + number, *(rng.randrange(4, 40) for _ in range(n - 1))] for number, n in enumerate(lengths)]


def alone(policy: Policy, prompt: list[int]) -> torch.Tensor:
    """Logits behind one prompt."""
    with torch.no_grad():
        return policy.model(torch.tensor([prompt])).logits[0, -1].float()


@pytest.mark.parametrize("shared", [0, 1, 23])
@pytest.mark.parametrize("tokens", [1, 16, 10_000])
def test_parts_give_the_logits_of_each_prompt_alone(
    make_policy: Any, monkeypatch: pytest.MonkeyPatch, shared: int, tokens: int
) -> None:
    """One prompt a pass, a few, or all; with a common beginning or without."""
    monkeypatch.setitem(prefill.TOKENS, "cpu", tokens)
    policy = make_policy("llama")
    texts = prompts(shared, [1, 2, 2, 5, 9, 9])
    with torch.no_grad():
        found = read_in_parts(policy, texts, shared)
    assert found is not None
    cache, mask, logits = found
    for prompt, row in zip(texts, logits, strict=True):
        torch.testing.assert_close(row, alone(policy, prompt), atol=1e-4, rtol=1e-4)
    assert mask is not None
    assert mask.sum(dim=1).tolist() == [len(prompt) for prompt in texts]
    assert cache.layers[0].keys.shape[::2] == mask.shape


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gemma2"])
def test_answers_do_not_depend_on_what_is_shared(
    make_policy: Any, monkeypatch: pytest.MonkeyPatch, architecture: str
) -> None:
    """Sampled answers to prompts with a long common beginning are those of each prompt alone, in several parts and with
    rows dropped on the way; also for a model with sliding windows, which reads them in one pass."""
    monkeypatch.setitem(prefill.TOKENS, "cpu", 24)
    policy = make_policy(architecture)
    texts = prompts(20, [3, 1, 7, 7, 2, 4, 9, 11, 15, 5, 6, 30])
    assert common_prefix(texts) == 20
    engine = NativeEngine(policy)
    keys = noise.row_keys(0, 0, [("p", number) for number in range(len(texts))], policy.device)
    together = engine.answer(texts, max_new_tokens=12, draw=Draw(keys, 1.0))
    one_by_one = [
        engine.answer([prompt], max_new_tokens=12, draw=Draw(key[None], 1.0))[0]
        for prompt, key in zip(texts, keys, strict=True)
    ]
    assert together == one_by_one
    assert len({answer.raw for answer in together}) == len(texts)


def test_models_with_sliding_windows_read_in_one_pass(make_policy: Any) -> None:
    """Padding between the common beginning and the rest would lie inside a window."""
    assert read_in_parts(make_policy("gemma2"), prompts(20, [3, 1]), 20) is None


def test_equal_prompts_keep_one_token_apart() -> None:
    """A pass needs a token a row: of equal prompts all but the last token are shared."""
    assert common_prefix([[5, 6, 7], [5, 6, 7]]) == 2
    assert common_prefix([[5, 6, 7], [5, 6]]) == 1
    assert common_prefix([[5], [6]]) == 0
