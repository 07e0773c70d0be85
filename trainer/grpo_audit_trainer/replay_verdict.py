"""The decision rule of a replay at level L2, and what it says. Pure; the numbers behind it come from
``python -m benchmarks.replay_power`` (docs/design/replay.md).

Float rounding lets an honest record differ from the replay by some noise. How much depends on model, precision and
machine, so the replay measures it: under the same weights it draws fresh completions with the trainer's own engine and
scores them by the same pass that scores the recorded ones (``Calibration``). A record is then refused when

1. a token mismatches: its margin is below ``-token``, or its log-probability is off by more than ``token``, with
   ``token = max(floor, TOKEN_FACTOR * largest difference of the calibration)``;
2. the mean difference of log-probabilities is above ``gap = max(floor, GAP_FACTOR * mean of the calibration)``;
3. the mean shortfall, ``mean(max(0, -margin))``, is above ``SHORTFALL_SHARE * gap``; it is what is left to see when the
   recorded log-probabilities were forged to fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from grpo_audit_trainer.replay_record import Place

TOKEN_FACTOR: Final = 4.0
GAP_FACTOR: Final = 4.0
SHORTFALL_SHARE: Final = 0.1
FLOORS: Final = {"float32": (1e-4, 4e-7), "bfloat16": (0.25, 1e-3)}
"""By precision: the smallest ``token`` and ``gap``, in nats, however quiet a small calibration happens to be."""
CEILINGS: Final = {"float32": 1e-4, "bfloat16": 2e-2}
"""By precision: a calibration noisier than this mean cannot tell an honest record from another."""
HONEST_REPLAYS: Final = {"float32": (0, 120), "bfloat16": (0, 60)}
"""By precision: refused and all honest replays of eight rollouts of the built-in model, over batch shapes and numbers
of threads, as ``benchmarks.replay_power`` counts them."""


class TokenState(StrEnum):
    """What the replay says of one token."""

    EXACT = "exact"
    """It wins, and its log-probability is within tolerance."""
    WITHIN = "within tolerance"
    """It loses by no more than float rounding explains."""
    MISMATCH = "mismatch"


@dataclass(frozen=True, slots=True)
class Calibration:
    """How far honest completions are off, on this machine, under these weights."""

    tokens: int
    mean: float
    """Mean |log-probability of the sampler - of the teacher-forced pass|."""
    largest: float

    @classmethod
    def of(cls, gaps: Sequence[NDArray[np.float32]]) -> Calibration:
        """From the differences of each completion."""
        flat = np.abs(np.concatenate(gaps).astype(np.float64)) if gaps else np.zeros(0)
        return cls(flat.size, float(flat.mean()) if flat.size else 0.0, float(flat.max(initial=0.0)))


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Limits of the decision rule, in nats."""

    token: float
    gap: float
    shortfall: float

    @classmethod
    def of(cls, calibration: Calibration, precision: str) -> Tolerance:
        """The limits for a precision, given the noise that was measured."""
        token_floor, gap_floor = FLOORS[precision]
        gap = max(gap_floor, GAP_FACTOR * calibration.mean)
        return cls(max(token_floor, TOKEN_FACTOR * calibration.largest), gap, SHORTFALL_SHARE * gap)


@dataclass(frozen=True, slots=True)
class TokenFinding:
    """A token that mismatches."""

    position: int
    margin: float | None
    gap: float | None


@dataclass(frozen=True, slots=True)
class RolloutVerdict:
    """What the replay says of one rollout."""

    place: Place
    seq: int
    exact: int = 0
    within: int = 0
    mismatches: int = 0
    smallest_margin: float | None = None
    mean_gap: float | None = None
    largest_gap: float | None = None
    first_mismatches: tuple[TokenFinding, ...] = ()
    problems: tuple[str, ...] = ()
    """What is wrong besides the tokens: text, ending, a malformed trace."""

    @property
    def tokens(self) -> int:
        """Tokens that were checked."""
        return self.exact + self.within + self.mismatches

    @property
    def ok(self) -> bool:
        """Whether nothing speaks against it."""
        return not self.mismatches and not self.problems


@dataclass(frozen=True, slots=True)
class Coverage:
    """How much of the run a replay could see."""

    steps: int
    steps_eligible: list[int]
    """Steps whose sampling weights are at hand."""
    rollouts: int
    rollouts_eligible: int
    drawn: int
    erased: int
    """Drawn, but their content is no longer in the record; others were drawn in their place."""
    missing: str
    """Why the other steps cannot be replayed."""


@dataclass(frozen=True, slots=True)
class Decision:
    """The rule, applied."""

    calibration: Calibration
    tolerance: Tolerance
    tokens: int
    """Tokens that were checked."""
    mean_gap: float | None
    """Mean |recomputed - recorded log-probability|; None when that is no number."""
    mean_shortfall: float | None
    verdicts: list[RolloutVerdict]
    reasons: list[str]
    """Why the record is refused; empty when it is not."""

    @property
    def ok(self) -> bool:
        """Whether tokens were checked and nothing speaks against them."""
        return self.tokens > 0 and not self.reasons


@dataclass(frozen=True, slots=True)
class ReplayReport:
    """The verdict of level L2."""

    run_id: str
    sealed: bool
    seed: str
    seed_origin: str
    precision: str
    device: str
    coverage: Coverage
    decision: Decision
    false_alarms: str
    level: str = "L2"

    @property
    def ok(self) -> bool:
        """Whether the rollouts that were drawn follow from what is recorded."""
        return self.decision.ok


@dataclass(frozen=True, slots=True)
class Row:
    """One rollout with what the pass says of its n tokens."""

    place: Place
    seq: int
    margin: NDArray[np.float32]
    gap: NDArray[np.float32]
    """Recomputed minus recorded log-probability."""
    problems: tuple[str, ...] = ()


def decide(
    rows: Sequence[Row], calibration: Calibration, precision: str, refused: Sequence[RolloutVerdict] = ()
) -> Decision:
    """Apply the rule. ``refused``: rollouts that could not even be scored."""
    tolerance = Tolerance.of(calibration, precision)
    verdicts = sorted([*refused, *(judge(row, tolerance) for row in rows)], key=lambda verdict: verdict.place)
    margins = np.concatenate([np.zeros(0), *(row.margin.astype(np.float64) for row in rows)])
    gaps = np.concatenate([np.zeros(0), *(row.gap.astype(np.float64) for row in rows)])
    mean_gap = float(np.abs(gaps).mean()) if gaps.size else 0.0
    mean_shortfall = float(np.maximum(0.0, -margins).mean()) if margins.size else 0.0
    reasons = reasons_against(verdicts, mean_gap, mean_shortfall, tolerance)
    if not rows and not reasons:
        reasons = ["nothing was checked: the content of every rollout that was drawn is erased"]
    return Decision(calibration, tolerance, margins.size, _finite(mean_gap), _finite(mean_shortfall), verdicts, reasons)


def judge(row: Row, tolerance: Tolerance) -> RolloutVerdict:
    """The verdict on one rollout. What is not a finite number counts as a mismatch."""
    states = token_states(row.margin, row.gap, tolerance)
    wrong = [index for index, state in enumerate(states) if state is TokenState.MISMATCH]
    gap = np.abs(row.gap.astype(np.float64))
    return RolloutVerdict(
        place=row.place,
        seq=row.seq,
        exact=states.count(TokenState.EXACT),
        within=states.count(TokenState.WITHIN),
        mismatches=len(wrong),
        smallest_margin=_finite(row.margin.min()),
        mean_gap=_finite(gap.mean()),
        largest_gap=_finite(gap.max()),
        first_mismatches=tuple(
            TokenFinding(index, _finite(row.margin[index]), _finite(row.gap[index])) for index in wrong[:3]
        ),
        problems=row.problems,
    )


def token_states(
    margin: NDArray[np.floating[Any]], gap: NDArray[np.floating[Any]], tolerance: Tolerance
) -> list[TokenState]:
    """One state a token."""
    margin, gap = margin.astype(np.float64), gap.astype(np.float64)  # else the limit would be rounded to float32
    fits = np.isfinite(margin) & (np.abs(gap) <= tolerance.token)  # a difference that is not a number does not fit
    exact, within = fits & (margin >= 0), fits & (margin >= -tolerance.token)
    return [
        TokenState.EXACT if wins else TokenState.WITHIN if near else TokenState.MISMATCH
        for wins, near in zip(exact.tolist(), within.tolist(), strict=True)
    ]


def reasons_against(
    verdicts: Sequence[RolloutVerdict], mean_gap: float, mean_shortfall: float, tolerance: Tolerance
) -> list[str]:
    """Every rule that is broken, in words; empty when the record stands."""
    reasons = []
    bad = [verdict for verdict in verdicts if not verdict.ok]
    mismatches = sum(verdict.mismatches for verdict in verdicts)
    if mismatches:
        reasons.append(
            f"{mismatches:,} of {sum(v.tokens for v in verdicts):,} tokens, in {sum(v.mismatches > 0 for v in bad)} of "
            f"{len(verdicts)} rollouts, do not follow from the recorded weights, prompt, temperature and noise"
        )
    odd = [verdict for verdict in bad if verdict.problems]
    if odd:
        reasons.append(f"rollout {odd[0].place}: {odd[0].problems[0]}" + _more(len(odd)))
    if not mean_gap <= tolerance.gap:
        reasons.append(
            f"the recorded log-probabilities are off by {mean_gap:.3g} nats in the mean, more than {tolerance.gap:.3g}"
        )
    if not mean_shortfall <= tolerance.shortfall:
        reasons.append(
            f"recorded tokens lose by {mean_shortfall:.3g} nats in the mean, more than {tolerance.shortfall:.3g}"
        )
    return reasons


def false_alarm_rate(precision: str) -> str:
    """How often the rule refuses an honest record, as measured, with the exact one-sided binomial (Clopper-Pearson)
    bound."""
    refused, replays = HONEST_REPLAYS[precision]
    bound = binomtest(refused, replays, alternative="less").proportion_ci(0.95, method="exact").high
    return (
        f"{refused} of {replays} honest replays of the built-in model were refused in {precision}: a false-alarm rate "
        f"of at most {bound:.1%} at 95 % confidence, measured on CPUs"
    )


def _more(count: int) -> str:
    return f" (and {count - 1} more rollouts)" if count > 1 else ""


def _finite(value: np.floating[Any] | float) -> float | None:
    """JSON has no infinity and no NaN."""
    return float(value) if np.isfinite(value) else None
