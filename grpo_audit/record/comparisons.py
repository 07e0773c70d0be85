"""What a comparison says beside the primary metrics: the other metrics, lengths, the clean subset, corrected rates."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

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


class CorrectedRate(_Part):
    """A rate that a detector counted, corrected for the detector's error (Rogan and Gladen 1978)."""

    task: str
    metric: str
    what: str
    """What the detector looks for: ``refusal``."""
    documents: int
    pre_raw: float
    post_raw: float
    pre: float
    post: float
    difference: float
    ci_low: float
    ci_high: float
    """95 % interval of the corrected difference; the uncertainty of the detector's error is part of it."""
    sensitivity: float
    specificity: float
    labelled: int
    """Human-labelled answers that the error was measured on."""
    source: str
    """Where those come from."""
