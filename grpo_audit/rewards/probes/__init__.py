"""Probes of reward sources: completions that a verifier must reward, must not reward, or must at least survive."""

from grpo_audit.rewards.probes.probe import PlainRow as PlainRow, Row as Row
from grpo_audit.rewards.probes.run import ProbeResult as ProbeResult, probe_source as probe_source

__all__ = ["PlainRow", "ProbeResult", "Row", "probe_source"]
