"""The command line. Everything below knows one thing; this package is the only place that knows them all."""

from __future__ import annotations

from grpo_audit.cli.app import main

__all__ = ["main"]
