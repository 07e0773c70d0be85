"""Recorded code and recorded rows, put together into calls: what is run again, and in what portions."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Final

from grpo_audit.record.events import RewardIdentity
from grpo_audit.rewards.sandbox import Isolation
from grpo_audit.verify.recompute.registration import plain_digest
from grpo_audit.verify.recompute.rerun import Call, NoAnswer, NotRunnable, Recorded, Value, score
from grpo_audit.verify.recompute.texts import Texts

_CHUNK_CALLS: Final = 64
_CHUNK_CHARACTERS: Final = 4 << 20
_CHUNK_ROWS: Final = 8192


@dataclass
class Runnable:
    """One source that is run again."""

    recorded: Recorded
    isolation: Isolation
    stopped: bool = False
    """It failed to run: what follows is not asked any more."""


@dataclass
class Chunk:
    """Calls that go into one sandbox together."""

    calls: list[Call] = field(default_factory=list)

    @property
    def is_full(self) -> bool:
        """Whether it is time to run it."""
        return (
            len(self.calls) >= _CHUNK_CALLS
            or sum(len(call.completions) for call in self.calls) >= _CHUNK_ROWS
            or sum(call.size for call in self.calls) >= _CHUNK_CHARACTERS
        )


def run_again(source: Runnable, calls: list[Call]) -> list[list[Value]] | NotRunnable | NoAnswer:
    """The rewards of each row of each call, or why there are none."""
    own = source.recorded.has_own_sandbox
    try:
        return score(source.recorded, calls, "limits" if own else source.isolation, installed=own)
    except (NotRunnable, NoAnswer) as error:
        return error


def recorded_source(role: str, identity: RewardIdentity, texts: Texts) -> Recorded | str:
    """The source with its texts, or why it cannot be had."""
    digests = {identity.source_file: (identity.name, identity.source_digest)}
    digests |= {file: (f"{identity.name}/{file}", digest) for file, digest in identity.modules.items()}
    found: dict[str, bytes] = {}
    for file, (name, digest) in digests.items():
        text = texts.get(role, name)
        if text is None:
            return f"the text of {file} is not in the record"
        if plain_digest(text) != digest:
            return f"the text of {file} in the record is another one than registered"
        found[file] = text
    return Recorded(identity, found)


@dataclass(frozen=True)
class Row:
    """A row of the prompt set, as rewards were given it."""

    prompt: str
    columns: dict[str, object]


def row_of(data: bytes | None) -> Row | None:
    """The row of the prompt set; the prompt as rewards were given it: the one message, or all with their roles."""
    if data is None:
        return None
    try:
        row: dict[str, Any] = json.loads(data)
        prompt, columns = row["prompt"], row["columns"]
        if isinstance(prompt, list):
            many = [f"{item['role']}: {item['content']}" for item in prompt]
            prompt = "\n\n".join(many) if len(prompt) > 1 else prompt[0]["content"]
        if not isinstance(prompt, str) or not isinstance(columns, dict):
            return None
    except (ValueError, KeyError, TypeError, IndexError, RecursionError):
        return None
    return Row(prompt, columns)
