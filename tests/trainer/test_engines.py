"""The engines' common laws, on the native engine and on transformers' continuous batching."""

from __future__ import annotations

import copy
import importlib.util
import threading
from collections.abc import Iterator
from importlib import metadata
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from grpo_audit.config.sections import SamplingConfig
from grpo_audit.errors import ConfigError, TrainingError
from grpo_audit_trainer import noise
from grpo_audit_trainer.policy import Policy
from grpo_audit_trainer.rollout import continuous, engine as engines
from grpo_audit_trainer.rollout.draws import NOWHERE, Draws
from grpo_audit_trainer.rollout.engine import RolloutEngine, make_engine
from grpo_audit_trainer.rollout.native import NativeEngine, SampledBatch, draw
from grpo_audit_trainer.scoring import Completions, Scorer

PAGED = ("qwen2", "llama", "gemma3_text", "cohere")
BOTH = ("native", "continuous-batching")
TEXTS = ("ab+cd=", "the quick brown fox jumps over the lazy dog", "x", "12*3?")
GROUP, LIMIT = 5, 24


def keys_of(texts: tuple[str, ...] = TEXTS, group: int = GROUP) -> Tensor:
    """Noise keys of the rows."""
    return noise.row_keys(7, 0, [(text, sample) for text in texts for sample in range(group)], torch.device("cpu"))


def draw_from(
    engine: RolloutEngine, policy: Policy, texts: tuple[str, ...] = TEXTS, *, temperature: float = 1.0, **more: Any
) -> SampledBatch:
    """A batch of ragged completions."""
    prompts = [policy.encode_prompt(text).ids for text in texts]
    return engine.sample(prompts, GROUP, keys_of(texts), temperature=temperature, max_tokens=LIMIT, **more)


def scored(policy: Policy, batch: SampledBatch, temperature: float = 1.0) -> Tensor:
    """The scorer's log-probabilities [N, T]."""
    prompts = [policy.encode_prompt(text).ids for text in TEXTS]
    what = Completions(
        prompts, [row // GROUP for row in range(len(batch.tokens))], batch.tokens, batch.lengths.tolist()
    )
    return Scorer(policy, temperature=temperature, microbatch_tokens=300).logp(what, range(len(batch.tokens)))


@pytest.fixture
def make(make_policy: Any) -> Iterator[Any]:
    """Engines by name, closed afterwards."""
    made: list[RolloutEngine] = []

    def build(name: str, policy: Policy) -> RolloutEngine:
        made.append(make_engine(SamplingConfig.model_validate({"engine": name}), policy))
        return made[-1]

    yield build
    for engine in made:
        engine.close()
        engine.close()  # closing twice is allowed


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("architecture", PAGED)
def test_continuous_batching_draws_the_native_tokens(
    make_policy: Any, make: Any, architecture: str, temperature: float
) -> None:
    """In float32 continuous batching gives the native engine's tokens, lengths, log-probabilities and entropies, for
    full and windowed attention and for a prompt of one token; a near-tie may flip one row in twenty."""
    policy = make_policy(architecture)
    ours = draw_from(make("native", policy), policy, temperature=temperature)
    engine = make("continuous-batching", policy)
    theirs = draw_from(engine, policy, temperature=temperature)
    width = min(ours.tokens.shape[1], theirs.tokens.shape[1])
    same = (ours.tokens[:, :width] == theirs.tokens[:, :width]).all(dim=1) & (ours.lengths == theirs.lengths)
    assert engine.exact_noise and engine.entropy
    assert int((~same).sum()) <= len(same) // 20
    for name in ("logp", "entropy"):
        mine, other = getattr(ours, name)[same, :width], getattr(theirs, name)[same, :width]
        torch.testing.assert_close(other, mine, atol=2e-4, rtol=0)
    assert torch.equal(ours.stopped[same], theirs.stopped[same])


def test_attention_that_would_be_replaced_is_refused(make_policy: Any, make: Any) -> None:
    """A model with soft-capped attention, which the library would leave out, is refused in one line."""
    with pytest.raises(ConfigError, match="another attention than Gemma2ForCausalLM has"):
        make("continuous-batching", make_policy("gemma2"))


@pytest.mark.parametrize("name", BOTH)
def test_sampler_and_scorer_agree(make_policy: Any, make: Any, name: str) -> None:
    """The log-probabilities are those of the scorer at the sampling temperature."""
    policy = make_policy("qwen2")
    batch = draw_from(make(name, policy), policy, temperature=0.7)
    inside = batch.inside()
    assert batch.logp[inside].std() > 0.1
    torch.testing.assert_close(batch.logp, scored(policy, batch, 0.7), atol=1e-4, rtol=0)
    assert (scored(policy, batch, 1.0) - batch.logp)[inside].abs().mean() > 0.02  # the check would see another one


@pytest.mark.parametrize("name", BOTH)
def test_a_batch_is_consistent(make_policy: Any, make: Any, name: str) -> None:
    """A completion ends with its first end token or at the limit, behind it all is 0, tokens are counted once, and
    the samples of a group differ."""
    policy = make_policy()
    counted: list[int] = []
    batch = draw_from(make(name, policy), policy, on_tokens=counted.append)
    assert sum(counted) == int(batch.lengths.sum())
    for row, length in enumerate(batch.lengths.tolist()):
        tokens = batch.tokens[row].tolist()
        assert (tokens[length - 1] == 1) == bool(batch.stopped[row])
        assert 1 not in tokens[: length - 1]
        assert bool(batch.stopped[row]) or length == LIMIT
    for values in (batch.tokens, batch.logp, batch.entropy):
        assert not values[~batch.inside()].any()
    assert batch.stopped.any() and not batch.stopped.all()
    long = [tuple(row) for row, length in zip(batch.tokens.tolist(), batch.lengths.tolist(), strict=True) if length > 3]
    assert len(set(long)) == len(long) > GROUP  # an end token at once may well be drawn twice


@pytest.mark.parametrize("name", BOTH)
def test_the_same_call_gives_the_same_batch(make_policy: Any, make: Any, name: str) -> None:
    """Tokens and log-probabilities of a repeated call are bitwise the same, also when other calls came between."""
    policy = make_policy()
    engine = make(name, policy)
    first = draw_from(engine, policy)
    draw_from(engine, policy, TEXTS[:1], temperature=0.5)
    again = draw_from(engine, policy)
    assert torch.equal(first.tokens, again.tokens) and torch.equal(first.logp, again.logp)


@pytest.mark.parametrize("name", BOTH)
def test_a_group_does_not_depend_on_the_others(make_policy: Any, make: Any, name: str) -> None:
    """A group sampled alone has the tokens it has in the batch."""
    policy = make_policy()
    engine = make(name, policy)
    batch, alone = draw_from(engine, policy), draw_from(engine, policy, TEXTS[1:2])
    width = alone.tokens.shape[1]
    assert torch.equal(batch.tokens[GROUP : 2 * GROUP, :width], alone.tokens)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", BOTH)
def test_synced_weights_are_followed(make_policy: Any, make: Any, name: str, precision: str) -> None:
    """After a change of weights and ``sync`` the engine samples from the new ones. Under bfloat16 continuous
    batching holds a copy, so that a forgotten ``sync`` shows."""
    policy = make_policy("llama", precision=precision)
    engine = make(name, policy)
    tolerance = 1e-4 if precision == "float32" else 0.05
    draw_from(engine, policy)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    copied = name == "continuous-batching" and precision == "bfloat16"
    assert (_disagreement(engine, policy) > tolerance) == copied  # not synced yet
    engine.sync(policy)
    assert _disagreement(engine, policy) < tolerance


def _disagreement(engine: RolloutEngine, policy: Policy) -> float:
    batch = draw_from(engine, policy)
    return float((scored(policy, batch) - batch.logp)[batch.inside()].abs().mean())


def test_many_rows_wait_for_a_place(make_policy: Any, make: Any) -> None:
    """More requests and prompt tokens than fit a forward pass are drawn all the same, with the same tokens; longer
    prompts than the cache was made for make it grow."""
    policy = make_policy()
    engine, native = make("continuous-batching", policy), make("native", policy)
    draw_from(engine, policy, TEXTS[2:3])
    texts = tuple(f"{number}+{number}={'a long prompt ' * (number % 7)}" for number in range(24))
    ours, theirs = draw_from(native, policy, texts), draw_from(engine, policy, texts)
    assert len(ours.tokens) > continuous._limits(policy, policy.model).requests
    differ = (ours.tokens != theirs.tokens[:, : ours.tokens.shape[1]]).any(dim=1)
    assert int(differ.sum()) <= len(differ) // 20


def test_the_model_is_left_as_it_was(make_policy: Any, make: Any) -> None:
    """After sampling no thread is left and the policy's model can be copied, trained and scored as before."""
    policy = make_policy("gemma3_text")
    attention = policy.model.config._attn_implementation
    before = threading.active_count()
    draw_from(make("continuous-batching", policy), policy)
    assert threading.active_count() == before
    assert policy.model.config._attn_implementation == attention
    copy.deepcopy(policy.model)
    assert all(parameter.requires_grad for parameter in policy.model.parameters())


def test_a_failing_forward_pass_is_one_clear_error(
    make_policy: Any, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What goes wrong in the library's thread ends ``sample`` with a TrainingError, leaves no thread, and the next
    call works."""
    policy = make_policy()
    engine = make("continuous-batching", policy)
    expected = draw_from(engine, policy)
    before = threading.active_count()
    with monkeypatch.context() as patch:
        patch.setattr(Draws, "pick", _out_of_order)
        with pytest.raises(TrainingError, match=r"continuous-batching failed.*broken on purpose"):
            draw_from(engine, policy)
    assert threading.active_count() == before
    assert torch.equal(draw_from(engine, policy).tokens, expected.tokens)


def _out_of_order(*_: Any) -> Tensor:
    raise RuntimeError("broken on purpose")


def test_adapters_are_sampled(make_policy: Any, make: Any) -> None:
    """With low-rank adapters in the model the engines draw the same tokens."""
    peft = pytest.importorskip("peft")
    policy = make_policy("llama")
    policy.model = peft.get_peft_model(
        policy.model, peft.LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    ).eval()
    ours, theirs = (draw_from(make(name, policy), policy) for name in BOTH)
    assert torch.equal(ours.tokens, theirs.tokens)


def test_places_behind_the_requests_are_wiped() -> None:
    """Logits that no request asked for are drawn for nowhere, also where the pass before had a request."""
    processor = continuous._RowDraws(capacity=4)
    processor.draws = Draws(torch.zeros(6, dtype=torch.int64), temperature=1.0, max_tokens=3)
    kwargs = {"row": 2, "prompt_tokens": 5}
    states = [
        SimpleNamespace(request_id="2", logit_processor_kwargs=kwargs, position_offset=5),
        SimpleNamespace(request_id="2__child#1", logit_processor_kwargs=kwargs, position_offset=7),
        SimpleNamespace(request_id="2", logit_processor_kwargs=kwargs, position_offset=8),  # behind the limit
    ]
    places = processor.prepare_tensor_args([SimpleNamespace(state=state) for state in states])
    assert places.tolist() == [2 * 3 + 0, 4 * 3 + 2, NOWHERE, NOWHERE]


# --- which engine ----------------------------------------------------------------------------------------------------


def test_engines_are_made_by_name(make_policy: Any, make: Any) -> None:
    """``sampling.engine`` decides, and the record can say which library computed the logits."""
    policy = make_policy()
    for name in BOTH:
        engine = make(name, policy)
        assert engine.name == name
        assert engine.version == f"transformers {metadata.version('transformers')}"


@pytest.mark.parametrize(
    ("engine", "package", "version"),
    [("vllm", "vllm", None), ("vllm", "vllm", "0.9"), ("continuous-batching", "transformers", "5.0")],
)
def test_a_missing_or_old_library_is_one_clear_line(
    make_policy: Any, monkeypatch: pytest.MonkeyPatch, engine: str, package: str, version: str | None
) -> None:
    """Without the library, or with one that is too old, the error says what is there, what is needed and how to get
    it, before anything of it is imported."""
    found = None if version is None else engines.Version(version)
    monkeypatch.setattr(engines, "library_version", lambda name: found if name == package else None)
    with pytest.raises(ConfigError) as caught:
        make_engine(SamplingConfig.model_validate({"engine": engine}), make_policy())
    line = str(caught.value)
    assert "\n" not in line
    assert f"pip install '{package}>=" in line
    assert (f"no {package}" if version is None else f"{package} {version}") in line


def test_the_version_of_a_library_is_found_by_its_module() -> None:
    """The distribution may have another name than the module; what is not installed has no version, even where a
    folder of that name could be imported."""
    assert importlib.util.find_spec("tests") is not None
    assert engines.library_version("tests") is None
    assert str(engines.library_version("sklearn")) == metadata.version("scikit-learn")
    assert engines.library_version("no_such_library_here") is None


# --- the draws -------------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(order=st.permutations(range(12)), filler=st.integers(0, 5), seed=st.integers(0, 2**16))
def test_the_order_of_the_draws_does_not_matter(order: list[int], filler: int, seed: int) -> None:
    """Whatever order a library asks in, and with whatever padding, each (row, position) gets the token and the log-
    probability of the native draw, and the scores let exactly this token win."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn((12, 9), generator=generator) * 3
    keys = torch.randint(-(2**62), 2**62, (4,), generator=generator)
    draws = Draws(keys, temperature=0.8, max_tokens=3)
    cells = torch.tensor(order)
    rows = torch.cat([cells // 3, torch.full((filler,), NOWHERE)])
    padded = torch.cat([logits[cells], torch.randn((filler, 9), generator=generator)])
    positions = torch.cat([cells % 3, torch.zeros(filler, dtype=torch.int64)])
    scores = draws.pick(padded, rows, positions)
    for cell in range(12):
        row, position = divmod(cell, 3)
        token, logp, _ = draw(logits[cell][None] / 0.8, noise.stream_keys(keys[row][None], position))
        assert draws.tokens[row, position] == token
        assert torch.allclose(draws.logp[row, position], logp)
        assert int(scores[order.index(cell)].argmax()) == int(token)


@pytest.mark.parametrize(
    "returned",
    [
        pytest.param([[2, 3, 4], [5, 1]], id="another token"),
        pytest.param([[2, 3], [5, 1]], id="stopped before the limit"),
        pytest.param([[2, 3, 3], [5, 1, 0]], id="went on behind the end"),
        pytest.param([[2, 3, 3], []], id="empty"),
        pytest.param([[2, 3, 3, 3], [5, 1]], id="too long"),
    ],
)
def test_a_library_that_returns_something_else_is_caught(returned: list[list[int]]) -> None:
    """Completions that are not what was drawn, or end elsewhere, stop training; those drawn pass."""
    draws = Draws(torch.zeros(2, dtype=torch.int64), temperature=1.0, max_tokens=3)
    draws.tokens[:2] = torch.tensor([[2, 3, 3], [5, 1, 0]])
    batch = draws.batch([[2, 3, 3], [5, 1]], [1], "some library")
    assert batch.lengths.tolist() == [3, 2] and batch.stopped.tolist() == [False, True]
    with pytest.raises(TrainingError, match="some library returned"):
        draws.batch(returned, [1], "some library")


def test_native_is_the_engine_it_was(make_policy: Any, make: Any) -> None:
    """Behind the common interface the native engine is unchanged."""
    policy = make_policy()
    plain = NativeEngine(policy).sample(
        [policy.encode_prompt(text).ids for text in TEXTS], GROUP, keys_of(), temperature=1.0, max_tokens=LIMIT
    )
    assert torch.equal(plain.tokens, draw_from(make("native", policy), policy).tokens)
