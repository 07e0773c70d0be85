"""Preflight: rules that look at a recipe before anything is written, and say what would go wrong without a sign."""

from __future__ import annotations

from grpo_audit.preflight.facts import Facts, gather
from grpo_audit.preflight.inspect import PREFIX, Finding, Preflight, inspect
from grpo_audit.preflight.rules import RULES, explain

__all__ = ["PREFIX", "RULES", "Facts", "Finding", "Preflight", "explain", "gather", "inspect"]
