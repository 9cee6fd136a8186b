"""A stand-in for CuPy where there is no GPU.

Its arrays refuse every NumPy function and every operation with a plain NumPy array, as CuPy's do, and only its own
module can make them. With `kernels=True` it also plays the GPU: kernels for target "cuda" are compiled for this CPU and
run at once, and events take the time of this machine's clock.
"""

import sys
import time
import types

import numpy as np
import scipy.sparse
import scipy.special

from dcnlab.launch.cpu import CpuBackend

L2_BYTES = 1 << 14  # small, so that going round in three times as much costs little


class StrictArray(np.ndarray):
    """An array of the stand-in: NumPy's functions are not for it."""

    def __array_function__(self, function, types, args, kwargs):
        raise TypeError(f"numpy.{function.__name__} was called on an array of another library")

    def __array_ufunc__(self, ufunc, method, *inputs, out=(), **kwargs):
        for value in (*inputs, *out):
            if type(value) is np.ndarray and value.ndim:
                raise TypeError(f"{ufunc.__name__} mixes an array of another library with a NumPy array")
        plain = [x.view(np.ndarray) if isinstance(x, StrictArray) else x for x in inputs]
        if out:
            kwargs["out"] = tuple(x.view(np.ndarray) for x in out)
        return wrap(getattr(ufunc, method)(*plain, **kwargs))

    def get(self):
        return self.view(np.ndarray)

    @property
    def data(self):
        return types.SimpleNamespace(ptr=self.__array_interface__["data"][0])

    @property
    def device(self):
        return types.SimpleNamespace(id=0)


StrictArray.__module__ = "cupy"


def wrap(value):
    if isinstance(value, np.ndarray):
        return value.view(StrictArray)
    return np.asarray(value).view(StrictArray) if isinstance(value, np.generic) else value


def unwrap(value):
    if isinstance(value, StrictArray):
        return value.view(np.ndarray)
    return type(value)(map(unwrap, value)) if type(value) in (list, tuple) else value


class Module(types.ModuleType):
    """The stand-in's functions: NumPy's, on its own arrays only."""

    def __getattr__(self, name):
        target = getattr(np, name)
        if isinstance(target, type) or not callable(target):
            return target

        def call(*args, **kwargs):
            refused = [a for a in args if type(a) is np.ndarray and a.ndim] if name not in ("asarray", "array") else []
            if refused:
                raise TypeError(f"cupy.{name} was called on a NumPy array")
            return wrap(target(*map(unwrap, args), **{k: unwrap(v) for k, v in kwargs.items()}))

        return call


class StrictMatrix:
    """A sparse matrix of the stand-in."""

    def __init__(self, arrays, shape, turned=False):
        (self.data, self.indices, self.indptr), self.shape, self.turned = arrays, shape, turned

    @property
    def T(self):
        return StrictMatrix((self.data, self.indices, self.indptr), self.shape, turned=True)

    def __matmul__(self, other):
        arrays = (self.data, self.indices, self.indptr)
        assert all(type(a) is StrictArray for a in (*arrays, other))
        matrix = scipy.sparse.csr_matrix(tuple(map(unwrap, arrays)), shape=self.shape)
        return wrap((matrix.T if self.turned else matrix) @ unwrap(other))


class Event:
    """A point in time. What is queued is done at once."""

    done = False  # as if a delay were still running

    def record(self):
        self.time = time.perf_counter()

    def synchronize(self):
        pass


class Kernels(CpuBackend):
    """What `dcnlab.launch` takes for the GPU."""

    def kernel(self, number, name, parameters):
        return OnThisCpu(super().kernel(number, name, parameters))


class OnThisCpu:
    def __init__(self, kernel):
        self._kernel = kernel

    def launch(self, grid, block, shared, stream, arguments):
        self._kernel.launch(grid, block, shared, stream, [unwrap(a) for a in arguments])


def install(monkeypatch, kernels=False):
    """Put the stand-in where `import cupy` would find it, and return it."""
    module = Module("cupy")
    sparse = types.ModuleType("cupyx.scipy.sparse")
    sparse.csr_matrix = lambda arrays, shape: StrictMatrix(arrays, shape)
    special = types.ModuleType("cupyx.scipy.special")
    special.ndtr = lambda array, out: wrap(scipy.special.ndtr(unwrap(array), out=unwrap(out)))
    parents = {name: types.ModuleType(name) for name in ("cupyx", "cupyx.scipy")}
    parents["cupyx"].scipy, parents["cupyx.scipy"].sparse = parents["cupyx.scipy"], sparse
    stand_ins = {"cupy": module, "cupyx.scipy.sparse": sparse, "cupyx.scipy.special": special, **parents}
    for name, value in stand_ins.items():
        monkeypatch.setitem(sys.modules, name, value)
    if kernels:
        play_the_gpu(module)
        monkeypatch.setattr("dcnlab.launch.modules.CudaBackend", Kernels)
    return module


def play_the_gpu(module):
    """Give the stand-in what `dcnlab.bench.gpu.device` asks of CuPy."""
    device = types.SimpleNamespace(
        id=0,
        attributes={"L2CacheSize": L2_BYTES, "MultiProcessorCount": 1},
        compute_capability="00",
        mem_info=(1 << 30, 1 << 30),
        synchronize=lambda: None,
    )
    runtime = types.SimpleNamespace(
        getDeviceProperties=lambda number: {"name": b"stand-in"},
        driverGetVersion=lambda: 0,
        runtimeGetVersion=lambda: 0,
    )
    module.cuda = types.SimpleNamespace(
        is_available=lambda: True,
        Device=lambda: device,
        Event=Event,
        runtime=runtime,
        get_elapsed_time=lambda start, end: 1e3 * (end.time - start.time),
    )
    module.get_default_memory_pool = lambda: types.SimpleNamespace(free_all_blocks=lambda: None)
    module.__version__ = "0"
