"""Verification of a record, level by level, in numbered procedures."""

from grpo_audit.verify.l0 import verify
from grpo_audit.verify.verdict import (
    Attestation,
    Check,
    KeySource,
    Outcome,
    RunVerdict,
    Tail,
    VerifyReport,
)

__all__ = ["verify", "VerifyReport", "Check", "Outcome", "RunVerdict", "Tail", "KeySource", "Attestation"]
