"""The GPU target, as far as a machine without a GPU can tell: what CuPy is asked."""

import subprocess
import sys
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from dcnlab.errors import BackendUnavailable
from dcnlab.launch import kernels_folder, module

SOURCE = r"""
struct Pair { int a; double b; };
template <typename T>
__global__ void fill(const T* source, T* target, int count, Pair pair, float factor, float* extra) {}
"""
PAIR = np.dtype([("a", np.int32), ("b", np.float64)], align=True)


class FakeArray(np.ndarray):
    """A NumPy array that passes for a CuPy one."""


FakeArray.__module__ = "cupy"


def device_array(shape, dtype, device=0):
    array = np.zeros(shape, dtype).view(FakeArray)
    array.__dict__["_device"] = device
    return array


FakeArray.device = property(lambda self: SimpleNamespace(id=self.__dict__.get("_device", 0)))


@pytest.fixture
def cupy(monkeypatch):
    """Takes down what it is asked. Anything it is not prepared for (a synchronisation, say) is an AttributeError."""
    fake = ModuleType("cupy")
    fake.log = []

    class Function:
        max_dynamic_shared_size_bytes = None

        def __call__(self, grid, block, args, *, shared_mem):
            fake.log.append(("launch", grid, block, args, shared_mem, self.max_dynamic_shared_size_bytes))

    class RawModule:
        def __init__(self, **options):
            fake.log.append(("module", options))

        def get_function(self, name):
            fake.log.append(("function", name))
            return Function()

    fake.RawModule = RawModule
    fake.cuda = SimpleNamespace(is_available=lambda: True, Device=lambda: SimpleNamespace(id=0))
    monkeypatch.setitem(sys.modules, "cupy", fake)
    return fake


def test_what_cupy_is_asked(cupy):
    kernel = module(SOURCE, ["fill<float>"], target="cuda", defines={"SIZE": 3}, options=["-lineinfo"])["fill<float>"]
    ((_, options), (_, name)) = cupy.log
    assert options["code"] == SOURCE
    assert options["name_expressions"] == ("fill<float>",)
    assert options["options"] == ("-std=c++17", f"-I{kernels_folder() / 'include'}", "-DSIZE=3", "-lineinfo")
    assert name == "fill<float>"
    source, target = device_array(4, np.float32), device_array(4, np.float32)
    pair = np.array((1, 2.5), PAIR)
    kernel[(2, 3), 64, 128](source, target, 4, pair, 0.5, None)
    _, grid, block, args, shared, most = cupy.log[-1]
    assert (grid, block, shared, most) == ((2, 3, 1), (64, 1, 1), 128, None)
    assert args[0] is source
    assert args[1] is target
    assert [type(args[i]) for i in (2, 4, 5)] == [np.int32, np.float32, np.uint64]
    assert (args[2], args[4], args[5]) == (4, 0.5, 0)
    assert args[3].dtype == PAIR
    assert args[3] == pair


def test_much_shared_memory_is_asked_for(cupy):
    kernel = module(SOURCE, ["fill<float>"])["fill<float>"]
    a = device_array(4, np.float32)
    kernel[1, 1, 100_000](a, a, 4, np.array((1, 2), PAIR), 0.5, a)
    assert cupy.log[-1][4:] == (100_000, 100_000)


def test_the_stream_is_current_during_the_launch(cupy):
    @contextmanager
    def stream():
        cupy.log.append("enter")
        yield
        cupy.log.append("leave")

    kernel = module(SOURCE, ["fill<float>"])["fill<float>"]
    a = device_array(4, np.float32)
    kernel[1, 1, 0, stream()](a, a, 4, np.array((1, 2), PAIR), 0.5, a)
    assert [entry if isinstance(entry, str) else entry[0] for entry in cupy.log[-3:]] == ["enter", "launch", "leave"]


def test_refusals(cupy):
    kernel = module(SOURCE, ["fill<float>"])["fill<float>"]
    a, pair = device_array(4, np.float32), np.array((1, 2), PAIR)
    with pytest.raises(
        TypeError, match=r"source \(const float\*\) must be a CuPy array for target='cuda', got ndarray"
    ):
        kernel[1, 1](np.zeros(4, np.float32), a, 4, pair, 0.5, a)
    with pytest.raises(ValueError, match="an array lies on device 1, the current device is 0"):
        kernel[1, 1](a, device_array(4, np.float32, device=1), 4, pair, 0.5, a)
    with pytest.raises(ValueError, match="mode='check' is for target='cpu'"):
        module(SOURCE, ["fill<float>"], mode="check")


def test_a_cupy_array_is_no_argument_for_the_cpu(compiler):
    kernel = module(SOURCE, ["fill<float>"], target="cpu")["fill<float>"]
    a = np.zeros(4, np.float32)
    with pytest.raises(TypeError, match=r"source .* must be a NumPy array for target='cpu', got a CuPy array"):
        kernel[1, 1](type("ndarray", (), {"__module__": "cupy"})(), a, 4, np.array((1, 2), PAIR), 0.5, a)


def test_without_cupy(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(
        BackendUnavailable, match=r"needs CuPy, which is not installed; run: pip install 'dcnlab\[cuda13\]'"
    ):
        module(SOURCE, ["fill<float>"])


def test_without_a_gpu(cupy):
    cupy.cuda.is_available = lambda: False
    with pytest.raises(
        BackendUnavailable, match="needs an NVIDIA GPU and its driver, CuPy finds none; use target='cpu'"
    ):
        module(SOURCE, ["fill<float>"])


def test_cupy_is_never_imported_uninvited():
    program = """if True:
        import sys
        from dcnlab.launch import module
        try:
            module('__global__ void f() {}', target='cpu')
        except Exception:
            pass
        sys.exit('cupy' in sys.modules)
    """
    subprocess.run([sys.executable, "-c", program], check=True)
