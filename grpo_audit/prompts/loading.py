"""Prompt sets: rows with an id, a prompt and columns for the rewards, and what exactly the set contained."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from grpo_audit.config.sections import PromptConfig
from grpo_audit.errors import PromptError
from grpo_audit.prompts import order
from grpo_audit.prompts.canonical import check_text, plain, rows_digest
from grpo_audit.prompts.sources import RawRow, read_file, read_hub
from grpo_audit.record.identities import PromptSetIdentity

_BUILTIN_DESCRIPTION: Final = (
    "Countdown problems of the built-in world, made by its generator; disjoint from every evaluation."
)
_USUAL_NAMES: Final = ("question", "problem", "instruction", "input", "query", "text")
RESERVED: Final = ("prompts", "completions")
"""Names of the arguments a reward function gets besides the columns."""


@dataclass(frozen=True)
class Prompt:
    """One row of a prompt set."""

    id: str
    text: str
    """The prompt. For chat messages: their contents, one after the other, for people and for rewards."""
    messages: list[dict[str, str]] | None
    """Chat messages as given; None when the prompt is a string."""
    columns: dict[str, object]
    """All other columns, by the names the rewards see. The same names in every row; None where a row has no value."""


@dataclass(frozen=True)
class PromptSet:
    """The rows, in the order of the source, and their identity."""

    rows: tuple[Prompt, ...]
    identity: PromptSetIdentity


@dataclass(frozen=True)
class _Source:
    """What was read, before it is checked."""

    name: str
    """For errors: the path or the name on the hub."""
    rows: list[RawRow]
    file_digest: str | None


def load(config: PromptConfig, base_dir: Path) -> PromptSet:
    """Read and check the prompt set.

    Args:
        config: the recipe's section.
        base_dir: relative files start here.

    Raises PromptError, one line naming file and line or row.
    """
    source = _read(config, base_dir)
    if not source.rows:
        raise PromptError(f"Prompt set {source.name} is empty", expected="at least one row")
    names = _column_names(source, config.fields)
    rows = tuple(_prompt(raw, number, names, source.name) for number, raw in enumerate(source.rows, start=1))
    _unique_ids(rows, source)
    return PromptSet(rows, _identity(config, source, rows))


def _read(config: PromptConfig, base_dir: Path) -> _Source:
    if config.source.startswith("hub:"):
        name = config.source.removeprefix("hub:")
        rows = read_hub(name, split=config.split, revision=config.revision, limit=config.limit)
        return _Source(config.source, rows, None)
    path = _builtin() if config.source == "builtin" else base_dir / config.source
    data = _bytes(path)
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    return _Source(str(path), read_file(data, path, config.limit), digest)


def _builtin() -> Path:
    try:
        path: Path = importlib.import_module("grpo_audit_builtin").PROMPTS
    except ImportError as error:
        raise PromptError(
            "The built-in prompt set is not installed", next_step="Install the whole package, or name a file"
        ) from error
    return path


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        siblings = [item.name for item in path.parent.iterdir()] if path.parent.is_dir() else []
        near = difflib.get_close_matches(path.name, siblings, n=1)
        raise PromptError(
            f"Prompt file {path} does not exist",
            next_step=f"The nearest file there is {near[0]}" if near else "Check prompts.source in the recipe",
        ) from error
    except IsADirectoryError as error:
        raise PromptError(
            f"Prompt source {path} is a folder", expected="a .jsonl, .csv or .parquet file, builtin or hub:owner/name"
        ) from error
    except OSError as error:
        raise PromptError(f"Prompt file {path} cannot be read", found=error.strerror or str(error)) from error


def _column_names(source: _Source, fields: dict[str, str]) -> dict[str, str]:
    """Our name of each column that is used -> its name in the source. Mapped names win over equal ones."""
    found = list(dict.fromkeys(key for row in source.rows for key in row.values))
    for ours, theirs in fields.items():
        if theirs not in found:
            raise _missing_column(source, ours, theirs, found)
    mapped = set(fields.values())
    names = {**{name: name for name in found if name not in mapped}, **fields}
    if "prompt" not in names:
        raise _missing_column(source, "prompt", "prompt", found)
    for name in RESERVED:
        if name in names:
            raise PromptError(
                f"Prompt set {source.name} has a column {name!r}, the name of an argument of every reward function",
                next_step=f"Rename it in prompts.fields, e.g. other_{name}: {names[name]}",
            )
    return names


def _missing_column(source: _Source, ours: str, name: str, found: list[str]) -> PromptError:
    near = difflib.get_close_matches(name, found, n=1)
    if ours == "prompt":
        near += [column for column in found if column.lower() in _USUAL_NAMES]
    what = repr(name) if name == ours else f"{name!r} (for {ours})"
    return PromptError(
        f"Prompt set {source.name} has no column {what}",
        found=f"the columns {', '.join(found)}" if found else "no columns",
        next_step=f"Map it in the recipe, e.g. prompts.fields: {{{ours}: {near[0]}}}" if near else "Set prompts.fields",
    )


def _prompt(raw: RawRow, number: int, names: dict[str, str], source: str) -> Prompt:
    place = f"{source}, {raw.where}"
    text, messages = _prompt_text(raw.values.get(names["prompt"]), names["prompt"], place)
    columns = {
        name: plain(raw.values.get(theirs), name, place)
        for name, theirs in names.items()
        if name not in ("prompt", "id")
    }
    given = raw.values.get(names["id"]) if "id" in names else None
    return Prompt(_row_id(given, number, place), text, messages, columns)


def _prompt_text(value: object, column: str, place: str) -> tuple[str, list[dict[str, str]] | None]:
    if isinstance(value, str):
        if not value.strip():
            raise PromptError(f"{place}: the prompt (column {column!r}) is empty")
        return check_text(value, column, place), None
    if isinstance(value, list):
        messages = [_message(item, index, place) for index, item in enumerate(value, start=1)]
        if not messages:
            raise PromptError(f"{place}: the prompt (column {column!r}) has no messages")
        if len(messages) == 1:
            return messages[0]["content"], messages
        return "\n\n".join(f"{item['role']}: {item['content']}" for item in messages), messages
    raise PromptError(
        f"{place}: the prompt (column {column!r}) is no text",
        found="nothing" if value is None else f"a value of type {type(value).__name__}",
        expected="a string or a list of chat messages",
    )


def _message(item: object, index: int, place: str) -> dict[str, str]:
    if (
        not isinstance(item, dict)
        or not {"role", "content"} <= item.keys()
        or not all(isinstance(value, str) for value in item.values())
    ):
        raise PromptError(
            f"{place}: chat message {index} of the prompt is malformed",
            found=", ".join(f"{key}: {type(value).__name__}" for key, value in item.items())
            if isinstance(item, dict)
            else type(item).__name__,
            expected="role and content, both strings",
        )
    for key in ("role", "content"):
        if not item[key].strip():
            raise PromptError(f"{place}: chat message {index} of the prompt has an empty {key}")
    return {key: check_text(value, key, place) for key, value in item.items()}


def _row_id(given: object, number: int, place: str) -> str:
    if given is None or given == "":
        return f"row-{number}"
    if isinstance(given, bool) or not isinstance(given, str | int):
        raise PromptError(f"{place}: the id is a {type(given).__name__}", expected="a string or a whole number")
    return str(given)


def _unique_ids(rows: tuple[Prompt, ...], source: _Source) -> None:
    seen: dict[str, int] = {}
    for index, row in enumerate(rows):
        if row.id in seen:
            raise PromptError(
                f"{source.name}: the id {row.id!r} is in {source.rows[seen[row.id]].where} and "
                f"{source.rows[index].where}",
                expected="each id once, because the record names prompts by it",
            )
        seen[row.id] = index


def _identity(config: PromptConfig, source: _Source, rows: tuple[Prompt, ...]) -> PromptSetIdentity:
    builtin = config.source == "builtin"
    on_hub = config.source.startswith("hub:")
    distinct = {json.dumps(row.messages or row.text, sort_keys=True) for row in rows}  # counted, never merged
    return PromptSetIdentity(
        source=config.source,
        split=config.split if on_hub else None,
        revision=config.revision if on_hub else None,
        rows=len(rows),
        digest=rows_digest(rows),
        file_digest=source.file_digest,
        duplicates=len(rows) - len(distinct),
        licence=config.licence or ("Apache-2.0" if builtin else None),
        provenance="synthetic" if builtin and config.provenance == "unknown" else config.provenance,
        description=config.description or (_BUILTIN_DESCRIPTION if builtin else None),
        fields=config.fields,
        order=order.DESCRIPTION,
    )
