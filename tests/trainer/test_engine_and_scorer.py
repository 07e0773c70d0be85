"""Sampler and scorer against transformers' own code."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor

from grpo_audit_trainer import noise, scoring
from grpo_audit_trainer.policy import Policy
from grpo_audit_trainer.rollout import packed
from grpo_audit_trainer.rollout.native import NativeEngine, SampledBatch
from grpo_audit_trainer.scoring import CHUNK_ELEMENTS, Completions, LogSoftmaxAt, Scorer, least_padding

ALL = ("qwen2", "llama", "gemma2", "gemma3_text", "cohere")
TEXTS = ("ab+cd=", "the quick brown fox jumps", "x=", "12*3?")


def encoded(policy: Policy, texts: tuple[str, ...] = TEXTS) -> list[list[int]]:
    """Token ids of the prompts."""
    return [policy.encode_prompt(text).ids for text in texts]


def sampled(
    policy: Policy, texts: tuple[str, ...] = TEXTS, *, group: int = 3, temperature: float = 1.0
) -> SampledBatch:
    """A batch of ragged completions."""
    keys = noise.row_keys(7, 0, [(text, i) for text in texts for i in range(group)], policy.device)
    engine = NativeEngine(policy)
    return engine.sample(encoded(policy, texts), group, keys, temperature=temperature, max_tokens=24)


def completions(policy: Policy, batch: SampledBatch, texts: tuple[str, ...] = TEXTS, group: int = 3) -> Completions:
    """The batch as the scorer wants it."""
    count = len(texts) * group
    return Completions(encoded(policy, texts), [i // group for i in range(count)], batch.tokens, batch.lengths.tolist())


def plain_logp(policy: Policy, what: Completions, temperature: float) -> Tensor:
    """[N, T] from ``model(**inputs).logits``, one row at a time, without any of our shortcuts."""
    out = torch.zeros(what.tokens.shape)
    for row, length in enumerate(what.lengths):
        prompt = what.prompts[what.group[row]]
        ids = torch.tensor([prompt + what.tokens[row, :length].tolist()])
        logits = policy.model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].float() / temperature
        out[row, :length] = logits.log_softmax(-1).gather(-1, ids[0, len(prompt) :, None])[:, 0]
    return out


@pytest.mark.parametrize("architecture", ALL)
def test_greedy_completions_are_those_of_generate(make_policy: Any, architecture: str) -> None:
    """Greedy decoding of a batch gives, prompt by prompt, what transformers' ``generate`` gives for it alone."""
    policy = make_policy(architecture)
    ours = NativeEngine(policy).greedy(encoded(policy), max_new_tokens=24, batch_size=3)
    for ids, completion in zip(encoded(policy), ours, strict=True):
        theirs = policy.model.generate(torch.tensor([ids]), max_new_tokens=24, do_sample=False, pad_token_id=0)
        assert completion.token_ids == theirs[0, len(ids) :].tolist()
        assert completion.finish_reason == ("stop" if completion.token_ids[-1] == 1 else "length")


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("architecture", ALL)
def test_sampler_scorer_and_plain_model_agree(make_policy: Any, architecture: str, temperature: float) -> None:
    """The log-probability of a token is the same to the sampler, to the scorer and to the model run on the whole row,
    at the sampling temperature, for padded prompts, windows, softcapping and scaled logits."""
    policy = make_policy(architecture)
    batch = sampled(policy, temperature=temperature)
    what = completions(policy, batch)
    scored = Scorer(policy, temperature=temperature, microbatch_tokens=90).logp(what, range(len(what.lengths)))
    with torch.no_grad():
        truth = plain_logp(policy, what, temperature)
    assert truth[batch.inside()].std() > 0.1
    torch.testing.assert_close(batch.logp, truth, atol=1e-4, rtol=0)
    torch.testing.assert_close(scored, truth, atol=1e-4, rtol=0)


@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
def test_the_gradient_is_that_of_the_plain_model(
    make_policy: Any, architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sharing prompts, cutting into microbatches and chunking the output layer change no gradient beyond rounding."""
    policy = make_policy(architecture)
    batch = sampled(policy)
    what = completions(policy, batch)
    weights = torch.randn(batch.tokens.shape, generator=torch.Generator().manual_seed(0))
    (plain_logp(policy, what, 1.0) * weights).sum().backward()
    expected = {name: p.grad.clone() for name, p in policy.model.named_parameters()}
    policy.model.zero_grad()
    monkeypatch.setitem(CHUNK_ELEMENTS, "cpu", 5 * policy.vocabulary)  # five positions at a time
    shared: list[int] = []
    read = scoring.SharedPrefix.each
    monkeypatch.setattr(scoring.SharedPrefix, "each", lambda *args: (shared.append(1), read(*args)))
    scorer = Scorer(policy, temperature=1.0, microbatch_tokens=110)
    seen = []
    scorer.each(
        what,
        range(len(what.lengths)),
        lambda micro, logp: seen.append((logp * weights[micro.rows, : logp.shape[1]]).sum().backward()),
    )
    assert len(seen) > 2
    assert bool(shared) == (architecture == "llama")
    for name, parameter in policy.model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], atol=2e-4, rtol=1e-3, msg=name)


@pytest.mark.parametrize("architecture", ["qwen2", "llama", "cohere"])
def test_the_whole_gradient_is_equal_to_one_part_in_a_million(make_policy: Any, architecture: str) -> None:
    """The gradient, taken as one vector, differs from that of the plain model by less than 2e-6 of its length, which is
    rounding in float32."""
    policy = make_policy(architecture)
    batch = sampled(policy)
    what = completions(policy, batch)
    weights = torch.randn(batch.tokens.shape, generator=torch.Generator().manual_seed(0))
    (plain_logp(policy, what, 1.0) * weights).sum().backward()
    expected = torch.cat([p.grad.flatten() for p in policy.model.parameters()])
    policy.model.zero_grad()
    Scorer(policy, temperature=1.0, microbatch_tokens=110).each(
        what,
        range(len(what.lengths)),
        lambda micro, logp: (logp * weights[micro.rows, : logp.shape[1]]).sum().backward(),
    )
    found = torch.cat([p.grad.flatten() for p in policy.model.parameters()])
    assert float((found - expected).norm() / expected.norm()) < 2e-6


@given(st.integers(0, 2**31 - 1), st.integers(1, 6), st.integers(2, 40))
def test_the_log_softmax_and_its_gradient_are_those_of_cross_entropy(seed: int, count: int, vocabulary: int) -> None:
    """``LogSoftmaxAt`` gives minus torch's cross-entropy, and its gradient, also for logits that overflow ``exp``."""
    generator = torch.Generator().manual_seed(seed)
    logits = (torch.randn(count, vocabulary, generator=generator) * 60).requires_grad_()
    targets = torch.randint(vocabulary, (count,), generator=generator)
    upstream = torch.randn(count, generator=generator)
    truth = -torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    (expected,) = torch.autograd.grad(truth, logits, upstream)
    found = LogSoftmaxAt.apply(logits, targets)
    (gradient,) = torch.autograd.grad(found, logits, upstream)
    torch.testing.assert_close(found, truth, atol=1e-5, rtol=1e-6)
    torch.testing.assert_close(gradient, expected, atol=1e-6, rtol=1e-5)


def cheapest(sizes: list[int], budget: int, costs: int) -> int:
    """The least costs of any cut of these falling sizes, by trying all of them."""
    if not sizes:
        return 0
    ends = [end for end in range(1, len(sizes) + 1) if end == 1 or end * sizes[0] <= budget]
    return min(end * sizes[0] + costs + cheapest(sizes[end:], budget, costs) for end in ends)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=9), st.integers(1, 120), st.integers(0, 40))
def test_no_cut_wastes_less(sizes: list[int], budget: int, costs: int) -> None:
    """Each row is in exactly one microbatch, longest first, none over the budget unless it is a single row; no other
    such cut costs less."""
    cuts = list(least_padding(range(len(sizes)), sizes.__getitem__, budget, costs))
    assert sorted(row for cut in cuts for row in cut) == list(range(len(sizes)))
    flat = [sizes[row] for cut in cuts for row in cut]
    assert flat == sorted(sizes, reverse=True)
    assert all(len(cut) == 1 or len(cut) * sizes[cut[0]] <= budget for cut in cuts)
    assert sum(len(cut) * sizes[cut[0]] + costs for cut in cuts) == cheapest(flat, budget, costs)


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "cohere"])
def test_a_packed_output_layer_changes_nothing_but_rounding(
    make_policy: Any, architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the output layer packed the same tokens are drawn, with the same log-probabilities within rounding, also
    where logits are softcapped or scaled; afterwards the layer is its own again."""
    policy = make_policy(architecture)
    plain = sampled(policy)
    used: list[Any] = []
    pack = packed._packed
    monkeypatch.setattr(packed, "PACK_FROM", 1)
    monkeypatch.setattr(packed, "_packed", lambda *args: used.append(pack(*args)) or used[-1])
    batch = sampled(policy)
    assert used and used[0] is not None
    assert batch.tokens.tolist() == plain.tokens.tolist()
    torch.testing.assert_close(batch.logp, plain.logp, atol=1e-4, rtol=0)
    assert "forward" not in vars(policy.model.get_output_embeddings())


def test_full_attention_shares_prompts_and_windows_do_not(make_policy: Any) -> None:
    """The shared-prefix path is taken where it is exact: full attention, no gradient checkpointing."""
    assert Scorer(make_policy("qwen2"), temperature=1.0, microbatch_tokens=90).can_share
    assert not Scorer(make_policy("gemma2"), temperature=1.0, microbatch_tokens=90).can_share
    checkpointed = make_policy("llama", gradient_checkpointing="on")
    assert not Scorer(checkpointed, temperature=1.0, microbatch_tokens=90).can_share


@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
def test_a_completion_regenerates_alone(make_policy: Any, architecture: str) -> None:
    """A completion sampled alone, with nothing but its own key, is the one of the batch: same tokens,
    log-probabilities within rounding."""
    policy = make_policy(architecture)
    batch = sampled(policy)
    ids = encoded(policy)
    for row in (0, 4, 11):
        key = noise.row_keys(7, 0, [(TEXTS[row // 3], row % 3)], policy.device)
        alone = NativeEngine(policy).sample([ids[row // 3]], 1, key, temperature=1.0, max_tokens=24)
        length = int(batch.lengths[row])
        assert alone.tokens[0].tolist() == batch.tokens[row, :length].tolist()
        torch.testing.assert_close(alone.logp[0], batch.logp[row, :length], atol=1e-4, rtol=0)


def test_the_samples_of_a_group_differ(make_policy: Any) -> None:
    """No two completions of a group are clones."""
    batch = sampled(make_policy(), group=8)
    rows = {tuple(row) for row in batch.tokens[:8].tolist()}
    assert len(rows) == 8


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_dropping_finished_rows_changes_no_token(make_policy: Any, share: float) -> None:
    """Whether finished rows are dropped never, seldom or at once, the tokens are the same."""
    policy = make_policy()
    keys = noise.row_keys(7, 0, [(text, i) for text in TEXTS for i in range(3)], policy.device)
    engine = NativeEngine(policy, compact_below=share)
    batch = engine.sample(encoded(policy), 3, keys, temperature=1.0, max_tokens=24)
    assert batch.tokens.tolist() == sampled(policy).tokens.tolist()
    assert len(set(batch.lengths.tolist())) > 1


def test_a_sampled_batch_is_consistent(make_policy: Any) -> None:
    """A row ends with its first end token, or at the limit; behind its end all is 0; entropy lies in [0, log V]."""
    policy = make_policy()
    batch = sampled(policy, group=8)
    for row, length in enumerate(batch.lengths.tolist()):
        tokens = batch.tokens[row].tolist()
        assert (tokens[length - 1] == 1) == bool(batch.stopped[row])
        assert 1 not in tokens[: length - 1]
        assert not any(tokens[length:])
        assert bool(batch.stopped[row]) or length == 24
    assert batch.stopped.any() and not batch.stopped.all()
    assert (batch.logp[batch.inside()] < 0).all() and (batch.logp[~batch.inside()] == 0).all()
    entropy = batch.entropy[batch.inside()]
    assert (entropy > 0).all() and (entropy <= torch.log(torch.tensor(float(policy.vocabulary))) + 1e-4).all()


def test_tokens_are_counted_once(make_policy: Any) -> None:
    """``on_tokens`` reports every token of every completion, and nothing else."""
    policy = make_policy()
    counted: list[int] = []
    keys = noise.row_keys(7, 0, [(text, i) for text in TEXTS for i in range(3)], policy.device)
    batch = NativeEngine(policy).sample(
        encoded(policy), 3, keys, temperature=1.0, max_tokens=24, on_tokens=counted.append
    )
    assert sum(counted) == int(batch.lengths.sum())


def test_a_stop_string_ends_the_completion(make_policy: Any) -> None:
    """Text ends before the stop string, generation soon after it; other prompts of the batch go on; each prompt may
    have stops of its own."""
    policy = make_policy("qwen2")
    engine, ids = NativeEngine(policy), encoded(policy)
    free = engine.greedy(ids, max_new_tokens=24)
    stop = free[1].text[5:8]
    assert len(stop) == 3
    common = engine.greedy(ids, max_new_tokens=24, stop=[stop])
    assert common[1].text == free[1].text[: free[1].text.index(stop)]
    assert common[1].finish_reason == "stop" and stop in common[1].raw
    assert len(common[1].token_ids) == free[1].text.index(stop) + 3
    own = engine.greedy(ids, max_new_tokens=24, stop=[[], [stop], [], []])
    assert own[1] == common[1]
    assert [own[i] for i in (0, 2, 3)] == [free[i] for i in (0, 2, 3)]


def test_greedy_keeps_the_order_of_the_prompts(make_policy: Any) -> None:
    """Batches are cut by length, answers come back in the order of the questions, and progress adds up."""
    policy = make_policy()
    done: list[int] = []
    engine = NativeEngine(policy)
    together = engine.greedy(encoded(policy), max_new_tokens=12, batch_size=2, on_progress=done.append)
    alone = [engine.greedy([ids], max_new_tokens=12)[0] for ids in encoded(policy)]
    assert together == alone
    assert sum(done) == len(TEXTS)
