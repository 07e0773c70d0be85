"""Release gates: conditions registered before step 0, held against the figures of a finished run.

A gate fails when its figure is missing, when a pattern matches nothing, and when any figure that it matches does not
meet the condition. A run without gates passes none: that is not the same as passing.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from grpo_audit.config.checks import GateConfig
from grpo_audit.config.run import RunConfig
from grpo_audit.errors import ConfigError
from grpo_audit.record.audits import GateResult, GatesChecked
from grpo_audit.record.events import EvaluationPlan
from grpo_audit.stats.figures import Figure, evidence_of, promised

MOST_EVIDENCE = 50
"""Events a gate names at most."""


def check_gates(gates: Sequence[GateConfig], found: Mapping[str, Figure]) -> GatesChecked:
    """Hold every gate against the figures. Raises ValueError for no gates: nothing may pass on nothing."""
    if not gates:
        raise ValueError("there are no gates to check")
    results = [_check(gate, found) for gate in gates]
    return GatesChecked(gates=results, passed=all(result.passed for result in results))


def _check(gate: GateConfig, found: Mapping[str, Figure]) -> GateResult:
    names = sorted(name for name in found if fnmatchcase(name, gate.figure))
    failed = [name for name in names if not _holds(gate, found[name].value)]
    return GateResult(
        name=gate.name,
        figure=gate.figure,
        condition=gate.condition,
        passed=bool(names) and not failed,
        found={name: _text(found[name].value) for name in names},
        failed=failed,
        evidence=evidence_of(found, failed or names)[:MOST_EVIDENCE],
    )


def _holds(gate: GateConfig, value: float | str) -> bool:
    """A word never meets a bound, and a number is never one of some words."""
    if isinstance(value, str):
        return value in gate.one_of
    if gate.one_of:
        return False
    above = gate.at_least is None or value >= gate.at_least
    return above and (gate.at_most is None or value <= gate.at_most)


def _text(value: float | str) -> str:
    return value if isinstance(value, str) else repr(value)


def refuse_unknown(config: RunConfig, plan: EvaluationPlan | None) -> None:
    """Raise ConfigError for a gate about a figure that this run can never have: before step 0, not after the last."""
    known = promised(config, plan)
    for number, gate in enumerate(config.gates):
        if any(_may_match(gate.figure, name) for name in known):
            continue
        near = difflib.get_close_matches(gate.figure, sorted(known), n=3, cutoff=0.4)
        raise ConfigError(
            f"gates.{number} ({gate.name}) is about a figure that this run cannot have",
            found=gate.figure,
            expected=f"something like {', '.join(near)}" if near else "a figure of this run",
            next_step="docs/gates.md explains the figures; --set gates=[] leaves the recipe's gates out",
        )


def _may_match(figure: str, name: str) -> bool:
    """Whether one text can match both patterns."""
    return fnmatchcase(name, figure) or _meet(figure, name)


def _meet(one: str, other: str) -> bool:
    """Whether two patterns whose only wildcard is ``*`` have a text in common; by length product, not exponential."""
    reached = {(0, 0)}
    waiting = [(0, 0)]
    while waiting:
        i, j = waiting.pop()
        if i == len(one) and j == len(other):
            return True
        stars = (i < len(one) and one[i] == "*", j < len(other) and other[j] == "*")
        steps = [(i + 1, j)] if stars[0] else []
        steps += [(i, j + 1)] if stars[1] else []
        if i < len(one) and j < len(other):
            if stars[0] or stars[1]:
                steps += [(i, j + 1)] if stars[0] else []
                steps += [(i + 1, j)] if stars[1] else []
            elif one[i] == other[j]:
                steps.append((i + 1, j + 1))
        for step in steps:
            if step not in reached:
                reached.add(step)
                waiting.append(step)
    return False
