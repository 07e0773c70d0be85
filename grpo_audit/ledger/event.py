"""One entry of the record, and its canonical bytes.

The body is canonical JSON: ``content`` (name to ``sha256:`` of salt and plain bytes), ``data`` (the payload), ``kind``,
``prev`` (leaf hash of the event before, 64 zeros for the first), ``run``, ``seq``, ``time`` and ``v``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pydantic import ValidationError

from grpo_audit.ledger import canonical
from grpo_audit.ledger.merkle import HASH_BYTES, leaf_hash
from grpo_audit.record.events import PAYLOADS, EventKind, Payload

BODY_VERSION = 1
NO_EVENT = bytes(HASH_BYTES)
"""Stands for the event before the first."""

_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z")
_KEYS = {"content", "data", "kind", "prev", "run", "seq", "time", "v"}


class BodyError(ValueError):
    """The body of an event is not what this version of the format says."""


@dataclass(frozen=True)
class NewEvent:
    """An event to be appended."""

    payload: Payload
    run_id: str | None
    """None for the project's own events."""
    content: Mapping[str, bytes] = field(default_factory=dict)
    """Name to plain bytes: texts in UTF-8, arrays as the payload's docstring says."""


class Event(NamedTuple):
    """An event of the record."""

    seq: int
    run_id: str | None
    time: str
    """UTC, RFC 3339; informative: a clock may go back, ``seq`` does not."""
    payload: Payload
    content: Mapping[str, str]
    """Name to salted digest."""
    body: bytes
    leaf_hash: bytes

    @property
    def kind(self) -> EventKind:
        """Kind of the payload."""
        return self.payload.kind


def content_digest(salt: bytes, data: bytes) -> str:
    """Digest of content as it stands in a body: ``sha256:`` of SHA-256(salt || plain bytes)."""
    return "sha256:" + hashlib.sha256(salt + data).hexdigest()


def encode(new: NewEvent, *, seq: int, time: str, previous: bytes, content: Mapping[str, str]) -> Event:
    """The event with its canonical bytes. ``previous`` is the leaf hash of the event before.

    Raises CanonicalError when the payload has no canonical form.
    """
    body = canonical.dumps_plain(
        {
            "content": dict(content),
            "data": canonical.plain(new.payload.plain()),
            "kind": new.payload.kind,
            "prev": previous.hex(),
            "run": new.run_id,
            "seq": seq,
            "time": time,
            "v": BODY_VERSION,
        }
    )
    return Event(seq, new.run_id, time, new.payload, content, body, leaf_hash(body))


@dataclass(frozen=True)
class Parsed:
    """What a body says, before it is compared with anything."""

    event: Event
    previous: str
    """Leaf hash of the event before, hexadecimal."""


def parse(body: bytes) -> Parsed:
    """Read a body. Raises CanonicalError when its bytes are not canonical, BodyError when they say something else."""
    value = canonical.loads(body)
    if not isinstance(value, dict) or value.keys() != _KEYS:
        raise BodyError(f"not an object with the keys {', '.join(sorted(_KEYS))}")
    _check_types(value)
    try:
        model = PAYLOADS[EventKind(value["kind"])]
    except ValueError as error:
        raise BodyError(f"unknown kind {value['kind']!r}") from error
    try:
        payload = model.model_validate(value["data"])
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BodyError(f"{value['kind']}: {where}: {first['msg']}") from error
    event = Event(value["seq"], value["run"], value["time"], payload, value["content"], body, leaf_hash(body))
    return Parsed(event, value["prev"])


def _check_types(value: dict[str, Any]) -> None:
    if value["v"] != BODY_VERSION or type(value["v"]) is not int:
        raise BodyError(f"body version {value['v']!r}; this version reads {BODY_VERSION}")
    content = value["content"]
    if (
        type(value["seq"]) is not int
        or not isinstance(value["time"], str)
        or not isinstance(value["prev"], str)
        or not isinstance(value["kind"], str)
        or not (value["run"] is None or isinstance(value["run"], str))
        or not isinstance(content, dict)
        or not all(isinstance(digest, str) for digest in content.values())
    ):
        raise BodyError("a field has the wrong type")
    if not _TIME.fullmatch(value["time"]):
        raise BodyError(f"time {value['time']!r:.60} is not UTC as RFC 3339 writes it")
