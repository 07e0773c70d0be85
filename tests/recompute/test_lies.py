"""One number changed by whoever has the key: the record is signed anew and holds at level L0, and level L1 finds it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from true_record import Lie, resealed

from grpo_audit.ledger.project import NewEvent
from grpo_audit.record import events as e
from grpo_audit.stats.paired import Side, compare_earlier
from grpo_audit.verify.l0 import verify
from grpo_audit.verify.recompute.seconds import kappa
from grpo_audit.verify.verdict import Check, Outcome


def moved(parts: list[Any], **change: Any) -> list[Any]:
    """The same parts, the first one changed."""
    return [parts[0].model_copy(update=change), *parts[1:]]


Level1 = Callable[..., dict[int, Check]]


def first(
    events: list[NewEvent], kind: type[e.Payload], where: Callable[[Any], bool] = lambda _: True
) -> tuple[int, Any, dict[str, bytes]]:
    """Place, payload and content of the first event of a kind."""
    place = next(i for i, new in enumerate(events) if isinstance(new.payload, kind) and where(new.payload))
    return place, events[place].payload, dict(events[place].content)


def changes(
    kind: type[e.Payload], change: Callable[[Any], dict[str, Any]], where: Callable[[Any], bool] = lambda _: True
) -> Lie:
    """Changes fields of the first event of a kind."""

    def lie(events: list[NewEvent]) -> None:
        place, payload, content = first(events, kind, where)
        changed = kind.model_validate(payload.model_dump() | change(payload))
        assert changed != payload
        events[place] = NewEvent(changed, events[place].run_id, content)

    return lie


def rewrites(
    kind: type[e.Payload], name: str, change: Callable[[bytes], bytes], where: Callable[[Any], bool] = lambda _: True
) -> Lie:
    """Changes content of the first event of a kind."""

    def lie(events: list[NewEvent]) -> None:
        place, payload, content = first(events, kind, where)
        changed = change(content[name])
        assert changed != content[name]
        events[place] = NewEvent(payload, events[place].run_id, content | {name: changed})

    return lie


def in_config(path: str, value: object) -> Lie:
    """Changes one value of the registered configuration."""

    def change(registered: Any) -> dict[str, Any]:
        config = registered.model_copy(deep=True).config
        node = config
        *parents, last = path.split(".")
        for part in parents:
            node = node[part]
        node[last] = value
        return {"config": config}

    return changes(e.RunRegistered, change)


def later_margin(events: list[NewEvent]) -> None:
    """The margin of the comparison is another one than was registered before step 0."""
    changes(e.Comparison, lambda it: {"tasks": moved_tasks(it.tasks, 0, margin=it.tasks[0].margin * 2)})(events)


def moved_tasks(tasks: list[Any], place: int, **fields: Any) -> list[Any]:
    """Task comparisons with one of them changed."""
    return [task.model_dump() | (fields if position == place else {}) for position, task in enumerate(tasks)]


def as_before_secondary_metrics(events: list[NewEvent]) -> None:
    """The record as an earlier version would have written it: no contamination check, and the statistics of then."""
    place, registered, content = first(events, e.RunRegistered)
    config = {name: value for name, value in registered.config.items() if name not in NEWER_SECTIONS}
    rewards = [{name: value for name, value in reward.items() if name != "second"} for reward in config["rewards"]]
    then = {"config": config | {"rewards": rewards}, "seconds": []}
    events[place] = NewEvent(registered.model_copy(update=then), events[place].run_id, content)
    newer = (e.Decontamination, e.RewardProbed, e.RewardRegraded, e.GatesChecked)
    events[:] = [new for new in events if not isinstance(new.payload, newer) and not is_newer_finding(new.payload)]
    sides = []
    for phase in ("pre", "post"):
        samples: dict[str, list[e.EvalSample]] = {}
        for new in events:
            if isinstance(new.payload, e.EvalSample) and new.payload.phase == phase:
                samples.setdefault(new.payload.task, []).append(new.payload)
        weights = first(events, e.EvalTask, lambda it, phase=phase: it.phase == phase)[1].weights_digest
        sides.append(Side(weights, registered.evaluation.protocol_digest, samples))
    place = first(events, e.Comparison)[0]
    compared = compare_earlier(registered.evaluation, *sides).comparison
    events[place] = NewEvent(compared, events[place].run_id, {})


NEWER_FINDINGS = ("contamination", "refusal-", "verifiers-disagree", "reward-exploit", "reward-probe", "reward-gamed")


def is_newer_finding(payload: e.Payload) -> bool:
    """Whether it is a finding of a rule that there was not then."""
    return isinstance(payload, e.Finding) and payload.rule.startswith((*NEWER_FINDINGS, "reward-up-shadow"))


NEWER_SECTIONS = ("decontamination", "probes", "gates")


def moved_update(step: Any, **fields: Any) -> dict[str, Any]:
    """The first update of a step changed."""
    return {"updates": [step.updates[0].model_dump() | fields, *(item.model_dump() for item in step.updates[1:])]}


def without(kind: type[e.Payload], where: Callable[[Any], bool] = lambda _: True) -> Lie:
    """Leaves out the first event of a kind."""

    def lie(events: list[NewEvent]) -> None:
        del events[first(events, kind, where)[0]]

    return lie


def without_step(number: int) -> Lie:
    """Leaves out a whole step, in every attempt."""
    return lambda events: [new for new in events if getattr(new.payload, "step", None) != number]


def swapped_groups(events: list[NewEvent]) -> None:
    """Two prompts of a step change places, with all their text."""
    places = [i for i, new in enumerate(events) if isinstance(new.payload, e.Group)][:2]
    one, two = (events[place] for place in places)
    for place, new, group in ((places[0], two, 0), (places[1], one, 1)):
        payload = new.payload.model_copy(update={"group": group})
        events[place] = NewEvent(payload, new.run_id, new.content)


def another_target(events: list[NewEvent]) -> None:
    """The reward was given another target, under which the first completion would have earned a bonus."""
    letter = first(events, e.Rollout)[2]["completion"][:1]
    rewrites(e.Group, "fields", lambda data: data.replace(b'"target":"', b'"target":"' + letter + b'","was":"'))(events)


def negated_trace(data: bytes) -> bytes:
    """Log-probabilities above 0."""
    half = len(data) // 2
    return data[:half] + (1 - np.frombuffer(data[half:], dtype="<f4")).astype("<f4").tobytes()


def rewarded(rollout: Any) -> bool:
    """Has a reward by the second source, too."""
    return rollout.used and rollout.rewards["short"] is not None and rollout.completion_tokens > 2


PARTS: dict[str, dict[str, Any]] = {
    "secondary": {
        "metric": "spead", "behaviour": "tool use", "higher_is_better": True, "documents": 31, "pre": 0.9, "post": 0.1,
        "difference": 0.4, "ci_low": -0.01, "ci_high": 0.99, "p": 0.6, "p_adjusted": 0.9, "method": "looked at",
        "gained": 29, "lost": 3, "changed": True,
    },
    "lengths": {
        "documents": 31, "pre_mean": 5.0, "post_mean": 4.5, "pre_median": 1.0, "post_median": 2.0, "p_shift": 0.5,
        "p_distribution": 0.5, "matched_documents": 0, "matched_difference": 0.123,
    },
    "clean": {
        "clean": 30, "flagged": 0, "pre": 0.9, "post": 0.1, "difference": 0.4, "ci_low": -0.01, "ci_high": 0.99,
        "p": 0.6, "method": "looked at", "flagged_pre": 0.9, "flagged_post": 0.1, "verdict": "improved",
    },
}  # fmt: skip
"""By part of a comparison: a field of its first entry, and what it is changed to."""

LIES: dict[str, tuple[int, Lie]] = {
    # (20)
    "group size in the configuration alone": (20, in_config("sampling.group_size", 5)),
    "formula": (20, changes(e.RunRegistered, lambda it: {"formula": it.formula | {"advantage": "A_i = r_i"}})),
    "preset difference kept quiet": (20, changes(e.RunRegistered, lambda _: {"preset_differences": []})),
    "weight in the identity": (
        20,
        changes(e.RunRegistered, lambda it: {"rewards": [it.rewards[0].model_dump() | {"weight": 2.0},
                                                         *(item.model_dump() for item in it.rewards[1:])]}),
    ),
    "margin of the plan": (
        20,
        changes(e.RunRegistered, lambda it: {"evaluation": it.evaluation.model_dump() | {"tasks": [
            it.evaluation.tasks[0].model_dump() | {"margin": 0.4}, it.evaluation.tasks[1].model_dump()]}}),
    ),
    "alpha of the plan": (
        20, changes(e.RunRegistered, lambda it: {"evaluation": it.evaluation.model_dump() | {"alpha": 0.2}})
    ),
    # (21)
    "prompt id": (21, changes(e.Group, lambda it: {"prompt_id": "p0" if it.prompt_id != "p0" else "p1"})),
    "two prompts change places": (21, swapped_groups),
    "exposure": (21, changes(e.Group, lambda it: {"exposure": it.exposure + 1})),
    "another row under the id": (21, rewrites(e.Group, "fields", lambda data: data.replace(b"Say", b"Cry"))),
    "seed": (21, in_config("seed", 4)),
    # (22)
    "reward by source": (
        22, changes(e.Rollout, lambda it: {"rewards": it.rewards | {"short": 1.0 - it.rewards["short"]}}, rewarded)
    ),
    "shadow reward": (
        22, changes(e.Rollout, lambda it: {"rewards": it.rewards | {"fussy": 0.5}}, lambda it: not it.errors)
    ),
    "completion": (22, rewrites(e.Rollout, "completion", lambda data: b"aeiou" + data, rewarded)),
    "an error nobody had": (
        22,
        changes(e.Rollout, lambda it: {"errors": {"fussy": "no q, please"}, "rewards": it.rewards | {"fussy": None}},
                lambda it: not it.errors),
    ),
    "column handed to the reward": (22, another_target),
    # (23)
    "weighted sum": (23, changes(e.Rollout, lambda it: {"reward": it.reward + 1e-6}, rewarded)),
    "overlong punishment": (
        23,
        changes(e.Rollout, lambda it: {"rewards": it.rewards | {"soft-overlong": -0.125}}, rewarded),
    ),
    "left out without a reason": (23, changes(e.Rollout, lambda _: {"used": False}, lambda it: it.used)),
    "reason": (23, changes(e.Rollout, lambda _: {"reason": "truncated", "used": False}, lambda it: it.used)),
    # (24)
    "advantage": (24, changes(e.Rollout, lambda it: {"advantage": it.advantage + 1e-6}, rewarded)),
    "advantage of a dropped rollout": (24, changes(e.Rollout, lambda _: {"advantage": 0.5}, lambda it: not it.used)),
    "mean of a group": (24, changes(e.Group, lambda it: {"reward_mean": it.reward_mean + 1e-9})),
    "deviation of a group": (
        24, changes(e.Group, lambda it: {"reward_std": it.reward_std * 1.01}, lambda it: it.reward_std)
    ),
    # (25)
    "mean reward": (25, changes(e.Step, lambda it: {"reward_mean": it.reward_mean + 1e-9})),
    "reward deviation": (25, changes(e.Step, lambda it: {"reward_std": it.reward_std * 1.1})),
    "mean by source": (25, changes(e.Step, lambda it: {"rewards": it.rewards | {"vowels": 0.9}})),
    "mean of a source that is not there": (25, changes(e.Step, lambda it: {"rewards": it.rewards | {"more": 0.9}})),
    "zero-variance share": (25, changes(e.Step, lambda _: {"zero_variance_share": 0.123})),
    "used": (25, changes(e.Step, lambda it: {"used": it.used + 1})),
    "rejected": (25, changes(e.Step, lambda it: {"rejected": it.rejected + 1})),
    "mean length": (25, changes(e.Step, lambda it: {"completion_tokens_mean": it.completion_tokens_mean + 1e-6})),
    "truncated share": (25, changes(e.Step, lambda it: {"truncated_share": it.truncated_share / 2 + 0.01})),
    "completion tokens": (25, changes(e.Step, lambda it: {"completion_tokens": it.completion_tokens + 1})),
    "prompt tokens": (25, changes(e.Step, lambda it: {"prompt_tokens": it.prompt_tokens - 1})),
    "dropped groups": (25, changes(e.Step, lambda it: {"dropped_groups": it.dropped_groups + 1})),
    "loss": (25, changes(e.Step, lambda it: {"loss": it.loss + 0.01})),
    "clip share": (25, changes(e.Step, lambda it: {"clip_high_share": it.clip_high_share * 2})),
    "rows of an update": (25, changes(e.Step, lambda it: moved_update(it, rows=it.updates[0].rows + 1))),
    "tokens of an update": (25, changes(e.Step, lambda it: moved_update(it, tokens=it.updates[0].tokens + 1))),
    # (26)
    "learning rate": (26, changes(e.Step, lambda it: {"learning_rate": it.learning_rate * 1.0001})),
    # (27)
    "a step left out": (27, without_step(3)),
    "a rollout left out": (27, without(e.Rollout)),
    "a group left out": (27, without(e.Group)),
    "rounds": (27, changes(e.Step, lambda it: {"rounds": it.rounds + 1})),
    "a step of an attempt that never reached it": (27, changes(e.RunResumed, lambda _: {"from_step": 4})),
    "token count": (27, changes(e.Rollout, lambda it: {"completion_tokens": it.completion_tokens - 1}, rewarded)),
    "log-probabilities above 0": (27, rewrites(e.Rollout, "trace", negated_trace)),
    "a log-probability that is no number": (27, rewrites(e.Rollout, "trace", lambda data: data[:-4] + b"\0\0\xc0\x7f")),
    "trace cut": (27, rewrites(e.Rollout, "trace", lambda data: data[:-8])),
    # (28)
    "task mean": (28, changes(e.EvalTask, lambda it: {"metrics": {it.metric: it.metrics[it.metric] + 1e-6}})),
    "truncated rate": (28, changes(e.EvalTask, lambda _: {"truncated_rate": 0.0})),
    "number of documents": (28, changes(e.EvalTask, lambda it: {"documents": it.documents - 1})),
    "a sample left out": (28, without(e.EvalSample)),
    "another document": (28, changes(e.EvalSample, lambda it: {"doc_hash": it.prompt_hash})),
    "a sample's result": (28, changes(e.EvalSample, lambda it: {"metrics": {"hit": 1 - it.metrics["hit"]}})),
    "prompt of a sample": (28, rewrites(e.EvalSample, "prompt", lambda data: data + b"!")),
    "a task left out after training": (28, without(e.EvalTask, lambda it: it.phase == "post")),
    # (29)
    "margin moved after step 0": (29, later_margin),
    "alpha moved after step 0": (29, changes(e.Comparison, lambda _: {"alpha": 0.5})),
    "a task not compared": (29, changes(e.Comparison, lambda it: {"tasks": [it.tasks[1].model_dump()]})),
    "a comparison left out": (29, without(e.Comparison)),
    **{
        f"comparison, {name}": (29, changes(e.Comparison, lambda it, name=name, value=value: {
            "tasks": moved_tasks(it.tasks, 0, **{name: value})}))
        for name, value in {
            "pre": 0.9, "post": 0.1, "difference": 0.4, "ci_low": -0.01, "ci_high": 0.99, "p": 0.6, "p_adjusted": 0.9,
            "p_margin": 0.7, "minimum_detectable": 0.001, "gained": 29, "lost": 0,
            "verdict": "no discordant pairs", "safety": True, "method": "looked at",
        }.items()
    },
    **{
        f"{part}, {name}": (29, changes(e.Comparison, lambda it, part=part, name=name, value=value: {
            part: moved_tasks(getattr(it, part), 0, **{name: value})}))
        for part, fields in PARTS.items()
        for name, value in fields.items()
    },
    **{
        f"no {part}": (29, changes(e.Comparison, lambda _, part=part: {part: []}))
        for part in ("secondary", "lengths", "clean")
    },
    "no new part at all": (29, changes(e.Comparison, lambda _: {"secondary": [], "lengths": [], "clean": []})),
    "a secondary metric left out": (
        29, changes(e.Comparison, lambda it: {"secondary": moved_tasks(it.secondary[1:], 0)})
    ),
    "an overlap left out": (
        29, changes(e.Decontamination, lambda it: {"overlaps": moved_tasks(it.overlaps[1:], 0)})
    ),
    "a control that failed": (29, changes(e.Decontamination, lambda _: {"valid": False})),
    "length of an answer": (
        29, changes(e.EvalSample, lambda it: {"completion_tokens": it.completion_tokens + 40})
    ),
    "direction of a secondary metric": (
        29, rewrites(e.Artifact, "text", lambda data: data.replace(b"true", b"false"),
                     lambda it: it.role == "evaluation protocol")
    ),
    "corrected rate of refusals": (29, changes(e.Comparison, lambda it: {"corrected": moved(it.corrected, post=0.01)})),
    "interval of a corrected rate": (
        29, changes(e.Comparison, lambda it: {"corrected": moved(it.corrected, ci_low=-0.001)})
    ),
    "error of the refusal detector": (
        29, changes(e.Comparison, lambda it: {"corrected": moved(
            it.corrected, error=it.corrected[0].error.model_copy(update={"sensitivity": 0.999}))})
    ),
    "corrected rates left out": (29, changes(e.Comparison, lambda _: {"corrected": []})),
    "a refusal made an answer": (
        29, rewrites(e.EvalSample, "response", lambda _: b"Here it is: done.", lambda it: it.metrics.get("hit") == 1.0)
    ),
    # (30)
    "a finding left out": (30, without(e.Finding)),
    "severity of a finding": (30, changes(e.Finding, lambda _: {"severity": "info"})),
    "message of a finding": (30, changes(e.Finding, lambda it: {"message": it.message + " Never mind."})),
    "evidence of a finding": (30, changes(e.Finding, lambda it: {"evidence": it.evidence[:-1]})),
    "the finding about an exploit": (30, without(e.Finding, lambda it: it.rule == "reward-exploit")),
    # (33)
    "a gate that failed": (
        33, changes(e.GatesChecked, lambda it: {"gates": [gate.model_copy(update={"passed": True, "failed": []})
                                                          for gate in it.gates], "passed": True})
    ),
    "figure of a gate": (
        33, changes(e.GatesChecked, lambda it: {"gates": [it.gates[0].model_copy(
            update={"found": {"eval.words.difference": "0.99"}}), *it.gates[1:]]})
    ),
    "condition of a gate": (
        33, changes(e.GatesChecked, lambda it: {"gates": [it.gates[0].model_copy(
            update={"condition": "at least -2"}), *it.gates[1:]]})
    ),
    "a gate left out": (33, changes(e.GatesChecked, lambda it: {"gates": it.gates[:-1]})),
    "gates never checked": (33, without(e.GatesChecked)),
    "the outcome of all gates": (33, changes(e.GatesChecked, lambda it: {"passed": not it.passed})),
    # (34)
    "interval of a probe": (
        34, changes(e.RewardProbed, lambda it: {"families": moved(it.families, false_positive_high=0.01)})
    ),
    "probes that were never asked": (34, changes(e.RewardProbed, lambda it: {"probes": it.probes - 30})),
    "threshold of the probes": (34, changes(e.RewardProbed, lambda _: {"threshold": 0.9})),
    "source that was probed": (34, changes(e.RewardProbed, lambda _: {"source_digest": "sha256:" + "0" * 64})),
    "a source never probed": (34, without(e.RewardProbed)),
    "agreement of the second verifier": (
        34, changes(e.RewardRegraded, lambda it: {"both": it.both + it.only_first, "only_first": 0})
    ),
    "agreement and its kappa": (
        34, changes(e.RewardRegraded, lambda it: {"both": it.both + it.only_first, "only_first": 0, "kappa": kappa(
            it.both + it.only_first, it.neither, 0, it.only_second)})
    ),
    "kappa": (34, changes(e.RewardRegraded, lambda _: {"kappa": 0.999})),
    "early share": (34, changes(e.RewardRegraded, lambda _: {"early_only_first": 0.5})),
    "example of a disagreement": (34, changes(e.RewardRegraded, lambda it: {"examples": [1, *it.examples]})),
    "rollouts that could not be read": (
        34, changes(e.RewardRegraded, lambda it: {"unreadable": 3, "inapplicable": it.inapplicable - 3})
    ),
    "another second verifier": (34, changes(e.RewardRegraded, lambda _: {"second": "third.py:vowels"})),
    "nothing graded again": (34, without(e.RewardRegraded)),
}  # fmt: skip


@pytest.mark.parametrize("name", LIES)
def test_lie_is_found_at_its_step(name: str, told: list[NewEvent], tmp_path: Path, level_1: Level1) -> None:
    """Level L1 fails at the step that recomputes the number, although the whole record was signed anew."""
    number, lie = LIES[name]
    record = resealed(told, tmp_path / "record.db", lie)
    checks = level_1(record, rewards=number in (20, 22, 34))
    assert checks[number].outcome is Outcome.FAILED, {
        key: (check.outcome, check.detail) for key, check in checks.items()
    }


def test_lie_is_invisible_at_level_0(told: list[NewEvent], tmp_path: Path) -> None:
    """What level L1 is for: a record signed anew with a changed advantage passes every check of level L0."""
    record = resealed(told, tmp_path / "record.db", LIES["advantage"][1])
    assert verify(record).ok


def test_resealing_alone_changes_nothing(told: list[NewEvent], tmp_path: Path, level_1: Level1) -> None:
    """The copy without a lie passes: the failures above are the lies' own."""
    record = resealed(told, tmp_path / "record.db", lambda _: None)
    assert [check.detail for check in level_1(record).values() if check.outcome is not Outcome.PASSED] == []


def test_a_record_of_before_verifies_as_it_was(told: list[NewEvent], tmp_path: Path, level_1: Level1) -> None:
    """A comparison without the new parts, made by the statistics of then, passes (29) in a record of then; of what
    there was not then, the steps have nothing to say."""
    record = resealed(told, tmp_path / "record.db", as_before_secondary_metrics)
    checks = level_1(record, rewards=False)
    assert checks[29].outcome is Outcome.PASSED, checks[29].detail
    assert [checks[number].outcome for number in (32, 33, 34)] == 3 * [Outcome.NOTHING]


@pytest.mark.parametrize("field", ["ci_low", "minimum_detectable", "method"])
def test_a_lie_in_a_record_of_before_is_found(
    field: str, told: list[NewEvent], tmp_path: Path, level_1: Level1
) -> None:
    """Its figures are computed again by the statistics of then: today's would not be accepted either."""

    def lie(events: list[NewEvent]) -> None:
        today = first(events, e.Comparison)[1].tasks[0]
        as_before_secondary_metrics(events)
        changes(e.Comparison, lambda it: {"tasks": moved_tasks(it.tasks, 0, **{field: getattr(today, field)})})(events)

    record = resealed(told, tmp_path / "record.db", lie)
    assert level_1(record, rewards=False)[29].outcome is Outcome.FAILED
