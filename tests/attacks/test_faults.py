"""System calls that fail under a writer; ``make faults`` makes every one of them fail. Kills at random moments, a full
disk, folders that cannot be written, two writers, forks and clocks: tests/verify/test_crash.py and tests/ledger.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from attacks.faults import FAULTS, Fault, calls, has_strace, inject

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not has_strace(), reason="strace is not installed or may not trace (Debian: strace)"),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """How often the writer makes each call."""
    return calls(tmp_path_factory.mktemp("count"))


def test_the_writer_writes(made: dict[str, int]) -> None:
    """There are calls to fail: pages written, and every commit synchronised."""
    assert made["pwrite64"] > 20 and made["fdatasync"] + made.get("fsync", 0) > 4


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("call", ["pwrite64", "fdatasync", "fsync"])
@pytest.mark.parametrize("share", [0.1, 0.6, 0.95])
def test_a_call_that_fails(made: dict[str, int], tmp_path: Path, call: str, fault: str, share: float) -> None:
    """Early, midway or late: the fault fires, what was durable is there, the record holds and goes on."""
    number = max(1, round(share * made[call]))
    result = inject(Fault(call, number, fault), tmp_path)
    assert result.fired
    assert not result.problem, result
