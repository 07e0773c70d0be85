"""Level L1: level L0, then the numbers of one run recomputed (``recompute/procedure.py``)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from grpo_audit.rewards.sandbox import Isolation
from grpo_audit.verify.l0 import verify
from grpo_audit.verify.limits import ARITHMETIC
from grpo_audit.verify.opening import opened
from grpo_audit.verify.recompute import procedure
from grpo_audit.verify.verdict import Check, Outcome, VerifyReport


def verify_l1(
    location: str | Path,
    *,
    run: str | None = None,
    key: str | None = None,
    run_folder: Path | None = None,
    artifacts: Literal["present", "required"] = "present",
    witness: Sequence[str] = (),
    jobs: int | None = None,
    isolation: Isolation = "strict",
    progress: Callable[[int, int], None] | None = None,
) -> VerifyReport:
    """Verify a record or bundle at level L1: everything of level L0, then the arithmetic of one run.

    Arguments and errors are those of ``l0.verify``; ``isolation`` is that of the sandbox for recorded reward code.
    Where level L0 fails nothing is recomputed: numbers that are not the recorded ones prove nothing.
    """
    report = verify(
        location,
        run=run,
        key=key,
        run_folder=run_folder,
        artifacts=artifacts,
        witness=witness,
        jobs=jobs,
        progress=progress,
    )
    if not report.ok or report.run is None:
        why = "level L0 failed" if not report.ok else "the record holds no run"
        outcome = Outcome.NOT_REACHED if not report.ok else Outcome.NOTHING
        more = [Check(number, name, outcome, why) for number, (name, _) in procedure.NAMES.items()]
        return replace(report, level=procedure.LEVEL, checks=[*report.checks, *more])
    with opened(location) as found:
        more = procedure.recompute(found.source, report.run.run_id, isolation=isolation, progress=progress)
    limits = [
        text
        if text != ARITHMETIC
        else "what rests on weights and was not recomputed: loss, KL, entropy, gradient norms"
        for text in report.not_shown
    ]
    return replace(report, level=procedure.LEVEL, checks=[*report.checks, *more], not_shown=limits)
