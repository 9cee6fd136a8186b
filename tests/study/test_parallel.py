"""Jobs in processes: their order, their errors, and that none outlives whoever started it."""

import math
import operator
import os
import signal
import subprocess
import sys
import time

import pytest

from dcnlab.study.parallel import in_parallel


def test_results_come_in_the_order_of_the_jobs():
    assert in_parallel(math.factorial, [5, 1, 3], 2, "test") == [120, 1, 6]


def test_an_error_of_a_job_ends_all_at_once():
    started = time.perf_counter()
    with pytest.raises(TypeError, match="bad operand type"):
        in_parallel(operator.neg, ["not a number"] * 3, 2, "test")
    assert time.perf_counter() - started < 30


CTRL_C = """
import signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # also where the suite runs in the background
from dcnlab.study.parallel import in_parallel
print("ready", flush=True)
in_parallel(time.sleep, [60.0, 60.0], 2, "test")
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs process groups of POSIX")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGKILL"])
def test_the_processes_end_with_their_parent(name):
    child = subprocess.Popen(
        [sys.executable, "-c", CTRL_C], stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    assert child.stdout.readline() == b"ready\n"
    time.sleep(3)  # the processes start
    child.send_signal(getattr(signal, name))  # to the parent alone: they would not hear a ctrl-C
    _, errors = child.communicate(timeout=20)
    assert (b"KeyboardInterrupt" in errors) == (name == "SIGINT")
    deadline = time.perf_counter() + 10
    while time.perf_counter() < deadline:
        try:
            os.killpg(child.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    os.killpg(child.pid, signal.SIGKILL)
    pytest.fail("a process outlived its parent")


def test_no_process_is_no_number_of_processes():
    with pytest.raises(ValueError, match="jobs must be at least 1, got 0"):
        in_parallel(abs, [1], 0, "test")
