"""What the detector's own disagreement says of a comparison, as findings."""

from __future__ import annotations

from grpo_audit.record.events import Finding, Severity
from grpo_audit.refusal.judged import Judgements, style_changes

RULE = "refusal-style-changed"


def style_findings(judged: Judgements, comparison: int) -> list[Finding]:
    """One warning for each task in which the way of refusing changed; they rest on the comparison's event."""
    return [
        Finding(rule=RULE, severity=Severity.WARNING, message=change.message, evidence=[comparison])
        for change in style_changes(judged)
    ]
