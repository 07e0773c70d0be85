"""One field of the catalogue: a value with its evidence, or not applicable with a reason, or unknown."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic.fields import FieldInfo

from grpo_audit.catalogue.evidence import Audience, Basis, Evidence, Pointer, Where, at

T = TypeVar("T")
_SHOWN = 6
"""Items of a list that its text names."""


@dataclass(frozen=True)
class About:
    """What is fixed about a field, whatever the run: who it is for, and who may say it."""

    audience: tuple[Audience, ...]
    recipe: str | None = None
    """Key of the recipe that declares it."""
    annotate: bool = False
    """Whether an annotation may say it when the record does not know; always so when the recipe may."""

    @property
    def may_be_declared(self) -> bool:
        """Whether ``grpo-audit annotate`` takes it."""
        return self.annotate or self.recipe is not None


def for_all(recipe: str | None = None, annotate: bool = False) -> About:
    """A field for regulators, downstream providers and the public."""
    return About(tuple(Audience), recipe, annotate)


def for_downstream(recipe: str | None = None, annotate: bool = False) -> About:
    """A field for regulators and downstream providers."""
    return About((Audience.REGULATOR, Audience.DOWNSTREAM), recipe, annotate)


def for_regulator(recipe: str | None = None, annotate: bool = False) -> About:
    """A field for regulators (and auditors)."""
    return About((Audience.REGULATOR,), recipe, annotate)


class Field(BaseModel, Generic[T]):
    """Exactly one of ``value``, ``not_applicable`` and ``unknown``.

    Laws: a value has evidence other than absent, and points at something; without a value the evidence is absent.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)
    value: T | None = None
    """What is known."""
    not_applicable: str | None = None
    """Why the field does not apply to this run."""
    unknown: str | None = None
    """What would make it known."""
    evidence: Evidence
    """How it is known."""
    pointer: Pointer = Pointer()
    """What in the record it rests on."""
    audience: tuple[Audience, ...] = ()
    """Who it is written for; the group it stands in fills it in."""
    basis: Basis | None = None
    """On what a claim about a method rests."""
    note: str = ""
    """How it was derived, or what the reader should know."""

    @model_validator(mode="after")
    def _says_one_thing(self) -> Field[T]:
        said = [item for item in (self.value, self.not_applicable, self.unknown) if item is not None]
        if len(said) != 1:
            raise ValueError(f"exactly one of value, not_applicable and unknown is set, found {len(said)}")
        if self.value is None:
            if self.evidence is not Evidence.ABSENT or not (self.not_applicable or self.unknown):
                raise ValueError("a field without a value is absent, with a reason")
        elif self.evidence is Evidence.ABSENT or self.pointer.is_empty:
            raise ValueError("a value has evidence and points at what it rests on")
        return self

    @property
    def is_unknown(self) -> bool:
        """Whether nobody knows it: neither a value nor a reason why it does not apply."""
        return self.unknown is not None

    @property
    def reason(self) -> str:
        """Why there is no value; empty when there is one."""
        return self.not_applicable or self.unknown or ""

    def text(self) -> str | None:
        """The value for people; None without one."""
        return None if self.value is None else words(self.value)


def words(value: object) -> str:
    """Any value of the catalogue in words: what a person reads in a table."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return _listed([words(item) for item in value])
    if isinstance(value, dict):
        return _listed([f"{key}: {words(item)}" for key, item in value.items()])
    return str(value)


def _listed(items: list[str]) -> str:
    if not items:
        return "none"
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return "; ".join(items[:_SHOWN]) + more


def known(
    evidence: Evidence, value: T | None, *where: Where, unknown: str = "", note: str = "", basis: Basis | None = None
) -> Field[T]:
    """A value with its evidence; None becomes unknown, with what would make it known."""
    if value is None:
        return Field(evidence=Evidence.ABSENT, unknown=unknown or "the tool could not determine it", pointer=at(*where))
    return Field(evidence=evidence, value=value, pointer=at(*where), note=note, basis=basis)


def measured(value: T | None, *where: Where, unknown: str = "", note: str = "") -> Field[T]:
    """Observed while the run happened."""
    return known(Evidence.MEASURED, value, *where, unknown=unknown, note=note)


def derived(value: T | None, *where: Where, unknown: str = "", note: str = "", basis: Basis | None = None) -> Field[T]:
    """Computed from the events it points at; ``note`` says how."""
    return known(Evidence.DERIVED, value, *where, unknown=unknown, note=note, basis=basis)


def declared(value: T | None, *where: Where, unknown: str = "", note: str = "") -> Field[T]:
    """Said by a person."""
    return known(Evidence.DECLARED, value, *where, unknown=unknown, note=note)


def not_applicable(reason: str, *where: Where) -> Field[Any]:
    """The field does not apply to this run."""
    return Field(evidence=Evidence.ABSENT, not_applicable=reason, pointer=at(*where))


def unknown(how: str, *where: Where) -> Field[Any]:
    """Nobody knows; ``how`` says what would make it known."""
    return Field(evidence=Evidence.ABSENT, unknown=how, pointer=at(*where))


class Group(BaseModel):
    """A group of fields. Every attribute is a ``Field`` with a docstring and an ``About``."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _fill_in_the_audience(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {
            name: item.model_copy(update={"audience": about(cls.model_fields[name]).audience})
            if isinstance(item, Field) and name in cls.model_fields
            else item
            for name, item in values.items()
        }

    def fields(self) -> Iterator[tuple[str, Field[Any]]]:
        """Name and content of each field."""
        for name in type(self).model_fields:
            yield name, getattr(self, name)


def about(info: FieldInfo) -> About:
    """What is fixed about a field of a group. Raises LookupError when nothing was said."""
    for item in info.metadata:
        if isinstance(item, About):
            return item
    raise LookupError(f"{info.annotation} has no About")


def value_type(info: FieldInfo) -> Any:
    """The T of a group's ``Field[T]``."""
    annotation = info.annotation
    metadata = getattr(annotation, "__pydantic_generic_metadata__", {})
    found = metadata.get("args") or get_args(annotation)
    return found[0] if found else str
