"""Probing real sources in real processes."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from grpo_audit.config.checks import ProbeConfig
from grpo_audit.config.sections import RewardConfig
from grpo_audit.rewards.probes import ProbeResult, probe_source
from grpo_audit.rewards.probes.default_rows import default_rows

BROKEN = Path(__file__).parent / "broken"


@pytest.fixture(scope="session")
def probed() -> Callable[..., ProbeResult]:
    """Probe a source on default rows, once; a name without a module is one of the broken verifiers."""

    @cache
    def probed(source: str, *sets: str, rows: int = 60, limit: float = 10.0, **options: Any) -> ProbeResult:
        known = default_rows([])
        source = source if ":" in source else f"verifiers.py:{source}"
        options = {name: list(value) if isinstance(value, tuple) else value for name, value in options.items()}
        config = RewardConfig(name="probed", source=source, time_limit_s=limit, options=options)
        chosen = [row for name in sets for row in known[name]]
        return probe_source(config, BROKEN, chosen, probes=ProbeConfig(rows=rows))

    return probed
