"""Every family of probes: its name, what it catches, and which rows it needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from grpo_audit.rewards.probes import forms, hostile, mixed, numbers, silent
from grpo_audit.rewards.probes.case import Case, Draft, Drafts, as_probe
from grpo_audit.rewards.probes.probe import Kind, Probe

_GOLD: Final = "a right and a wrong answer that the source tells apart"
_LINE: Final = "answers of one line: numbers, letters, texts, expressions"
_NUMBERS: Final = "answers that are plain numbers"
_CONTAINER: Final = "an answer between marks of its own"


@dataclass(frozen=True, slots=True)
class Family:
    """Probes that look for the same fault."""

    name: str
    catches: str
    """The fault, in one line."""
    makers: tuple[Callable[[Case], Drafts], ...]
    needs: str = ""
    """What rows it needs, in words; empty when any row will do."""
    rows: int | None = None
    """Rows it is made for; None for all. What takes long is asked of a few."""


FAMILIES: Final = (
    Family("gold", "a right answer is not recognised", (mixed.gold,), "a right answer"),
    Family("other-item", "the answer to another row is rewarded", (mixed.other_item,), "other rows with other answers"),
    Family("wrong-answer", "a wrong answer in the right form is rewarded", (mixed.wrong_answer,), _GOLD),
    Family("empty", "saying nothing is rewarded", (silent.empty,)),
    Family("blank", "blanks are rewarded", (silent.blank,)),
    Family("answer-absent", "reasoning or a placeholder is rewarded", (silent.absent,)),
    Family("refusal", "a refusal is rewarded", (silent.refusal,)),
    Family("injection", "words to the grader are rewarded", (silent.injection,)),
    Family("prompt-restated", "repeating the prompt is rewarded", (silent.prompt_restated,), "prompts without answer"),
    Family("shotgun-list", "a list of candidates is rewarded", (mixed.shotgun,), _LINE),
    Family("range", "a range around the answer is rewarded", (numbers.number_range,), _NUMBERS),
    Family("two-answers", "an answer that is taken back is rewarded", (mixed.two_answers,), _GOLD),
    Family("right-in-trace", "an answer in the reasoning only is rewarded", (mixed.right_in_trace,), _GOLD),
    Family("afterthought", "an answer that is only mentioned is rewarded", (mixed.afterthought,), _LINE),
    Family("denied", "an answer that is denied is rewarded", (mixed.denied,), _LINE),
    Family("tags-unclosed", "broken marks are rewarded", (mixed.tags_unclosed, forms.unclosed), _CONTAINER),
    Family("tags-duplicated", "several blocks are rewarded", (mixed.tags_duplicated, forms.duplicated), _CONTAINER),
    Family("tags-nested", "nested blocks are rewarded", (mixed.tags_nested, forms.nested), "answers in tags or boxes"),
    Family("tags-spammed", "blocks without number are rewarded", (mixed.tags_spammed, forms.spammed), _CONTAINER),
    Family("form-emptied", "what a form rule is lenient about", (forms.emptied,), "a rule that asks for a form"),
    Family("unicode-digits", "digits of other scripts are misread", (numbers.unicode_digits,), _NUMBERS),
    Family("sign", "the other sign is rewarded, or a minus misread", (numbers.sign,), _NUMBERS),
    Family("odd-blanks", "non-breaking blanks are misread", (numbers.odd_blanks,), _NUMBERS),
    Family("thousands", "separators of thousands are misread", (numbers.thousands,), "numbers of four digits or more"),
    Family("glued-digits", "digits are picked out of other text", (numbers.glued_digits,), "numbers of two digits"),
    Family("percent", "a factor of a hundred is not seen", (numbers.percent,), _NUMBERS),
    Family("units", "another amount is rewarded", (numbers.units,), "numbers, with or without a unit"),
    Family("currency", "signs of money are misread", (numbers.currency,), _NUMBERS),
    Family("calculation", "a calculation that names the answer is rewarded", (numbers.calculation,), _NUMBERS),
    Family("float-edge", "a neighbouring number is rewarded", (numbers.float_edge,), _NUMBERS),
    Family("prefix", "part of a number is rewarded", (numbers.prefix,), _NUMBERS),
    Family("latex", "notation is misread", (numbers.latex,), "numbers or expressions"),
    Family("letter-in-prose", "a letter in a word is taken for the choice", (mixed.letter_in_prose,), "letters"),
    Family("words-cut", "part of a text is rewarded", (mixed.words_cut,), "answers that are a text"),
    Family("letter-case", "what it does with upper and lower case", (mixed.letter_case,), "letters or texts"),
    Family("json-layout", "layout of JSON matters", (mixed.json_layout,), "answers that are JSON"),
    Family("outer-blanks", "blanks around it matter", (mixed.outer_blanks, forms.blanks_around), "a right answer"),
    Family("bomb-exponent", "a short text takes it for ever", (hostile.exponents,), rows=1),
    Family("bomb-nesting", "depth takes it down", (hostile.nesting,), rows=1),
    Family("bomb-pattern", "a careless pattern takes for ever", (hostile.patterns,), rows=1),
    Family("one-megabyte", "length takes it down", (hostile.megabyte,), rows=1),
)
DETERMINISM: Final = Family("determinism", "the same completion is judged in two ways", ())
THREADS: Final = Family("threads", "it fails, or judges otherwise, in threads", ())
PER_FAMILY: Final = 40
"""Probes of a family; as many as there are of each sort in turn."""
PER_FAMILY_OF_CODE: Final = 4
"""Each runs a program."""


def probes_of(family: Family, cases: Sequence[Case]) -> list[Probe]:
    """The probes of a family, spread evenly over what is special about them; chance depends on nothing but the rows."""
    chosen = cases if family.rows is None else _fit(cases)[: family.rows]
    drafts = [(draft, case) for case in chosen for make in family.makers for draft in make(case)]
    most = PER_FAMILY_OF_CODE if any(case.kind is Kind.CODE for case in cases) else PER_FAMILY
    if family.name == "gold":
        most = len(cases)
    return [as_probe(draft, family.name, case) for draft, case in _spread(drafts, most)]


def _fit(cases: Sequence[Case]) -> list[Case]:
    """Rows with a right answer first."""
    return sorted(cases, key=lambda case: not case.judged)


def _spread(drafts: Sequence[tuple[Draft, Case]], most: int) -> Iterator[tuple[Draft, Case]]:
    """One of each note in turn."""
    by_note: dict[str, list[tuple[Draft, Case]]] = {}
    for item in drafts:
        by_note.setdefault(item[0].note, []).append(item)
    taken = 0
    for turn in range(max(map(len, by_note.values()), default=0)):
        for items in by_note.values():
            if turn < len(items) and taken < most:
                taken += 1
                yield items[turn]
