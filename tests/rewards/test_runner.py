"""Rewards: what a function gets, what its answers mean, how sources are summed."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time
from pathlib import Path

import pytest

from grpo_audit.config.sections import RewardConfig
from grpo_audit.rewards.runner import RewardRunner, RowReward


def test_a_function_gets_prompts_completions_and_columns(start, score):
    """TRL's signature: lists of equal length, as keyword arguments."""
    runner = start(
        """
        def f(prompts, completions, target, **rest):
            assert sorted(rest) == ["extra"]
            return [float(len(p) + len(c) + t) for p, c, t in zip(prompts, completions, target)]
        """
    )
    rows = score(runner, ["a", "bcd"], target=[10, 20], extra=[None, [1]])
    assert [row.rewards["f"] for row in rows] == [19.0, 31.0]


def test_a_function_gets_only_the_columns_it_names(start, score):
    """Without **kwargs the other columns are left out, so that a plain function just works."""
    runner = start("def f(completions): return [1.0] * len(completions)")
    assert score(runner, ["a"], target=[1])[0] == RowReward({"f": 1.0}, {}, 1.0)


def test_results_are_in_the_order_of_the_rows(start, score):
    """Also for many rows, and the same again for the same rows."""
    runner = start("def f(completions, **_): return [float(c) for c in completions]")
    completions = [str(i) for i in range(500)]
    first = score(runner, completions)
    assert [row.total for row in first] == [float(i) for i in range(500)]
    assert score(runner, completions) == first


def test_the_total_is_the_weighted_sum_of_train_sources(start, score):
    """Shadow sources are measured and never summed, whatever their weight."""
    runner = start(
        """
        def a(completions, **_): return [2.0]
        def b(completions, **_): return [3.0]
        def s(completions, **_): return [100.0]
        """,
        {"name": "a", "weight": 0.5},
        {"name": "b", "weight": -1.0},
        {"name": "s", "weight": 7.0, "role": "shadow"},
    )
    assert score(runner, ["x"]) == [RowReward({"a": 2.0, "b": 3.0, "s": 100.0}, {}, -2.0)]


def test_none_means_does_not_apply(start, score):
    """A source that does not apply is left out of the sum; where none applies there is no reward."""
    runner = start(
        """
        def a(completions, **_): return [1.0, None, None, 0.0]
        def b(completions, **_): return [None, 2.0, None, None]
        """,
        "a",
        "b",
    )
    rows = score(runner, ["w", "x", "y", "z"])
    assert [row.total for row in rows] == [1.0, 2.0, None, 0.0]
    assert rows[2].errors == {}


def test_a_row_on_which_a_train_source_fails_has_no_total(start, score):
    """Half a reward would be another reward. A failing shadow source does no harm."""
    code = """
        def a(completions, **_): return [1.0, 1.0]
        def b(completions, **_): return [1.0, float("nan")]
        """
    trained = start(code, "a", "b")
    assert [row.total for row in score(trained, ["x", "y"])] == [2.0, None]
    watched = start(code, "a", {"name": "b", "role": "shadow"})
    rows = score(watched, ["x", "y"])
    assert [row.total for row in rows] == [1.0, 1.0]
    assert rows[1].errors == {"b": "returned nan; expected a finite number or None"}


def test_truth_values_and_numpy_scalars_are_numbers(start, score):
    """bool, int, NumPy scalars, NumPy arrays as the list."""
    runner = start(
        """
        import numpy
        def f(completions, **_): return [True, 2, numpy.float32(0.5), numpy.bool_(True), numpy.int64(3)]
        def g(completions, **_): return numpy.arange(5) / 2
        """,
        "f",
        "g",
    )
    rows = score(runner, list("abcde"))
    assert [row.rewards["f"] for row in rows] == [1.0, 2.0, 0.5, 1.0, 3.0]
    assert [row.rewards["g"] for row in rows] == [0.0, 0.5, 1.0, 1.5, 2.0]
    assert all(type(row.total) is float for row in rows)


def test_sources_run_in_parallel(start, score):
    """Two sources that sleep take as long as one."""
    runner = start(
        """
        import time
        def a(completions, **_): time.sleep(1.0); return [0.0]
        def b(completions, **_): time.sleep(1.0); return [0.0]
        """,
        "a",
        "b",
    )
    begin = time.monotonic()
    score(runner, ["x"])
    assert time.monotonic() - begin < 1.8


def test_identities_and_source_texts_agree(start, tmp_path):
    """The digest is that of the whole file, whose text is kept."""
    runner = start("def f(completions, **_): return []", {"name": "f", "domain": "nothing", "version": "3"})
    text = (tmp_path / "rewards.py").read_bytes()
    assert runner.source_texts() == {"f": text}
    identity = runner.identities()[0]
    assert identity.source_digest == "sha256:" + hashlib.sha256(text).hexdigest()
    assert (identity.source_file, identity.domain, identity.version) == ("rewards.py", "nothing", "3")


def test_a_packaged_function_is_found_and_its_own_file_recorded(tmp_path):
    """package.module:function; a function imported from elsewhere is recorded where it is written."""
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "__init__.py").write_text("from pack.inner import f\n")
    (tmp_path / "pack" / "inner.py").write_text("def f(completions, **_): return [4.0] * len(completions)\n")
    with RewardRunner([RewardConfig(name="f", source="pack:f")], tmp_path) as runner:
        assert runner.identities()[0].source_file == "inner.py"
        assert runner.score(["p"], ["c"], {})[0].total == 4.0


def test_modules_beside_the_file_can_be_imported(start, score, tmp_path):
    """In the reward process only: the trainer's own path stays as it was."""
    (tmp_path / "my_grader.py").write_text("VALUE = 6.0\n")
    runner = start("import my_grader\ndef f(completions, **_): return [my_grader.VALUE]")
    assert score(runner, ["x"])[0].total == 6.0
    assert str(tmp_path) not in sys.path


@pytest.mark.parametrize("name", ["random", "json", "my-rewards"])
def test_a_file_may_be_called_anything(tmp_path, name):
    """Names of the standard library and names that are no identifiers included."""
    (tmp_path / f"{name}.py").write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass A:\n    x: int\n"
        "def f(completions, **_): return [float(A(5).x)]\n"
    )
    with RewardRunner([RewardConfig(name="f", source=f"{name}.py:f")], tmp_path) as runner:
        assert runner.score(["p"], ["c"], {})[0].total == 5.0


def test_no_rows_are_no_work(start):
    """An empty batch gives an empty list and no call."""
    runner = start("def f(completions, **_): raise SystemExit")
    assert runner.score([], [], {}) == []


def test_lists_of_different_length_are_a_programming_error(start):
    """Rows could not be told apart."""
    runner = start("def f(completions, **_): return [1.0]")
    with pytest.raises(ValueError, match="prompts has 2 rows, completions has 1"):
        runner.score(["a", "b"], ["c"], {})
    with pytest.raises(ValueError, match="t has 0 rows"):
        runner.score(["a"], ["c"], {"t": []})


def test_what_user_code_prints_goes_to_the_log(start, score, tmp_path, capfd):
    """Prints, raw writes to standard output and output of programs; none of it disturbs an answer."""
    code = """
        import os, subprocess, sys
        print("at import")
        def f(completions, **_):
            print("printed")
            os.write(1, b"raw\\n")
            subprocess.run(["echo", "child"])
            assert sys.stdin.read() == ""
            return [1.0]
        """
    runner = start(code, log_file=tmp_path / "rewards.log")
    assert score(runner, ["x"])[0].total == 1.0
    runner.close()
    assert sorted((tmp_path / "rewards.log").read_text().split("\n")) == ["", "at import", "child", "printed", "raw"]
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")
    assert score(start(code), ["x"])[0].total == 1.0  # without a log: standard error, never standard output
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "printed" in captured.err


def test_the_reward_process_is_light():
    """It starts without pydantic, numpy or torch, so that a restart after a kill costs little."""
    code = "import sys, grpo_audit.rewards.worker; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"pydantic", "numpy", "torch", "ruamel", "multiprocessing", "asyncio"} & set(loaded)


def test_the_built_in_rewards_run(tmp_path):
    """accuracy and format of the starter recipe, on the right and on the wrong answer."""
    configs = [
        RewardConfig(name="accuracy", source="grpo_audit.rewards.countdown:accuracy"),
        RewardConfig(name="format", source="grpo_audit.rewards.countdown:format", weight=0.1),
    ]
    completions = ["<think>a</think><answer>1+2</answer>", "<think>a</think><answer>2-1</answer>", "no"]
    with RewardRunner(configs, tmp_path) as runner:
        runner.check_columns(["numbers", "target"])
        rows = runner.score(["p"] * 3, completions, {"numbers": [[1, 2]] * 3, "target": [3] * 3})
    assert [row.total for row in rows] == [1.1, 0.1, 0.0]
    assert Path(runner.identities()[0].source_file).name == "countdown.py"
