"""Inference on one task: against direct calls, hand-computed numbers, and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, strategies as st
from scipy import optimize, stats
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.weightstats import DescrStatsW

from grpo_audit.stats.inference import infer

SINGLE = [str(index) for index in range(2000)]


def binary(gained: int, lost: int, same: int) -> tuple[list[float], list[float]]:
    """Paired binary values with these counts."""
    return [0.0] * gained + [1.0] * lost + [1.0] * same, [1.0] * gained + [0.0] * lost + [1.0] * same


def test_mcnemar_is_the_exact_binomial_by_hand() -> None:
    """8 gained, 1 lost: p = 2 (1 + 9) / 2^9."""
    result = infer(*binary(8, 1, 40), SINGLE[:49], margin=0.05, alpha=0.05)
    assert result.p == pytest.approx(20 / 512)
    assert "McNemar" in result.method


@given(st.integers(0, 15), st.integers(0, 15), st.integers(1, 40))
def test_p_values_are_probabilities_and_intervals_hold_the_mean(gained: int, lost: int, same: int) -> None:
    """Whatever the counts, every p lies in [0, 1], none is nan, and the interval contains the difference."""
    pre, post = binary(gained, lost, same)
    result = infer(pre, post, SINGLE[: len(pre)], margin=0.05, alpha=0.05)
    for p in (result.p, result.p_margin):
        assert p is None or 0.0 <= p <= 1.0
    if result.ci_low is not None and result.ci_high is not None:
        assert result.ci_low <= (gained - lost) / len(pre) <= result.ci_high
    assert (result.p is None) == (gained + lost == 0)


def test_numbers_with_a_cluster_each_are_a_paired_t_test() -> None:
    """Without clusters p is ttest_rel's and the interval DescrStatsW's."""
    rng = np.random.default_rng(0)
    pre, post = rng.normal(0, 1, 60), rng.normal(0.3, 1, 60)
    result = infer(pre, post, SINGLE[:60], margin=0.1, alpha=0.05)
    assert result.p == pytest.approx(stats.ttest_rel(post, pre).pvalue)
    assert (result.ci_low, result.ci_high) == pytest.approx(DescrStatsW(post - pre).tconfint_mean())
    assert result.p_margin == pytest.approx(stats.ttest_1samp(post - pre, -0.1, alternative="greater").pvalue)
    assert result.method == "paired t"


def test_numbers_in_clusters_use_clustered_standard_errors() -> None:
    """With clusters p and interval are those of OLS with cluster covariance, and the margin uses its error."""
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(12), 5)
    pre = rng.normal(0, 1, 60)
    post = pre + 0.2 + rng.normal(0, 1, 12)[groups] + rng.normal(0, 0.1, 60)
    result = infer(pre, post, [str(group) for group in groups], margin=0.1, alpha=0.05)
    fit = OLS(post - pre, np.ones(60)).fit(cov_type="cluster", cov_kwds={"groups": groups}, use_t=True)
    assert result.p == pytest.approx(fit.pvalues[0])
    assert (result.ci_low, result.ci_high) == pytest.approx(tuple(fit.conf_int()[0]))
    assert result.p_margin == pytest.approx(stats.t.sf((fit.params[0] + 0.1) / fit.bse[0], 11))
    assert "12 clusters" in result.method


def test_binary_values_in_clusters_are_not_given_to_mcnemar() -> None:
    """McNemar needs independent pairs: twins that always agree may not count twice."""
    pre, post = binary(8, 1, 40)
    single = infer(pre, post, SINGLE[:49], margin=0.05, alpha=0.05)
    twins = infer(pre * 2, post * 2, SINGLE[:49] * 2, margin=0.05, alpha=0.05)
    assert single.p is not None and twins.p is not None
    assert "clustered" in twins.method
    naive = stats.binomtest(16, 18).pvalue
    assert twins.p > naive


def test_minimum_detectable_effect_is_that_of_the_anchor() -> None:
    """1250 documents with standard deviation 0.64 detect five points at 80 % power."""
    rng = np.random.default_rng(2)
    noise = rng.normal(0, 1, 1250)
    noise = (noise - noise.mean()) / noise.std(ddof=1) * 0.64
    result = infer([0.0] * 1250, list(noise), SINGLE[:1250], margin=0.05, alpha=0.05)
    assert result.minimum_detectable == pytest.approx(0.0507, abs=2e-4)


def test_the_margin_test_is_the_likelihood_score_test() -> None:
    """Tango's closed form puts P(lost) where a numerical search finds the restricted maximum of the likelihood."""
    gained, lost, same, margin = 5, 9, 86, 0.1
    size = gained + lost + same

    def minus_log_likelihood(loss: float) -> float:
        gain = loss - margin
        return -(gained * math.log(gain) + lost * math.log(loss) + same * math.log(1 - gain - loss))

    best = optimize.minimize_scalar(
        minus_log_likelihood, bounds=(margin + 1e-9, 0.5), method="bounded", options={"xatol": 1e-12}
    )
    variance = size * (2 * best.x - margin - margin**2)
    expected = stats.norm.sf((gained - lost + size * margin) / math.sqrt(variance))
    result = infer(*binary(gained, lost, same), SINGLE[:size], margin=margin, alpha=0.05)
    assert result.p_margin == pytest.approx(expected, rel=1e-5)


def test_no_discordant_pair_gives_no_p_value_at_all() -> None:
    """Identical answers are neither p = nan nor "equivalent"; the method says how much could still differ."""
    result = infer([1.0, 0.0] * 100, [1.0, 0.0] * 100, SINGLE[:200], margin=0.05, alpha=0.05)
    assert (result.p, result.p_margin, result.ci_low, result.ci_high) == (None, None, None, None)
    assert "1.8%" in result.method  # 0 of 200, Clopper-Pearson


def test_one_cluster_is_refused() -> None:
    """Documents that all share a source give no standard error, so nothing is claimed."""
    result = infer([0.0, 0.0, 1.0], [1.0, 0.0, 1.0], ["a"] * 3, margin=0.05, alpha=0.05)
    assert (result.p, result.p_margin, result.ci_low) == (None, None, None)
    assert "one cluster" in result.method


def test_one_document_is_refused() -> None:
    """One document is no sample."""
    result = infer([0.0], [1.0], ["a"], margin=0.05, alpha=0.05)
    assert result.p is None
    assert "one document" in result.method


def test_equal_changes_everywhere_are_judged_by_the_sign_test() -> None:
    """Ten numbers that all rose by 0.5 have no variance: p = 2 / 2^10 instead of 0, and no interval."""
    result = infer([0.25] * 10, [0.75] * 10, SINGLE[:10], margin=0.05, alpha=0.05)
    assert result.p == pytest.approx(2 / 1024)
    assert result.p_margin == pytest.approx(1 / 1024)
    assert result.ci_low is None


def test_clusters_that_cancel_out_are_no_difference() -> None:
    """A gain and a loss in each cluster: no variance between clusters, and no difference either."""
    result = infer([0.0, 1.0] * 10, [1.0, 0.0] * 10, [str(i // 2) for i in range(20)], margin=0.05, alpha=0.05)
    assert result.p == 1.0


def test_binary_losses_everywhere_are_significant() -> None:
    """All twelve right answers lost: McNemar says 2 / 2^12 although nothing varies."""
    result = infer([1.0] * 12, [0.0] * 12, SINGLE[:12], margin=0.05, alpha=0.05)
    assert result.p == pytest.approx(2 / 4096)
    assert result.p_margin is not None and result.p_margin > 0.99


@pytest.mark.parametrize("kind", ["binary", "clustered"])
def test_planted_nulls_are_rarely_called_different(kind: str) -> None:
    """Of 400 comparisons without a difference no more are significant at 5 % than chance allows (99.9 %)."""
    rng = np.random.default_rng(3)
    rejected = 0
    for _ in range(400):
        if kind == "binary":
            kind_of_pair = rng.choice([-1, 0, 1], size=120, p=[0.15, 0.7, 0.15])
            pre, post = (kind_of_pair < 0).astype(float), (kind_of_pair > 0).astype(float)
            clusters = SINGLE[:120]
        else:
            groups = np.repeat(np.arange(40), 3)
            pre = rng.normal(0, 1, 120)
            post = pre + rng.normal(0, 1, 40)[groups] + rng.normal(0, 0.5, 120)
            clusters = [str(group) for group in groups]
        p = infer(pre, post, clusters, margin=0.05, alpha=0.05).p
        rejected += p is not None and p < 0.05
    assert rejected <= stats.binom.ppf(0.999, 400, 0.05)


def test_losses_of_the_margin_are_rarely_cleared() -> None:
    """At a true loss of exactly the margin "not worse" comes up in at most 5 % of 1000 suites, few pairs or not."""
    rng = np.random.default_rng(4)
    cleared = 0
    for lost in rng.binomial(200, 0.05, size=1000):
        p = infer(*binary(0, int(lost), 200 - int(lost)), SINGLE[:200], margin=0.05, alpha=0.05).p_margin
        cleared += p is not None and p < 0.05
    assert cleared <= stats.binom.ppf(0.999, 1000, 0.05)


def test_planted_differences_are_found() -> None:
    """A gain of 15 points on 200 documents is found at least 9 times of 10."""
    rng = np.random.default_rng(5)
    found = 0
    for _ in range(50):
        change = rng.choice([-1, 0, 1], size=200, p=[0.05, 0.75, 0.2])
        p = infer((change < 0).astype(float), (change > 0).astype(float), SINGLE[:200], margin=0.05, alpha=0.05).p
        found += p is not None and p < 0.05
    assert found >= 45


@pytest.mark.parametrize("large", [1e200, 1e308])
def test_values_whose_variance_overflows_are_not_tested(large: float) -> None:
    """Infinity and nan do not reach the record: nothing is claimed, and the method says why."""
    result = infer([0.0, large, 0.0], [large, -large, 1.0], ["a", "b", "c"], margin=0.05, alpha=0.05)
    assert (result.p, result.p_margin, result.ci_low, result.minimum_detectable) == (None, None, None, None)
    assert "too large" in result.method
