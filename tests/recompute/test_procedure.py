"""The procedure as a whole: what is erased, old, unfinished or broken, and that its numbers are those of the pages."""

from __future__ import annotations

import random
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st
from true_record import RUN, resealed

from grpo_audit.ledger.project import NewEvent, Project
from grpo_audit.ledger.store import Store
from grpo_audit.prompts import order
from grpo_audit.record import events as e
from grpo_audit.verify.recompute import procedure
from grpo_audit.verify.recompute.comparison import holm, mcnemar
from grpo_audit.verify.recompute.procedure import recompute
from grpo_audit.verify.recompute.prompts import Draws
from grpo_audit.verify.source import DatabaseSource, StoredEvent
from grpo_audit.verify.verdict import Check, Outcome

Level1 = Callable[..., dict[int, Check]]


def without_content(*names: str) -> Callable[[list[NewEvent]], None]:
    """A record in which nothing ever had this content: one of an older program."""

    def lie(events: list[NewEvent]) -> None:
        for place, new in enumerate(events):
            left = {name: data for name, data in new.content.items() if name not in names}
            events[place] = NewEvent(new.payload, new.run_id, left)

    return lie


def test_old_record_has_nothing_to_check_where_it_holds_nothing(
    told: list[NewEvent], tmp_path: Path, level_1: Level1
) -> None:
    """Without rows and prompt index, steps (21) and (22) say so with the reason; all others pass."""

    def old(events: list[NewEvent]) -> None:
        without_content("fields")(events)
        for place, new in enumerate(events):
            if isinstance(new.payload, e.Artifact) and new.payload.role == "prompt index":
                events[place] = NewEvent(new.payload.model_copy(update={"role": "other"}), new.run_id, new.content)

    checks = level_1(resealed(told, tmp_path / "record.db", old))
    assert {number for number, check in checks.items() if check.outcome is Outcome.NOTHING} == {21, 22}
    assert "an old record" in checks[21].detail
    assert "erased, or an old record" in checks[22].detail
    assert all(check.ok for check in checks.values())


@pytest.mark.parametrize("name", ["completion", "fields", "trace", "prompt", "response", "text"])
def test_erased_content_is_counted_and_does_not_fail(
    name: str, told: list[NewEvent], tmp_path: Path, level_1: Level1
) -> None:
    """Content that is gone is reported where it would have been looked at, and nothing fails for its sake."""
    path = resealed(told, tmp_path / "record.db", lambda _: None)
    with closing(sqlite3.connect(path)) as connection, connection:  # as an erasure leaves it; its event is for level L0
        connection.execute("DELETE FROM content WHERE name = ?", (name,))
    checks = level_1(path)
    assert [check for check in checks.values() if not check.ok] == []
    if name != "response":  # its digests are what one rule of the comparison looks at, when they are there
        assert any(word in check.detail for check in checks.values() for word in ("erased", "not in the record"))


def test_unfinished_run_is_checked_as_far_as_it_goes(told: list[NewEvent], tmp_path: Path) -> None:
    """Steps that are not there yet are no failure of a run that is not sealed."""
    place = [i for i, new in enumerate(told) if isinstance(new.payload, e.Step)][3]
    checks = unsealed(told[: place + 1], tmp_path / "record.db")
    assert all(check.ok for check in checks), checks
    assert {check.number for check in checks if check.outcome is Outcome.NOTHING} == {22, 29, 30, 33}


def test_rollouts_without_their_step_are_found(told: list[NewEvent], tmp_path: Path) -> None:
    """A transaction holds a whole step: rollouts at the end that no step follows are wrong."""
    place = [i for i, new in enumerate(told) if isinstance(new.payload, e.Step)][3]
    checks = unsealed(told[:place], tmp_path / "record.db")
    assert [check.number for check in checks if not check.ok] == [27]


def unsealed(events: list[NewEvent], path: Path) -> list[Check]:
    """Level L1 of a record that just ends."""
    with Project.open(path, mode="create") as project:
        project.append(events)
    store = Store.read(path)
    try:
        with store.connect() as connection:
            return recompute(DatabaseSource(connection, str(path)), RUN, rewards=False)
    finally:
        store.close()


class _Broken(DatabaseSource):
    """A source in which one body is broken."""

    def __init__(self, source: DatabaseSource, place: int, body: object) -> None:
        super().__init__(source.connection, source.name)
        self._place, self._body = place, body

    def events(self, start: int = 0, stop: int | None = None):  # type: ignore[no-untyped-def]
        """With the broken one."""
        for row in super().events(start, stop):
            yield StoredEvent(*row[:3], self._body, row.leaf_hash) if row.seq == self._place else row


@pytest.mark.parametrize("body", [b"", b"{}", b"[", None, "text", b'{"v":1}', b"\xff"])
@pytest.mark.parametrize("place", [1, 40])
def test_broken_event_fails_and_nothing_passes(body: object, place: int, honest: Path) -> None:
    """Where an event cannot be read, step (20) names it, and no later step is said to have passed."""
    store = Store.read(honest)
    try:
        with store.connect() as connection:
            source = _Broken(DatabaseSource(connection, str(honest)), place, body)
            checks = recompute(source, RUN)
    finally:
        store.close()
    assert f"event {place}" in checks[0].detail
    assert {check.outcome for check in checks} <= {Outcome.FAILED, Outcome.NOT_REACHED}


def test_unknown_run_fails(honest: Path, level_1: Level1) -> None:
    """A run that is not in the record does not pass."""
    store = Store.read(honest)
    try:
        with store.connect() as connection:
            checks = recompute(DatabaseSource(connection, str(honest)), "no-such-run")
    finally:
        store.close()
    assert not any(check.outcome is Outcome.PASSED for check in checks)
    assert checks[0].outcome is Outcome.FAILED


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**31 - 1), st.integers(1, 40), st.integers(1, 50), st.integers(0, 9))
def test_both_orders_agree(seed: int, rows: int, count: int, number: int) -> None:
    """The order written a second time draws what the first one draws, and counts the same exposures."""
    drawn = Draws(seed, rows, count).round(number)
    assert drawn == list(
        zip(order.draw(seed, number, rows, count), order.exposures(seed, number, rows, count), strict=True)
    )


def test_tests_agree_with_the_libraries() -> None:
    """The exact McNemar test and Holm's correction written here are those of scipy and statsmodels."""
    from scipy.stats import binomtest
    from statsmodels.stats.multitest import multipletests

    rng = random.Random(0)
    for _ in range(50):
        gained, lost = rng.randrange(40), rng.randrange(40)
        if gained + lost:
            assert mcnemar(gained, lost) == pytest.approx(min(1.0, binomtest(gained, gained + lost).pvalue), rel=1e-10)
        values = [rng.random() ** 4 for _ in range(rng.randrange(1, 9))]
        assert holm(values) == pytest.approx(list(multipletests(values, method="holm")[1]), rel=1e-12)


def test_numbers_are_those_of_the_page() -> None:
    """docs/verification.md and the procedure's docstring list the same steps, under the same numbers and in the same
    words as far as the docstring's first ones go."""
    page = (Path(__file__).parents[2] / "docs" / "verification.md").read_text(encoding="utf-8")
    documented, stated = _steps(page), _steps(procedure.__doc__ or "")
    assert list(stated) == list(procedure.NAMES)
    for number, words in stated.items():
        assert documented[number][: len(words[:6])] == words[:6]


def _steps(text: str) -> dict[int, list[str]]:
    """Step -> its words."""
    found = re.split(r"^(?:- )?\((2[0-9]|30|3[2-9])\) ", text, flags=re.MULTILINE)[1:]
    bodies = [re.findall(r"[a-z]+", body.split("\n\n")[0].lower()) for body in found[1::2]]
    return dict(zip(map(int, found[::2]), bodies, strict=True))


def test_sample_is_a_function_of_the_seed(honest: Path, level_1: Level1) -> None:
    """A share or a number of the steps, chosen by the seed, and said so."""
    one, same, other = (level_1(honest, sample=2, seed=seed)[22].detail for seed in (1, 1, 2))
    assert re.sub(r"[0-9,]+ rewards/s", "", one) == re.sub(r"[0-9,]+ rewards/s", "", same)
    assert "on 2 of 5 steps, chosen by the seed given" in one and "on 2 of 5 steps" in other
    assert "on 1 of 5 steps" in level_1(honest, sample=0.2)[22].detail
