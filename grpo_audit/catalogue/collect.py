"""The whole catalogue of a run, from its record alone. Same record, same catalogue."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict
from pydantic.fields import FieldInfo

from grpo_audit.catalogue.accountability import Accountability, accountability
from grpo_audit.catalogue.budget import Budget, budget
from grpo_audit.catalogue.data import Data, data
from grpo_audit.catalogue.environment import Environment, environment
from grpo_audit.catalogue.evaluation import Evaluation, evaluation
from grpo_audit.catalogue.field import About, Field, Group, about
from grpo_audit.catalogue.integrity import Integrity, integrity
from grpo_audit.catalogue.lineage import Lineage, lineage
from grpo_audit.catalogue.method import Method, method
from grpo_audit.catalogue.oversight import Oversight, oversight
from grpo_audit.catalogue.rewards import Rewards, rewards
from grpo_audit.catalogue.rollouts import Rollouts, rollouts
from grpo_audit.catalogue.run import Run, read_run
from grpo_audit.ledger.project import Project


class Catalogue(BaseModel):
    """Every field of one run, group by group. ``model_dump_json`` is deterministic."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    accountability: Accountability
    """A: who answers for the run."""
    lineage: Lineage
    """B: from what the model was made, and what came out."""
    data: Data
    """C: the prompts."""
    method: Method
    """D: what was optimised, and how."""
    rewards: Rewards
    """E: what the model was rewarded for."""
    rollouts: Rollouts
    """F: steps and rollouts, as sums."""
    oversight: Oversight
    """G: what was noticed, and what people decided."""
    environment: Environment
    """H: on what the run happened."""
    budget: Budget
    """I: what the run cost."""
    evaluation: Evaluation
    """J: what was evaluated before and after."""
    integrity: Integrity
    """K: how the record protects itself."""

    def fields(self) -> Iterator[tuple[str, Field[Any]]]:
        """Each field under its name, ``group.field``."""
        for group in type(self).model_fields:
            for name, field in getattr(self, group).fields():
                yield f"{group}.{name}", field

    def __getitem__(self, name: str) -> Field[Any]:
        """One field by its name. Raises KeyError."""
        group, _, field = name.partition(".")
        if f"{group}.{field}" not in FIELDS:
            raise KeyError(name)
        found: Field[Any] = getattr(getattr(self, group), field)
        return found


def collect(project: Project, run_id: str) -> Catalogue:
    """The catalogue of a run. ``run_id`` is an id, a unique prefix or a name.

    Raises ConfigError when there is no such run, StorageError when the record cannot be read.
    """
    return catalogue_of(read_run(project, run_id))


def catalogue_of(run: Run) -> Catalogue:
    """The same, of a run that has been read."""
    return Catalogue(
        accountability=accountability(run),
        lineage=lineage(run),
        data=data(run),
        method=method(run),
        rewards=rewards(run),
        rollouts=rollouts(run),
        oversight=oversight(run),
        environment=environment(run),
        budget=budget(run),
        evaluation=evaluation(run),
        integrity=integrity(run),
    )


def groups() -> dict[str, type[Group]]:
    """Each group's model, by name, in order A to K."""
    found: dict[str, type[Group]] = {}
    for name, info in Catalogue.model_fields.items():
        assert isinstance(info.annotation, type) and issubclass(info.annotation, Group)
        found[name] = info.annotation
    return found


def _every_field() -> dict[str, FieldInfo]:
    return {f"{group}.{name}": info for group, model in groups().items() for name, info in model.model_fields.items()}


FIELDS = _every_field()
"""Every field of the catalogue by name."""


def facts_of(name: str) -> About:
    """What is fixed about a field. Raises KeyError."""
    return about(FIELDS[name])


def declarable() -> dict[str, About]:
    """The fields that a person may declare, with how."""
    return {name: found for name in FIELDS if (found := facts_of(name)).may_be_declared}
