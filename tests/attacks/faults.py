"""A writer whose system calls fail: strace makes the n-th call of a kind return an error, or kills the process there.

After each fault the record, if there is one, verifies, has every event whose append returned, and takes the next. The
fault must have fired, else nothing was shown. Run the whole campaign, every call once: make faults.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from grpo_audit.ledger.project import NewEvent, Project
from grpo_audit.record.events import Annotation
from grpo_audit.verify import verify

CALLS = ("pwrite64", "fdatasync", "fsync", "write", "ftruncate", "rename", "link", "unlink")
FAULTS = {"EIO": "error=EIO", "ENOSPC": "error=ENOSPC", "KILL": "signal=KILL"}
_APPENDS = 4
_LIMIT_S = 120
# writev is not among the calls: what the writer says is no part of the experiment
WRITER = f"""
import os, sys
from grpo_audit.errors import GrpoAuditError, StorageError
from grpo_audit.ledger.project import NewEvent, Project
from grpo_audit.record.events import Annotation
note = Annotation(author="a", field="f", value="v", reason="r" * 500)
try:
    with Project.open(sys.argv[1], mode="create") as project:
        for _ in range({_APPENDS}):
            try:
                size = project.append([NewEvent(note, None, {{"text": os.urandom(3000)}}) for _ in range(3)]).size
            except StorageError:
                continue
            os.writev(1, [b"%d\\n" % size])
except GrpoAuditError as error:
    os.writev(2, [str(error).encode()])
    sys.exit(int(error.exit_code))
"""


@dataclass(frozen=True)
class Fault:
    """One fault: which call, the how manieth, and what happens there."""

    call: str
    number: int
    """From 1."""
    fault: str


@dataclass(frozen=True)
class Result:
    """What became of the writer and the record."""

    fault: Fault
    fired: bool
    durable: int
    """Events that the writer was told are durable; 0 for none."""
    events: int
    """Events of the record afterwards; 0 when there is none."""
    problem: str
    """Why this is no good outcome; empty when it is one."""


def has_strace() -> bool:
    """Whether strace is there and may trace."""
    strace = shutil.which("strace")
    return strace is not None and subprocess.run([strace, "-qq", "-o", os.devnull, "true"]).returncode == 0


def _run(folder: Path, *options: str) -> tuple[subprocess.CompletedProcess[bytes], str]:
    log = folder / "strace.log"
    environment = {
        **os.environ,
        "GRPO_AUDIT_HOME": str(folder / "home"),
        "PYTHONPATH": os.pathsep.join(sys.path),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [
        "strace",
        "-f",
        "--seccomp-bpf",
        "-qq",
        "-o",
        str(log),
        *options,
        sys.executable,
        "-c",
        WRITER,
        str(folder / "record.db"),
    ]
    done = subprocess.run(command, capture_output=True, env=environment, timeout=_LIMIT_S)
    return done, log.read_text(errors="replace")


def calls(folder: Path) -> dict[str, int]:
    """How often the writer makes each call when nothing fails."""
    done, log = _run(folder, "-e", f"trace={','.join(CALLS)}")
    assert done.returncode == 0, done.stderr
    return dict(Counter(re.findall(r"^\d+ +(\w+)\(", log, re.MULTILINE)))


def inject(fault: Fault, folder: Path) -> Result:
    """Run the writer with one fault and judge what is left."""
    what = f"inject={fault.call}:{FAULTS[fault.fault]}:when={fault.number}"
    try:
        # with a filter strace 6.1 does not always deliver the signal
        only = [] if fault.fault == "KILL" else ["-e", f"trace={fault.call}"]
        done, log = _run(folder, *only, "-e", what)
    except subprocess.TimeoutExpired:
        return Result(fault, True, 0, 0, f"the writer had not ended after {_LIMIT_S} s")
    killed = fault.fault == "KILL"
    fired = "+++ killed by SIGKILL" in log if killed else "(INJECTED)" in log
    said = [int(line) for line in done.stdout.split()]
    durable = max(said, default=0)
    problem = ""
    if b"Traceback" in done.stderr:
        problem = f"a traceback: {done.stderr.decode()[-500:]}"
    elif killed and done.returncode not in (-9, 137):
        problem = f"exit code {done.returncode} instead of a kill"
    elif not killed and done.returncode not in (0, 5):
        problem = f"exit code {done.returncode}: {done.stderr.decode()[-500:]}"
    events, after = _judge(folder, durable)
    return Result(fault, fired, durable, events, problem or after)


def _judge(folder: Path, durable: int) -> tuple[int, str]:
    """Events of the record, and what is wrong with it."""
    record = folder / "record.db"
    before = os.environ.get("GRPO_AUDIT_HOME")
    os.environ["GRPO_AUDIT_HOME"] = str(folder / "home")
    try:
        events = 0
        if record.exists():
            report = verify(record)
            events = report.events
            if not report.ok:
                return events, f"does not verify: {[(check.name, check.detail) for check in report.failures]}"
        if events < durable:
            return events, f"{durable} events were said to be durable, there are {events}"
        with Project.open(record, mode="create") as project:
            note = Annotation(author="a", field="f", value="v", reason="r")
            if project.append([NewEvent(note, None)]).size <= events:
                return events, "the next event was not appended"
        report = verify(record)
        return events, "" if report.ok else f"does not verify after the next event: {report.failures}"
    except Exception as error:  # noqa: BLE001  any error here is an outcome that the campaign reports
        return 0, f"{type(error).__name__}: {error}"
    finally:
        if before is None:
            del os.environ["GRPO_AUDIT_HOME"]
        else:
            os.environ["GRPO_AUDIT_HOME"] = before


def all_faults(counts: dict[str, int], stride: int) -> Iterator[Fault]:
    """Every n-th call of each kind, with every fault."""
    for call, count in counts.items():
        for number in range(1, count + 1, stride):
            for fault in FAULTS:
                yield Fault(call, number, fault)


def main() -> int:
    """The campaign."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stride", type=int, default=1, help="every how manieth call; 1 is all")
    options = parser.parse_args()
    if not has_strace():
        print("strace is not there, or may not trace; on Debian: apt-get install strace", file=sys.stderr)
        return 2
    tally: Counter[tuple[str, str]] = Counter()
    bad: list[Result] = []
    with tempfile.TemporaryDirectory() as root:
        first = Path(root) / "count"
        first.mkdir()
        counts = calls(first)
        for index, fault in enumerate(all_faults(counts, options.stride)):
            folder = Path(root) / str(index)
            folder.mkdir()
            result = inject(fault, folder)
            shutil.rmtree(folder)
            tally[fault.call, fault.fault] += result.fired
            if result.problem or not result.fired:
                bad.append(result)
                print(result, file=sys.stderr)
    print(f"{'call':<12}{'made':>6}" + "".join(f"{fault:>8}" for fault in FAULTS))
    for call, count in counts.items():
        print(f"{call:<12}{count:>6}" + "".join(f"{tally[call, fault]:>8}" for fault in FAULTS))
    measured = {"fired": sum(tally.values()), "calls": counts, "bad": [str(result) for result in bad]}
    print(json.dumps({"benchmark": "faults", "target": "no bad outcome", "measured": measured, "met": not bad}))
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
