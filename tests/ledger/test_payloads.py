"""Every payload survives its canonical bytes."""

from __future__ import annotations

import types
from enum import Enum
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from pydantic import BaseModel

from grpo_audit.config.run import RunConfig
from grpo_audit.ledger.canonical import dumps, loads, plain
from grpo_audit.ledger.event import NO_EVENT, NewEvent, encode, parse
from grpo_audit.ledger.projections import ProjectionError, rows
from grpo_audit.record.events import PAYLOADS, EventKind, Payload

_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
_FLOATS = st.floats(allow_nan=False, allow_infinity=False) | st.just(-0.0)
_INTEGERS = st.integers(-(2**53) + 1, 2**53 - 1)
# a configuration without floats: in an untyped field they come back as strings, which RunConfig reads (below)
_JSON = st.recursive(_TEXT | _INTEGERS | st.booleans() | st.none(), lambda inner: st.lists(inner, max_size=2))


def _strategy(annotation: Any) -> st.SearchStrategy[Any]:
    """Values of a field of a payload."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation is Any:
        return _JSON
    if origin is Annotated:
        if arguments[0] is float:  # the only constraint on a number: not negative
            return st.floats(min_value=0, allow_infinity=False)
        if arguments[0] is int:
            return st.integers(0, 2**53 - 1)
        return st.binary(min_size=32, max_size=32).map(lambda data: "sha256:" + data.hex())  # Digest
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin in (Union, types.UnionType):
        return st.one_of([_strategy(item) for item in arguments])
    if origin is list:
        return st.lists(_strategy(arguments[0]), max_size=2)
    if origin is dict:
        return st.dictionaries(_strategy(arguments[0]), _strategy(arguments[1]), max_size=2)
    if annotation is type(None):
        return st.none()
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return _instances(annotation)
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return st.sampled_from(list(annotation))
    simple = {str: _TEXT, int: _INTEGERS, float: _FLOATS, bool: st.booleans()}
    return simple[annotation]


def _instances(model: type[BaseModel]) -> st.SearchStrategy[Any]:
    fields = {
        name: _strategy(Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation)
        for name, field in model.model_fields.items()
    }
    return st.fixed_dictionaries(fields).map(model.model_validate)


@pytest.mark.parametrize("kind", list(EventKind))
def test_a_payload_is_what_its_canonical_bytes_say(kind: EventKind) -> None:
    """model_validate(loads(dumps(plain(payload.plain())))) == payload for every kind, and plain() is model_dump()."""
    model = PAYLOADS[kind]

    @settings(max_examples=20, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(_instances(model))
    def holds(payload: Payload) -> None:
        assert payload.plain() == payload.model_dump()
        data = dumps(plain(payload.plain()))
        assert model.model_validate(loads(data)) == payload

    holds()


@pytest.mark.parametrize("kind", list(EventKind))
def test_an_event_is_what_its_body_says(kind: EventKind) -> None:
    """parse(encode(event).body).event == event, for every kind, and the link to the event before with it."""

    @settings(max_examples=10, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(_instances(PAYLOADS[kind]), st.none() | _TEXT, _INTEGERS.filter(lambda seq: seq >= 0))
    def holds(payload: Payload, run_id: str | None, seq: int) -> None:
        event = encode(
            NewEvent(payload, run_id),
            seq=seq,
            time="2026-01-01T00:00:00.000000Z",
            previous=NO_EVENT,
            content={"text": "sha256:" + "0" * 64},
        )
        parsed = parse(event.body)
        assert parsed.event == event
        assert parsed.previous == "0" * 64

    holds()


@pytest.mark.parametrize("normaliser", ["group", "none"])
@pytest.mark.parametrize("beta", [0.0, 0.04])
def test_a_recorded_configuration_gives_the_configuration(normaliser: str, beta: float) -> None:
    """RunConfig.model_validate(loads(dumps(config)), strict=False) == config, floats and tuples included."""
    config = RunConfig.model_validate(
        {
            "model": {"path": "builtin"},
            "prompts": {"source": "builtin"},
            "rewards": [{"name": "a", "source": "a:b", "weight": 0.1}],
            "objective": {"advantage": {"normaliser": normaliser}, "kl": {"beta": beta}},
            "training": {"learning_rate": 6e-5, "adam_betas": [0.9, 0.95]},
            "evaluation": {"margins": {"a": 0.025}},
        }
    )
    for mode in ("python", "json"):
        recorded = loads(dumps(plain(config.model_dump(mode=mode))))
        assert RunConfig.model_validate(recorded, strict=False) == config


@pytest.mark.parametrize("kind", list(EventKind))
def test_no_column_ever_holds_nul(kind: EventKind, monkeypatch: pytest.MonkeyPatch) -> None:
    """PostgreSQL's text cannot, so whatever text a payload has, its rows show U+2400 instead."""
    monkeypatch.setitem(_strategy.__globals__, "_TEXT", st.just("a\x00b"))

    @settings(max_examples=20, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(_instances(PAYLOADS[kind]))
    def holds(payload: Payload) -> None:
        event = encode(
            NewEvent(payload, "run"), seq=1, time="2026-01-01T00:00:00.000000Z", previous=NO_EVENT, content={}
        )
        try:
            derived = rows(event, 1)
        except ProjectionError:
            return
        for table, values in derived:
            assert not [name for name, value in values.items() if isinstance(value, str) and "\x00" in value], table

    holds()
