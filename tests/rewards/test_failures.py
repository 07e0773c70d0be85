"""Whatever user code does wrong becomes the error of the guilty rows, and training goes on."""

from __future__ import annotations

import time

import pytest

COUNT = "abcd"


def errors(rows):
    """Error of each row of the one source, None where there is none."""
    return [row.errors.get("f") for row in rows]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero (rewards.py, line 5)"),
        ("raise SystemExit(3)", "SystemExit: 3 (rewards.py, line 5)"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt (rewards.py, line 5)"),
        (
            "raise type('E', (Exception,), {'__str__': lambda self: 1 / 0})",
            "E: (its message cannot be shown) (rewards.py",
        ),
        ("import os; os._exit(7)", "the process ended with exit code 7"),
        ("import os; os.abort()", "the process died (SIGABRT)"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "the process died (SIGKILL)"),
        ("return [1.0] * (len(completions) + 1)", "returned 2 rewards for 1 completion"),
        ("return 1.0", "returned a value of type float; expected a list of rewards"),
        ("return 'abcd'[:len(completions)]", "returned a value of type str; expected a list of rewards"),
        ("return {'a': 1}", "returned a value of type dict; expected a list of rewards"),
        ("return None", "returned a value of type NoneType; expected a list of rewards"),
        ("return (1.0 for _ in completions)", "returned a value of type generator; expected a list of rewards"),
        ("f(completions)", "RecursionError: maximum recursion depth exceeded"),
    ],
)
def test_a_row_that_breaks_the_call_is_the_only_one_lost(start, score, body, message):
    """Raising, exiting, dying, the wrong length or type: the call is repeated row by row, and c alone is guilty."""
    runner = start(
        f"""
def f(completions, **_):
    if "c" not in completions:
        return [1.0] * len(completions)
    {body}
"""
    )
    rows = score(runner, list(COUNT))
    assert [row.total for row in rows] == [1.0, 1.0, None, 1.0]
    told = errors(rows)
    assert told[0] is told[1] is told[3] is None
    assert message in told[2]
    assert "\n" not in told[2]
    assert score(runner, ["a"])[0].total == 1.0  # and the source works again


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("float('nan')", "returned nan; expected a finite number or None"),
        ("float('-inf')", "returned -inf; expected a finite number or None"),
        ("'1.0'", "returned a value of type str; expected a number or None"),
        ("[1.0]", "returned a value of type list; expected a number or None"),
        ("1j", "returned a value of type complex; expected a number or None"),
        (
            "10 ** 400",
            "returned a value of type int that is no number: OverflowError: int too large to convert to float",
        ),
    ],
)
def test_a_bad_value_is_the_error_of_its_row(start, score, value, message):
    """The list tells which row it is: no second call is made, and the other values stand."""
    runner = start(
        f"""
calls = 0
def f(completions, **_):
    global calls
    calls += 1
    return [{value} if c == "c" else float(calls) for c in completions]
"""
    )
    rows = score(runner, list(COUNT))
    assert [row.total for row in rows] == [1.0, 1.0, None, 1.0]
    assert errors(rows) == [None, None, message, None]


HANGS = {
    "a sleep": "import time; time.sleep(1000)",
    "a loop": "while True: pass",
    "one huge power, which lets no other thread run": "9 ** 9 ** 9",
    "a child that is waited for": "import subprocess; subprocess.run(['sleep', '1000'])",
    "a caught exception in a loop": "while True:\n            try: pass\n            except BaseException: pass",
}


@pytest.mark.parametrize("body", HANGS.values(), ids=HANGS)
def test_a_row_that_hangs_is_killed_at_the_time_limit(start, score, body):
    """Nothing in user code can hold training up for longer, and only the guilty row is lost."""
    runner = start(
        f"""
def f(completions, **_):
    if "c" in completions:
        {body}
    return [1.0] * len(completions)
""",
        {"name": "f", "time_limit_s": 0.4},
    )
    begin = time.monotonic()
    rows = score(runner, list(COUNT))
    assert [row.total for row in rows] == [1.0, 1.0, None, 1.0]
    assert errors(rows)[2] == "took longer than 0.4 s"
    assert time.monotonic() - begin < 5


def test_many_hanging_rows_do_not_take_for_ever(start, score):
    """The retry of all rows together has a limit: four time limits, and the row that is under way."""
    runner = start("def f(completions, **_):\n    while True: pass\n", {"name": "f", "time_limit_s": 0.3})
    begin = time.monotonic()
    rows = score(runner, ["x"] * 256)
    assert time.monotonic() - begin < 6 * 0.3 + 3
    told = errors(rows)
    assert told[0] == "took longer than 0.3 s"
    assert told[-1] == "not scored: trying the rows one by one took longer than 1.2 s"
    assert all(row.total is None for row in rows)


def test_one_failing_source_does_not_touch_another(start, score):
    """A source that dies leaves the others' rewards whole."""
    runner = start(
        """
        import os
        def f(completions, **_): os._exit(1)
        def g(completions, **_): return [2.0] * len(completions)
        """,
        {"name": "f", "role": "shadow"},
        "g",
    )
    assert [row.total for row in score(runner, ["a", "b"])] == [2.0, 2.0]


def test_a_missing_argument_is_told_by_the_function(start, score):
    """The check before training is check_columns; without it every row says what is missing."""
    runner = start("def f(completions, target): return [1.0]")
    assert "missing 1 required positional argument: 'target'" in errors(score(runner, ["a"]))[0]


def test_a_source_that_is_edited_during_the_run_is_never_run(start, score, tmp_path):
    """The record names the code by digest: a process that starts again refuses other code."""
    runner = start(
        """
        import os
        def f(completions, **_):
            if "die" in completions: os._exit(1)
            return [1.0] * len(completions)
        """
    )
    (tmp_path / "rewards.py").write_text(
        "open('ran', 'w')\ndef f(completions, **_): return [100.0] * len(completions)\n"
    )
    assert [row.total for row in score(runner, ["a", "b"])] == [1.0, 1.0]  # the loaded one goes on
    score(runner, ["die"])
    row = score(runner, ["a"])[0]
    assert row.total is None
    assert row.errors["f"] == "could not be loaded again: the source changed since the run began: rewards.py"
    assert not (tmp_path / "ran").exists()


def test_long_messages_are_shortened(start, score):
    """An exception that carries a megabyte of text does not fill the record."""
    runner = start("def f(completions, **_): raise ValueError('x' * 10**6)")
    assert len(errors(score(runner, ["a"]))[0]) < 400


def test_large_batches_pass(start, score):
    """More bytes than any pipe holds, both ways."""
    runner = start("def f(completions, **_): return [float(len(c)) for c in completions]")
    assert score(runner, ["x" * 1_000_000] * 20)[19].total == 1_000_000.0
