"""A source that cannot be loaded is one line before training starts."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from grpo_audit.config.sections import RewardConfig
from grpo_audit.errors import ExitCode, RewardError
from grpo_audit.rewards.runner import RewardRunner


@pytest.fixture
def line_of(tmp_path: Path):  # type: ignore[no-untyped-def]
    """The line a user reads, without the folder."""

    def line_of(source: str, **options: object) -> str:
        with pytest.raises(RewardError) as caught:
            RewardRunner([RewardConfig(name="r", source=source)], tmp_path, **options)
        assert caught.value.exit_code == ExitCode.BAD_INPUT
        assert "\n" not in str(caught.value)
        return str(caught.value).replace(f"{tmp_path}/", "")

    return line_of


def test_a_missing_file_names_the_nearest(line_of, tmp_path):
    """Relative to the recipe."""
    (tmp_path / "rewards.py").write_text("")
    assert line_of("reward.py:f") == (
        "Reward r (reward.py:f): there is no file reward.py. The nearest file there is rewards.py."
    )
    assert line_of("x/y.py:f") == "Reward r (x/y.py:f): there is no file x/y.py. Paths are relative to the recipe."


def test_a_missing_function_names_the_nearest(line_of, tmp_path):
    """And the functions there are."""
    (tmp_path / "rewards.py").write_text("import json\ndef accuracy(): ...\ndef format(): ...\ndef _x(): ...\n")
    assert line_of("rewards.py:acuracy") == (
        "Reward r (rewards.py:acuracy): rewards.py has no function acuracy; expected one of accuracy, format. "
        "The nearest is accuracy."
    )


def test_something_that_is_no_function_is_refused(line_of, tmp_path):
    """A number, say."""
    (tmp_path / "rewards.py").write_text("f = 3\n")
    assert line_of("rewards.py:f") == "Reward r (rewards.py:f) is no function; found a value of type int."


@pytest.mark.parametrize(
    ("text", "found", "hint"),
    [
        ("def f(:\n", "SyntaxError: invalid syntax (rewards.py, line 1)", "Correct the file and start again."),
        (
            "x = 1\n1 / 0\n",
            "ZeroDivisionError: division by zero (rewards.py, line 2)",
            "Correct the file and start again.",
        ),
        ("import sys\nsys.exit(0)\n", "SystemExit: 0 (rewards.py, line 2)", "Correct the file and start again."),
        (
            "import no_such_module\n",
            "ModuleNotFoundError: No module named 'no_such_module' (rewards.py, line 1)",
            "Install the module, or put it beside the recipe.",
        ),
        (
            "from .other import x\n",
            "ImportError: attempted relative import with no known parent package (rewards.py, line 1)",
            "Import modules beside the file by their name, without the dot.",
        ),
        ("import os\nos._exit(4)\n", "the process ended with exit code 4", "Correct the file and start again."),
    ],
)
def test_a_file_that_cannot_be_imported_says_why(line_of, tmp_path, text, found, hint):
    """Exception, message, line, next step."""
    (tmp_path / "rewards.py").write_text(text)
    assert line_of("rewards.py:f") == f"Reward r (rewards.py:f) cannot be imported; found {found}. {hint}"


def test_a_module_that_is_not_installed_says_so(line_of):
    """package.module:function."""
    line = line_of("no_such_package.rewards:f")
    assert (
        "cannot be imported; found ModuleNotFoundError: No module named 'no_such_package'. Install the module" in line
    )


def test_an_import_that_hangs_is_given_up(line_of, tmp_path):
    """Start-up has its own limit."""
    (tmp_path / "rewards.py").write_text("while True: pass\n")
    begin = time.monotonic()
    assert "cannot be imported; found took longer than 0.5 s" in line_of("rewards.py:f", startup_limit_s=0.5)
    assert time.monotonic() - begin < 4


def test_a_function_without_python_source_cannot_be_recorded(line_of):
    """The record holds the text of every reward."""
    assert line_of("math:fsum") == (
        "Reward r (math:fsum) has no Python source file, so it could not be recorded; found math; "
        "expected a function written in a .py file."
    )


def test_a_missing_column_is_found_before_training(start):
    """An argument without a default needs a column of its name."""
    runner = start("def f(completions, target, numbers=None, **_): return []")
    runner.check_columns(["target", "x"])
    with pytest.raises(RewardError) as caught:
        runner.check_columns(["targets", "x"])
    assert str(caught.value) == (
        "Reward f needs the argument 'target', and the prompt set has no such column; found the columns targets, x. "
        "Map it in the recipe: prompts.fields: {target: targets}."
    )


def test_one_bad_source_among_good_ones_leaves_no_process_behind(tmp_path, process_count):
    """Nothing half-started."""
    (tmp_path / "rewards.py").write_text("def f(completions, **_): return []\n")
    configs = [RewardConfig(name=name, source=f"rewards.py:{name}") for name in ("f", "g")]
    with pytest.raises(RewardError, match="has no function g"):
        RewardRunner(configs, tmp_path)
    assert process_count() == 0
