"""The GPU as the benchmark sees it: what it is, what it holds, and how long it takes for what is queued."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from dcnlab.info import DRIVER
from dcnlab.launch import module
from dcnlab.launch.cuda import import_cupy

Call = Callable[[], Any]

# Steps of probes/delay.cu for each call that is queued behind it: about 30 microseconds on a GPU of 2 GHz, what Python
# takes to launch a kernel. Doubled where that was not enough, so many times at most.
STEPS_A_CALL = 2000
DOUBLINGS = 5


class Device(ABC):
    """What the benchmark asks of a GPU.

    Attributes
    ----------
    xp : module
        Whose arrays are on the device.
    l2_bytes : int
        Of the second-level cache.
    processors : int
        Streaming multiprocessors.
    """

    xp: Any
    l2_bytes: int
    processors: int

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """Return what the figures were measured on: name, capability, driver, versions, sizes."""

    @abstractmethod
    def free_bytes(self) -> int:
        """Return the memory that can still be had."""

    @abstractmethod
    def release(self) -> None:
        """Give memory that is not in use back."""

    @abstractmethod
    def synchronize(self) -> None:
        """Wait until all that is queued is done."""

    @abstractmethod
    def seconds(self, rounds: Sequence[Sequence[Call]], ahead: bool = True) -> tuple[list[float], bool]:
        """Return the device's time for all calls of each round, between one pair of events.

        Parameters
        ----------
        rounds
            Calls that queue work.
        ahead : bool
            Queue a whole round before the device begins with it.

        Returns
        -------
        seconds : list of float
        waited : bool
            The device may have waited for the host in between.
        """


class CudaDevice(Device):
    """The current device of CuPy. Everything is queued on the default stream, which torch uses too."""

    def __init__(self) -> None:
        self._cupy = self.xp = import_cupy()
        attributes = self._cupy.cuda.Device().attributes
        self.l2_bytes = int(attributes["L2CacheSize"])
        self.processors = int(attributes["MultiProcessorCount"])
        self._delay = module("probes/delay.cu", ["delay"], target="cuda")["delay"][1, 1]
        self._result = self.xp.zeros(1, "uint32")

    def facts(self) -> dict[str, Any]:
        """Return what the figures were measured on: name, capability, driver, versions, sizes."""
        cuda = self._cupy.cuda
        device, runtime = cuda.Device(), cuda.runtime
        name = runtime.getDeviceProperties(device.id)["name"]
        try:
            driver = DRIVER.read_text(encoding="utf-8", errors="replace").splitlines()[0].partition(":")[2].strip()
        except (OSError, IndexError):
            driver = ""
        return {
            "name": name.decode() if isinstance(name, bytes) else str(name),
            "compute_capability": str(device.compute_capability),
            "driver": driver or f"for CUDA {runtime.driverGetVersion()}",
            "cuda_driver": int(runtime.driverGetVersion()),
            "cuda_runtime": int(runtime.runtimeGetVersion()),
            "cupy": str(self._cupy.__version__),
            "processors": self.processors,
            "l2_bytes": self.l2_bytes,
            "memory_bytes": int(device.mem_info[1]),
        }

    def free_bytes(self) -> int:
        """Return the memory that can still be had."""
        self.release()
        return int(self._cupy.cuda.Device().mem_info[0])

    def release(self) -> None:
        """Give memory that is not in use back: torch has a pool of its own."""
        self._cupy.get_default_memory_pool().free_all_blocks()

    def synchronize(self) -> None:
        """Wait until all that is queued is done."""
        self._cupy.cuda.Device().synchronize()

    def seconds(self, rounds: Sequence[Sequence[Call]], ahead: bool = True) -> tuple[list[float], bool]:
        """Return the device's time for all calls of each round, between one pair of events.

        With `ahead`, a kernel that does nothing useful holds the device back meanwhile. If it is over before the last
        call is queued, the round is repeated behind a longer one; `waited` says that this did not help either.
        """
        found, waited = [], False
        steps = STEPS_A_CALL * max(map(len, rounds), default=1)
        longest = steps << DOUBLINGS
        for calls in rounds:
            while True:
                elapsed, late = self._round(calls, steps if ahead else 0)
                if not late or not ahead or steps >= longest:
                    break
                steps *= 2
            found.append(elapsed)
            waited |= late
        return found, waited

    def _round(self, calls: Sequence[Call], steps: int) -> tuple[float, bool]:
        event = self._cupy.cuda.Event
        start, end = event(), event()
        if steps:
            self._delay(self._result, steps)
        start.record()
        for call in calls:
            call()
        end.record()
        late = bool(start.done)
        end.synchronize()
        return 1e-3 * float(self._cupy.cuda.get_elapsed_time(start, end)), late
