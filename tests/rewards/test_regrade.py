"""Recorded rollouts graded again: the counts are those of the two verifiers, whatever the record holds."""

from __future__ import annotations

import time
import tracemalloc
from pathlib import Path

import pytest
from rewards.graded import RUN, graded_record

from grpo_audit.config.checks import ProbeConfig
from grpo_audit.config.run import RunConfig
from grpo_audit.errors import RewardError
from grpo_audit.record import events as e
from grpo_audit.rewards import regrade as module
from grpo_audit.rewards.recorded import chosen_steps, rollouts_of
from grpo_audit.rewards.regrade import load_seconds, regrade

SECOND = """\
import re
def right(completions, target):
    found = [re.search("<answer>(.*)</answer>", text).group(1) for text in completions]
    return [float(answer == str(goal)) for answer, goal in zip(found, target)]
def never(completions):
    return [0.0 for _ in completions]
def apart(completions, target):
    return [None if goal == 1 else float("7" in text) for text, goal in zip(completions, target)]
def failing(completions):
    return [ValueError("no") if "3" in text else 1.0 for text in completions]
"""


@pytest.fixture
def record(tmp_path: Path):
    """Make a record: steps, samples of a group, what the source gave. Sample s answers s; the first target is 1."""
    opened = []
    (tmp_path / "second.py").write_text(SECOND)

    def make(*arguments, **more):
        opened.append(graded_record(tmp_path, *arguments, **more))
        return opened[-1]

    yield make
    for project in opened:
        project.close()


def config(second: str, most: int = 2000) -> RunConfig:
    """A recipe with one source and a second verifier for it."""
    return RunConfig.model_validate(
        {
            "model": {"path": "builtin"},
            "prompts": {"source": "builtin"},
            "rewards": [{"name": "first", "source": "own.py:f", "second": f"second.py:{second}"}],
            "probes": ProbeConfig(regrade=most).model_dump(),
        }
    )


def test_every_cell_of_the_table_is_counted(record, tmp_path):
    """Ten steps of four samples; the source rewards samples 1 and 2, the second verifier what answers 1."""
    project = record(10, 4, lambda _, sample: float(sample in (1, 2)))
    (found,) = regrade(project, RUN, config("right"), tmp_path)
    counts = (found.both, found.only_first, found.only_second, found.neither)
    assert counts == (10, 10, 0, 20)
    assert found.rollouts == sum(counts)
    assert found.kappa == pytest.approx(0.5)  # observed 0.75, expected by chance 0.5
    assert found.early_only_first == found.late_only_first == 0.25
    events = [next(project.events(start=seq)) for seq in found.examples]
    assert {event.payload.sample for event in events} == {2}
    assert events[0].payload.step == 9


def test_a_policy_that_learns_to_game_the_source_shows_in_the_last_steps(record, tmp_path):
    """Nothing at the beginning, everything at the end."""
    project = record(10, 4, lambda step, sample: float(sample == 1 or step >= 8))
    (found,) = regrade(project, RUN, config("right"), tmp_path)
    assert found.early_only_first == 0.0
    assert found.late_only_first == 0.75


def test_a_second_verifier_that_always_says_the_same_has_no_kappa(record, tmp_path):
    """None, and never 0."""
    project = record(3, 4, lambda _, sample: float(sample == 1))
    (found,) = regrade(project, RUN, config("never"), tmp_path)
    assert found.kappa is None
    assert (found.only_first, found.both) == (3, 0)


def test_what_cannot_be_judged_is_in_no_rate(record, tmp_path):
    """None on either side, errors, and text that was erased."""
    project = record(2, 4, lambda _, sample: None if sample == 0 else 1.0, groups=2)
    (apart,) = regrade(project, RUN, config("apart"), tmp_path)
    assert (apart.inapplicable, apart.rollouts) == (10, 6)
    (failing,) = regrade(project, RUN, config("failing"), tmp_path)
    assert (failing.failures, failing.inapplicable, failing.rollouts) == (4, 4, 8)
    seq = next(event.seq for event in project.events(RUN, {e.EventKind.ROLLOUT}))
    project.erase(RUN, {(seq, "completion")}, author="a", reason="asked for")
    (erased,) = regrade(project, RUN, config("never"), tmp_path)
    assert erased.unreadable == 1


def test_steps_are_spread_from_the_first_to_the_last(record, tmp_path):
    """As many as hold about the number of rollouts asked for; of one large step, groups from all of it."""
    project = record(20, 2, lambda *_: 1.0, groups=5)
    assert chosen_steps(project, RUN, 50) == ([0, 5, 10, 14, 19], 50)
    assert chosen_steps(project, RUN, 10_000) == (list(range(20)), 200)
    assert chosen_steps(project, RUN, 1) == ([19], 10)
    assert chosen_steps(project, "no such run", 10) == ([], 0)
    few = list(rollouts_of(project, RUN, 3, most=4))
    assert [item.columns["target"] for item in few] == [1, 1, 3, 3]
    (found,) = regrade(project, RUN, config("never", most=4), tmp_path)
    assert found.rollouts == 4


def test_memory_holds_one_batch_of_texts(record, tmp_path, monkeypatch):
    """A hundred batches of 8 completions of 20 kB: 16 MB in all, and never more than 2 MB at a time."""
    monkeypatch.setattr(module, "_BATCH", 8)
    project = record(50, 16, lambda *_: 1.0, completion=lambda sample: f"{sample} " * 7000)
    tracemalloc.start()
    (found,) = regrade(project, RUN, config("never"), tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.rollouts == 800
    assert peak < 2_000_000


def test_a_second_verifier_that_cannot_be_loaded_is_an_error_before_training(tmp_path):
    """load_seconds: no such function, a column that is missing, and the texts of those that are well."""
    (tmp_path / "second.py").write_text(SECOND)
    with pytest.raises(RewardError, match="no function nobody"):
        load_seconds(config("nobody").rewards, tmp_path, ["target"])
    with pytest.raises(RewardError, match="'target'"):
        load_seconds(config("right").rewards, tmp_path, ["other"])
    assert list(load_seconds(config("right").rewards, tmp_path, ["target"])[0].texts) == ["first"]


def test_a_second_verifier_that_hangs_is_given_up(record, tmp_path):
    """It costs a few batches of time limits, not one for each batch; what it was not asked counts as failed."""
    (tmp_path / "second.py").write_text("import time\n\ndef hangs(completions):\n    time.sleep(60)\n")
    project = record(12, 1, lambda *_: 1.0)
    recipe = config("hangs")
    quick = recipe.rewards[0].model_copy(update={"time_limit_s": 0.05})
    begin = time.monotonic()
    (found,) = regrade(project, RUN, recipe.model_copy(update={"rewards": [quick]}), tmp_path)
    assert found.rollouts == 0 and found.failures > module._PATIENCE
    assert time.monotonic() - begin < 30
