"""Rung 6 of DCNv3 backward: the same gradients bit for bit, in whichever order threads run."""

import numpy as np
import pytest

from dcnlab import catalogue
from dcnlab.compiled import deformable as compiled
from dcnlab.compiled.calls import Call
from dcnlab.reference import deformable

pytestmark = pytest.mark.usefixtures("compiler")

ORDERS = ("backward", 1, 2)
SETTINGS = {"groups": 2}


def make_case(dtype, cell=None, size=(13, 21)):
    """Return arrays with more cells than a block scans at a time; with `cell`, every tap falls into that one."""
    rng = np.random.default_rng(5)
    arrays = catalogue.dcnv3_arguments(rng, batch=2, channels=16, size=size, offsets="medium")
    if cell is not None:
        rows, columns = np.mgrid[: size[0], : size[1]]
        taps = np.mgrid[-1:2, -1:2].reshape(2, 9)[::-1].T  # x slow, y fast: columns are (y, x)
        offset = arrays["offset"].reshape(2, *size, 2, 9, 2)
        inside = rng.uniform(0.1, 0.9, offset.shape)
        offset[..., 0] = cell[1] + inside[..., 0] - columns[:, :, None, None] - taps[:, 1]
        offset[..., 1] = cell[0] + inside[..., 1] - rows[:, :, None, None] - taps[:, 0]
    grad = rng.standard_normal((2, *size, 16)).astype(dtype)
    return {key: value.astype(dtype) for key, value in arrays.items()}, grad


def run(arrays, grad, idea="6_deterministic", **how):
    call = Call(arrays["input"], rungs={"dcnv3_backward": idea}, **how)
    return compiled.dcnv3_backward(grad, **arrays, **SETTINGS, call=call)


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("cell", [None, (6, 9)], ids=["many cells", "one cell"])
def test_bit_for_bit_in_every_order_of_threads(cell, dtype, monkeypatch):
    arrays, grad = make_case(dtype, cell)
    first = run(arrays, grad)
    if cell is not None and dtype == "float64":
        touched = np.abs(first.input).sum(axis=(0, 3)) > 0
        assert touched.sum() == 4, "the case is what it says it is"
        assert touched[6:8, 9:11].all()
    for order in ORDERS:
        assert same(run(arrays, grad, thread_order=order), first)
    for workers in (1, 2, 5):
        monkeypatch.setenv("DCNLAB_NUM_THREADS", str(workers))
        assert same(run(arrays, grad), first)
    exact = {key: value.astype(float) for key, value in arrays.items()}
    wanted = deformable.dcnv3_backward(grad.astype(float), **exact, **SETTINGS)
    scale = abs(wanted.input).max()
    tolerance = {"float64": 1e-12, "float32": 1e-5, "float16": 1e-3}[dtype]  # half a unit of float16 is 5e-4
    assert abs(first.input - wanted.input).max() <= tolerance * scale


def test_other_rungs_are_not():
    """So that the test above could fail."""
    arrays, grad = make_case("float32")
    assert not same(run(arrays, grad, "3_shuffle", thread_order="backward"), run(arrays, grad, "3_shuffle"))


def test_it_is_the_sort_that_does_it(monkeypatch):
    launch = Call.launch

    def without_sort(self, *arguments, part=None):
        if part != "sort":
            launch(self, *arguments, part=part)

    monkeypatch.setattr(Call, "launch", without_sort)
    arrays, grad = make_case("float32")
    assert not same(run(arrays, grad, thread_order="backward"), run(arrays, grad))
