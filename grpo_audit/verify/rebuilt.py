"""The quick way through steps (3), (4), (9) and (10) for the kinds of event that a record mostly consists of.

A canonical body has one spelling, and the rows of a ``rollout`` or a ``group`` hold everything that it says. So its
bytes are *built* from the rows, the hashes of the content and the leaf hash before, and compared with the stored ones.
Equal bytes are canonical, valid, and say what columns, projections and content say. Anything else, and anything unusual
(an error of a reward source, erased content, another version of the payload), is left to the plain way, event by event,
which alone finds problems: this module can only save time. A property test holds it to that.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from math import isfinite
from typing import Any, NamedTuple

from grpo_audit.ledger import canonical, tables
from grpo_audit.ledger.packing import PLAIN, unpack
from grpo_audit.record.events import EventKind

Row = tuple[Any, ...]

ROLLOUT_COLUMNS = (
    "seq", "run_id", "attempt", "step", "group_index", "sample", "reward", "advantage", "used", "reason",
    "finish_reason", "completion_tokens",
)  # fmt: skip
GROUP_COLUMNS = (
    "seq", "run_id", "attempt", "step", "group_index", "prompt_id", "prompt_tokens", "exposure", "reward_mean",
    "reward_std",
)  # fmt: skip
REWARD_COLUMNS = ("seq", "source", "value", "error")
"""The columns that the bodies are built from; a test compares them with the tables."""

_END = re.compile(rb'[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z","v":1\}')
_END_BYTES = 35
_FINISH = frozenset({"stop", "length"})
_REMEMBERED = 4096
"""Rewards whose spelling is kept."""
_FLOATS = frozenset({float})
_MAYBE_FLOATS: frozenset[type] = frozenset({float, type(None)})
_INTEGERS = frozenset({int})
_FLAGS = frozenset({int, bool})
_TEXTS = frozenset({str})


class Agreement(NamedTuple):
    """Numbers of the events that agree with columns, projections and content."""

    rollouts: set[int]
    groups: set[int]

    def of(self, table: type[tables.Base]) -> set[int]:
        """Events whose rows in a table are known to agree."""
        if table is tables.ContentRow:
            return self.rollouts | self.groups
        if table in (tables.RolloutRow, tables.RewardRow):
            return self.rollouts
        return self.groups if table is tables.RolloutGroupRow else set()


class _Doubt(Exception):
    """The rows are not of the usual shape."""


def agreeing(
    events: Sequence[Row],
    leaves: Sequence[bytes],
    contents: Sequence[Row],
    rows: Mapping[type[tables.Base], Sequence[Row]],
) -> Agreement:
    """Which events agree with everything beside them.

    ``events`` are rows of ``event`` in order without a gap, with bodies that are bytes and ``leaves`` their hashes. The
    first is never among the result: nothing here says which leaf hash comes before it.
    """
    previous = ["", *(leaf.hex() for leaf in leaves[:-1])]
    places: dict[object, list[int]] = {EventKind.ROLLOUT.value: [], EventKind.GROUP.value: []}
    for place, event in enumerate(events):
        if event[2] in places and place:
            places[event[2]].append(place)
    found: dict[type[tables.Base], set[int]] = {}
    try:
        named, bad = _content_texts(contents)
        rewards, worse = _reward_texts(rows[tables.RewardRow])
    except _Doubt:
        return Agreement(set(), set())
    for kind, build, table in (
        (EventKind.ROLLOUT.value, _rollouts, tables.RolloutRow),
        (EventKind.GROUP.value, _groups, tables.RolloutGroupRow),
    ):
        chosen = [events[place] for place in places[kind]]
        if not chosen:
            continue
        try:
            own = _matching(rows[table], chosen)
            built = build(own, [previous[place] for place in places[kind]], named, rewards)
        except (_Doubt, canonical.CanonicalError):
            continue
        found[table] = {
            event[0]
            for event, body in zip(chosen, built, strict=True)
            if event[3][:-_END_BYTES] == body.encode() and event[0] not in bad
        }
    return Agreement(found.get(tables.RolloutRow, set()) - worse, found.get(tables.RolloutGroupRow, set()))


def _matching(rows: Sequence[Row], events: list[Row]) -> list[Row]:
    """The rows, when they are one an event, in order, of its run. Raises _Doubt."""
    first = events[0][0]
    _check((row[0] for row in rows), _INTEGERS)
    own = [row for row in rows if row[0] >= first]
    if [row[:2] for row in own] != [event[:2] for event in events]:
        raise _Doubt
    bodies = [event[3] for event in events]
    if max(map(len, bodies)) > canonical.MAX_BYTES:
        raise _Doubt
    if not all(_END.fullmatch(end) for end in {body[-_END_BYTES:] for body in bodies}):
        raise _Doubt
    return own


def _check(column: Iterable[Any], types: frozenset[type]) -> None:
    if not set(map(type, column)) <= types:
        raise _Doubt


def _integers(column: Sequence[Any]) -> None:
    _check(column, _INTEGERS)
    if max(column) >= canonical.MAX_INTEGER or min(column) <= -canonical.MAX_INTEGER:
        raise _Doubt


def _floats(column: Sequence[Any], types: frozenset[type] = _FLOATS) -> None:
    _check(column, types)
    if not all(map(isfinite, column if types is _FLOATS else filter(None, column))):
        raise _Doubt


def _json_texts(column: Sequence[Any]) -> dict[str, str]:
    """Each distinct text as it stands in a body. Raises _Doubt where a column cannot tell what the body says."""
    _check(column, _TEXTS)
    distinct = set(column)
    if any("\x00" in text for text in distinct):
        raise _Doubt
    return {text: canonical.dumps(text).decode() for text in distinct}


def _number(value: float | None) -> str:
    return "null" if value is None else f'"{value!r}"'


def _content_texts(contents: Sequence[Row]) -> tuple[dict[int, str], set[int]]:
    """The inside of ``content`` in each event's body, from the stored content; and the events where it is unusual."""
    texts: dict[int, str] = {}
    bad: set[int] = set()
    names: dict[str, str] = {}
    last: tuple[Any, Any] = (-1, "")
    _check((row[0] for row in contents), _INTEGERS)
    for seq, name, salt, encoding, data in contents:
        try:
            if encoding != PLAIN:
                data = unpack(encoding, data)
            digest = sha256(salt + data).hexdigest()
            label = names.get(name)
            if label is None:
                label = names[name] = canonical.dumps(name).decode() + ':"sha256:'
            if (seq, name) <= last:
                bad.add(seq)
        except (ValueError, TypeError):
            bad.add(seq)
            continue
        texts[seq] = f'{texts[seq]},{label}{digest}"' if seq in texts else f'{label}{digest}"'
        last = (seq, name)
    return texts, bad


def _reward_texts(rows: Sequence[Row]) -> tuple[dict[int, str], set[int]]:
    """The inside of ``rewards`` in each rollout's body; and the events where it is unusual."""
    texts: dict[int, str] = {}
    bad: set[int] = set()
    known: dict[tuple[Any, Any], str] = {}
    last: tuple[Any, Any] = (-1, "")
    _check((row[0] for row in rows), _INTEGERS)
    for seq, source, value, error in rows:
        try:
            text = known.get((source, value))
            if text is None:
                if len(known) > _REMEMBERED:
                    known.clear()
                text = known[source, value] = _reward_text(source, value)
            if error is not None or (seq, source) <= last:
                bad.add(seq)
        except (_Doubt, TypeError, canonical.CanonicalError):
            bad.add(seq)
            continue
        texts[seq] = f"{texts[seq]},{text}" if seq in texts else text
        last = (seq, source)
    return texts, bad


def _reward_text(source: Any, value: Any) -> str:
    if type(source) is not str or "\x00" in source or type(value) not in _MAYBE_FLOATS:
        raise _Doubt
    if value is not None and not isfinite(value):
        raise _Doubt
    return f"{canonical.dumps(source).decode()}:{_number(value)}"


def _rollouts(rows: list[Row], previous: list[str], named: dict[int, str], rewards: dict[int, str]) -> list[str]:
    columns = list(zip(*rows, strict=True))
    for place in (0, 2, 3, 4, 5, 11):
        _integers(columns[place])
    _check(columns[8], _FLAGS)
    _floats(columns[6], _MAYBE_FLOATS)
    _floats(columns[7])
    runs, reasons = _json_texts(columns[1]), _json_texts(columns[9])
    if not set(columns[10]) <= _FINISH or not set(columns[8]) <= {0, 1}:
        raise _Doubt
    content, reward_of = named.get, rewards.get
    return [
        f'{{"content":{{{content(seq, "")}}},"data":{{"advantage":"{advantage!r}","attempt":{attempt},'
        f'"completion_tokens":{tokens},"errors":{{}},"finish_reason":"{finish}","group":{group},'
        f'"reason":{reasons[reason]},"reward":{_number(reward)},"rewards":{{{reward_of(seq, "")}}},'
        f'"sample":{sample},"step":{step},"used":{"true" if used else "false"}}},"kind":"rollout","prev":"{leaf}",'
        f'"run":{runs[run]},"seq":{seq},"time":"'
        for (seq, run, attempt, step, group, sample, reward, advantage, used, reason, finish, tokens), leaf in zip(
            rows, previous, strict=True
        )
    ]


def _groups(rows: list[Row], previous: list[str], named: dict[int, str], _: dict[int, str]) -> list[str]:
    columns = list(zip(*rows, strict=True))
    for place in (0, 2, 3, 4, 6, 7):
        _integers(columns[place])
    _floats(columns[8], _MAYBE_FLOATS)
    _floats(columns[9], _MAYBE_FLOATS)
    runs, prompts = _json_texts(columns[1]), _json_texts(columns[5])
    content = named.get
    return [
        f'{{"content":{{{content(seq, "")}}},"data":{{"attempt":{attempt},"exposure":{exposure},"group":{group},'
        f'"prompt_id":{prompts[prompt]},"prompt_tokens":{tokens},"reward_mean":{_number(mean)},'
        f'"reward_std":{_number(deviation)},"step":{step}}},"kind":"group","prev":"{leaf}","run":{runs[run]},'
        f'"seq":{seq},"time":"'
        for (seq, run, attempt, step, group, prompt, tokens, exposure, mean, deviation), leaf in zip(
            rows, previous, strict=True
        )
    ]
