"""The sampling noise: a pure function, uniform, independent, and a correct sampler."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from scipy import stats

from grpo_audit_trainer import noise
from grpo_audit_trainer.collect import noise_rows
from grpo_audit_trainer.rollout.native import draw

CPU = torch.device("cpu")
WORD = 2**64


def bits(seed: int, step: int, prompt: str, sample: int, position: int, vocabulary: int = 512) -> torch.Tensor:
    """The noise of one position of one completion."""
    keys = noise.row_keys(seed, step, [(prompt, sample)], CPU)
    return noise.noise_bits(noise.stream_keys(keys, position), vocabulary)[0]


def splitmix64(start: int, count: int) -> list[int]:
    """The reference algorithm (Steele et al. 2014), in Python integers."""
    out = []
    for _ in range(count):
        start = (start + 0x9E3779B97F4A7C15) % WORD
        z = start
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % WORD
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % WORD
        out.append(z ^ (z >> 31))
    return out


def test_the_bits_are_those_of_splitmix64() -> None:
    """Signed tensor arithmetic gives the unsigned reference generator, also for streams that start negative."""
    assert splitmix64(1234567, 3) == [6457827717110365317, 3203168211198807973, 9817491932198370423]  # published
    for start in (1234567, -1, -(2**63), 2**63 - 1):
        got = noise.noise_bits(torch.tensor([start]), 50)[0].tolist()
        assert got == [word >> 33 for word in splitmix64(start % WORD, 50)]


def test_a_vector_to_hold_on_to() -> None:
    """The noise of a recorded run must never change: another number here breaks every replay."""
    assert bits(17, 3, "p0", 2, 5, 4).tolist() == [657046655, 614244023, 607712018, 1601381819]


@given(
    st.tuples(
        st.integers(0, 2**31 - 1), st.integers(0, 10**6), st.text(max_size=5), st.integers(0, 63), st.integers(0, 4096)
    ),
    st.integers(0, 4),
)
def test_every_coordinate_matters(place: tuple[int, int, str, int, int], which: int) -> None:
    """Changing seed, step, prompt, sample or position gives other noise, in about half of all bits."""
    other: list[object] = list(place)
    other[which] = place[which] + ("x" if which == 2 else 1)  # type: ignore[operator]
    flipped = (bits(*place) ^ bits(*other)).numpy()  # type: ignore[arg-type]
    share = np.unpackbits(flipped.astype(">u4").view(np.uint8)).sum() / (512 * noise.BITS)
    assert 0.45 < share < 0.55


def test_alone_or_in_a_batch_the_noise_is_the_same() -> None:
    """The noise of a row does not depend on the rows beside it, nor on how many positions are asked for at once."""
    rows = [(f"p{i}", j) for i in range(5) for j in range(4)]
    keys = noise.row_keys(3, 9, rows, CPU)
    together = noise.gumbel(noise.stream_keys(keys, 7), 100)
    for index, row in enumerate(rows):
        alone = noise.row_keys(3, 9, [row], CPU)
        assert torch.equal(noise.gumbel(noise.stream_keys(alone, 7), 100)[0], together[index])
    positions = torch.arange(10)
    sequence = noise.noise_bits(noise.stream_keys(keys[3], positions), 100)
    assert torch.equal(sequence[7], noise.noise_bits(noise.stream_keys(keys[3:4], 7), 100)[0])


def uniforms(axis: str, count: int) -> np.ndarray:
    """[count, 64] uniform numbers along one coordinate."""
    places = {
        "sample": [(0, 0, "p", i, 0) for i in range(count)],
        "position": [(0, 0, "p", 0, i) for i in range(count)],
        "step": [(0, i, "p", 0, 0) for i in range(count)],
        "seed": [(i, 0, "p", 0, 0) for i in range(count)],
        "prompt": [(0, 0, f"p{i}", 0, 0) for i in range(count)],
    }[axis]
    return np.stack([bits(*place, vocabulary=64).numpy() for place in places]) / 2.0**noise.BITS


@pytest.mark.parametrize("axis", ["sample", "position", "step", "seed", "prompt"])
def test_uniform_and_uncorrelated_along_each_coordinate(axis: str) -> None:
    """32,000 numbers along each coordinate pass Kolmogorov-Smirnov; neighbours and vocabulary entries are
    uncorrelated (five standard errors)."""
    values = uniforms(axis, 500)
    assert stats.kstest(values.ravel(), "uniform").pvalue > 1e-3
    centred = values - 0.5
    limit = 5 / np.sqrt(centred.size)
    assert abs(12 * (centred[1:] * centred[:-1]).mean()) < limit
    assert abs(12 * (centred[:, 1:] * centred[:, :-1]).mean()) < limit


def test_gumbel_noise_has_the_gumbel_distribution() -> None:
    """-log(-log(u)): Kolmogorov-Smirnov against the distribution itself, and no infinity anywhere."""
    keys = noise.row_keys(1, 2, [("p", i) for i in range(200)], CPU)
    values = noise.gumbel(noise.stream_keys(keys, 0), 500).numpy().ravel()
    assert np.isfinite(values).all()
    assert stats.kstest(values, "gumbel_r").pvalue > 1e-3
    ends = torch.tensor([0, 2**noise.BITS - 1])
    extreme = noise.gumbel_of_bits(ends)
    assert extreme.isfinite().all() and extreme[0] > 22 and -3 < extreme[1] < -2.5


def test_frequencies_are_those_of_the_softmax() -> None:
    """20,000 draws from known probabilities pass a chi-square test; log-probability and entropy are exact."""
    probabilities = torch.tensor([0.5, 0.2, 0.15, 0.1, 0.04, 0.01])
    count = 20_000
    keys = noise.row_keys(5, 1, [("p", i) for i in range(count)], CPU)
    logits = probabilities.log().expand(count, -1) + 3.0
    tokens, logp, entropy = draw(logits, noise.stream_keys(keys, 11))
    observed = torch.bincount(tokens, minlength=6).numpy()
    assert (
        stats.chisquare(observed, probabilities.double().numpy() / probabilities.double().sum().item() * count).pvalue
        > 1e-3
    )
    torch.testing.assert_close(logp, probabilities.log()[tokens], atol=1e-5, rtol=0)
    assert entropy[0].item() == pytest.approx(stats.entropy(probabilities.numpy()), abs=1e-5)


def test_a_prompt_that_comes_twice_in_a_step_is_no_clone() -> None:
    """The second group of a prompt goes on counting samples, so all rows of a step have different keys."""
    rows = noise_rows(["a", "b", "a"], 3)
    assert rows[0:3] == [("a", 0), ("a", 1), ("a", 2)] and rows[6:9] == [("a", 3), ("a", 4), ("a", 5)]
    assert len(set(noise.row_keys(0, 0, rows, CPU).tolist())) == 9


def test_blocks_of_the_vocabulary_draw_the_same_token() -> None:
    """Looking at the vocabulary in blocks gives the token of the whole row, also where it ends within a block."""
    for vocabulary in (noise.BLOCK - 1, noise.BLOCK + 1, 3 * noise.BLOCK + 17):
        streams = noise.stream_keys(torch.arange(5) * 7919, 3)
        logp = torch.randn(5, vocabulary, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
        whole = (logp + noise.gumbel(streams, vocabulary)).argmax(dim=-1)
        assert torch.equal(noise.winner(logp, streams), whole)
