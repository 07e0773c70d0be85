"""Families that mix a right answer with wrong ones, and plain wrong answers."""

from __future__ import annotations

import json
from typing import Final

from grpo_audit.rewards.probes.answers import as_json
from grpo_audit.rewards.probes.case import Case, Drafts, accept, either, reject
from grpo_audit.rewards.probes.formats import THOUGHT, WHOLE, trace
from grpo_audit.rewards.probes.probe import Kind

ONE_LINE: Final = (Kind.NUMBER, Kind.QUANTITY, Kind.LETTER, Kind.TEXT, Kind.EXPRESSION, Kind.COUNTDOWN)
"""Kinds of answers that several of can stand beside each other on a line."""
_MANY: Final = 60


def gold(case: Case) -> Drafts:
    """The right answer itself."""
    if case.accepted:
        yield accept(case.format.of(case.right), "the right answer")


def other_item(case: Case) -> Drafts:
    """The right answer to another row."""
    if case.is_content:
        for text in case.others[:2]:
            yield reject(case.format.of(text), "the answer to another row")


def wrong_answer(case: Case) -> Drafts:
    """Wrong answers in the right form."""
    if case.is_content:
        for text in case.wrong:
            if text not in case.others:
                yield reject(case.format.of(text), "a wrong answer")


def shotgun(case: Case) -> Drafts:
    """The right answer in a list of candidates."""
    if not case.is_content or case.kind not in ONE_LINE:
        return
    several = list(case.wrong[:3])
    several.insert(case.dice("shotgun").randrange(len(several) + 1), case.right)
    for between in (", ", " or ", "; ", " and ", "\n", " "):
        yield reject(case.format.of(between.join(several)), f"candidates joined by {between!r}")
    yield reject(case.format.of(f"{case.right} or {case.wrong[0]}"), "right or wrong")
    yield reject(case.format.of(f"either {case.wrong[0]} or {case.right}"), "either wrong or right")


def two_answers(case: Case) -> Drafts:
    """Two answers, each in its own form: the last one is wrong; the other order is honest self-correction."""
    if not case.is_content or (case.kind is Kind.CODE and case.format.name == WHOLE.name):
        return
    for form in case.containers or (case.format,):
        right, wrong = form.bare(case.right), form.bare(case.wrong[0])
        head = trace(THOUGHT) if form.with_trace else ""
        if case.kind is Kind.LETTERED or form.is_container or form.name == WHOLE.name:
            yield reject(f"{head}{right}\n{wrong}", f"{form.name}: right, then wrong")
        else:
            yield reject(f"{head}{right}\nNo, that is wrong. {wrong}", f"{form.name}: right, then corrected to wrong")
        yield either(f"{head}{wrong}\n{right}", f"{form.name}: wrong, then right")


def right_in_trace(case: Case) -> Drafts:
    """Right in the reasoning block, and wrong or nothing behind it."""
    if not case.is_content:
        return
    form = case.format
    thoughts = trace(f"{THOUGHT}\n{form.bare(case.right)}")
    yield reject(f"{thoughts}{form.bare(case.wrong[0])}", "right in the trace, wrong in the answer")
    yield reject(f"{trace(f'It is {case.right}.')}{form.bare(case.wrong[0])}", "right in words, wrong in the answer")
    yield reject(thoughts, "right in the trace, no answer")
    yield reject(f"{thoughts}That was easy.", "right in the trace, no answer but words")


def afterthought(case: Case) -> Drafts:
    """The right answer is mentioned, before or behind the wrong one, and not given."""
    if not case.is_content or case.kind not in ONE_LINE:
        return
    wrong = case.format.of(case.wrong[0])
    yield reject(f"{wrong}\nAt first sight it looked like {case.right}", "mentioned behind the answer")
    yield reject(f"{wrong} (and not {case.right})", "named and denied behind the answer")
    yield reject(f"Some would say {case.right}, but they are mistaken.\n{wrong}", "named and denied before it")


def denied(case: Case) -> Drafts:
    """The right answer is denied where the answer stands."""
    if case.is_content and case.kind in ONE_LINE:
        for text in (f"not {case.right}", f"anything but {case.right}", f"{case.right} is wrong"):
            yield reject(case.format.of(text), "the right answer denied")


def tags_unclosed(case: Case) -> Drafts:
    """Marks that are opened and not closed, or the reverse."""
    form = case.format.without_trace()
    if case.is_content and form.is_container:
        yield reject(form.before + case.wrong[0], "not closed, wrong")
        yield reject(form.bare(case.right)[: len(form.before)], "cut off at the opening mark")
        yield either(form.before + case.right, "not closed, right")
        yield either(case.right + form.after, "not opened, right")
        yield either(f"<think>\n{THOUGHT}\n{form.bare(case.right)}", "the reasoning is not closed")


def tags_duplicated(case: Case) -> Drafts:
    """The same block several times."""
    form = case.format.without_trace()
    if case.is_content and form.is_container:
        yield reject("\n".join([form.bare(case.wrong[0])] * 3), "three times wrong")
        yield reject("\n".join(form.bare(text) for text in (*case.wrong[:2], case.right, case.wrong[0])), "right once")
        yield either("\n".join([form.bare(case.right)] * 3), "three times right")


def tags_nested(case: Case) -> Drafts:
    """Blocks inside blocks."""
    form = case.format.without_trace()
    if case.is_content and form.name in ("tag", "boxed"):
        right, wrong = case.right, case.wrong[0]
        yield reject(form.bare(right + form.bare(wrong)), "wrong inside right")
        yield reject(form.bare(form.bare(wrong)), "wrong inside nothing")
        yield either(form.bare(wrong + form.bare(right)), "right inside wrong")
        yield either(form.bare(form.bare(right)), "right inside nothing")


def tags_spammed(case: Case) -> Drafts:
    """Marks or candidates without number."""
    form = case.format.without_trace()
    if not case.is_content or not form.is_container:
        return
    yield reject(form.bare("") * _MANY, "many empty blocks")
    yield reject("<think></think>" * _MANY + form.bare(case.wrong[0]), "many empty traces, wrong")
    candidates = [case.wrong[number % len(case.wrong)] for number in range(_MANY)]
    candidates[_MANY // 2] = case.right
    yield reject("\n".join(map(form.bare, candidates)), "many candidates, the last one wrong")


def outer_blanks(case: Case) -> Drafts:
    """Blanks around the completion and around the answer: they change nothing."""
    if not case.is_content:
        return
    text = case.format.of(case.right)
    yield accept(f"\n\n{text}\n", "line breaks around it")
    yield accept(f"{text} \n", "a blank behind it")
    if case.kind not in (Kind.CODE, Kind.LETTERED):
        yield accept(case.format.of(f" {case.right} "), "blanks around the answer")
        if case.format.is_container:
            yield accept(case.format.of(f"\n{case.right}\n"), "line breaks around the answer")


def letter_case(case: Case) -> Drafts:
    """Upper and lower case: whether it matters is a convention."""
    if case.is_content and case.kind in (Kind.TEXT, Kind.LETTER):
        for text in {case.right.upper(), case.right.lower()} - {case.right}:
            yield either(case.format.of(text), "in another case")


def letter_in_prose(case: Case) -> Drafts:
    """Words and lower-case letters that are no choice: the article ``a`` is not option A."""
    if case.is_content and case.kind is Kind.LETTER:
        small = case.right.lower()
        article = small == "a"
        text = "this looks like a hard question" if article else f"this looks like plan {small} to me"
        yield reject(text, "a lower-case letter in a sentence")
        yield reject(case.format.of(text), "a lower-case letter in a sentence, as the answer")
        yield reject(case.format.of(f"{case.right}{case.wrong[0]}"), "two letters glued together")
        yield either(case.format.of(f"({case.right})"), "in brackets")


def words_cut(case: Case) -> Drafts:
    """Part of the answer, or the answer as part of a longer word."""
    if not case.is_content or case.kind is not Kind.TEXT:
        return
    texts = {"its first half": case.right[: len(case.right) // 2], "twice": case.right * 2}
    texts |= {"a longer word": f"{case.right}ish", "with a beginning": f"un{case.right}"}
    for note, text in texts.items():
        yield reject(case.format.of(text.strip()), note)


def json_layout(case: Case) -> Drafts:
    """JSON that is laid out in another way, cut off, or followed by something else."""
    if case.is_content and case.kind is Kind.JSON and isinstance(as_json(case.right), dict | list):
        yield accept(case.format.of(json.dumps(as_json(case.right), indent=2)), "on several lines")
        yield reject(case.format.of(case.right[:-1]), "cut off")
        yield either(case.format.of(f"{case.right}\n{case.right}"), "twice")
