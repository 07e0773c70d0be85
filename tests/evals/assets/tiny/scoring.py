"""Scorers of the tiny suite."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def score(doc: Mapping[str, Any], results: list[str]) -> dict[str, float]:
    """How much of the target is in the text; beside it the length of the text."""
    text = results[0]
    shared = sum(character in text for character in doc["gold"])
    return {"overlap": shared / len(doc["gold"]), "length": float(len(text))}
