"""Runs of a study in processes of their own, a core each."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
from tqdm import tqdm

T = TypeVar("T")
R = TypeVar("R")


def in_parallel(function: Callable[[T], R], jobs: Sequence[T], processes: int | None, title: str) -> list[R]:
    """Return ``[function(job) for job in jobs]``, computed by several processes, with a bar of what is done.

    Parameters
    ----------
    function : callable
        Of a module, so that it can be sent to a process; so must jobs and results.
    processes : int, optional
        By default as many as this process may use.
    title : str
        Of the bar.

    Raises
    ------
    ValueError
        For a number of processes below 1.
    Exception
        The first that a job raises. On this, and on ctrl-C, the processes are ended.
    """
    if processes is not None and processes < 1:
        raise ValueError(f"jobs must be at least 1, got {processes}")
    count = min(processes or usable_cores(), max(len(jobs), 1))
    context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
    with ProcessPoolExecutor(count, context, _one_thread) as pool, _ended(pool):
        places = {pool.submit(function, job): place for place, job in enumerate(jobs)}
        results: dict[int, R] = {}
        for done in tqdm(as_completed(places), title, len(jobs), disable=None, leave=False):
            results[places[done]] = done.result()
    return [results[place] for place in range(len(jobs))]


@contextmanager
def _ended(pool: ProcessPoolExecutor) -> Iterator[None]:
    """End the processes of a pool at once when the block ends in an exception: a run in them may take minutes."""
    others = set(multiprocessing.active_children())
    try:
        yield
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()
        raise


def usable_cores() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _one_thread() -> None:
    """Prepare a process: one thread for kernels and BLAS, ctrl-C left to the parent, and an end with the parent's."""
    from threadpoolctl import threadpool_limits

    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["DCNLAB_NUM_THREADS"] = "1"
    np.seterr(all="ignore")
    threadpool_limits(1)


def _end_with(parent: int) -> None:
    """End this process when its parent has died of a signal, and another has adopted it: nobody waits for it then."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
