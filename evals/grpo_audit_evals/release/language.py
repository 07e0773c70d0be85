"""Which language an answer is in, by ``lingua``, which needs no network."""

from __future__ import annotations

import importlib.metadata
import re
from functools import cache
from typing import Any

from grpo_audit.errors import EvaluationError

LANGUAGES = {
    "bn": "BENGALI",
    "de": "GERMAN",
    "en": "ENGLISH",
    "es": "SPANISH",
    "fr": "FRENCH",
    "ja": "JAPANESE",
    "ru": "RUSSIAN",
    "sw": "SWAHILI",
    "te": "TELUGU",
    "th": "THAI",
    "zh": "CHINESE",
}
"""Languages that are told apart, by ISO 639-1 code. Among 75, a Swahili problem was taken for Albanian; among these
few, none is."""
FEWEST_LETTERS = 8
"""Below that, an answer is in no language: 18 km, say."""
READ = 2000
"""Characters that are looked at."""

_NO_WORDS = re.compile(r"\\[A-Za-z]+|\$[^$\n]{0,200}\$|`[^`\n]{0,200}`|[\W\d_]+")


def of(text: str) -> str | None:
    """ISO 639-1 code of the language of a text, formulae and numbers left aside; None when there is too little of it.

    Raises:
        EvaluationError: lingua is not installed.
    """
    words = _NO_WORDS.sub(" ", text[:READ]).strip()
    if sum(map(_weight, words)) < FEWEST_LETTERS:
        return None
    found = _detector().detect_language_of(words)
    return None if found is None else str(found.iso_code_639_1.name).lower()


def identity() -> str:
    """What decides: the version of the library and the languages it is asked to tell apart."""
    return f"lingua {_version()}: {','.join(LANGUAGES)}"


def _weight(character: str) -> int:
    """A Chinese or Japanese character says as much as four letters."""
    return 0 if character.isspace() else 4 if "\u3040" <= character <= "\u9fff" else 1


@cache
def _detector() -> Any:
    _version()
    import lingua

    languages = [getattr(lingua.Language, name) for name in LANGUAGES.values()]
    return lingua.LanguageDetectorBuilder.from_languages(*languages).build()


def _version() -> str:
    try:
        return importlib.metadata.version("lingua-language-detector")
    except importlib.metadata.PackageNotFoundError as error:
        raise EvaluationError(
            "Language fidelity needs the package lingua-language-detector",
            next_step="Install it: pip install 'grpo-audit[eval]'",
        ) from error
