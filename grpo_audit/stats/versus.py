"""Several evaluations against one baseline, and the answers that flipped: what ``grpo-audit compare`` shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from grpo_audit.errors import ComparisonError
from grpo_audit.record.events import Verdict
from grpo_audit.stats.evaluated import Evaluated
from grpo_audit.stats.runs import Flip, RunComparison, compare_evaluations


@dataclass(frozen=True)
class Example:
    """A document that flipped, with both answers; a text is None where it was erased."""

    flip: Flip
    prompt: str | None
    before: str | None
    after: str | None


@dataclass(frozen=True)
class Column:
    """One evaluation against the baseline. Holm's correction is over the tasks of this comparison alone."""

    evaluated: Evaluated
    result: RunComparison
    examples: tuple[Example, ...]

    @property
    def regressed(self) -> bool:
        """Whether a primary metric did."""
        return any(row.verdict is Verdict.REGRESSED for row in self.result.comparison.tasks)


@dataclass(frozen=True)
class Versus:
    """A baseline and what is compared with it."""

    baseline: Evaluated
    columns: tuple[Column, ...]

    @property
    def regressed(self) -> bool:
        """Whether a primary metric did, in any comparison."""
        return any(column.regressed for column in self.columns)

    @property
    def blind(self) -> bool:
        """Whether some evaluation did not see the weights it is said to be of."""
        return any(column.result.findings for column in self.columns)


def versus(baseline: Evaluated, others: Sequence[Evaluated], examples: int = 0) -> Versus:
    """Compare each of the others with the baseline. ``examples``: how many flipped documents a task carry their texts.

    Raises:
        ComparisonError: There is nothing to compare with, or protocols, documents or prompts differ.
    """
    if not others:
        raise ComparisonError("one evaluation alone cannot be compared", next_step="Name a second run or model folder")
    columns = []
    for other in others:
        result = compare_evaluations(baseline, other)
        columns.append(Column(other, result, tuple(_examples(baseline, other, result.flips, examples))))
    return Versus(baseline, tuple(columns))


def _examples(before: Evaluated, after: Evaluated, flips: Sequence[Flip], count: int) -> list[Example]:
    """Up to ``count`` a task, those that got worse first."""
    found: list[Example] = []
    taken: Counter[str] = Counter()
    for flip in flips:
        taken[flip.task] += 1
        if taken[flip.task] <= count:
            one, two = before.texts(flip.task, flip.doc_id), after.texts(flip.task, flip.doc_id)
            found.append(
                Example(flip, two.prompt if two.prompt is not None else one.prompt, one.response, two.response)
            )
    return found


def label(evaluated: Evaluated) -> str:
    """What it is, for people."""
    if not evaluated.recorded:
        return f"model {evaluated.run_id}"
    return f"{evaluated.run_id} {'before' if evaluated.phase == 'pre' else 'after'} RL"


def as_json(found: Versus) -> dict[str, Any]:
    """Everything, as plain JSON."""
    return {
        "baseline": _identity(found.baseline),
        "comparisons": [
            {
                **_identity(column.evaluated),
                "comparison": column.result.comparison.model_dump(mode="json"),
                "findings": [finding.model_dump(mode="json") for finding in column.result.findings],
                "flips": [asdict(flip) for flip in column.result.flips],
                "examples": [asdict(example) for example in column.examples],
            }
            for column in found.columns
        ],
    }


def _identity(evaluated: Evaluated) -> dict[str, Any]:
    return {
        "name": evaluated.run_id,
        "kind": "run" if evaluated.recorded else "model",
        "phase": evaluated.phase if evaluated.recorded else None,
        "weights_digest": evaluated.side.weights,
        "protocol_digest": evaluated.side.protocol,
        "suite": evaluated.plan.suite,
        "harness": evaluated.plan.harness,
    }
