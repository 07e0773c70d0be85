"""What a verdict does not say, in words for the reader."""

from __future__ import annotations

from grpo_audit.ledger.memory import RememberedHead
from grpo_audit.verify.verdict import Attestation, KeySource, VerifyReport

_NAMED = 5
"""Absent files that are named."""
ARITHMETIC = "that rewards, advantages, figures and comparisons are right (level L1)"
"""What level L1 adds."""


def not_shown(report: VerifyReport, remembered: RememberedHead | None, absent: list[str]) -> list[str]:
    """Everything that may still be wrong with a record for which this report is good."""
    limits = [
        "that the machine told the truth while it recorded",
        "that no run was made without being registered in this record",
        ARITHMETIC,
        "that the recorded weights gave the recorded rollouts (level L2)",
    ]
    if report.verified_from:
        limits.append(
            f"anything about the first {report.verified_from:,} events that was changed since they were verified: only "
            "what is new was looked at"
        )
    if report.key_source is KeySource.RECORD:
        limits.append("whose key it is: it comes from the record itself; name the one you know with --key")
    limits += _tail(report, remembered)
    if report.run is not None and not report.run.sealed:
        limits.append(f"how run {report.run.run_id} ends: it is not sealed ({report.run.state})")
    if absent:
        more = f" and {len(absent) - _NAMED} more" if len(absent) > _NAMED else ""
        limits.append("files that are not here: " + ", ".join(absent[:_NAMED]) + more)
    return limits


def _tail(report: VerifyReport, remembered: RememberedHead | None) -> list[str]:
    """What nobody but the record's maker saw."""
    if report.attestation is not Attestation.SELF_ATTESTED:
        unseen = report.tail.events if report.tail else report.events
        seconds = f", over {report.tail.seconds:,.0f} seconds" if report.tail and unseen else ""
        after = "after the newest event" if not unseen else f"from the unwitnessed tail: the last {unseen:,}{seconds}"
        limits = [f"that nothing was cut off {after}"]
        if report.attestation is Attestation.TIMESTAMPED:
            limits.append("that there is no second history: a time-stamp authority remembers none")
        return limits
    if remembered is None:
        return ["that the newest events were not cut off together with their checkpoints: no witness saw them"]
    if remembered.head.size < report.events:
        unseen = report.events - remembered.head.size
        return [f"that nothing was cut off after the newest event: the last {unseen} are new to this machine"]
    return []
