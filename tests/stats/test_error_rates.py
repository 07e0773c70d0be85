"""What the statistics claim about themselves, on 1,000 simulated comparisons a case: how often they err, how often they
find what was planted. ``python -m benchmarks.comparison_power`` does the same at length."""

from __future__ import annotations

import gc
import math
from collections.abc import Iterator

import numpy as np
import pytest
from planted_pairs import DESIGNS, Design
from scipy import stats

from grpo_audit.record.events import Verdict
from grpo_audit.stats.inference import POWER, Inference, infer
from grpo_audit.stats.primary import holm, verdict_of
from grpo_audit.stats.secondary import benjamini_hochberg

COMPARISONS = 1000
LEVEL = 0.05
AT_MOST = int(stats.binom.ppf(0.999, COMPARISONS, LEVEL))
"""Errors that 1,000 tests which keep the level stay within, 999 times of 1,000."""
MONTE_CARLO = 3.3 * math.sqrt(POWER * (1 - POWER) / COMPARISONS)
"""How far a share of 1,000 strays from the power it estimates, 999 times of 1,000."""


@pytest.fixture(scope="module", autouse=True)
def less_garbage() -> Iterator[None]:
    """statsmodels collects garbage at every correction, which takes longer than all the rest."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def simulate(design: Design, effect: float, seed: int) -> list[Inference]:
    """Comparisons with this true difference."""
    rng = np.random.default_rng(seed)
    return [infer(*design.make(rng, effect), margin=design.margin, alpha=LEVEL) for _ in range(COMPARISONS)]


def below(values: list[float | None]) -> int:
    """How many are significant; what cannot be tested is not."""
    return sum(value is not None and value < LEVEL for value in values)


@pytest.mark.parametrize("design", DESIGNS, ids=lambda design: design.name)
def test_the_level_is_kept_and_the_power_is_as_predicted(design: Design) -> None:
    """Without an effect at most 5 % are called different; at an effect as large as the detectable one that the
    comparisons themselves state (root mean square), 80 % are found: exactly so, or more where errors are on the safe
    side."""
    null = simulate(design, 0.0, seed=11)
    assert below([item.p for item in null]) <= AT_MOST
    stated = [item.minimum_detectable for item in null if item.minimum_detectable is not None]
    assert len(stated) >= 0.99 * COMPARISONS
    detectable = math.sqrt(float(np.mean(np.square(stated))))
    found = below([item.p for item in simulate(design, detectable, seed=12)]) / COMPARISONS
    assert found >= POWER - MONTE_CARLO
    assert found <= (POWER + MONTE_CARLO if design.exact else 0.95)


@pytest.mark.parametrize("design", DESIGNS, ids=lambda design: design.name)
def test_a_loss_of_the_margin_is_cleared_at_most_at_the_level(design: Design) -> None:
    """At a true loss of exactly the margin "no regression beyond the margin" comes up in at most 5 %."""
    assert below([item.p_margin for item in simulate(design, -design.margin, seed=13)]) <= AT_MOST


@pytest.mark.parametrize("design", DESIGNS, ids=lambda design: design.name)
def test_intervals_hold_the_truth(design: Design) -> None:
    """At least 95 % of the intervals contain the planted difference, whatever Monte Carlo adds."""
    effect = design.margin / 2
    found = [item for item in simulate(design, effect, seed=14) if item.ci_low is not None]
    missed = sum(not (item.ci_low <= effect <= item.ci_high) for item in found)  # type: ignore[operator]
    assert missed <= AT_MOST


def test_no_task_of_a_suite_without_effects_gets_a_verdict() -> None:
    """Family-wise: of 1,000 suites of seven tasks in which nothing changed, at most 5 % call any task improved or
    regressed."""
    rng = np.random.default_rng(15)
    wrong = 0
    for _ in range(COMPARISONS):
        made = {design.name: design.make(rng, 0.0) for design in DESIGNS}
        inferences = {name: infer(*pairs, margin=0.05, alpha=LEVEL / len(DESIGNS)) for name, pairs in made.items()}
        adjusted = holm(inferences, LEVEL)
        verdicts = {
            verdict_of(list(made[name][1] - made[name][0]), inferences[name], adjusted[name], LEVEL) for name in made
        }
        wrong += bool(verdicts & {Verdict.IMPROVED, Verdict.REGRESSED})
    assert 0 < wrong <= AT_MOST


def test_a_planted_regression_is_found_in_a_suite_as_often_as_the_suite_says() -> None:
    """The detectable effect is stated at the level that Holm grants each task: a regression of that size in one of
    seven tasks gets its verdict in 80 % of the suites."""
    design, others = DESIGNS[0], 6
    rng = np.random.default_rng(16)
    detectable = infer(*design.make(rng, 0.0), margin=0.05, alpha=LEVEL / (others + 1)).minimum_detectable
    assert detectable is not None
    nothing = rng.random((COMPARISONS, others))  # p values of the tasks without an effect
    found, stated = 0, []
    for row in nothing:
        pairs = design.make(rng, -detectable)
        one = infer(*pairs, margin=0.05, alpha=LEVEL / (others + 1))
        rest = {str(place): Inference(float(p), None, None, None, None, "") for place, p in enumerate(row)}
        adjusted = holm({"planted": one, **rest}, LEVEL)["planted"]
        found += verdict_of(list(pairs[1] - pairs[0]), one, adjusted, LEVEL) is Verdict.REGRESSED
        stated.append(one.minimum_detectable)
    assert found / COMPARISONS == pytest.approx(POWER, abs=MONTE_CARLO + 0.03)  # Holm finds a little more


def test_discoveries_among_secondary_metrics_are_false_at_most_at_the_level() -> None:
    """Of ten metrics of which three changed, the mean share of false discoveries is at most 5 %, and most of the
    changed are found."""
    rng = np.random.default_rng(17)
    effects = np.array([0.6, 0.6, 0.6, *[0.0] * 7])
    values = rng.normal(size=(COMPARISONS, 10, 40)) + effects[:, None]
    shares, found = [], 0
    for row in stats.ttest_1samp(values, 0.0, axis=2).pvalue:
        called = np.array([value is not None and value < LEVEL for value in benjamini_hochberg(list(row))])
        shares.append(called[3:].sum() / max(1, called.sum()))
        found += called[:3].sum()
    assert np.mean(shares) <= LEVEL + 3.3 * np.std(shares) / math.sqrt(COMPARISONS)
    assert found / (3 * COMPARISONS) > 0.8
