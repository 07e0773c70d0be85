"""What is checked around training: contamination of the prompts, probes of the rewards, and the release gates."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from grpo_audit.config.base import Section


class DecontaminationConfig(Section):
    """The prompt set against every evaluation document, before step 0."""

    check: bool = True
    """Without an evaluation suite there is nothing to check against."""

    if_contaminated: Literal["record", "stop"] = "record"
    """``record``: go on; the report tests every task again on its clean documents. ``stop``: do not train."""

    expected: list[str] = []
    """Tasks that are contaminated on purpose, such as a memorisation probe: reported, and no reason to stop."""


class ProbeConfig(Section):
    """Probe families against every reward source before step 0, and second verifiers after training."""

    rewards: bool = True
    """Ask every source that has right answers; judges and reward models have none."""

    rows: Annotated[int, Field(ge=1, le=1000)] = 20
    """Rows of the prompt set that the probes are made of."""

    threshold: float = 0.5
    """From which value on a completion counts as rewarded."""

    regrade: Annotated[int, Field(ge=0)] = 2000
    """Rollouts that a source's ``second`` verifier grades again after training, spread over the steps; 0: none."""


class GateConfig(Section):
    """One release condition, registered before step 0. A gate whose figure is missing fails."""

    name: Annotated[str, Field(min_length=1, max_length=80)]
    """What the condition is called in the report."""

    figure: Annotated[str, Field(pattern=r"^[^\s]+$")]
    """Name of a figure, or a pattern with ``*`` that must match at least one; ``grpo-audit gate --figures`` lists
    them."""

    at_least: float | None = None
    at_most: float | None = None
    one_of: list[str] = []
    """Allowed words, for verdicts and the like."""

    reason: str | None = None
    """Why this bound, for the reader of the report."""

    @model_validator(mode="after")
    def _has_a_condition(self) -> GateConfig:
        numeric = self.at_least is not None or self.at_most is not None
        if numeric == bool(self.one_of):
            raise ValueError("give bounds (at_least, at_most) or one_of, and not both")
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise ValueError(f"at_least ({self.at_least}) is above at_most ({self.at_most}), so it can never hold")
        return self

    @property
    def condition(self) -> str:
        """In words."""
        parts = [f"at least {self.at_least:g}"] if self.at_least is not None else []
        parts += [f"at most {self.at_most:g}"] if self.at_most is not None else []
        return " and ".join(parts) or "one of: " + ", ".join(self.one_of)
