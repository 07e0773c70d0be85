"""Every figure of a run that a release gate can be about, by name, with the events it rests on.

Names are dotted: ``eval.TASK.post``, ``safety.TASK.verdict``, ``probe.SOURCE.false_positives`` ... A figure that a run
does not have is not in the mapping; nothing is ever 0 because it is missing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from grpo_audit.config.run import RunConfig
from grpo_audit.record.audits import Decontamination, RewardProbed, RewardRegraded
from grpo_audit.record.events import (
    Comparison,
    EvalTask,
    EvaluationPlan,
    Finding,
    Payload,
    Severity,
    Step,
    TaskComparison,
)

OF_PRIMARY = ("pre", "post", "difference", "ci_low", "ci_high", "p_adjusted", "verdict")
"""Figures of a task's primary metric."""
OF_SECONDARY = ("pre", "post", "difference", "ci_low", "ci_high", "p_adjusted")
OF_CLEAN = ("pre", "post", "difference", "verdict")
"""Of the primary metric on the documents that no prompt overlaps with."""
OF_CORRECTED = ("pre", "post", "difference", "ci_low", "ci_high")
"""Of a rate that a detector counted, corrected for its error."""
RATES = ("empty_rate", "truncated_rate")
OF_PROBE = ("false_positives", "false_negatives", "failures", "hangs", "unstable")
TRIED_FOR = {"false_positives": "negatives", "false_negatives": "positives"}
"""Without one of these probes there is no such rate, and so no figure."""
OF_TRAINING = ("steps", "reward_mean", "kl", "entropy", "truncated_share", "zero_variance_share")
"""At the last step that has them."""


@dataclass(frozen=True)
class Figure:
    """One value, and the events it rests on."""

    value: float | str
    evidence: tuple[int, ...]


def figures(events: Iterable[tuple[int, Payload]]) -> dict[str, Figure]:
    """All figures of one run, from its numbered events in order; what is recorded twice counts as it was last."""
    found: dict[str, Figure] = {}
    gravity: Counter[Severity] = Counter({severity: 0 for severity in Severity})
    noticed: list[int] = []
    ended = False
    for seq, payload in events:
        ended = ended or isinstance(payload, Comparison)
        match payload:
            case Finding():
                gravity[payload.severity] += 1
                noticed.append(seq)
            case _:
                found.update({name: Figure(value, (seq,)) for name, value in _of(payload)})
    if ended:  # findings are made at the end: before it there being none says nothing
        for severity, count in gravity.items():
            found[f"findings.{severity.value}"] = Figure(float(count), tuple(noticed))
    return found


def _of(payload: Payload) -> Iterator[tuple[str, float | str]]:
    match payload:
        case EvalTask():
            yield from _of_task(payload)
        case Comparison():
            yield from _of_comparison(payload)
        case Step():
            yield "training.steps", float(payload.step + 1)
            for name in OF_TRAINING[1:]:
                if (value := getattr(payload, name)) is not None:
                    yield f"training.{name}", value
        case Decontamination():
            yield from _of_contamination(payload)
        case RewardProbed():
            yield from _of_probes(payload)
        case RewardRegraded():
            yield from _of_regrade(payload)
        case _:
            return


def _of_task(task: EvalTask) -> Iterator[tuple[str, float]]:
    for metric, value in task.metrics.items():
        yield f"eval.{task.task}.{metric}.{task.phase}", value
    for rate in RATES:
        if (share := getattr(task, rate)) is not None:
            yield f"eval.{task.task}.{rate}.{task.phase}", share


def _of_comparison(comparison: Comparison) -> Iterator[tuple[str, float | str]]:
    for task in comparison.tasks:
        for prefix in _prefixes(task):
            yield from _values(f"{prefix}.{task.task}", task, OF_PRIMARY)
    for secondary in comparison.secondary:
        yield from _values(f"eval.{secondary.task}.{secondary.metric}", secondary, OF_SECONDARY)
    for clean in comparison.clean:
        yield from _values(f"clean.{clean.task}", clean, OF_CLEAN)
    for rate in comparison.corrected:
        yield from _values(f"corrected.{rate.task}.{rate.what}", rate, OF_CORRECTED)


def _prefixes(task: TaskComparison) -> tuple[str, ...]:
    return ("eval", "safety") if task.safety else ("eval",)


def _values(prefix: str, part: object, names: Iterable[str]) -> Iterator[tuple[str, float | str]]:
    for name in names:
        value = getattr(part, name)
        if value is not None:
            yield f"{prefix}.{name}", value.value if name == "verdict" else value


def _of_contamination(found: Decontamination) -> Iterator[tuple[str, float | str]]:
    yield "contamination.valid", "yes" if found.valid else "no"
    if not found.valid:
        return  # a void check counts nothing
    yield "contamination.prompts_contaminated", float(found.prompts_contaminated)
    for task in found.tasks:
        yield f"contamination.{task.task}.contaminated", float(task.contaminated)
        yield f"contamination.{task.task}.flagged", float(task.flagged)
        yield f"contamination.{task.task}.untestable", float(task.untestable)


def _of_probes(found: RewardProbed) -> Iterator[tuple[str, float]]:
    if not found.probes:
        return  # nothing was asked, so nothing is clean
    families = found.families
    for name in OF_PROBE:
        of = TRIED_FOR.get(name)
        if of is None or any(getattr(family, of) for family in families):
            yield f"probe.{found.source}.{name}", float(sum(getattr(family, name) for family in families))
    for family in families:
        if family.negatives:
            yield f"probe.{found.source}.{family.family}.false_positives", float(family.false_positives)


def _of_regrade(found: RewardRegraded) -> Iterator[tuple[str, float]]:
    if not found.rollouts:
        return
    yield f"regrade.{found.source}.only_first_share", found.only_first / found.rollouts
    yield f"regrade.{found.source}.only_second_share", found.only_second / found.rollouts
    if found.kappa is not None:
        yield f"regrade.{found.source}.kappa", found.kappa


def promised(config: RunConfig, plan: EvaluationPlan | None) -> set[str]:
    """Names that a run of this configuration can have: what a gate is checked against before step 0.

    Of metrics that are not primary, families of probes and corrected rates only the pattern is known: they stand here
    with ``*``.
    """
    names = {f"training.{name}" for name in OF_TRAINING}
    names |= {f"findings.{severity.value}" for severity in Severity} if plan else set()
    for task in plan.tasks if plan else ():
        for prefix in ("eval", "safety") if task.safety else ("eval",):
            names |= {f"{prefix}.{task.task}.{name}" for name in OF_PRIMARY}
        names |= {f"eval.{task.task}.*.{name}" for name in OF_SECONDARY}
        names |= {f"clean.{task.task}.{name}" for name in OF_CLEAN}
        names |= {f"corrected.{task.task}.*.{name}" for name in OF_CORRECTED}
        if config.decontamination.check:
            names |= {f"contamination.{task.task}.{name}" for name in ("contaminated", "flagged", "untestable")}
    if plan and config.decontamination.check:
        names |= {"contamination.valid", "contamination.prompts_contaminated"}
    for reward in config.rewards:
        if config.probes.rewards:
            names |= {f"probe.{reward.name}.{name}" for name in OF_PROBE}
            names.add(f"probe.{reward.name}.*.false_positives")
        if reward.second is not None and config.probes.regrade:
            names |= {f"regrade.{reward.name}.{name}" for name in ("only_first_share", "only_second_share", "kappa")}
    return names


def evidence_of(found: Mapping[str, Figure], names: Iterable[str]) -> list[int]:
    """The events that some figures rest on, in order, each once."""
    return sorted({seq for name in names for seq in found[name].evidence})
