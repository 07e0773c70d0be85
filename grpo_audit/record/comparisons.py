"""What a comparison says beside the primary metrics: the other metrics, lengths, the clean subset, corrected rates."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from grpo_audit.record.identities import Verdict


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class SecondaryComparison(_Part):
    """One metric of a task that is not its primary one: exploratory."""

    task: str
    metric: str
    behaviour: str
    higher_is_better: bool | None
    """None where neither direction is better, as with a length."""
    documents: int
    pre: float
    post: float
    difference: float
    """post - pre."""
    ci_low: float | None
    ci_high: float | None
    """95 % interval of the paired difference, clustered where clusters exist."""
    p: float | None
    p_adjusted: float | None
    """Benjamini-Hochberg over all secondary metrics."""
    method: str
    gained: int
    """Documents whose value rose."""
    lost: int
    """Documents whose value fell."""
    changed: bool | None
    """Whether p_adjusted is below the level; None where nothing could be tested."""


class LengthShift(_Part):
    """Lengths of the answers to one task, in completion tokens, before and after."""

    task: str
    documents: int
    pre_mean: float
    post_mean: float
    pre_median: float
    post_median: float
    p_shift: float | None
    """Wilcoxon signed-rank test of the paired lengths; None when all pairs are equal."""
    p_distribution: float | None
    """Two-sample Kolmogorov-Smirnov test."""
    matched_documents: int
    """Documents whose two answers differ by at most a tenth in length."""
    matched_difference: float | None
    """Difference of the primary metric on those, post - pre; None when there are none."""


class CleanComparison(_Part):
    """The primary metric on the documents that no training prompt overlaps with, and on the others."""

    task: str
    clean: int
    flagged: int
    pre: float | None
    post: float | None
    difference: float | None
    """On the clean documents; None when there are none."""
    ci_low: float | None
    ci_high: float | None
    p: float | None
    method: str
    flagged_pre: float | None
    flagged_post: float | None
    verdict: Verdict | None
    """As for the primary comparison, uncorrected; None where nothing is left to test."""


class MeasuredOn(_Part):
    """What a detector said of answers that people had labelled, one set of them."""

    name: str
    """Which answers."""
    true_positives: Annotated[int, Field(ge=0)]
    false_negatives: Annotated[int, Field(ge=0)]
    true_negatives: Annotated[int, Field(ge=0)]
    false_positives: Annotated[int, Field(ge=0)]

    @property
    def labelled(self) -> int:
        """Labelled answers."""
        return self.true_positives + self.false_negatives + self.true_negatives + self.false_positives


class DetectorError(_Part):
    """How often a detector is right, and how that is known."""

    sensitivity: float | None
    """Share of what it looks for that it finds; None where none was labelled."""
    specificity: float | None
    """Share of the rest that it leaves alone; None where none was labelled."""
    labelled: int
    """Human-labelled answers that this was measured on."""
    source: str
    """Where those come from."""
    measured: list[MeasuredOn]
    """The counts behind it; empty where the rates come from a weighted sample."""


class CorrectedRate(_Part):
    """A rate that a detector counted, before and after, corrected for the detector's error."""

    task: str
    metric: str
    """The task's primary metric, beside which this rate stands."""
    what: str
    """What the detector looks for: ``refusal``."""
    detector: str
    """Version and digest of the detector."""
    method: str
    """How the correction and its intervals were computed."""
    documents: int
    clusters: int
    pre_raw: float
    post_raw: float
    """Shares of the answers that the detector marks."""
    pre: float
    pre_ci_low: float | None
    pre_ci_high: float | None
    post: float
    post_ci_low: float | None
    post_ci_high: float | None
    difference: float
    """post - pre, both corrected."""
    ci_low: float | None
    ci_high: float | None
    """95 % interval of the corrected difference; the uncertainty of the detector's error is part of it. Intervals are
    None where all documents are one cluster."""
    clipped: bool
    """Whether a corrected rate fell outside of 0 to 1 and was set to the bound."""
    error: DetectorError
    """Of the detector on the answers before, and on those after where ``post_error`` is None."""
    post_error: DetectorError | None
    """Of the detector on the answers after, where answers of both checkpoints were labelled."""
