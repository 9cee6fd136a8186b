"""Several processes that train one model together, each on its share of every batch (data parallelism over MPI).

All of them hold the same model. Each takes its share of the joined batch (`share_of`), goes forward and back, and adds
its gradients to those of the others (`average_gradients`); since all take the same step from the same gradients, the
models stay equal to the last bit. Batch norm normalises by the statistics of the joined batch (`synchronise`), and
`dcnlab.nn.seed_samples` makes masks depend on the sample alone: so the run is that of one process, up to the order in
which sums are added.

    mpiexec -n 4 dcnlab train ...

CuPy arrays travel through the host's memory: the MPI of a Python wheel need not be able to read a GPU's.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from typing import Any

from dcnlab import nn
from dcnlab.arrays import Array, array_module, as_numpy, require_arrays
from dcnlab.errors import BackendUnavailable
from dcnlab.launch.threads import limit_blas, num_threads

BUCKET_BYTES = 4 * 2**20  # of one message: its start costs little beside it, and the copy in it little memory
SUMMED = ("float32", "float64", "int64")
# How launchers tell a process that it is one of several: MPICH, Intel MPI and srun --mpi=pmi2; Open MPI; MVAPICH.
SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
LOCAL_SIZES = ("MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE", "MV2_COMM_WORLD_LOCAL_SIZE")  # of one machine
STARTED = (*SIZES, "PMI_RANK", "PMIX_RANK")
INSTALL = "pip install 'dcnlab[mpi]'"
PATIENCE = 2.0  # seconds that rank 0 has to report first a failure which all ranks have in common

# -- worlds --------------------------------------------------------------------------------------------------------


class World:
    """The processes that train together: here a world of one, whose sums are what it has.

    Attributes
    ----------
    rank : int
        The number of this process, from 0.
    size : int
        The number of processes.
    """

    rank: int = 0
    size: int = 1

    def total(self, array: Array) -> Array:
        """Return the sum of an array over all ranks: the same bits on every rank.

        Parameters
        ----------
        array : NumPy or CuPy array
            float32, float64 or int64, of one shape on all ranks; it is not changed. In a world of one it is what
            comes back.
        """
        return array

    def total_all(self, arrays: Sequence[Array]) -> list[Array]:
        """Return `total` of every array, in messages of a few MB instead of one an array.

        Parameters
        ----------
        arrays : sequence of arrays
            Of one dtype and library; the same shapes in the same order on all ranks.
        """
        return list(arrays)

    def broadcast_all(self, arrays: Sequence[Array]) -> list[Array]:
        """Return the arrays of rank 0 on every rank; the shapes and dtypes are known to all."""
        return list(arrays)

    def gathered(self, value: Any) -> list[Any]:
        """Return the small Python value of every rank, on every rank."""
        return [value]

    def abort(self, status: int) -> None:
        """End all processes now, with this exit status. A world of one has nobody to end."""


ALONE = World()


class MpiWorld(World):
    """The processes that mpiexec started.

    Parameters
    ----------
    mpi : module
        mpi4py.MPI
    """

    def __init__(self, mpi: Any) -> None:
        self._comm, self._in_place = mpi.COMM_WORLD, mpi.IN_PLACE
        self.rank, self.size = self._comm.rank, self._comm.size

    def total(self, array: Array) -> Array:
        """Return the sum over all ranks: see `World.total`."""
        require_arrays("World.total", SUMMED, array=array)
        return self._summed(array.copy())

    def total_all(self, arrays: Sequence[Array]) -> list[Array]:
        """Return the sum of every array over all ranks: see `World.total_all`."""
        if arrays:
            require_arrays("World.total_all", SUMMED, **{f"arrays[{i}]": array for i, array in enumerate(arrays)})
        totals: list[Array] = []
        for bucket in buckets(arrays):
            flat = self._summed(array_module(*bucket).concatenate([array.reshape(-1) for array in bucket]))
            start = 0
            for array in bucket:
                totals.append(flat[start : start + array.size].reshape(array.shape))
                start += array.size
        return totals

    def broadcast_all(self, arrays: Sequence[Array]) -> list[Array]:
        """Return the arrays of rank 0: see `World.broadcast_all`."""
        received = []
        for array in arrays:
            host = as_numpy(array).copy()
            self._comm.Bcast(host, root=0)
            received.append(array_module(array).asarray(host))
        return received

    def gathered(self, value: Any) -> list[Any]:
        """Return the value of every rank: see `World.gathered`."""
        return list(self._comm.allgather(value))

    def abort(self, status: int) -> None:
        """End all processes now."""
        self._comm.Abort(status)

    def _summed(self, own: Array) -> Array:
        """Return the sum of contiguous arrays that are ours to overwrite.

        MPI adds them up (its default operation). The MPI standard requires of an all-reduce that all ranks receive
        identical results.
        """
        host = as_numpy(own)
        self._comm.Allreduce(self._in_place, host)
        return array_module(own).asarray(host)


def buckets(arrays: Sequence[Array], limit: int = BUCKET_BYTES) -> Iterator[list[Array]]:
    """Cut a list of arrays into runs of at most `limit` bytes, or of one array that is larger.

    >>> [len(bucket) for bucket in buckets([np.zeros(3), np.zeros(1), np.zeros(9), np.zeros(2)], limit=32)]
    [2, 1, 1]
    """
    bucket: list[Array] = []
    size = 0
    for array in arrays:
        if bucket and size + array.nbytes > limit:
            yield bucket
            bucket, size = [], 0
        bucket.append(array)
        size += array.nbytes
    if bucket:
        yield bucket


def current_world(environment: Mapping[str, str] = os.environ) -> World:
    """Return the world that mpiexec started this process in, `ALONE` where it did not.

    The launcher's variables decide; without them MPI is never imported.

    Parameters
    ----------
    environment : mapping, optional

    Raises
    ------
    BackendUnavailable
        Where mpiexec started this process, not as the only one, but mpi4py or its MPI library is missing, or is not
        the one that mpiexec belongs to: each process would train alone.
    """
    sizes = [int(environment[name]) for name in SIZES if environment.get(name, "").isdecimal()]
    if sizes == [1] or not any(name in environment for name in STARTED):
        return ALONE
    try:
        mpi = importlib.import_module("mpi4py.MPI")
    except (ImportError, RuntimeError) as error:  # mpi4py is missing; it finds no MPI library
        reason = str(error).partition("\n")[0]
        raise BackendUnavailable(
            f"training over several processes needs mpi4py and an MPI library ({reason}); run: {INSTALL}"
        ) from None
    world = MpiWorld(mpi)
    if sizes and world.size not in sizes:
        raise BackendUnavailable(
            f"mpiexec started {sizes[0]} processes, but mpi4py sees {world.size}: they belong to different MPI "
            f"libraries; run: {INSTALL}, and start with the mpiexec beside {sys.executable}"
        )
    return world if world.size > 1 else ALONE


def share_processors(world: World, environment: MutableMapping[str, str] = os.environ) -> None:
    """Let each process of a machine compute with its part of the processors; without this, each would with all.

    DCNLAB_NUM_THREADS is set accordingly, unless it is set.

    Parameters
    ----------
    world : World
    environment : mapping, optional
        Holds the number of processes on this machine, where the launcher says so; else all are taken to be here.
    """
    if world.size == 1 or environment.get("DCNLAB_NUM_THREADS"):
        return
    told = [int(environment[name]) for name in LOCAL_SIZES if environment.get(name, "").isdecimal()]
    here = max(told[0] if told else world.size, 1)
    environment["DCNLAB_NUM_THREADS"] = str(max(num_threads() // here, 1))
    limit_blas()


@contextlib.contextmanager
def ending_together(world: World) -> Iterator[None]:
    """Let an exception that leaves the block on one rank end all ranks, which would wait for this one forever.

    ``dcnlab train: rank R: message`` goes to stderr, once: where all ranks fail alike, as on a missing file, rank 0
    speaks for them. The exit status is 2 for bad input, 130 for an interrupt and 1 for anything else, as that of the
    command line. In a world of one, the exception goes on its way.

    A rank that dies without an exception (kill -9, out of memory) ends the others too: mpiexec sees to it.
    """
    try:
        yield
    except BaseException as error:
        if world.size == 1:
            raise
        message, status = _reason(error)
        with contextlib.ExitStack() as ending:  # each of these happens even where the one before is interrupted
            ending.callback(world.abort, status)
            ending.callback(print, f"dcnlab train: rank {world.rank}: {message}", file=sys.stderr, flush=True)
            ending.callback(sys.stdout.flush)
            if world.rank > 0:
                time.sleep(PATIENCE)


def _reason(error: BaseException) -> tuple[str, int]:
    """Return what to tell a person, and the exit status; a traceback where it is not a person's mistake."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", 130
    if isinstance(error, (ValueError, TypeError, OSError, BackendUnavailable)):
        return str(error) or type(error).__name__, 2
    trace = "".join(traceback.format_exception(error)).rstrip()
    return f"{type(error).__name__}: {error}\n{trace}", 1


# -- one step over several processes -------------------------------------------------------------------------------


def share_of(count: int, world: World) -> slice:
    """Return which positions of a joined batch of `count` samples this rank takes.

    The shares are contiguous, in the order of the ranks, and their sizes differ by at most one.

    Raises
    ------
    ValueError
        For a batch smaller than the world.

    Examples
    --------
    >>> share_of(6, ALONE)
    slice(0, 6, None)
    """
    if count < world.size:
        raise ValueError(f"a batch needs a sample for each process: expected at least {world.size}, got {count}")
    each, more = divmod(count, world.size)
    start = world.rank * each + min(world.rank, more)
    return slice(start, start + each + (world.rank < more))


def average_gradients(model: nn.Module, world: World) -> None:
    """Replace the gradient of every parameter by its sum over all ranks, in the order of ``model.parameters()``.

    The sum is the gradient of the mean loss of the joined batch when every rank went back from the mean loss of its
    share times (size of the share / size of the joined batch).

    Raises
    ------
    ValueError
        Naming a parameter without a gradient.
    """
    parameters = dict(model.named_parameters())
    absent = [name for name, parameter in parameters.items() if parameter.grad is None]
    if absent:
        more = f" (and {len(absent) - 1} more)" if len(absent) > 1 else ""
        raise ValueError(f"average_gradients: parameter {absent[0]}{more} has no gradient; call model.backward first")
    totals = world.total_all([parameter.grad for parameter in parameters.values()])
    for parameter, total in zip(parameters.values(), totals, strict=True):
        parameter.grad = total


def synchronise(model: nn.Module, world: World) -> None:
    """Let every `BatchNorm2d` of a model train with the statistics of the joined batch; in a world of one, its own."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.total = world.total if world.size > 1 else None
