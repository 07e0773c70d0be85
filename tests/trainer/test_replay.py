"""The teacher-forced pass and the decision rule: honest rollouts of the shipped model stand, every fault is refused."""

from __future__ import annotations

import copy
import dataclasses
import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as arrays

from grpo_audit.config.sections import ModelConfig
from grpo_audit.errors import ConfigError
from grpo_audit_builtin import PROMPTS
from grpo_audit_trainer import noise
from grpo_audit_trainer.policy import Policy, load_policy
from grpo_audit_trainer.replay import honest_gaps
from grpo_audit_trainer.replay_record import Place, drawn
from grpo_audit_trainer.replay_tokens import ForcedRow, force
from grpo_audit_trainer.replay_verdict import Calibration, Decision, Row, TokenState, Tolerance, decide, token_states
from grpo_audit_trainer.rollout.native import NativeEngine

SEED, GROUP, NUM_PROMPTS = 17, 4, 5
ROWS = [(prompt, sample) for prompt in range(NUM_PROMPTS) for sample in range(GROUP)]
LIMITS = Tolerance(token=1e-4, gap=4e-7, shortfall=4e-8)


class Recorded:
    """Rollouts of the shipped model as a record has them, and the replay of them under a claim."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        lines = PROMPTS.read_text(encoding="utf-8").splitlines()[:NUM_PROMPTS]
        self.prompts = [policy.encode_prompt(json.loads(line)["prompt"]).ids for line in lines]
        self.calibration = Calibration.of(honest_gaps(policy, self.prompts[:2], 1.0, 96, "test"))

    def sample(self, policy: Policy, temperature: float = 1.0) -> tuple[list[list[int]], list[Any]]:
        """Tokens and log-probabilities of 20 rollouts."""
        keys = torch.tensor([self.key(row) for row in range(len(ROWS))])
        batch = NativeEngine(policy).sample(self.prompts, GROUP, keys, temperature=temperature, max_tokens=96)
        lengths = batch.lengths.tolist()
        tokens = [batch.tokens[row, :length].tolist() for row, length in enumerate(lengths)]
        return tokens, [batch.logp[row, :length].numpy() for row, length in enumerate(lengths)]

    def key(self, row: int, seed: int = SEED) -> int:
        return noise.row_key(seed, 0, f"p{ROWS[row][0]}", ROWS[row][1])

    def decide(
        self, tokens: list[list[int]], logp: list[Any], *, seed: int = SEED, prompt: int = 0, batch_tokens: int = 2048
    ) -> Decision:
        """The claim: ``self.policy`` drew this at temperature 1. ``prompt`` shifts the first rollout's prompt."""
        rows = [
            ForcedRow(
                self.prompts[(ROWS[row][0] + (prompt if row == 0 else 0)) % NUM_PROMPTS],
                tokens[row],
                self.key(row, seed),
            )
            for row in range(len(ROWS))
        ]
        forced = force(self.policy, rows, temperature=1.0, microbatch_tokens=batch_tokens)
        return decide(
            [Row(Place(0, *ROWS[row]), row, item.margin, item.logp - logp[row]) for row, item in enumerate(forced)],
            self.calibration,
            "float32",
        )


@pytest.fixture(scope="module")
def recorded() -> Recorded:
    """One policy for all tests of this file."""
    return Recorded(load_policy(ModelConfig(path="builtin", device="cpu", precision="float32")))


@pytest.fixture(scope="module")
def honest(recorded: Recorded) -> tuple[list[list[int]], list[Any]]:
    """Sampled once."""
    return recorded.sample(recorded.policy)


def changed(policy: Policy, change: Any) -> Policy:
    """A copy with other weights."""
    model = copy.deepcopy(policy.model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(change(parameter))
    return dataclasses.replace(policy, model=model)


def rounded(bits: int) -> Any:
    """Fake quantisation, symmetric, a scale for each row."""

    def change(parameter: torch.Tensor) -> torch.Tensor:
        if parameter.ndim != 2:
            return parameter
        top = 2 ** (bits - 1) - 1
        scale = parameter.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / top
        return (parameter / scale).round() * scale

    return change


@pytest.mark.parametrize("batch_tokens, threads", [(1, 1), (300, 2), (10_000, 1)])
def test_honest_rollouts_stand(recorded: Recorded, honest: Any, batch_tokens: int, threads: int) -> None:
    """Whatever the shape of the batch and the number of threads, no token mismatches and the record is not refused."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        decision = recorded.decide(*honest, batch_tokens=batch_tokens)
    finally:
        torch.set_num_threads(before)
    assert decision.ok, decision.reasons
    assert decision.tokens == sum(map(len, honest[0])) > 500
    assert all(verdict.within + verdict.exact == verdict.tokens for verdict in decision.verdicts)


@pytest.mark.parametrize("fault", ["int8", "int4", "one step later", "temperature 0.95", "temperature 1.05"])
def test_rollouts_of_another_sampler_are_refused(recorded: Recorded, fault: str) -> None:
    """Weights rounded to int8 and int4, weights moved by 1e-6 (what a step at that rate does at the most), and other
    temperatures: refused on 20 rollouts."""
    policy, temperature = recorded.policy, 1.0
    if fault.startswith("int"):
        policy = changed(policy, rounded(int(fault[3:])))
    elif fault.startswith("temperature"):
        temperature = float(fault.split()[1])
    else:
        sign = torch.Generator().manual_seed(0)
        policy = changed(policy, lambda p: p + 1e-6 * torch.randn(p.shape, generator=sign).sign())
    assert not recorded.decide(*recorded.sample(policy, temperature)).ok


def test_forged_log_probabilities_do_not_help_int4(recorded: Recorded) -> None:
    """When the recorded log-probabilities were made to fit the claimed weights, the noise still refuses the tokens."""
    tokens, _ = recorded.sample(changed(recorded.policy, rounded(4)))
    rows = [ForcedRow(recorded.prompts[ROWS[row][0]], tokens[row], recorded.key(row)) for row in range(len(ROWS))]
    fitting = [item.logp for item in force(recorded.policy, rows, temperature=1.0)]
    decision = recorded.decide(tokens, fitting)
    assert decision.mean_gap == 0 and not decision.ok


@pytest.mark.parametrize("distance", [1, GROUP])
def test_exchanged_completions_are_refused(recorded: Recorded, honest: Any, distance: int) -> None:
    """Two completions exchanged within a group, or between two groups, are named, both of them; the others stand."""
    tokens, logp = list(honest[0]), list(honest[1])
    first = next(row for row in range(len(tokens) - distance) if tokens[row] != tokens[row + distance])
    second = first + distance
    for items in (tokens, logp):
        items[first], items[second] = items[second], items[first]
    decision = recorded.decide(tokens, logp)
    wrong = {verdict.seq for verdict in decision.verdicts if not verdict.ok}
    assert not decision.ok and wrong == {first, second}


def test_another_seed_and_another_prompt_are_refused(recorded: Recorded, honest: Any) -> None:
    """Noise of another seed: every rollout is wrong. Another prompt for one rollout: that one is."""
    assert all(not verdict.ok for verdict in recorded.decide(*honest, seed=SEED + 1).verdicts)
    decision = recorded.decide(*honest, prompt=1)
    assert [verdict.seq for verdict in decision.verdicts if not verdict.ok] == [0]


def test_one_wrong_token_does_not_spoil_the_next(recorded: Recorded, honest: Any) -> None:
    """A replaced last-but-one token mismatches, and every token before it is still exact."""
    tokens, logp = [list(row) for row in honest[0]], honest[1]
    place = len(tokens[3]) - 2
    tokens[3][place] = (tokens[3][place] + 7) % 50 + 3
    verdict = recorded.decide(tokens, logp).verdicts[3]
    assert verdict.exact >= place and verdict.first_mismatches[0].position == place


def test_the_margin_is_that_of_the_plain_model(recorded: Recorded, honest: Any) -> None:
    """Margin and log-probability against the model called on one row, position by position."""
    tokens, prompt = honest[0][6], recorded.prompts[1]
    with torch.no_grad():
        logits = recorded.policy.model(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1] / 0.7
    logp = torch.log_softmax(logits.double(), dim=-1)
    (found,) = force(recorded.policy, [ForcedRow(prompt, tokens, recorded.key(6))], temperature=0.7)
    for position, token in enumerate(tokens):
        gumbel = noise.gumbel(noise.stream_keys(torch.tensor([recorded.key(6)]), position), logp.shape[-1])[0]
        score = logp[position] + gumbel
        rest = torch.cat([score[:token], score[token + 1 :]]).max()
        assert found.margin[position] == pytest.approx(float(score[token] - rest), abs=2e-4)
        assert found.logp[position] == pytest.approx(float(logp[position, token]), abs=2e-4)


# --- the rule, without a model ---------------------------------------------------------------------------------------

VALUES = arrays.arrays(np.float32, 12, elements=st.floats(-1, 1, width=32) | st.sampled_from([np.nan, np.inf, -np.inf]))


@given(VALUES, VALUES, st.floats(1e-5, 0.5))
def test_every_token_has_one_state(margin: Any, gap: Any, limit: float) -> None:
    """A token mismatches exactly when it loses by more than the limit, is off by more than it, or is no number; and a
    smaller limit never forgives what a larger one refuses."""
    states = token_states(margin, gap, Tolerance(limit, 1.0, 1.0))
    for state, lead, off in zip(states, margin.tolist(), gap.tolist(), strict=True):
        wrong = not (np.isfinite(lead) and lead >= -limit and abs(off) <= limit)
        assert (state is TokenState.MISMATCH) == wrong
        assert (state is TokenState.EXACT) == (not wrong and lead >= 0)
    stricter = token_states(margin, gap, Tolerance(limit / 2, 1.0, 1.0))
    assert all(
        new is TokenState.MISMATCH for old, new in zip(states, stricter, strict=True) if old is TokenState.MISMATCH
    )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_refused(value: float) -> None:
    """A recorded log-probability that is no number refuses the record, and the report holds no such number."""
    gap = np.array([0, value, 0], np.float32)
    decision = decide([Row(Place(0, 0, 0), 1, np.ones(3, np.float32), gap)], Calibration(100, 1e-7, 1e-6), "float32")
    assert not decision.ok
    json.dumps(dataclasses.asdict(decision), allow_nan=False)


def test_nothing_checked_is_no_success() -> None:
    """Without a token there is a reason, not a verdict."""
    decision = decide([], Calibration(0, 0.0, 0.0), "float32")
    assert not decision.ok and "nothing was checked" in decision.reasons[0]


@pytest.mark.parametrize(
    "margin, gap, reason",
    [(1.0, 5e-7, "log-probabilities are off"), (-5e-5, 0.0, "tokens lose by"), (-2e-4, 0.0, "1 of 1 tokens")],
)
def test_each_rule_refuses_alone(margin: float, gap: float, reason: str) -> None:
    """Mean difference, mean shortfall and a single mismatch each have a limit of their own; just below, all is well."""
    calibration = Calibration(1000, 1e-8, 1e-7)
    assert Tolerance.of(calibration, "float32") == pytest.approx(LIMITS)

    def decision(margin: float, gap: float) -> Decision:
        row = Row(Place(0, 0, 0), 1, np.array([margin], np.float32), np.array([gap], np.float32))
        return decide([row], calibration, "float32")

    assert any(reason in item for item in decision(margin, gap).reasons)
    assert decision(-3e-8, 3e-7).ok


def test_the_tolerance_grows_with_measured_noise() -> None:
    """Noise above the floor counts four times; below it, the floor stands."""
    noisy = Tolerance.of(Calibration(1000, 1e-6, 1e-3), "float32")
    assert (noisy.token, noisy.gap) == pytest.approx((4e-3, 4e-6))
    assert Tolerance.of(Calibration(1000, 0.0, 0.0), "bfloat16").token == 0.25


@given(st.sets(st.builds(Place, *[st.integers(0, 30)] * 3), max_size=40), st.text(max_size=8).filter(str.isascii))
def test_drawing_is_a_permutation_that_the_seed_fixes(places: set[Place], seed: str) -> None:
    """Every rollout is drawn once, whatever order they come in; another seed gives another order."""
    order = drawn(places, seed)
    assert sorted(order) == sorted(places) and drawn(reversed(sorted(places)), seed) == order
    if len(places) > 12:
        assert drawn(places, seed + "x") != order


@pytest.mark.parametrize("text", ["", "1/2", "1/2/3/4", "-1/0/0", "1/2/x", "9" * 40 + "/0/0", "١/0/0/"])
def test_a_place_is_three_numbers(text: str) -> None:
    """Anything else is one clear line."""
    assert str(Place.parse("3/0/12")) == "3/0/12"
    with pytest.raises(ConfigError, match="STEP/GROUP/SAMPLE"):
        Place.parse(text)
