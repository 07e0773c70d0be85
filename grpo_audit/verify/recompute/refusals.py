"""(29), its part about refusals: the detector runs again on the recorded answers, and the rates are corrected again."""

from __future__ import annotations

from pydantic import BaseModel

from grpo_audit.record.events import Comparison, Finding
from grpo_audit.refusal.findings import style_findings
from grpo_audit.refusal.judged import Judgements, corrected_rates
from grpo_audit.verify.recompute.compare import same, shown
from grpo_audit.verify.verdict import Tally

_TOLERANCE = 1e-9
_QUANTILES = 1e-6
"""For the ends of intervals: quantiles of draws whose distribution functions differ in the last digits between versions
of the library."""


def made_by_others(recorded: Comparison, judged: Judgements) -> set[str]:
    """Detectors other than this version's that recorded rates were made by."""
    return {rate.detector for rate in recorded.corrected} - {judged.detector.identity}


def check_refusals(seq: int, recorded: Comparison, judged: Judgements, tally: Tally) -> list[Finding]:
    """Compare the corrected rates; returns the findings about the style of refusing that follow from the answers.

    Rates of another detector than this version's, or of answers that were erased, are not recomputed, and it is said.
    """
    stated = {rate.task: rate for rate in recorded.corrected}
    other = made_by_others(recorded, judged)
    if other:
        tally.remark(f"refusal rates not recomputed: made by the detector {sorted(other)[0]:.60}")
        return []
    found = {rate.task: rate for rate in corrected_rates(judged)}
    for task in judged.tasks:
        reason = judged.unusable(task.task)
        if reason is not None and task.task in stated:
            tally.remark(f"refusals of {task.task} not recomputed: {reason}")
            stated.pop(task.task)
    for name in sorted(stated.keys() | found.keys()):
        tally.saw()
        if name not in stated or name not in found:
            what = "is recorded and does not follow" if name in stated else "follows from the answers and is missing"
            tally.wrong(f"event {seq}: the corrected rate of refusals of {name:.60} {what}")
            continue
        _same(f"refusals of {name:.60}", stated[name], found[name], tally)
    return style_findings(judged, seq)


def _same(where: str, recorded: BaseModel, found: BaseModel, tally: Tally) -> None:
    for name in type(found).model_fields:
        tally.saw()
        one, other = getattr(recorded, name), getattr(found, name)
        if isinstance(one, float) or isinstance(other, float):
            if not same(one, other, _QUANTILES if "ci_" in name else _TOLERANCE):
                tally.wrong(f"{where}: {name} is {shown(one)}, found {shown(other)}")
        elif one != other:
            tally.wrong(f"{where}: {name} is {one!r:.80}, found {other!r:.80}")
