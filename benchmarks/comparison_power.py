"""Do the statistics of a comparison err as rarely as they say, and find what they say they would find?

Simulated comparisons with a planted effect, a row a kind of evaluation. "False": called different although nothing
changed; "cleared": called no worse at a true loss of exactly the margin; "found": at the detectable effect that the
comparisons themselves state; "missed": 95 % intervals without the truth, with nothing changed and at the margin. Beside
it how often plain tests (clustered t with the sandwich and clusters - 1 degrees of freedom) would have been wrong in
either way, which is why they are not used. Then whole suites: any wrong verdict (Holm), and false discoveries among
twenty metrics (Benjamini-Hochberg).

The last two rows are as hard as evaluations get: few answers change, and those in clusters. There the interval holds
the truth less often than it says; the tests keep their level.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy import stats

from benchmarks.verdict import report
from grpo_audit.stats.earlier import infer_earlier
from grpo_audit.stats.inference import Inference, infer
from grpo_audit.stats.primary import holm
from grpo_audit.stats.secondary import benjamini_hochberg
from tests.planted_pairs import DESIGNS, Design, clustered_binary

LEVEL = 0.05
POWER = 0.8
HARD = (
    Design("right or wrong, 50 clusters of 4, few differ", 0.05, clustered_binary(50, 4, 0.06), exact=False),
    Design("right or wrong, 30 clusters of 10, few differ", 0.05, clustered_binary(30, 10, 0.1), exact=False),
)


def simulate(design: Design, effect: float, rng: np.random.Generator, count: int) -> list[Inference]:
    """Comparisons with this true difference."""
    return [infer(*design.make(rng, effect), margin=design.margin, alpha=LEVEL) for _ in range(count)]


def share(values: Iterable[float | None]) -> float:
    """How many are significant."""
    return float(np.mean([value is not None and value < LEVEL for value in values]))


def missed(found: Iterable[Inference], effect: float) -> float:
    """Intervals without the truth; what has no interval promises nothing."""
    ends = [(item.ci_low, item.ci_high) for item in found if item.ci_low is not None and item.ci_high is not None]
    return float(np.mean([not low <= effect <= high for low, high in ends]))


def row(design: Design, seed: int, count: int) -> dict[str, float]:
    """The figures of one kind of evaluation."""
    rng = np.random.default_rng(seed)
    null = simulate(design, 0.0, rng, count)
    stated = [item.minimum_detectable for item in null if item.minimum_detectable is not None]
    detectable = math.sqrt(float(np.mean(np.square(stated))))
    margin = simulate(design, -design.margin, rng, count)

    def plain(effect: float) -> list[Inference]:
        made = (design.make(rng, effect) for _ in range(count // 4))
        return [infer_earlier(*pairs, margin=design.margin, alpha=LEVEL) for pairs in made]

    return {
        "false": share(item.p for item in null),
        "cleared": share(item.p_margin for item in margin),
        "detectable": detectable,
        "found": share(item.p for item in simulate(design, detectable, rng, count)),
        "missed_null": missed(null, 0.0),
        "missed_margin": missed(margin, -design.margin),
        "plain_false": share(item.p for item in plain(0.0)),
        "plain_cleared": share(item.p_margin for item in plain(-design.margin)),
    }


def any_wrong(seed: int, count: int) -> float:
    """Suites of all designs without an effect in which Holm's correction lets any task through."""
    rng = np.random.default_rng(seed)
    wrong = 0
    for _ in range(count):
        found = {item.name: infer(*item.make(rng, 0.0), margin=None, alpha=LEVEL) for item in DESIGNS}
        wrong += any(value is not None and value < LEVEL for value in holm(found, LEVEL).values())
    return wrong / count


def false_discoveries(seed: int, count: int) -> tuple[float, float]:
    """Mean share of false discoveries among twenty metrics of which five changed, and the share of those found."""
    rng = np.random.default_rng(seed)
    effects = np.array([0.5] * 5 + [0.0] * 15)
    shares, found = [], 0
    for _ in range(count):
        p = stats.ttest_1samp(rng.normal(size=(20, 50)) + effects[:, None], 0.0, axis=1).pvalue
        called = np.array([value is not None and value < LEVEL for value in benjamini_hochberg(list(p))])
        shares.append(called[5:].sum() / max(1, called.sum()))
        found += int(called[:5].sum())
    return float(np.mean(shares)), found / (5 * count)


def as_predicted(design: Design, found: float, slack: float) -> bool:
    """Whether the power is the one stated, or more where it is stated from below."""
    return found >= POWER - slack and (not design.exact or found <= POWER + slack)


def main() -> None:
    """Print the table and the verdict."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comparisons", type=int, default=4000, help="simulated for each figure")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    count, seed = arguments.comparisons, arguments.seed
    at_most = float(stats.binom.ppf(0.999, count, LEVEL)) / count
    slack = 3.3 * math.sqrt(POWER * (1 - POWER) / count) + 0.01  # the detectable effect is an estimate, too
    table = Table(
        "evaluation", "false", "cleared", "detectable", "found", "missed", "at the margin", "plain: false", "cleared"
    )
    figures: dict[str, dict[str, float]] = {}
    for place, design in enumerate((*DESIGNS, *HARD)):
        found = figures[design.name] = row(design, seed + place, count)
        table.add_row(design.name, *(f"{value:.3f}" for value in found.values()))
    wrong = any_wrong(seed + 100, count // 4)
    rate, discovered = false_discoveries(seed + 101, count // 4)
    console = Console(width=140)
    console.print(table)
    console.print(f"suites of {len(DESIGNS)} tasks without an effect in which any gets a verdict: {wrong:.3f}")
    console.print(f"false discoveries among secondary metrics: {rate:.3f}; of the changed ones found: {discovered:.2f}")
    suites_at_most = float(stats.binom.ppf(0.999, count // 4, LEVEL)) / (count // 4)
    levels = all(item[name] <= at_most for item in figures.values() for name in ("false", "cleared"))
    powers = all(as_predicted(design, figures[design.name]["found"], slack) for design in DESIGNS)
    report(
        "comparison_power",
        target=f"false alarms <= {at_most:.3f} (5 % and Monte Carlo), power 80 % as predicted",
        measured={"rows": figures, "family_wise": wrong, "false_discovery_rate": rate, "discovered": discovered},
        met=levels and powers and wrong <= suites_at_most and rate <= 0.06,
    )


if __name__ == "__main__":
    main()
