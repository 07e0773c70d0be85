"""Step (32): what the record says of contamination is what its own texts give."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from true_record import FLAGGED, Lie, build_true_record, resealed

from grpo_audit.ledger.project import NewEvent
from grpo_audit.record import events as e
from grpo_audit.verify.verdict import Check, Outcome

Level1 = Callable[..., dict[int, Check]]
OTHER = "sha256:" + "0" * 64


def first(events: list[NewEvent], kind: type[e.Payload]) -> int:
    """Place of the first event of a kind."""
    return next(place for place, new in enumerate(events) if isinstance(new.payload, kind))


def moved(change: Callable[[dict[str, Any]], None], *, overlap: int | None = None, task: int | None = None) -> Lie:
    """Changes one overlap or one task of the recorded check."""

    def lie(events: list[NewEvent]) -> None:
        place = first(events, e.Decontamination)
        data: dict[str, Any] = events[place].payload.model_dump()
        change(data["overlaps"][overlap] if overlap is not None else data["tasks"][task] if task is not None else data)
        changed = e.Decontamination.model_validate(data)
        assert changed != events[place].payload
        events[place] = NewEvent(changed, events[place].run_id)

    return lie


def overlap_hidden(data: dict[str, Any]) -> None:
    """The last flagged document is nowhere: neither in the list nor in the count of its task."""
    place = max(i for i, item in enumerate(data["overlaps"]) if item["coverage"] and not item["contaminated"])
    del data["overlaps"][place]
    data["tasks"][0]["flagged"] -= 1


def overlap_invented(data: dict[str, Any]) -> None:
    """A document that no prompt has is recorded, and left out of the clean comparison with it."""
    data["overlaps"].append({**data["overlaps"][-1], "task": "words", "doc_id": "d20", "examples": []})
    data["tasks"][0]["numbers_only"] += 1


def made_clean(data: dict[str, Any]) -> None:
    """A contaminated document is said to be merely flagged."""
    data["overlaps"][0].update(contaminated=False, coverage=0.4)
    data["tasks"][0]["contaminated"] -= 1


LIES: dict[str, tuple[str, Lie]] = {
    "an overlap hidden": ("is not recorded", moved(overlap_hidden)),
    "an overlap invented": ("no prompt overlaps with it", moved(overlap_invented)),
    "a contaminated document made clean": ("recorded 0.4 covered", moved(made_clean)),
    "a coverage lowered": ("0.01", moved(lambda it: it.update(coverage=0.01), overlap=FLAGGED - 1)),
    "a coverage raised": ("0.99", moved(lambda it: it.update(coverage=0.99), overlap=0)),
    "how it was found": ("exact", moved(lambda it: it.update(how="exact"), overlap=0)),
    "prompts of an overlap lowered": ("0 prompts", moved(lambda it: it.update(prompts=0), overlap=0)),
    "prompts of an overlap raised": ("9 prompts", moved(lambda it: it.update(prompts=9), overlap=0)),
    "an example that is none": ("does not overlap", moved(lambda it: it.update(examples=["p5"]), overlap=0)),
    "contaminated documents lowered": ("contaminated: recorded 0", moved(lambda it: it.update(contaminated=0), task=0)),
    "flagged documents raised": ("flagged: recorded 9", moved(lambda it: it.update(flagged=9), task=0)),
    "numbers only": ("numbers only: recorded 0", moved(lambda it: it.update(numbers_only=0), task=1)),
    "untestable": ("untestable: recorded 0", moved(lambda it: it.update(untestable=0), task=1)),
    "documents": ("documents and their digests", moved(lambda it: it.update(documents=29), task=1)),
    "digest of the documents": ("their digests", moved(lambda it: it.update(documents_digest=OTHER), task=1)),
    "a task left out": ("tasks, documents", moved(lambda it: it["tasks"].pop())),
    "digest of the prompts": ("digest of the prompts", moved(lambda it: it.update(prompts_digest=OTHER))),
    "number of prompts": ("prompts: recorded 8", moved(lambda it: it.update(prompts=8))),
    "prompts contaminated lowered": ("prompts contaminated", moved(lambda it: it.update(prompts_contaminated=0))),
    "prompts flagged raised": ("prompts flagged: recorded 5", moved(lambda it: it.update(prompts_flagged=5))),
    "numbers of prompts": ("prompts numbers", moved(lambda it: it.update(prompts_numbers_only=0))),
    "a failed control": ("valid: recorded True", moved(lambda it: it["controls"][0].update(found=1))),
    "no controls": ("valid: recorded True", moved(lambda it: it.update(controls=[]))),
    "said to be void": ("valid: recorded False", moved(lambda it: it.update(valid=False))),
}  # fmt: skip


@pytest.mark.parametrize("name", LIES)
def test_a_lie_about_contamination_is_found(name: str, told: list[NewEvent], tmp_path: Path, level_1: Level1) -> None:
    """Whoever has the key and hides, invents or moves an overlap or a count fails step (32), which says what it is."""
    words, lie = LIES[name]
    check = level_1(resealed(told, tmp_path / "record.db", lie), rewards=False)[32]
    assert check.outcome is Outcome.FAILED and words in check.detail, check


def test_a_check_that_is_missing_or_there_twice_fails(told: list[NewEvent], tmp_path: Path, level_1: Level1) -> None:
    """The recipe asks for the check, so a sealed run without it fails; so does one that was done until it fitted."""

    def without(events: list[NewEvent]) -> None:
        del events[first(events, e.Decontamination)]

    def twice(events: list[NewEvent]) -> None:
        place = first(events, e.Decontamination)
        events.insert(place, events[place])

    for lie, words in ((without, "asks for the check"), (twice, "checked twice")):
        check = level_1(resealed(told, tmp_path / f"{words[:3]}.db", lie), rewards=False)[32]
        assert check.outcome is Outcome.FAILED and words in check.detail


def test_an_old_record_has_nothing_to_check(told: list[NewEvent], tmp_path: Path, level_1: Level1) -> None:
    """A configuration without the section asked for nothing: the step says so, and does not pass."""

    def old(events: list[NewEvent]) -> None:
        del events[first(events, e.Decontamination)]
        place = first(events, e.RunRegistered)
        payload: Any = events[place].payload
        config = {key: value for key, value in payload.config.items() if key != "decontamination"}
        changed = payload.model_copy(update={"config": config})
        events[place] = NewEvent(changed, events[place].run_id, events[place].content)

    check = level_1(resealed(told, tmp_path / "record.db", old), rewards=False)[32]
    assert check.outcome is Outcome.NOTHING and "old record" in check.detail


def test_prompts_that_no_step_drew_are_said_not_to_be_looked_for(tmp_path: Path, level_1: Level1) -> None:
    """Where only some prompts were drawn the step passes on those, says how many, and still finds what they show."""
    sizes = {"prompts_per_step": 2, "group_size": 2, "max_completion_tokens": 12, "max_prompt_tokens": 32}
    record = build_true_record(
        tmp_path / "a" / "record.db", sampling=sizes, training={"steps": 1, "microbatch_tokens": 120, "warmup_steps": 0}
    )
    check = level_1(record, rewards=False)[32]
    assert check.outcome is Outcome.PASSED
    assert "2 of 7 prompts were drawn" in check.detail and "lower bounds" in check.detail


def test_text_around_the_questions_does_not_hide_them(told: list[NewEvent], tmp_path: Path, level_1: Level1) -> None:
    """A chat template around every question changes nothing; examples of its own before each one do, and it is said."""

    def dressed(dress: Callable[[str], bytes]) -> Lie:
        def lie(events: list[NewEvent]) -> None:
            for place, new in enumerate(events):
                if isinstance(new.payload, e.EvalSample):
                    prompt = dress(new.content["prompt"].decode())
                    events[place] = NewEvent(new.payload, new.run_id, {**new.content, "prompt": prompt})

        return lie

    chat = dressed(lambda text: f"<|user|>\n{text}<|end|>\n<|assistant|>\n".encode())
    check = level_1(resealed(told, tmp_path / "chat.db", chat), rewards=False)[32]
    assert check.outcome is Outcome.PASSED and "not looked for" not in check.detail
    shots = dressed(lambda text: f"{text[::-1]} is one. {text}".encode())
    check = level_1(resealed(told, tmp_path / "shots.db", shots), rewards=False)[32]
    assert (
        check.outcome is Outcome.PASSED and "not looked for again: words, lengths (recorded with other" in check.detail
    )
