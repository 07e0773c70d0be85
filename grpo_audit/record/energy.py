"""Energy as the machine itself counts it: processor packages by RAPL, GPUs by NVML. Nothing is guessed here.

A counter only ever grows, until it wraps. A light thread reads all of them now and then, so that no wrap is missed, and
once more when asked. A counter that cannot be read any more makes the whole figure unknown: half a sum is no figure.

* RAPL: ``/sys/class/powercap/intel-rapl:N/energy_uj`` in microjoules, of Intel and AMD processors alike
  (https://www.kernel.org/doc/html/latest/power/powercap/powercap.html). Packages, and memory where it is counted apart;
  ``core`` and ``uncore`` are parts of a package, ``psys`` holds the packages again.
* NVML: ``nvmlDeviceGetTotalEnergyConsumption`` in millijoules since the driver was loaded, of Volta GPUs and newer
  (https://docs.nvidia.com/deploy/nvml-api/). Needs the optional package ``nvidia-ml-py``.
"""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol, Self

from grpo_audit.record.identities import PhaseEnergy

POWERCAP: Final = Path("/sys/class/powercap")
POLL_SECONDS: Final = 10.0
"""Between two readings. A RAPL counter of 262 kJ wraps after 20 minutes at 200 W, so this is often enough."""


class CounterError(Exception):
    """A counter cannot be read."""


class Counter(Protocol):
    """Something that counts joules."""

    @property
    def what(self) -> str:
        """What it counts, for the boundary."""

    @property
    def method(self) -> str:
        """How: ``RAPL`` or ``NVML``."""

    def read(self) -> float:
        """Joules. Raises CounterError."""

    @property
    def range(self) -> float | None:
        """Joules after which it starts again at 0; None when it does not."""


@dataclass(frozen=True)
class RaplZone:
    """One zone of the powercap tree."""

    folder: Path
    name: str
    range: float | None
    method: str = "RAPL"

    @property
    def what(self) -> str:
        """``package-0``, ``dram`` ..."""
        return self.name

    def read(self) -> float:
        """Joules. Raises CounterError."""
        try:
            return int((self.folder / "energy_uj").read_text()) / 1e6
        except (OSError, ValueError) as error:
            raise CounterError(f"{self.folder.name}: {error}") from error


@dataclass(frozen=True)
class NvmlDevice:
    """One GPU."""

    library: Any
    handle: Any
    index: str
    method: str = "NVML"
    range: float | None = None

    @property
    def what(self) -> str:
        """``GPU 0`` ..."""
        return f"GPU {self.index}"

    def read(self) -> float:
        """Joules. Raises CounterError."""
        try:
            return float(self.library.nvmlDeviceGetTotalEnergyConsumption(self.handle)) / 1e3
        except self.library.NVMLError as error:
            raise CounterError(f"{self.what}: {error}") from error


def rapl_zones(root: Path = POWERCAP) -> list[RaplZone]:
    """Packages, and memory counted beside them; empty where there are none or they may not be read."""
    found = []
    for folder in sorted(root.glob("intel-rapl:*")):
        try:
            name = (folder / "name").read_text().strip()
            highest = int((folder / "max_energy_range_uj").read_text()) / 1e6
        except (OSError, ValueError):
            continue
        if name.startswith("package") or name == "dram":
            found.append(RaplZone(folder, name, highest))
    return found


def nvml_devices(library: Any | None = None, visible: str | None = None) -> list[NvmlDevice]:
    """The GPUs that CUDA would see; empty without NVML. ``visible`` replaces ``CUDA_VISIBLE_DEVICES``."""
    try:
        library = library or importlib.import_module("pynvml")
    except ImportError:
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") if visible is None else visible
    try:
        library.nvmlInit()
        names = [str(index) for index in range(library.nvmlDeviceGetCount())] if visible is None else _names(visible)
        return [NvmlDevice(library, _handle(library, name), name) for name in names]
    except library.NVMLError:
        return []


def _names(visible: str) -> list[str]:
    return [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1", "NoDevFiles")]


def _handle(library: Any, name: str) -> Any:
    if name.isdecimal():
        return library.nvmlDeviceGetHandleByIndex(int(name))
    return library.nvmlDeviceGetHandleByUUID(name)


def counters() -> list[Counter]:
    """Everything this machine counts and this process may read."""
    found: list[Counter] = [*rapl_zones(), *nvml_devices()]
    readable = []
    for counter in found:
        try:
            counter.read()
        except CounterError:
            continue
        readable.append(counter)
    return readable


@dataclass
class EnergyMeter:
    """Joules from ``__enter__`` until ``so_far`` is asked. ``with EnergyMeter() as meter: ...``.

    Laws: the sum over a run of readings is what the counters grew by, whatever wrapped between two of them (at most
    once each); a failed counter makes ``so_far`` None, with the reason in ``problem``.
    """

    found: Sequence[Counter] | None = None
    """Counters to read; None: those of this machine."""
    poll_seconds: float = POLL_SECONDS
    problem: str = "this machine counts no energy that this process may read"
    _last: dict[int, float] = field(default_factory=dict)
    _joules: dict[int, float] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.found = counters() if self.found is None else self.found
        try:
            self._last = {index: counter.read() for index, counter in enumerate(self.found)}
        except CounterError as error:
            self.found, self.problem = [], str(error)
        self._joules = dict.fromkeys(self._last, 0.0)
        if self.found:
            self._thread = threading.Thread(target=self._poll, name="energy", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _poll(self) -> None:
        while not self._stop.wait(self.poll_seconds):
            self.sample()

    def sample(self) -> None:
        """Read every counter once."""
        with self._lock:
            for index, counter in enumerate(self.found or ()):
                try:
                    now = counter.read()
                    self._joules[index] += grown(self._last[index], now, counter.range)
                except CounterError as error:
                    self.found, self.problem = [], str(error)
                    return
                self._last[index] = now

    def so_far(self) -> PhaseEnergy | None:
        """What the counters grew by since ``__enter__``; None where nothing was counted."""
        self.sample()
        with self._lock:
            if not self.found:
                return None
            by_method: dict[str, list[str]] = {}
            for counter in self.found:
                by_method.setdefault(counter.method, []).append(counter.what)
            parts = "; ".join(f"{method}: {', '.join(names)}" for method, names in by_method.items())
            return PhaseEnergy(
                joules=sum(self._joules.values()),
                method=" and ".join(by_method),
                boundary=f"{parts}, of the first process's machine, whatever else ran there",
            )


def grown(before: float, now: float, highest: float | None) -> float:
    """Joules between two readings of a counter that may have started again at 0 once. Raises CounterError."""
    if now >= before:
        return now - before
    if highest is None:
        raise CounterError("a counter that does not wrap went back")
    return highest - before + now
