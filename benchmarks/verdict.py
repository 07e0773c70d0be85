"""How every benchmark ends: one JSON line that says what was asked and what was measured."""

from __future__ import annotations

import json
import os
import platform


def report(benchmark: str, *, target: str, measured: dict[str, object], met: bool) -> None:
    """Print the last line. ``met`` is the benchmark's own judgement of ``measured`` against ``target``."""
    machine = {"cpus": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()}
    print(json.dumps({"benchmark": benchmark, "target": target, "measured": measured, "met": met, "on": machine}))
