"""The quick way through a segment may only save time: with and without it, the same comes out, whatever is stored."""

from __future__ import annotations

import math
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import event as seen, given, settings, strategies as st

from grpo_audit.ledger import tables
from grpo_audit.ledger.event import NO_EVENT, NewEvent, content_digest, encode
from grpo_audit.ledger.keys import SigningKey
from grpo_audit.ledger.merkle import leaf_hash
from grpo_audit.ledger.packing import pack
from grpo_audit.ledger.projections import rows
from grpo_audit.record import events as e
from grpo_audit.verify import rebuilt, segment
from grpo_audit.verify.derived import COLUMNS, SEGMENTED
from grpo_audit.verify.keychain import KeyChain
from grpo_audit.verify.rebuilt import Agreement, agreeing
from grpo_audit.verify.segment import Segment, SegmentRows, Task, verify_segment
from grpo_audit.verify.verdict import Outcome

WIDTH = 64
TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
FLOAT = st.floats(allow_nan=False, allow_infinity=False).map(lambda value: value + 0.0)
WHOLE = st.integers(0, 2**53 - 1)
REWARDS = st.dictionaries(TEXT, st.none() | FLOAT, max_size=3)


@st.composite
def rollouts(draw: st.DrawFn) -> NewEvent:
    """Any rollout, with any content."""
    rewards = draw(REWARDS)
    payload = e.Rollout(
        attempt=draw(WHOLE),
        step=draw(WHOLE),
        group=draw(WHOLE),
        sample=draw(WHOLE),
        rewards=rewards,
        errors=draw(st.just({}) | st.dictionaries(st.sampled_from([*rewards, "other"]), TEXT, max_size=2)),
        reward=draw(st.none() | FLOAT),
        advantage=draw(FLOAT),
        used=draw(st.booleans()),
        reason=draw(TEXT),
        finish_reason=draw(st.sampled_from(["stop", "length"])),
        completion_tokens=draw(WHOLE),
    )
    return NewEvent(payload, draw(st.sampled_from(["run-a", 'run "b"'])), draw(contents()))


@st.composite
def groups(draw: st.DrawFn) -> NewEvent:
    """Any group, with any content."""
    payload = e.Group(
        attempt=draw(WHOLE),
        step=draw(WHOLE),
        group=draw(WHOLE),
        prompt_id=draw(TEXT),
        prompt_tokens=draw(WHOLE),
        exposure=draw(WHOLE),
        reward_mean=draw(st.none() | FLOAT),
        reward_std=draw(st.none() | FLOAT),
    )
    return NewEvent(payload, "run-a", draw(contents()))


def contents() -> st.SearchStrategy[dict[str, bytes]]:
    """Short and compressed content."""
    data = st.binary(max_size=20) | st.just(bytes(2000))
    return st.dictionaries(st.sampled_from(["completion", "trace", "prompt", 'a "name"']), data, max_size=3)


def stored(events: list[NewEvent]) -> SegmentRows:
    """The events as a segment of a record has them."""
    found: dict[type[tables.Base], list[tuple[Any, ...]]] = {table: [] for table in SEGMENTED}
    result = SegmentRows([], [], [], found, 0)
    previous = NO_EVENT
    for seq, new in enumerate(events):
        salted = {name: (bytes([seq]) * 16, data) for name, data in new.content.items()}
        digests = {name: content_digest(salt, data) for name, (salt, data) in salted.items()}
        event = encode(new, seq=seq, time="2026-01-31T12:00:00.000000Z", previous=previous, content=digests)
        for name, (salt, data) in sorted(salted.items()):
            result.contents.append((seq, name, salt, *pack(data)))
        for table, values in rows(event, 1):
            found[table].append(tuple(values[column] for column in COLUMNS[table]))
        found[tables.RewardRow].sort()
        result.events.append((seq, new.run_id, event.kind.value, event.body, event.leaf_hash))
        previous = event.leaf_hash
    return result


def verdict(stored_rows: SegmentRows) -> tuple[object, ...]:
    """Everything that a segment says."""
    key = SigningKey.generate().signer("grpo-audit/" + "0" * 32).verifier
    found: Segment = verify_segment(Task(0, len(stored_rows.events), WIDTH, KeyChain((key,))), stored_rows)
    checks = {number: tally.check() for number, tally in found.tallies.items()}
    return checks, found.course, found.missing, found.first_previous, found.last_leaf, found.end


def both_ways(stored_rows: SegmentRows) -> None:
    """The quick way and the plain way say the same."""
    quick = verdict(stored_rows)
    with patch.object(segment, "agreeing", lambda *_: Agreement(set(), set())):
        plain = verdict(stored_rows)
    assert quick == plain


def test_the_columns_are_those_of_the_tables() -> None:
    """A column that is added to a table must be added here, or the quick way would not look at it."""
    for names, table in (
        (rebuilt.ROLLOUT_COLUMNS, tables.RolloutRow),
        (rebuilt.GROUP_COLUMNS, tables.RolloutGroupRow),
        (rebuilt.REWARD_COLUMNS, tables.RewardRow),
    ):
        assert list(names) == COLUMNS[table]


@settings(max_examples=150, deadline=None)
@given(st.lists(rollouts() | groups(), min_size=2, max_size=6))
def test_what_was_recorded_agrees_both_ways(events: list[NewEvent]) -> None:
    """On any events that can be recorded, both ways find nothing wrong."""
    both_ways(stored(events))
    assert all(not check.detail.startswith("event") for check in verdict(stored(events))[0].values())  # type: ignore[attr-defined]


def test_the_usual_events_take_the_quick_way() -> None:
    """Rollouts and groups without errors agree at once, but for the first: otherwise nothing would be faster."""
    events = [
        NewEvent(
            e.Rollout(
                attempt=1,
                step=0,
                group=0,
                sample=sample,
                rewards={"accuracy": 1.0, "format": None},
                errors={},
                reward=0.1,
                advantage=-0.25,
                used=True,
                reason="",
                finish_reason="stop",
                completion_tokens=7,
            ),
            "run-a",
            {"completion": b"text", "trace": bytes(640)},
        )
        for sample in range(4)
    ]
    group = e.Group(
        attempt=1, step=0, group=1, prompt_id="p-1", prompt_tokens=9, exposure=0, reward_mean=0.5, reward_std=None
    )
    rows_of = stored([*events, NewEvent(group, "run-a", {"prompt": b"?", "fields": b"{}"})])
    assert rows_of.tables is not None
    found = agreeing(rows_of.events, [leaf_hash(row[3]) for row in rows_of.events], rows_of.contents, rows_of.tables)
    assert found == Agreement({1, 2, 3}, {4})


VALUES: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, 1, -1, 2**53, 2**60, 0.0, -0.0, 1.0, 5.5, math.inf, -math.inf, math.nan]),
    st.integers(-3, 9),
    st.sampled_from(["", "stop", "length", "plain", "zstd", "inf", '","x":"', "\x00", "\u2400", "run-a", "rollout"]),
    TEXT,
    st.binary(max_size=8),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(rollouts() | groups(), min_size=2, max_size=5), st.data())
def test_whatever_is_changed_both_ways_say_the_same(events: list[NewEvent], data: st.DataObject) -> None:
    """Any cell of any table, any row taken away, doubled or moved: the quick way hides nothing and invents nothing."""
    changed = stored(events)
    assert changed.tables is not None
    parts: list[list[tuple[Any, ...]]] = [changed.events, changed.contents, *changed.tables.values()]
    part = data.draw(st.sampled_from([part for part in parts if part]))
    place = data.draw(st.integers(0, len(part) - 1))
    change = data.draw(st.sampled_from(["cell", "cell", "cell", "body", "drop", "double", "other", "swap"]))
    seen(change)
    if change == "cell":
        row = list(part[place])
        # the number of an event is its row id: SQLite holds no other value there
        row[data.draw(st.integers(1 if part is changed.events else 0, len(row) - 1))] = data.draw(VALUES)
        part[place] = tuple(row)
    elif change == "body":
        place = place % len(changed.events)
        seq, run, kind, body, leaf = changed.events[place]
        at = data.draw(st.integers(0, len(body) - 1))
        body = body[:at] + bytes([data.draw(st.integers(0, 255))]) + body[at + 1 :]
        leaf = data.draw(st.sampled_from([leaf, leaf_hash(body)]))
        changed.events[place] = (seq, run, kind, body, leaf)
    elif change == "drop" and part is not changed.events:
        del part[place]
    elif change == "double" and part is not changed.events:
        part.insert(place, part[place])
    elif change == "other":
        other = data.draw(st.sampled_from([item for item in changed.tables if changed.tables[item] is not part]))
        changed.tables[other].append((data.draw(st.integers(0, 5)), *["x"] * (len(COLUMNS[other]) - 1)))
    elif change == "swap" and len(part) > 1 and part is not changed.events:
        part[place - 1], part[place] = part[place], part[place - 1]
    both_ways(changed)


@pytest.mark.parametrize(
    ("table", "column", "value", "old", "new"),
    [
        (tables.RolloutRow, "attempt", 2**60, b'"attempt":1', b'"attempt":1152921504606846976'),
        (tables.RolloutRow, "attempt", 1.0, b'"attempt":1', b'"attempt":1.0'),
        (tables.RolloutRow, "attempt", True, b'"attempt":1', b'"attempt":True'),
        (tables.RolloutRow, "reward", math.inf, b'"reward":"0.5"', b'"reward":"inf"'),
        (tables.RolloutRow, "advantage", None, b'"advantage":"0.25"', b'"advantage":"None"'),
        (tables.RolloutRow, "used", 2, b'"used":true', b'"used":2'),
        (tables.RolloutRow, "reason", "\x00", b'"reason":""', b'"reason":"\\u0000"'),
        (tables.RolloutRow, "reason", '","reason":"', b'"reason":""', b'"reason":"","reason":""'),
        (tables.RolloutRow, "finish_reason", "other", b'"finish_reason":"stop"', b'"finish_reason":"other"'),
        (tables.RewardRow, "source", "\x00", b'{"accuracy"', b'{"\\u0000"'),
        (tables.RewardRow, "value", math.inf, b'"accuracy":"1.0"', b'"accuracy":"inf"'),
        (tables.RewardRow, "value", "1.0", b'"accuracy":"1.0"', b'"accuracy":"1.0"'),
        (tables.RewardRow, None, None, b'"accuracy":"1.0"', b'"accuracy":"1.0","accuracy":"1.0"'),
        (tables.ContentRow, None, None, b'"completion":', b'"completion":"sha256:0","completion":'),
    ],
)
def test_a_body_made_to_fit_wrong_rows(
    table: type[tables.Base], column: str | None, value: object, old: bytes, new: bytes
) -> None:
    """Somebody with the key writes a body that is not valid, and rows from which just that body would be built."""
    payload = e.Rollout(
        attempt=1,
        step=0,
        group=0,
        sample=0,
        rewards={"accuracy": 1.0},
        errors={},
        reward=0.5,
        advantage=0.25,
        used=True,
        reason="",
        finish_reason="stop",
        completion_tokens=7,
    )
    made = stored([NewEvent(payload, "run-a", {"completion": b"text"})] * 2)
    assert made.tables is not None
    part = made.contents if table is tables.ContentRow else made.tables[table]
    if column is None:
        part.append(part[-1])
    else:
        place = COLUMNS[table].index(column)
        part[-1] = (*part[-1][:place], value, *part[-1][place + 1 :])
    seq, run, kind, body, _ = made.events[-1]
    assert old in body
    body = body.replace(old, new)
    made.events[-1] = (seq, run, kind, body, leaf_hash(body))
    both_ways(made)
    assert any(check.outcome is Outcome.FAILED for check in verdict(made)[0].values())  # type: ignore[attr-defined]
