"""Rollouts of a record as their rewards saw them: read step by step, never all at once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from sqlalchemy import text

from grpo_audit.ledger.project import Project


@dataclass(frozen=True, slots=True)
class Recorded:
    """One rollout of the record, as its rewards saw it."""

    seq: int
    step: int
    prompt: str
    completion: str
    columns: dict[str, object]
    rewards: dict[str, float | None]
    """By source; None where it does not apply or failed."""


def chosen_steps(project: Project, run_id: str, most: int) -> tuple[list[int], int]:
    """Steps spread evenly from the first to the last, with about ``most`` rollouts, and how many these are."""
    query = text(
        "select step, count(*) as rollouts from effective_rollout where run_id = :run group by step order by step"
    )
    with project.session() as session:
        counts = {row.step: row.rollouts for row in session.execute(query, {"run": run_id})}
    if not counts:
        return [], 0
    steps = list(counts)
    each = sum(counts.values()) / len(steps)
    wanted = min(len(steps), max(1, round(most / each)))
    if wanted == 1:
        chosen = [steps[-1]]
    else:
        chosen = [steps[round(place * (len(steps) - 1) / (wanted - 1))] for place in range(wanted)]
    return chosen, sum(counts[step] for step in chosen)


def rollouts_of(project: Project, run_id: str, step: int, *, most: int | None = None) -> Iterator[Recorded | None]:
    """The rollouts of one step in order; None for one whose text was erased. With ``most``, whole groups, spread
    evenly, until there are about so many."""
    query = text(
        "select r.seq, g.seq as group_seq from effective_rollout as r join rollout_group as g "
        "on g.run_id = r.run_id and g.step = r.step and g.attempt = r.attempt and g.group_index = r.group_index "
        "where r.run_id = :run and r.step = :step order by r.group_index, r.sample"
    )
    with project.session() as session:
        places = [(place.seq, place.group_seq) for place in session.execute(query, {"run": run_id, "step": step})]
    if most is not None and most < len(places):
        places = _some_groups(places, most)
    for group, members in groupby(places, key=lambda place: place[1]):
        row = _row(project.content(group, "fields"))
        for seq, _ in members:
            completion = project.content(seq, "completion")
            if row is None or completion is None:
                yield None
                continue
            answer = completion.decode("utf-8", "replace")
            yield Recorded(seq, step, row.prompt, answer, row.columns, _rewards(project, seq))


def _some_groups(places: list[tuple[int, int]], most: int) -> list[tuple[int, int]]:
    groups = list(dict.fromkeys(group for _, group in places))
    wanted = max(1, round(most * len(groups) / len(places)))
    chosen = {groups[number * len(groups) // wanted] for number in range(wanted)}
    return [place for place in places if place[1] in chosen]


def _rewards(project: Project, seq: int) -> dict[str, float | None]:
    query = text("select source, value from reward where seq = :seq")
    with project.session() as session:
        return {row.source: row.value for row in session.execute(query, {"seq": seq})}


@dataclass(frozen=True)
class _Row:
    prompt: str
    columns: dict[str, object]


def _row(data: bytes | None) -> _Row | None:
    """A row of the prompt set from content ``fields``, the prompt as rewards were given it; None where it is gone, or
    is no such row."""
    if data is None:
        return None
    try:
        entry: dict[str, Any] = json.loads(data)
        prompt, columns = entry["prompt"], entry["columns"]
        if isinstance(prompt, list):
            many = [f"{item['role']}: {item['content']}" for item in prompt]
            prompt = "\n\n".join(many) if len(many) > 1 else prompt[0]["content"]
    except (ValueError, KeyError, TypeError, IndexError, RecursionError):
        return None
    return _Row(prompt, columns) if isinstance(prompt, str) and isinstance(columns, dict) else None
