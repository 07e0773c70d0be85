"""Energy counters of the machine: a made-up powercap tree and a made-up NVML."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from grpo_audit.record.energy import CounterError, EnergyMeter, grown, nvml_devices, rapl_zones
from grpo_audit.record.events import EventKind, PhaseFinished

RANGE = 1_000_000_000


def zone(root: Path, folder: str, name: str, energy: int) -> Path:
    """One zone of a powercap tree."""
    path = root / folder
    path.mkdir(parents=True)
    (path / "name").write_text(name + "\n")
    (path / "max_energy_range_uj").write_text(f"{RANGE}\n")
    (path / "energy_uj").write_text(f"{energy}\n")
    return path / "energy_uj"


class FakeNvml:
    """Two GPUs whose counters the test sets, in millijoules."""

    class NVMLError(Exception):
        """As the library's."""

    def __init__(self) -> None:
        self.energy: dict[int, int | Exception] = {0: 5_000, 1: 7_000}

    def nvmlInit(self) -> None:
        """Nothing to do."""

    def nvmlDeviceGetCount(self) -> int:
        """Two."""
        return len(self.energy)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        """The index itself."""
        if index not in self.energy:
            raise self.NVMLError("invalid index")
        return index

    def nvmlDeviceGetHandleByUUID(self, name: str) -> int:
        """Only one is known."""
        return {"GPU-one": 1}[name]

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: int) -> int:
        """Millijoules, or an error."""
        found = self.energy[handle]
        if isinstance(found, Exception):
            raise found
        return found


def test_packages_and_memory_count_and_their_parts_do_not(tmp_path: Path) -> None:
    """Of a powercap tree the packages and memory zones are summed; core, uncore and psys would count twice."""
    zone(tmp_path, "intel-rapl:0", "package-0", 0)
    zone(tmp_path, "intel-rapl:0:0", "core", 0)
    zone(tmp_path, "intel-rapl:0:1", "dram", 0)
    zone(tmp_path, "intel-rapl:1", "package-1", 0)
    zone(tmp_path, "intel-rapl:2", "psys", 0)
    assert [found.name for found in rapl_zones(tmp_path)] == ["package-0", "dram", "package-1"]


def test_a_counter_that_wraps_is_followed(tmp_path: Path) -> None:
    """Joules go on when the counter starts again at 0, and a second wrap between later readings counts too."""
    file = zone(tmp_path, "intel-rapl:0", "package-0", RANGE - 10_000_000)
    with EnergyMeter(rapl_zones(tmp_path), poll_seconds=3600) as meter:
        file.write_text("30000000\n")
        meter.sample()
        file.write_text(f"{RANGE}\n")
        meter.sample()
        file.write_text("5000000\n")
        found = meter.so_far()
    assert found is not None
    assert found.joules == pytest.approx(10 + 30 + 970 + 5)
    assert found.method == "RAPL" and "package-0" in found.boundary


@given(
    start=st.integers(0, RANGE),
    growth=st.lists(st.integers(0, RANGE - 1), max_size=20),
)
def test_the_sum_is_what_the_counter_grew_by(start: int, growth: list[int]) -> None:
    """Whatever the counter grew by between readings, at most one range each, is summed exactly."""
    position, total = start, 0.0
    for step in growth:
        after = position + step
        after = after - RANGE if after > RANGE else after
        total += grown(position, after, RANGE)
        position = after
    assert total == sum(growth)


def test_gpus_are_those_that_cuda_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA_VISIBLE_DEVICES selects by index or UUID; without it all count; without the library none."""
    library = FakeNvml()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [item.handle for item in nvml_devices(library)] == [0, 1]
    assert [item.handle for item in nvml_devices(library, "1")] == [1]
    assert [item.handle for item in nvml_devices(library, "GPU-one,0")] == [1, 0]
    assert nvml_devices(library, "") == []
    assert nvml_devices(library, "7") == []


def test_processor_and_gpu_are_summed_and_named(tmp_path: Path) -> None:
    """Both methods stand in the figure, with what each counted."""
    library = FakeNvml()
    file = zone(tmp_path, "intel-rapl:0", "package-0", 0)
    with EnergyMeter([*rapl_zones(tmp_path), *nvml_devices(library, "0,1")], poll_seconds=3600) as meter:
        file.write_text("2000000\n")
        library.energy = {0: 6_000, 1: 10_000}
        found = meter.so_far()
    assert found is not None and found.joules == pytest.approx(2 + 1 + 3)
    assert found.method == "RAPL and NVML" and "GPU 0, GPU 1" in found.boundary


@pytest.mark.parametrize("failure", ["gone", "back"])
def test_a_counter_that_fails_makes_the_sum_unknown(tmp_path: Path, failure: str) -> None:
    """When one of two counters can no longer be read, or goes back without wrapping, there is a reason, no figure."""
    library = FakeNvml()
    zone(tmp_path, "intel-rapl:0", "package-0", 0)
    with EnergyMeter([*rapl_zones(tmp_path), *nvml_devices(library, "0")], poll_seconds=3600) as meter:
        library.energy[0] = library.NVMLError("GPU is lost") if failure == "gone" else 1
        assert meter.so_far() is None
        assert "GPU is lost" in meter.problem or "went back" in meter.problem


def test_a_machine_without_counters_has_no_figure(tmp_path: Path) -> None:
    """No zero stands for 'not measured'."""
    assert rapl_zones(tmp_path) == []
    with EnergyMeter([]) as meter:
        assert meter.so_far() is None
    with pytest.raises(CounterError):
        grown(2, 1, None)


def test_the_thread_reads_between_and_ends(tmp_path: Path) -> None:
    """The sampler sees a wrap that nobody asked about, and stops with the context."""
    file = zone(tmp_path, "intel-rapl:0", "package-0", RANGE - 1_000_000)
    with EnergyMeter(rapl_zones(tmp_path), poll_seconds=0.01) as meter:
        file.write_text("1000000\n")
        thread: Any = meter._thread
        for _ in range(300):
            if meter._joules[0]:
                break
            thread.join(0.01)
        assert meter._joules[0] == pytest.approx(2)
    assert not thread.is_alive()


def test_an_old_payload_without_energy_still_parses() -> None:
    """A phase recorded by an earlier version has no energy, and that is not 0."""
    old = PhaseFinished.model_validate({"phase": "train", "attempt": 1, "seconds": "1.5", "figures": {}}, strict=False)
    assert old.energy is None and old.kind is EventKind.PHASE_FINISHED
