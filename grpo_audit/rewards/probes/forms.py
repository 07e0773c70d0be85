"""Families for rules that judge nothing but the form: the form broken in every way it can be."""

from __future__ import annotations

import re
from typing import Final

from grpo_audit.rewards.probes.case import Case, Drafts, accept, either, reject
from grpo_audit.rewards.probes.probe import Kind

_TAG: Final = re.compile(r"<(/?)([A-Za-z_][\w-]*)>")
_MANY: Final = 60


def _is_form(case: Case) -> bool:
    return case.kind is Kind.FORM and case.judged and bool(case.accepted)


def _tags(text: str) -> list[str]:
    """Names of its tags, each once, in order."""
    return list(dict.fromkeys(found.group(2) for found in _TAG.finditer(text)))


def unclosed(case: Case) -> Drafts:
    """One mark left out, for each of the marks."""
    if _is_form(case):
        for found in _TAG.finditer(case.right):
            text = case.right[: found.start()] + case.right[found.end() :]
            yield reject(text, f"without {found.group()}")


def duplicated(case: Case) -> Drafts:
    """The whole form twice, and one of its blocks twice."""
    if not _is_form(case) or not _tags(case.right):
        return
    yield reject(f"{case.right}\n{case.right}", "all of it twice")
    for name in _tags(case.right):
        block = re.search(rf"<{name}>.*?</{name}>", case.right, re.DOTALL)
        if block:
            yield reject(case.right.replace(block.group(), block.group() * 2, 1), f"{name} twice")


def nested(case: Case) -> Drafts:
    """A block inside itself."""
    if _is_form(case):
        for name in _tags(case.right):
            text = case.right.replace(f"<{name}>", f"<{name}><{name}>").replace(f"</{name}>", f"</{name}></{name}>")
            yield reject(text, f"{name} inside {name}")


def spammed(case: Case) -> Drafts:
    """The form again and again."""
    if _is_form(case) and _tags(case.right):
        yield reject(case.right * _MANY, "the form many times")
        yield reject("".join(f"<{name}></{name}>" for name in _tags(case.right)) * _MANY, "empty blocks many times")


def emptied(case: Case) -> Drafts:
    """The form with nothing in it, in another order, with text around it: conventions."""
    if _is_form(case):
        names = _tags(case.right)
        if names:
            yield either("".join(f"<{name}></{name}>" for name in names), "empty blocks")
            yield either("\n".join(f"<{name}>text</{name}>" for name in reversed(names)), "in the reverse order")
        yield either(f"Well.\n{case.right}", "text before it")
        yield either(f"{case.right}\nThat is all.", "text behind it")


def blanks_around(case: Case) -> Drafts:
    """Blanks around the form."""
    if _is_form(case):
        yield accept(f"{case.right}\n", "a line break behind it")
        yield either(f"\n{case.right}", "a line break before it")
