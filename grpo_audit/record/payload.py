"""What all events have in common: their kinds, and the base class of their payloads."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict

Phase = Literal["pre", "train", "post"]


class EventKind(StrEnum):
    """Every kind of event. The value is what stands in the record."""

    PROJECT_CREATED = "project.created"
    RUN_REGISTERED = "run.registered"
    RUN_RESUMED = "run.resumed"
    PHASE_FINISHED = "phase.finished"
    ARTIFACT = "artifact"
    DECONTAMINATION = "decontamination"
    REWARD_PROBED = "reward.probed"
    REWARD_REGRADED = "reward.regraded"
    EVAL_SAMPLE = "eval.sample"
    EVAL_TASK = "eval.task"
    GROUP = "group"
    ROLLOUT = "rollout"
    STEP = "step"
    SNAPSHOT = "snapshot"
    MODEL_SAVED = "model.saved"
    COMPARISON = "comparison"
    FINDING = "finding"
    GATES_CHECKED = "gates.checked"
    RUN_SEALED = "run.sealed"
    RUN_ABORTED = "run.aborted"
    RUN_ABANDONED = "run.abandoned"
    ANNOTATION = "annotation"
    ERASURE = "erasure"
    KEY_ROTATED = "key.rotated"


class Severity(StrEnum):
    """How much a finding matters."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class Payload(BaseModel):
    """Base of all event payloads: frozen, nothing unknown, no NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)
    kind: ClassVar[EventKind]
    flat: ClassVar[bool] = False
    """Whether no field holds a model: its values are then the fields as they are, and need not be dumped."""

    def plain(self) -> dict[str, Any]:
        """The fields as dictionaries, lists and values. Not to be changed by the caller."""
        return self.__dict__ if self.flat else self.model_dump()
