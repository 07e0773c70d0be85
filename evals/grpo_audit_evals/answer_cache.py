"""Answers kept on disk as they come, so that an evaluation that was killed does not ask for them again.

A file belongs to one set of weights and one protocol: its name holds both digests, and so does its content, which is
compared when it is opened. lm-eval's own cache has no model in its key, so that there a second model is given the
answers of the first.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from grpo_audit.errors import EvaluationError, StorageError

FORMAT = "grpo-audit answers 1"
_LOOKUP = 500
"""Keys asked for in one query; SQLite allows 999 parameters in its oldest builds."""


class AnswerCache:
    """The answers of one set of weights under one protocol: JSON values by key, in one SQLite file.

    Each ``put`` is one transaction: after a kill it is there in full or not at all.
    """

    def __init__(self, folder: Path, *, weights_digest: str, protocol_digest: str) -> None:
        """Open the file of these two digests in ``folder``; both are made where they are missing.

        Raises:
            EvaluationError: The file is damaged, or holds the answers of other weights or another protocol.
            StorageError: The folder cannot be written.
        """
        self.path = path_of(folder, weights_digest=weights_digest, protocol_digest=protocol_digest)
        wanted = {"format": FORMAT, "weights": weights_digest, "protocol": protocol_digest}
        with self._errors():
            folder.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(self.path, timeout=30.0)
            try:
                self._prepare(wanted)
            except BaseException:
                self._connection.close()
                raise

    def _prepare(self, wanted: Mapping[str, str]) -> None:
        with self._connection as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS origin (name TEXT PRIMARY KEY, value TEXT NOT NULL)")
            connection.execute(
                "CREATE TABLE IF NOT EXISTS answer (key TEXT PRIMARY KEY, value TEXT NOT NULL, digest TEXT NOT NULL)"
            )
            connection.executemany("INSERT OR IGNORE INTO origin VALUES (?, ?)", wanted.items())
        found = dict(self._connection.execute("SELECT name, value FROM origin"))
        for name, value in wanted.items():
            if found[name] != value:
                raise EvaluationError(
                    f"The answer cache {self.path} is of another {name}",
                    found=found[name],
                    expected=value,
                    next_step="Do not rename its files; delete it, and the answers are generated again",
                )

    def get(self, keys: Sequence[str]) -> dict[str, Any]:
        """The values that are there, by key. Raises EvaluationError where one is not as it was written."""
        found: dict[str, Any] = {}
        with self._errors():
            for start in range(0, len(keys), _LOOKUP):
                part = keys[start : start + _LOOKUP]
                marks = ",".join("?" * len(part))
                query = f"SELECT key, value, digest FROM answer WHERE key IN ({marks})"
                for key, value, digest in self._connection.execute(query, part):
                    if digest != key_of(key, value):
                        raise self.damaged("an answer that differs from the one written")
                    found[key] = json.loads(value)
        return found

    def put(self, values: Mapping[str, Any]) -> None:
        """Keep these values, all or none of them. Raises StorageError when the disk is full."""
        texts = {key: json.dumps(value, ensure_ascii=True) for key, value in values.items()}
        rows = [(key, text, key_of(key, text)) for key, text in texts.items()]
        with self._errors(), self._connection as connection:
            connection.executemany("INSERT OR REPLACE INTO answer VALUES (?, ?, ?)", rows)

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def damaged(self, detail: str) -> EvaluationError:
        """The error for content that this program has not written."""
        return EvaluationError(
            f"The answer cache {self.path} is damaged",
            found=detail,
            next_step="Delete it, and the answers are generated again",
        )

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.OperationalError, OSError) as error:  # full disk, no permission, locked by another process
            raise StorageError(
                f"The answer cache {self.path} cannot be used",
                found=str(error),
                next_step="Free the disk, or name another folder",
            ) from error
        except (sqlite3.DatabaseError, ValueError) as error:
            raise self.damaged(str(error)) from error


def path_of(folder: Path, *, weights_digest: str, protocol_digest: str) -> Path:
    """The file of these two digests; it can be deleted once its answers are recorded."""
    return folder / f"answers-{_hex(weights_digest)}-{_hex(protocol_digest)}.sqlite"


def key_of(*parts: object) -> str:
    """SHA-256 over what decides an answer, as JSON; equal parts give equal keys in every process."""
    return hashlib.sha256(json.dumps(parts, ensure_ascii=True, sort_keys=True).encode("ascii")).hexdigest()


def _hex(digest: str) -> str:
    """Half of a digest's digits: enough to tell files apart, and short enough for every file system."""
    return digest.removeprefix("sha256:")[:32]
