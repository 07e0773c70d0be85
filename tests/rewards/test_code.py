"""Code against tests: right code is right, and nothing that a program does inside the sandbox helps it or harms us."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st
from rewards.attacks import HOSTILE
from rewards.code_attacks import ATTACKS, BOMBS

from grpo_audit.config.sections import RewardConfig
from grpo_audit.rewards import code, sandbox
from grpo_audit.rewards.code_harness import decode, encode
from grpo_audit.rewards.code_tests import UnusableTests, read_tests
from grpo_audit.rewards.runner import RewardRunner
from grpo_audit.rewards.sandbox import Limits, SandboxError, describe, run


def _strict() -> bool:
    """Whether the kernel allows namespaces, asked of another program: a sandbox of ours that is broken must fail these
    tests, not skip them."""
    program = shutil.which("unshare")
    command = [str(program), "-mpniu", "-f", *([] if os.getuid() == 0 else ["-U"]), "true"]
    return program is not None and subprocess.run(command, capture_output=True, check=False).returncode == 0


STRICT = _strict()
needs_namespaces = pytest.mark.skipif(not STRICT, reason="this machine allows no namespaces")
ISOLATION: sandbox.Isolation = "strict" if STRICT else "limits"
SQUARE = ["assert f(2) == 4", "assert f(-3) == 9"]


def tried(source, tests=SQUARE, **options):
    """The reward of one program in a fence."""
    options = {"isolation": ISOLATION, "seconds": 1.0} | options
    return code.score([f"Here:\n```python\n{source}\n```\n"], [tests], **options)[0]


@needs_namespaces
def test_the_sandbox_holds_here():
    """Its own trial program finds no way out."""
    assert describe(Limits()).startswith("Linux namespaces (mount, process, network, IPC)")


def test_right_code_is_right_and_wrong_code_is_not():
    """All tests must pass; partial gives the share."""
    assert tried("def f(x): return x * x") == 1.0
    assert tried("def f(x): return 4") == 0.0
    assert tried("def f(x): return 4", partial=True) == 0.5
    assert tried("def f(x): raise ValueError", partial=True) == 0.0
    assert tried("def g(x): return x * x") == 0.0
    assert tried("def f(x) return x") == 0.0


def test_the_three_forms_of_tests():
    """Asserts, calls and whole programs; a program's output is compared line by line."""
    assert tried("def f(a, b): return [a, b]", [{"call": "f", "args": [1, "x"], "expected": [1, "x"]}]) == 1.0
    assert tried("print(int(input()) ** 2)", [{"input": "3\n", "output": "9"}, {"input": "4", "output": "16\n"}]) == 1.0
    assert tried("print(9)", [{"input": "3\n", "output": "9"}, {"input": "4", "output": "16"}], partial=True) == 0.5
    assert (
        tried("def f(x): return {x: (1, 2.5)}", "assert f('a') == {'a': (1, 2.5)}\nassert f(1) == {1: (1, 2.5)}") == 1.0
    )
    assert tried("import sys\nprint(9)\nsys.exit(1)", [{"input": "", "output": "9"}]) == 0.0


def test_values_keep_their_types():
    """True is not 1, a text is not a number, a tuple is no list where the test is Python; 2.0 is 2."""
    assert tried("def f(x): return True", ["assert f(1) == 1"]) == 0.0
    assert tried("def f(x): return '4'", ["assert f(2) == 4"]) == 0.0
    assert tried("def f(x): return [1]", ["assert f(1) == (1,)"]) == 0.0
    assert tried("def f(x): return (1,)", [{"call": "f", "args": [1], "expected": [1]}]) == 1.0
    assert tried("def f(x): return 2.0", ["assert f(1) == 2"]) == 1.0
    assert tried("def f(x): return float('nan')", ["assert f(1) == 2"]) == 0.0


@pytest.mark.parametrize("source", ATTACKS.values(), ids=ATTACKS)
def test_attacks_earn_nothing_and_end_in_time(source):
    """0, within the limit and a little; nothing is printed, nothing raised."""
    begin = time.monotonic()
    assert tried(source) == 0.0
    assert time.monotonic() - begin < 5


@needs_namespaces
@pytest.mark.parametrize(
    "bomb",
    BOMBS.values(),
    ids=BOMBS,
)
def test_no_process_is_left_behind(bomb):
    """Whatever it started ends with it, also what left its session or asked to outlive its parent."""
    before = sandbox_users()
    begin = time.monotonic()
    assert tried(bomb) == 0.0
    assert time.monotonic() - begin < 5
    end = time.monotonic() + 3
    while sandbox_users() - before and time.monotonic() < end:
        time.sleep(0.05)
    assert not sandbox_users() - before


@needs_namespaces
def test_a_running_program_is_seen_by_that_check():
    """Else the test above would prove nothing."""
    before = sandbox_users()
    runner = threading.Thread(target=run, args=("import time\ntime.sleep(1)", b"", Limits()))
    runner.start()
    seen: set[int] = set()
    while runner.is_alive():
        seen |= sandbox_users() - before
    assert len(seen) >= 2  # the watcher and the program
    assert not sandbox_users() - before


def sandbox_users() -> set[int]:
    """Processes with a session of the sandbox: their root is not ours."""
    found = set()
    own = Path("/").stat()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            root = (entry / "root").stat()
        except OSError:
            continue
        if (root.st_dev, root.st_ino) != (own.st_dev, own.st_ino):
            found.add(int(entry.name))
    return found


@needs_namespaces
def test_the_network_is_out_of_reach():
    """A real server on this machine hears nothing, by address, by name or by a socket in the file system's name."""
    server = socket.create_server(("127.0.0.1", 0))
    heard: list[object] = []
    threading.Thread(target=lambda: heard.append(_accept(server)), daemon=True).start()
    port = server.getsockname()[1]
    program = f"""
import socket
for family, address in ((socket.AF_INET, ("127.0.0.1", {port})), (socket.AF_INET, ("192.0.2.1", 80)),
                        (socket.AF_UNIX, "\\0x"), (socket.AF_INET6, ("::1", {port}))):
    try:
        s = socket.socket(family)
        s.settimeout(0.3)
        s.connect(address)
        print("reached", address)
    except OSError as error:
        print("no")
"""
    assert run(program, b"", Limits()).output.split() == [b"no"] * 4
    socket.create_connection(("127.0.0.1", port)).close()  # the server does listen
    time.sleep(0.1)
    server.close()
    assert heard == ["one"]


def _accept(server: socket.socket) -> str:
    server.accept()[0].close()
    return "one"


@needs_namespaces
def test_no_file_outside_can_be_read_or_written(tmp_path):
    """Neither ours nor the system's secrets; its own folder is small and gone afterwards."""
    secret = tmp_path / "tests.json"
    secret.write_text("the answers")
    secret.chmod(0o644)
    program = f"""
from pathlib import Path
import os
for name in ({str(secret)!r}, "/etc/passwd", "/proc/self/environ", "/proc/1/environ", {str(Path(__file__))!r},
             {str(Path.home() / ".bashrc")!r}):
    try: print("read", name, Path(name).read_text()[:9])
    except OSError: print("no")
for name in ({str(tmp_path / "x")!r}, "/x", "/usr/x", "/tmp/x", "/dev/x", {sys.base_prefix + "/x"!r}):
    try: Path(name).write_text("x"); print("wrote", name)
    except OSError: print("no")
for what in (lambda: os.chroot("."), lambda: os.mkdir("/m"), lambda: os.setuid(0), lambda: os.mknod("n", 0o60666, 1)):
    try: what(); print("did")
    except OSError: print("no")
Path("mine").write_text("x")
print("no")
"""
    ended = run(program, b"", Limits())
    assert ended.output.split() == [b"no"] * 17
    assert sorted(item.name for item in tmp_path.iterdir()) == ["tests.json"]


@needs_namespaces
def test_files_have_a_limit_and_leave_nothing(tmp_path):
    """Ten gigabytes, in one file or in many, stop at the limit; our disk does not see them."""
    program = """
n = 0
try:
    for i in range(100_000):
        with open(f"f{i}", "wb") as f:
            for _ in range(4): n += f.write(b"x" * (1 << 20))
except OSError: pass
print(n >> 20)
"""
    ended = run(program, b"", Limits(files_mb=8))
    assert int(ended.output) <= 8


@needs_namespaces
def test_environment_and_descriptors_are_not_handed_down(tmp_path, monkeypatch):
    """No key of ours is in its environment, no open file of ours in its descriptors."""
    monkeypatch.setenv("SECRET_KEY", "abc")
    handle = os.open(tmp_path, os.O_RDONLY)
    os.set_inheritable(handle, True)
    program = "import os\nprint(sorted(os.environ))\n"
    program += "for fd in range(3, 64):\n    try: os.fstat(fd); print('open', fd)\n    except OSError: pass\n"
    output = run(program, b"", Limits()).output
    os.close(handle)
    assert b"SECRET" not in output
    assert b"open" not in output


def test_what_is_enforced_is_found_by_trying_and_recorded(tmp_path):
    """The identity states it; the weaker isolation says what it does not do."""
    options = {"isolation": "limits", "seconds": 3.0}
    source = RewardConfig(name="c", source="grpo_audit.rewards.code:score", options=options, time_limit_s=60)
    with RewardRunner([source], tmp_path) as runner:
        runner.check_columns(["tests"])
        rows = runner.score(["p"], ["```\ndef f(x): return x * x\n```"], {"tests": [SQUARE]})
        identity = runner.identities()[0]
    assert rows[0].total == 1.0
    assert "resource limits only" in identity.facts["sandbox"]
    assert "not isolated" in identity.facts["sandbox"]
    assert identity.facts["sandbox_init.py"].startswith("sha256:")
    assert {"sandbox.py", "code_tests.py", "code_harness.py"} <= set(identity.modules)


def test_a_machine_without_namespaces_is_told_before_training(monkeypatch):
    """The default is never silently weakened."""
    monkeypatch.setattr(sandbox, "_INIT", str(Path(__file__).with_name("no_such_file.py")))
    with pytest.raises(SandboxError):
        describe(Limits())

    def refused(_: Limits) -> str:
        raise SandboxError("unshare: not permitted")

    monkeypatch.setattr(code, "describe", refused)
    with pytest.raises(
        ValueError, match="no sandbox on this machine: unshare: not permitted; allow user namespaces, or"
    ):
        code.ON_LOAD["score"](1.0, 512, 16, 8, 2, "strict")


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("code_in", ["fence", "tag", "whole"])
def test_hostile_completions_earn_nothing(text, code_in):
    """Whatever is taken for code."""
    assert code.score([text], [SQUARE], code_in=code_in, isolation=ISOLATION, seconds=0.5) == [0.0]


@pytest.mark.parametrize(
    "tests",
    [[], "", "[]", ["assert True"], ["assert f(g(1)) == 2"], ["x = 1"], ["assert f(1) == 2 == 2"], [{"input": "x"}], 3,
     ["assert f(1) == open('x')"], [{"call": "f", "args": "x"}], "[" * 100_000, [None]],
)  # fmt: skip
def test_tests_that_cannot_be_run_are_an_error(tests):
    """Above all no tests: a check that passes when given nothing to check is none."""
    with pytest.raises(UnusableTests):
        read_tests(tests)
    assert isinstance(tried("def f(x): return 1", tests), ValueError)


def test_no_tests_at_all_means_does_not_apply():
    """None in the column."""
    assert tried("def f(x): return 1", None) is None


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**200), 2**200) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=10,
)


@given(PLAIN)
@settings(max_examples=150, deadline=None)
def test_values_survive_the_way_out_of_the_sandbox(value):
    """Round trip through JSON, types kept apart."""
    again = decode(json.loads(json.dumps(encode(value))))
    assert again == value
    assert type(again) is type(value)
