"""Several ranks without MPI: threads that add up together."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

PATIENCE = 10  # seconds after which a rank that waits for one that failed gives up


class Lockstep:
    """`size` ranks; `total(rank)` is a function that returns the sum of what all ranks call it with."""

    def __init__(self, size):
        self.size, self.arrays = size, [None] * size
        self.barrier = threading.Barrier(size, timeout=PATIENCE)

    def total(self, rank):
        def add_up(array):
            self.arrays[rank] = array
            self.barrier.wait()
            result = sum(self.arrays[1:], start=self.arrays[0])
            self.barrier.wait()  # nobody brings the next array before everybody has this sum
            return result

        return add_up

    def run(self, function):
        """Return [function(0), function(1), ...], run at the same time; raise what one raises."""

        def rank(number):
            try:
                return function(number)
            except BaseException:
                self.barrier.abort()
                raise

        with ThreadPoolExecutor(self.size) as pool:
            ranks = [pool.submit(rank, number) for number in range(self.size)]
        failed = [f.exception() for f in ranks if f.exception() is not None]
        first = [error for error in failed if not isinstance(error, threading.BrokenBarrierError)]
        if failed:
            raise (first or failed)[0]
        return [f.result() for f in ranks]
