"""What a verdict does not say, in words for the reader."""

from __future__ import annotations

from grpo_audit.ledger.memory import RememberedHead
from grpo_audit.verify.verdict import KeySource, VerifyReport

_NAMED = 5
"""Absent files that are named."""


def not_shown(report: VerifyReport, remembered: RememberedHead | None, absent: list[str]) -> list[str]:
    """Everything that may still be wrong with a record for which this report is good."""
    limits = [
        "that the machine told the truth while it recorded",
        "that no run was made without being registered in this record",
        "that rewards, advantages, figures and comparisons are right (level L1), or that the recorded weights gave the "
        "recorded rollouts (level L2)",
    ]
    if report.key_source is KeySource.RECORD:
        limits.append("whose key it is: it comes from the record itself; name the one you know with --key")
    if remembered is None:
        limits.append("that the newest events were not cut off together with their checkpoints: no witness saw them")
    elif remembered.head.size < report.events:
        unseen = report.events - remembered.head.size
        limits.append(f"that nothing was cut off after the newest event: the last {unseen} are new to this machine")
    if report.run is not None and not report.run.sealed:
        limits.append(f"how run {report.run.run_id} ends: it is not sealed ({report.run.state})")
    if absent:
        more = f" and {len(absent) - _NAMED} more" if len(absent) > _NAMED else ""
        limits.append("files that are not here: " + ", ".join(absent[:_NAMED]) + more)
    return limits
