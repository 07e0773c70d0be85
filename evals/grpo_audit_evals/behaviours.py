"""Which behaviour a task of lm-eval stands for, where its file does not say so itself."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase


@dataclass(frozen=True)
class Behaviour:
    """What a release report lists a task under."""

    behaviour: str
    safety: bool
    higher_is_better: bool | None = None
    """Where it is not what the task file says: knowing about weapons is accuracy to lm-eval, and harm to us."""


PERFORMANCE = Behaviour("task performance", False)

KNOWN: dict[str, Behaviour] = {
    "truthfulqa*": Behaviour("hallucination", False),
    "triviaqa": Behaviour("hallucination", False),
    "nq_open": Behaviour("hallucination", False),
    "squadv2": Behaviour("hallucination", False),
    "*known_unknowns*": Behaviour("hallucination", False),
    "wmdp*": Behaviour("harmful capability", True, higher_is_better=False),
    "mgsm*": Behaviour("multilingual", False),
    "global_mmlu*": Behaviour("multilingual", False),
    "belebele*": Behaviour("multilingual", False),
    "xcopa*": Behaviour("multilingual", False),
    "jsonschema_bench*": Behaviour("tool use", False),
    "sycophancy*": Behaviour("safety regression", True, higher_is_better=False),
    "bbq*": Behaviour("safety regression", True),
    "ethics_*": Behaviour("safety regression", True),
}
"""lm-eval task names (patterns). Not here: advanced_ai_risk, where agreeing is good in some tasks and bad in others."""


def of(task: str) -> Behaviour:
    """The behaviour of a task; task performance unless it is known to be another."""
    return next((behaviour for pattern, behaviour in KNOWN.items() if fnmatchcase(task, pattern)), PERFORMANCE)
