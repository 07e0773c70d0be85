"""Reward code of a foreign record does no harm to whoever verifies it, and cannot make a check pass by breaking it."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from true_record import resealed

from grpo_audit.ledger.project import NewEvent
from grpo_audit.record import events as e
from grpo_audit.record.identity import bytes_digest
from grpo_audit.rewards.sandbox import SandboxError
from grpo_audit.verify.recompute import rerun
from grpo_audit.verify.recompute.rerun import sandbox_problem
from grpo_audit.verify.verdict import Check, Outcome

Level1 = Callable[..., dict[int, Check]]
needs_sandbox = pytest.mark.skipif(
    sandbox_problem("strict") is not None, reason="this machine has no namespaces for the sandbox"
)


def with_source(text: str, *, time_limit_s: float = 1.0, **identity: Any) -> Callable[[list[NewEvent]], None]:
    """The record as if its first source had been this text all along."""

    def lie(events: list[NewEvent]) -> None:
        for place, new in enumerate(events):
            payload = new.payload
            if isinstance(payload, e.RunRegistered):
                first = payload.rewards[0].model_dump() | {
                    "source_digest": bytes_digest(text.encode()),
                    "time_limit_s": time_limit_s,
                    "modules": {},
                    **identity,
                }
                config = payload.model_copy(deep=True).config
                config["rewards"][0]["time_limit_s"] = time_limit_s
                fields = {"rewards": [first, *(item.model_dump() for item in payload.rewards[1:])], "config": config}
                changed = payload.model_dump() | fields
                events[place] = NewEvent(e.RunRegistered.model_validate(changed), new.run_id, new.content)
            elif isinstance(payload, e.Artifact) and payload.name == "vowels":
                artifact = payload.model_copy(update={"digest": bytes_digest(text.encode()), "size": len(text)})
                events[place] = NewEvent(artifact, new.run_id, {"text": text.encode()})

    return lie


@pytest.fixture
def listener() -> Iterator[tuple[socket.socket, int]]:
    """A server on this machine that nobody should reach."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        yield server, server.getsockname()[1]


HARM = {
    "reads a file": "open({secret!r}).read()",
    "writes a file": "open({target!r}, 'w').write('x')",
    "writes where it stands": "open('/usr/x', 'w').write('x')",
    "writes into the installed packages": "open(__import__('grpo_audit').__file__, 'w').write('x')",
    "reaches the network": "__import__('socket').create_connection(('127.0.0.1', {port}), timeout=1)",
    "sees other processes": "open('/proc/{pid}/environ').read()",
    "kills the verifier": "__import__('os').kill({pid}, 9)",
    "runs a program": "__import__('subprocess').run(['sh', '-c', 'touch {target}'], check=True); open({target!r})",
}


@needs_sandbox
@pytest.mark.parametrize("name", HARM)
def test_harm_is_not_done(
    name: str, told: list[NewEvent], tmp_path: Path, level_1: Level1, listener: tuple[socket.socket, int]
) -> None:
    """Files, network and processes of the verifier are out of reach; the attempt is an error of the row, which the
    record does not have, so that step (22) fails."""
    secret, target = tmp_path / "secret", tmp_path / "target"
    secret.write_text("secret")
    action = HARM[name].format(secret=str(secret), target=str(target), port=listener[1], pid=os.getpid())
    text = f"def vowels(completions, **_):\n    {action}\n    return [1.0 for _ in completions]\n"
    check = level_1(resealed(told, tmp_path / "record.db", with_source(text)), sample=1)[22]
    assert check.outcome is Outcome.FAILED
    assert "run again it fails" in check.detail
    assert not target.exists()
    with pytest.raises(TimeoutError):
        listener[0].accept()


BREAKING = {
    "endless loop": "while True: pass",
    "endless loop without Python": "9 ** 9 ** 9 ** 9",
    "fork bomb": "import os\n    while True: os.fork()",
    "fork bomb that leaves its group": "import os\n    while True:\n        if not os.fork(): os.setsid()",
    "memory": "x = bytearray(1 << 40)",
    "memory bit by bit": "x = []\n    while True: x.append(bytearray(1 << 26))",
    "exit": "import os; os._exit(0)",
    "signal to its keeper": "import os; os.kill(os.getppid(), 9)",
    "closes every file": "import os\n    os.closerange(0, 64)",
    "writes to every file": "import os\n    for fd in range(64):\n"
                            "        try: os.write(fd, b'{' * 100)\n        except OSError: pass",
    "endless answer": "import os\n    while True: os.write(1, b'x' * 65536)",
    "too many rewards": "return [1.0] * 10_000_000",
    "no numbers": "return [float('nan') for _ in completions]",
    "exception that cannot be shown": "class E(Exception):\n        def __str__(self): raise E\n    raise E",
}  # fmt: skip


@needs_sandbox
@pytest.mark.parametrize("name", BREAKING)
def test_breaking_the_sandbox_is_no_way_to_pass(
    name: str, told: list[NewEvent], tmp_path: Path, level_1: Level1
) -> None:
    """A source that hangs, dies or floods ends within its limits, and its recorded rewards count as wrong."""
    text = f"def vowels(completions, **_):\n    {BREAKING[name]}\n    return [1.0 for _ in completions]\n"
    record = resealed(told, tmp_path / "record.db", with_source(text, time_limit_s=0.1))
    begin = time.monotonic()
    check = level_1(record, sample=1)[22]
    assert check.outcome is Outcome.FAILED, check.detail
    assert time.monotonic() - begin < 60


@needs_sandbox
def test_what_a_source_prints_is_thrown_away(
    told: list[NewEvent], tmp_path: Path, level_1: Level1, capfd: pytest.CaptureFixture[str]
) -> None:
    """Prints on either stream neither reach the terminal nor disturb the answer: it is the values that are wrong."""
    text = (
        "import sys\ndef vowels(completions, **_):\n    print('\\x1b]0;hello'); print('{}', file=sys.stderr)\n"
        "    return [77.0 for _ in completions]\n"
    )
    check = level_1(resealed(told, tmp_path / "record.db", with_source(text)), sample=1)[22]
    assert check.outcome is Outcome.FAILED
    assert "run again it gives 77" in check.detail
    assert "hello" not in "".join(capfd.readouterr())


@needs_sandbox
@pytest.mark.parametrize("file", ["../../evil.py", "/evil.py", "a/../../evil.py", "a//b.py", ""])
def test_file_names_lead_nowhere(file: str, told: list[NewEvent], tmp_path: Path, level_1: Level1) -> None:
    """A recorded module whose name leads out of its folder is not run, and the step names the source."""
    text = "def vowels(completions, **_):\n    return [1.0 for _ in completions]\n"
    module = b"x = 1\n"

    def lie(events: list[NewEvent]) -> None:
        with_source(text, modules={file: bytes_digest(module)})(events)
        place = next(place for place, new in enumerate(events) if isinstance(new.payload, e.Artifact))
        artifact = events[place].payload.model_copy(
            update={"role": "reward source", "name": f"vowels/{file}", "digest": bytes_digest(module)}
        )
        events.insert(place, NewEvent(artifact, events[place].run_id, {"text": module}))

    check = level_1(resealed(told, tmp_path / "record.db", lie), isolation="limits", sample=1)[22]
    assert "vowels not run again: it names the file" in check.detail


def test_without_a_sandbox_nothing_runs(
    told: list[NewEvent], tmp_path: Path, level_1: Level1, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine without namespaces recorded code does not run: there is nothing to check, and the step says why."""

    def refused(*_: object, **__: object) -> None:
        raise SandboxError("unshare: Operation not permitted")

    monkeypatch.setattr(rerun, "describe", refused)
    monkeypatch.setattr(rerun, "run", refused)
    check = level_1(resealed(told, tmp_path / "record.db", lambda _: None))[22]
    assert check.outcome is Outcome.NOTHING
    assert "no sandbox on this machine (unshare: Operation not permitted)" in check.detail


def test_trusted_code_runs_without_namespaces(told: list[NewEvent], tmp_path: Path, level_1: Level1) -> None:
    """Whoever says that the code is trusted gets its rewards checked on any machine."""
    check = level_1(resealed(told, tmp_path / "record.db", lambda _: None), isolation="limits")[22]
    assert check.outcome is Outcome.PASSED, check.detail


def test_judges_and_reward_models_are_named(told: list[NewEvent], tmp_path: Path, level_1: Level1) -> None:
    """What rests on weights or a network is not run again, and is named."""
    text = "def vowels(completions, **_):\n    raise SystemExit\n"
    check = level_1(resealed(told, tmp_path / "record.db", with_source(text, kind="judge")), sample=1)[22]
    assert check.outcome is Outcome.PASSED
    assert "vowels (judge) not run again" in check.detail


def test_source_that_cannot_be_loaded_is_named(told: list[NewEvent], tmp_path: Path, level_1: Level1) -> None:
    """A library that is not installed here says nothing about the record: the source is named and not checked."""
    text = "import a_library_nobody_has\n"
    check = level_1(resealed(told, tmp_path / "record.db", with_source(text)), sample=1)[22]
    assert check.outcome is Outcome.PASSED
    assert "vowels not run again: it cannot be loaded" in check.detail


@needs_sandbox
def test_shipped_source_runs_from_its_recorded_text(told: list[NewEvent], tmp_path: Path, level_1: Level1) -> None:
    """A source named ``package.module:function`` runs from the record, over the package installed here; what the record
    does not hold, it finds in the installed one."""
    text = (
        "from grpo_audit.rewards.answers import fold\nimport grpo_audit.rewards.countdown as here\n\n"
        "def vowels(completions, **_):\n"
        "    recorded = here.__file__.endswith('src/grpo_audit/rewards/countdown.py')\n"
        "    return [5.0 if recorded else 6.0] * len(completions)\n"
    )
    source = {"source": "grpo_audit.rewards.countdown:vowels", "source_file": "countdown.py"}
    check = level_1(resealed(told, tmp_path / "record.db", with_source(text, **source)), sample=1)[22]
    assert "run again it gives 5" in check.detail
