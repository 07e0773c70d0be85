"""One row with what is known about it: answers that are right, answers that are wrong, and how they are given."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from grpo_audit.rewards.probes.answers import as_json
from grpo_audit.rewards.probes.formats import Format
from grpo_audit.rewards.probes.probe import Expect, Kind, Probe


@dataclass(frozen=True, slots=True)
class Case:
    """What the families make probes of."""

    row: int
    prompt: str
    kind: Kind
    accepted: tuple[str, ...]
    """Right answers, the one to give first; empty when none is known. For a form: whole completions."""
    wrong: tuple[str, ...]
    """Answers that are surely wrong."""
    others: tuple[str, ...]
    """Of these, right answers to other rows."""
    format: Format
    """How the answer is given."""
    containers: tuple[Format, ...]
    """Forms with marks around the answer that the source reads for this row; ``format`` first where it is one."""
    strict: bool
    """Whether a completion without an answer must earn nothing. Not so for a rule that asks for no form at all."""
    judged: bool
    """Whether the source rewards the right answer of this row."""

    @property
    def right(self) -> str:
        """The right answer that is given. Only where there is one."""
        return self.accepted[0]

    @property
    def is_content(self) -> bool:
        """Whether a right and a wrong answer are known, and the source knows the right one."""
        return self.judged and bool(self.accepted) and bool(self.wrong) and self.kind is not Kind.FORM

    def dice(self, family: str) -> random.Random:
        """Chance that depends on nothing but the family and the row."""
        return random.Random(f"{family}:{self.row}")


@dataclass(frozen=True, slots=True)
class Draft:
    """A probe before it has a family and a row."""

    completion: str
    expect: Expect
    note: str
    alone: bool = False


Drafts = Iterator[Draft]


def reject(completion: str, note: str, *, alone: bool = False) -> Draft:
    """Must not be rewarded."""
    return Draft(completion, Expect.REJECT, note, alone)


def accept(completion: str, note: str) -> Draft:
    """Must be rewarded."""
    return Draft(completion, Expect.ACCEPT, note)


def either(completion: str, note: str, *, alone: bool = False) -> Draft:
    """Must be judged, one way or the other."""
    return Draft(completion, Expect.EITHER, note, alone)


def given(case: Case, answer: str, note: str, *, alone: bool = False) -> Draft:
    """An answer without sense, in the form the source reads: must not be rewarded, where that is certain.

    A JSON schema may allow any JSON text, and a rule without a form anything at all.
    """
    uncertain = not case.strict or (case.kind is Kind.JSON and (as_json(answer) is not None or answer == "null"))
    make = either if uncertain else reject
    return make(case.format.of(answer), note, alone=alone)


def as_probe(draft: Draft, family: str, case: Case) -> Probe:
    """The probe itself."""
    return Probe(family, case.row, draft.completion, draft.expect, draft.note, draft.alone)
