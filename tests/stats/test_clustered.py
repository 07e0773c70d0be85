"""The error of a mean over clusters, and the tests of binary pairs, against what they are by definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy import stats
from statsmodels.regression.linear_model import OLS

from grpo_audit.stats import matched
from grpo_audit.stats.clustered import spread
from grpo_audit.stats.inference import infer
from grpo_audit.stats.matched import Counts, margin_p

SIZES = st.lists(st.integers(1, 7), min_size=2, max_size=9).filter(lambda sizes: max(sizes) > 1)


def clusters_of(sizes: list[int]) -> list[str]:
    """A name for each document."""
    return [f"c{group}" for group, size in enumerate(sizes) for _ in range(size)]


@given(SIZES, st.integers(0, 2**32 - 1))
def test_the_error_is_that_of_leaving_out_one_cluster_at_a_time(sizes: list[int], seed: int) -> None:
    """The closed form equals the jackknife written out, and the degrees of freedom those of its matrix."""
    clusters = np.array(clusters_of(sizes))
    difference = np.random.default_rng(seed).normal(size=len(clusters))
    found = spread(difference, list(clusters))
    left = np.array([difference[clusters != name].mean() for name in dict.fromkeys(clusters)])
    count = len(sizes)
    error = np.sqrt((count - 1) / count * ((left - difference.mean()) ** 2).sum())
    assert found.error == pytest.approx(error)
    # each leave-one-out estimate is linear in the differences; K is their covariance when those are independent
    weights = np.array([(clusters != name) / (clusters != name).sum() for name in dict.fromkeys(clusters)])
    weights -= 1 / len(clusters)
    covariance = weights @ weights.T
    assert found.freedom == pytest.approx(np.trace(covariance) ** 2 / (covariance**2).sum())


@given(st.integers(2, 12), st.integers(2, 6), st.integers(0, 2**32 - 1))
def test_equal_clusters_are_a_t_test_on_their_means(count: int, size: int, seed: int) -> None:
    """With clusters of one size nothing is new: the usual sandwich, clusters - 1 degrees of freedom."""
    difference = np.random.default_rng(seed).normal(size=count * size)
    clusters = clusters_of([size] * count)
    found = spread(difference, clusters)
    means = difference.reshape(count, size).mean(axis=1)
    groups = np.repeat(np.arange(count), size)
    usual = OLS(difference, np.ones(len(groups))).fit(cov_type="cluster", cov_kwds={"groups": groups}, use_t=True)
    assert found.error == pytest.approx(stats.sem(means)) == pytest.approx(usual.bse[0])
    assert found.freedom == pytest.approx(count - 1)


@given(st.integers(0, 20), st.integers(0, 20), st.integers(0, 40))
@settings(deadline=None)
def test_the_score_interval_is_what_the_score_test_does_not_reject(gained: int, lost: int, same: int) -> None:
    """Its lower end is the margin at which the one-sided test has p = 2.5 %; it holds the observed difference."""
    counts = matched.Counts(gained + lost + same, gained, lost)
    if not gained + lost:
        return
    low, high = matched.interval(counts, 0.95)
    assert -1 <= low <= (gained - lost) / counts.size <= high <= 1
    mirrored = matched.interval(matched.Counts(counts.size, lost, gained), 0.95)
    assert (low, high) == pytest.approx((-mirrored[1], -mirrored[0]), abs=1e-9)
    if -1 < low < 0:
        assert matched.margin_p(counts, -low) == pytest.approx(0.025, abs=1e-6)


def test_the_score_interval_holds_small_losses_as_often_as_it_says() -> None:
    """At a true loss of 1 to 4 % of 200 documents, summed over all numbers of losses that may be seen: 93 % or more of
    the score intervals hold the truth, where those of a t test fall to 86 %."""
    worst_by_t = 1.0
    for loss in (0.01, 0.02, 0.03, 0.04):
        covered = by_t = 0.0
        for lost in range(31):
            weight = float(stats.binom.pmf(lost, 200, loss))
            low, high = matched.interval(matched.Counts(200, 0, lost), 0.95)
            covered += weight * (low <= -loss <= high)
            mean, error = -lost / 200, np.sqrt(lost / 200 * (1 - lost / 200) / 199)
            by_t += weight * (abs(mean + loss) <= stats.t.ppf(0.975, 199) * error)
        assert covered >= 0.93
        worst_by_t = min(worst_by_t, by_t)
    assert worst_by_t < 0.87


@pytest.mark.parametrize("lost", [0, 3])
def test_a_margin_of_everything_clears_everything_but_the_loss_of_everything(lost: int) -> None:
    """A difference of rates cannot be below -1."""
    assert matched.margin_p(matched.Counts(10, 0, lost), 1.0) == matched.margin_p(matched.Counts(10, 0, lost), 2.0) == 0
    assert matched.margin_p(matched.Counts(10, 0, 10), 1.0) == 1.0


def test_the_power_of_mcnemar_is_exact() -> None:
    """The detectable difference, tried on 4,000 simulated sets of pairs: found in 80 % of them, and not twice as often
    for half of it."""
    size, discordant = 120, 30
    effect = matched.detectable(size, discordant, 0.05, 0.8)
    assert effect is not None
    rng = np.random.default_rng(0)
    for wanted, planted in ((0.8, effect), (matched._power(size, 0.25, effect / 2, 0.05), effect / 2)):
        odds = [(0.25 - planted) / 2, 0.75, (0.25 + planted) / 2]
        lost, _, gained = rng.multinomial(size, odds, size=4000).T
        p = {
            (g, ll): stats.binomtest(g, g + ll).pvalue if g + ll else 1.0
            for g, ll in {(int(g), int(ll)) for g, ll in zip(gained, lost, strict=True)}
        }
        rejected = [p[int(g), int(ll)] < 0.05 for g, ll in zip(gained, lost, strict=True)]
        assert np.mean(rejected) == pytest.approx(wanted, abs=0.025)


def test_too_few_pairs_detect_nothing() -> None:
    """With five pairs the exact test never falls below 5 %, so no difference is large enough."""
    assert matched.detectable(5, 1, 0.05, 0.8) is None
    assert matched.detectable(8, 1, 0.05, 0.8) is not None


def test_one_cluster_that_changed_is_taken_as_one_answer() -> None:
    """How clusters change is not known from one: it counts as a whole. Of 50 clusters one that lost clears no margin of
    5 points, of 170 it does."""
    clusters = clusters_of([4] * 50)
    pre, post = [1.0] * 200, [0.0] * 4 + [1.0] * 196
    result = infer(pre, post, clusters, margin=0.05, alpha=0.05)
    assert result.p_margin == pytest.approx(margin_p(Counts(50, 0, 1), 0.05)) and result.p_margin > 0.05
    many = infer([1.0] * 680, [0.0] * 4 + [1.0] * 676, clusters_of([4] * 170), margin=0.05, alpha=0.05)
    assert many.p_margin == pytest.approx(margin_p(Counts(170, 0, 1), 0.05)) and many.p_margin < 0.05
    assert "effective number of pairs" in result.method


def test_pairs_that_repeat_each_other_clear_a_margin_no_more_easily() -> None:
    """Each document four times over: the margin test gains nothing from the copies."""
    rng = np.random.default_rng(1)
    change = rng.choice([-1.0, 0.0, 1.0], size=120, p=[0.1, 0.8, 0.1])
    pre, post = (change < 0).astype(float), (change > 0).astype(float)
    single = infer(list(pre), list(post), [str(i) for i in range(120)], margin=0.1, alpha=0.05).p_margin
    copies = infer(list(np.repeat(pre, 4)), list(np.repeat(post, 4)), clusters_of([4] * 120), margin=0.1, alpha=0.05)
    assert single is not None and copies.p_margin is not None
    assert copies.p_margin >= single
