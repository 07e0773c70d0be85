"""Prompt sets: loading, provenance, digest, and the order they are drawn in."""

from __future__ import annotations

from grpo_audit.prompts.loading import Prompt, PromptSet, load
from grpo_audit.prompts.order import draw, exposures

__all__ = ["Prompt", "PromptSet", "draw", "exposures", "load"]
