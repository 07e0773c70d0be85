"""Exact match: the final answer is the reference, apart from blanks, letter case and the script of its digits.

No substring counts, and of several answers only the last one is looked at.
"""

from __future__ import annotations

from collections.abc import Sequence

from grpo_audit.rewards.answers import AnswerIn, final_answer, fold, squeeze

KIND = "verifier"
VERSION = "1"
DOMAIN = "answers that are one fixed text"


def score(
    completions: list[str],
    answer: list[object],
    *,
    answer_in: AnswerIn = "auto",
    ignore_case: bool = True,
    ignore_final_period: bool = True,
) -> list[float | Exception | None]:
    """1.0 where the final answer equals the reference, else 0.0.

    Args:
        completions: one text a row.
        answer: the reference: a text, a number, or a list of texts of which each is right. None: does not apply.
        answer_in: where the answer stands in the completion.
        ignore_case: compare without letter case.
        ignore_final_period: ``Paris.`` is ``Paris``.
    """

    def same(text: str) -> str:
        text = squeeze(fold(text))
        text = text.removesuffix(".").rstrip() if ignore_final_period else text
        return text.casefold() if ignore_case else text

    def judge(completion: str, gold: object) -> float | Exception | None:
        if gold is None:
            return None
        accepted = {same(text) for text in _texts(gold)} - {""}
        if not accepted:
            return ValueError("the reference answer is empty")
        found = final_answer(completion, answer_in)
        return float(found is not None and same(found) in accepted)

    return [judge(text, gold) for text, gold in zip(completions, answer, strict=True)]


def _texts(gold: object) -> list[str]:
    """The accepted texts of a reference."""
    if isinstance(gold, Sequence) and not isinstance(gold, str | bytes):
        return [str(item) for item in gold]
    return [str(gold)]
