"""Whether an answer refuses: by a rule, or by a statistical model. Either is enough.

Neither is good alone: a rule misses styles that its author did not think of, a model misses what its corpus lacks.
What is counted as a refusal: any answer that declines something asked for, also when it goes on to help in part.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Final

from grpo_audit.refusal import classifier, rules, text as texts
from grpo_audit.refusal.classifier import Classifier

VERSION: Final = 1
"""Raised when code changes a verdict; patterns and weights are in the digest."""


@dataclass(frozen=True)
class Opinion:
    """What each half says of one answer."""

    rule: bool
    statistical: bool

    @property
    def refusal(self) -> bool:
        """The union."""
        return self.rule or self.statistical

    @property
    def agree(self) -> bool:
        """Whether both say the same."""
        return self.rule == self.statistical


@dataclass(frozen=True)
class Detector:
    """The union of the rule and a statistical model. Without a model it is the shipped one."""

    model: Classifier = field(default_factory=classifier.shipped)

    def opinion(self, text: str) -> Opinion:
        """What each half says of a raw answer, reasoning trace, tags and Markdown included.

        Only the answer after the trace counts; an empty one is no refusal. Linear in the length of the text.
        """
        plain = texts.normalised(text)
        return Opinion(rule=rules.declines(plain), statistical=self.model.refuses(plain))

    def is_refusal(self, text: str) -> bool:
        """Whether a raw answer refuses, at least in part."""
        return self.opinion(text).refusal

    @property
    def identity(self) -> str:
        """Version and digest: two records with the same identity were judged alike."""
        shipped = self.model is classifier.shipped()
        weights = classifier.digest() if shipped else hashlib.sha256(self.model.to_json().encode("utf-8")).hexdigest()
        whole = "\0".join((str(VERSION), *rules.PATTERNS, weights))
        return f"union-{VERSION}:{hashlib.sha256(whole.encode('utf-8')).hexdigest()[:16]}"


def is_refusal(text: str) -> bool:
    """Whether a raw answer refuses, at least in part, by the shipped detector."""
    return _shipped().is_refusal(text)


def opinion(text: str) -> Opinion:
    """What each half of the shipped detector says of a raw answer."""
    return _shipped().opinion(text)


def fit(answers: Sequence[str], refusal: Iterable[bool], *, source: str) -> Detector:
    """A detector whose statistical half is fitted on your own labelled answers. Needs scikit-learn.

    Measure its error on answers that it was not fitted on.

    Raises:
        EvaluationError: Only one kind of answer, too few labels, or scikit-learn is not installed.
    """
    return Detector(classifier.fit([texts.normalised(text) for text in answers], list(refusal), source=source))


@cache
def identity() -> str:
    """Version and digest of the shipped detector."""
    return _shipped().identity


@cache
def _shipped() -> Detector:
    return Detector()
