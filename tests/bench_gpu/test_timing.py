"""How times are taken: rotation, samples, the delay in front, and what is said when the host was too slow."""

from types import SimpleNamespace

import numpy as np
import pytest
import strict_cupy

from dcnlab.bench.gpu import timing
from dcnlab.bench.gpu.device import DOUBLINGS, STEPS_A_CALL, CudaDevice, Device
from dcnlab.bench.gpu.timing import copies_for, measure


class Clockwork(Device):
    """A device whose time is what the calls return."""

    xp, processors = np, 1

    def __init__(self, l2_bytes=1000, free=10**9, waited=False):
        self.l2_bytes, self.free, self.waited, self.rounds = l2_bytes, free, waited, []

    def facts(self):
        return {}

    def free_bytes(self):
        return self.free

    def release(self):
        pass

    def synchronize(self):
        pass

    def seconds(self, rounds, ahead=True):
        self.rounds += rounds
        return [sum(call() for call in calls) for calls in rounds], self.waited


def test_median_and_spread_of_one_launch():
    times = iter([9.0, 0.04] + [0.015] * 20 + [2e-6] * 20 + [5e-6] * 20 + [3e-6] * 20)
    found = measure(Clockwork(), [lambda: next(times)])
    assert (found.us, found.low, found.high) == pytest.approx((3.0, 2.0, 5.0)), "the first calls only warm up"
    assert (found.launches, found.copies, found.repeats) == (20, 1, 3), "a slow one is repeated less often"
    fast = measure(Clockwork(), [lambda: 1e-6])
    assert (fast.launches, fast.repeats) == (timing.LAUNCHES, timing.REPEATS)


def test_what_takes_long_is_launched_less_often():
    slow = measure(Clockwork(), [lambda: 0.24])
    assert (slow.us, slow.launches, slow.repeats) == (pytest.approx(0.24e6), 4, 3)
    calls = []
    once = measure(Clockwork(), [lambda: calls.append(1) or 9.0])
    assert (once.us, once.launches, once.repeats, calls) == (9e6, 1, 1, [1, 1])


def test_calls_take_turns_across_samples():
    order = []
    calls = [lambda n=n: order.append(n) or 1e-6 for n in range(27)]
    found = measure(Clockwork(), calls)
    assert found.launches == 27, "a sample goes through all of them"
    assert order == [n % 27 for n in range(2 + 27 * (1 + found.repeats))]
    order.clear()
    many = [lambda n=n: order.append(n) or 1e-6 for n in range(300)]
    found = measure(Clockwork(), many)
    assert found.launches == timing.MOST_LAUNCHES
    assert order == [n % 300 for n in range(2 + 256 * (1 + found.repeats))], "the next sample goes on where one ended"


def test_waiting_for_the_host_is_recorded():
    assert measure(Clockwork(waited=True), [lambda: 1e-6]).record()["waited"] is True
    assert measure(Clockwork(), [lambda: 1e-6]).record()["waited"] is False


def test_buffers_are_three_times_the_cache():
    assert copies_for(100, Clockwork(l2_bytes=1000)) == 30
    assert copies_for(101, Clockwork(l2_bytes=1000)) == 30
    assert copies_for(3001, Clockwork(l2_bytes=1000)) == 1
    assert copies_for(100, Clockwork(l2_bytes=1000, free=400)) == 2, "half of what is free"
    assert copies_for(100, Clockwork(l2_bytes=1000, free=0)) == 1
    assert copies_for(1, Clockwork(l2_bytes=10**9)) == timing.MOST_COPIES
    assert copies_for(0, Clockwork(l2_bytes=10)) == 30


# ---- the CuPy device, on the stand-in


@pytest.fixture
def cupy(monkeypatch, compiler):
    return strict_cupy.install(monkeypatch, kernels=True)


def test_events_stand_around_the_calls_and_behind_the_delay(cupy, monkeypatch):
    log = []

    class Event:
        done = False

        def record(self):
            log.append("event")

        def synchronize(self):
            log.append("wait")

    cupy.cuda.Event = Event
    cupy.cuda.get_elapsed_time = lambda start, end: 250.0
    device = CudaDevice()
    device._delay = lambda result, steps: log.append(steps)
    seconds, waited = device.seconds([[lambda: log.append("call")] * 2] * 2)
    assert seconds == [0.25, 0.25], "CuPy's milliseconds"
    assert not waited
    assert log == [2 * STEPS_A_CALL, "event", "call", "call", "event", "wait"] * 2
    log.clear()
    device.seconds([[lambda: log.append("call")]], ahead=False)
    assert log == ["event", "call", "event", "wait"]


@pytest.mark.parametrize(("enough", "tried"), [(4, 3), (10**9, DOUBLINGS + 1)])
def test_a_delay_that_is_over_too_early_is_doubled(cupy, enough, tried):
    steps_seen = []

    class Event:
        @property
        def done(self):
            return steps_seen[-1] < enough * STEPS_A_CALL

        record = synchronize = lambda self: None

    cupy.cuda.Event = Event
    cupy.cuda.get_elapsed_time = lambda start, end: 1.0
    device = CudaDevice()
    device._delay = lambda result, steps: steps_seen.append(steps)
    _, waited = device.seconds([[lambda: None]])
    assert steps_seen == [STEPS_A_CALL << n for n in range(tried)]
    assert waited is (enough == 10**9)


def test_facts_and_sizes_come_from_the_device(cupy):
    device = CudaDevice()
    facts = device.facts()
    assert facts["name"] == "stand-in"
    assert (facts["l2_bytes"], facts["processors"]) == (strict_cupy.L2_BYTES, 1)
    assert device.free_bytes() == 1 << 30
    cupy.cuda.runtime.getDeviceProperties = lambda number: {"name": "a str"}
    assert device.facts()["name"] == "a str"


def test_the_driver_s_line_is_read(cupy, monkeypatch, tmp_path):
    version = tmp_path / "version"
    version.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.1\nGCC version: 12\n")
    monkeypatch.setattr("dcnlab.bench.gpu.device.DRIVER", version)
    assert CudaDevice().facts()["driver"] == "NVIDIA UNIX x86_64 Kernel Module  580.1"
    version.write_text("")
    assert CudaDevice().facts()["driver"] == "for CUDA 0"


def test_synchronize_waits_for_the_device(cupy):
    waited = []
    real = cupy.cuda.Device()
    cupy.cuda.Device = lambda: SimpleNamespace(**{**vars(real), "synchronize": lambda: waited.append(True)})
    CudaDevice().synchronize()
    assert waited == [True]
