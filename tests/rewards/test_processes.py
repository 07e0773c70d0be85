"""Reward processes never outlive the run: not its end, not Ctrl-C, not kill -9."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import suppress
from pathlib import Path

import pytest

PARENT = """
    import sys
    from pathlib import Path
    from grpo_audit.config.sections import RewardConfig
    from grpo_audit.rewards.runner import RewardRunner

    config = RewardConfig(name="f", source="rewards.py:f", time_limit_s=100.0)
    with RewardRunner([config], Path(sys.argv[1])) as runner:
        print("ready", flush=True)
        runner.score(["p"], ["c"], {})
        print("scored", flush=True)
        sys.stdin.read()
"""

CALLS = {
    "idle": "return [1.0]",
    "sleeping": "time.sleep(1000)",
    "spinning": "while True: pass",
    "in one huge power": "9 ** 9 ** 9",
    "waiting for a child": "subprocess.run(['sleep', '1000'])",
}


def alive(folder: Path) -> list[int]:
    """Running processes (a zombie is none) that wrote down their id, or belong to the group of one that did: the guard
    of a reward process, and what user code started."""
    written = {int(file.stem) for file in folder.glob("*.pid")}
    running = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, group = entry.read_text().rpartition(")")[2].split()[:3]
        except (FileNotFoundError, ProcessLookupError):
            continue
        pid = int(entry.parent.name)
        if state != "Z" and (pid in written or int(group) in written):
            running.append(pid)
    return running


def wait_until(condition, seconds: float = 8.0) -> bool:
    """Whether it came true in time."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


def heed_ctrl_c() -> None:
    """A shell's background jobs ignore Ctrl-C, and so would everything they start; these tests may be one."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def parent(tmp_path: Path):  # type: ignore[no-untyped-def]
    """Start a program that scores one row with the given function body; wait until the function runs."""
    started: list[subprocess.Popen[str]] = []

    def parent(body: str) -> subprocess.Popen[str]:
        (tmp_path / "rewards.py").write_text(
            "import os, subprocess, time\n"
            "def f(completions, **_):\n"
            f"    open(os.path.join({str(tmp_path)!r}, f'{{os.getpid()}}.pid'), 'w').close()\n"
            f"    {body}\n"
        )
        program = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(PARENT), str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=heed_ctrl_c,
        )
        started.append(program)
        assert program.stdout is not None
        assert program.stdout.readline() == "ready\n"
        assert wait_until(lambda: bool(list(tmp_path.glob("*.pid"))))
        return program

    yield parent
    for program in started:
        program.kill()
        for pid in alive(tmp_path):  # only where a test failed; they would hold the pipes open
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        program.communicate()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("body", CALLS.values(), ids=CALLS)
def test_kill_9_of_the_trainer_ends_its_reward_processes(parent, tmp_path, body):
    """Whatever they are doing, also when no Python code of theirs can run."""
    program = parent(body)
    assert len(alive(tmp_path)) >= 2  # the process and its guard
    os.kill(program.pid, signal.SIGKILL)
    assert wait_until(lambda: not alive(tmp_path))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("body", [CALLS["sleeping"], CALLS["spinning"]], ids=["sleeping", "spinning"])
def test_ctrl_c_ends_the_run_at_once_and_cleanly(parent, tmp_path, body):
    """SIGINT to the whole foreground group, as a terminal sends it: one KeyboardInterrupt, of the trainer, and no
    waiting for the call."""
    program = parent(body)
    begin = time.monotonic()
    os.killpg(program.pid, signal.SIGINT)
    _, stderr = program.communicate(timeout=10)
    assert time.monotonic() - begin < 5
    assert stderr.count("KeyboardInterrupt") == 1
    assert wait_until(lambda: not alive(tmp_path))


def test_a_closed_runner_leaves_no_process(start, score, process_count):
    """The end of the with block, also after a kill in between."""
    runner = start("def f(completions, **_):\n    while True: pass\n", {"name": "f", "time_limit_s": 0.2})
    score(runner, ["x"])
    runner.close()
    assert process_count() == 0


def test_a_killed_call_leaves_no_child_behind(start, score, tmp_path):
    """What user code started dies with it."""
    code = """
        import pathlib, subprocess, time
        def f(completions, **_):
            child = subprocess.Popen(["sleep", "1000"])
            pathlib.Path(__file__).with_name(f"{child.pid}.pid").touch()
            time.sleep(1000)
        """
    runner = start(code, {"name": "f", "time_limit_s": 0.4})
    assert score(runner, ["x"])[0].errors == {"f": "took longer than 0.4 s"}
    assert list(tmp_path.glob("*.pid"))
    assert wait_until(lambda: not alive(tmp_path))
