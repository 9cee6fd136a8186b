"""Every rung on CuPy arrays: golden data, the float64 reference, values that are not finite, other operators."""

import numpy as np
import pytest
from helpers import assert_close, expect, expected_gradient, golden_dcnv3, golden_deform_conv2d

from dcnlab.arrays import as_numpy
from dcnlab.bench.kernels import NotTaken, OneRung
from dcnlab.compiled import deformable
from dcnlab.compiled.calls import Call
from dcnlab.compiled.rung import DTYPES
from dcnlab.compiled.rungs import RUNGS
from dcnlab.reference import deformable as reference
from kernels import test_against_reference as cases
from kernels import test_layers as layers

pytestmark = pytest.mark.gpu
LABELS = {"dcnv3": cases.DCNV3_GEOMETRIES, "deform_conv2d": cases.DEFORM_CONV2D_GEOMETRIES}
DEFORMABLE = [key for key in RUNGS if key[0].rpartition("_")[0] in LABELS]


def name_of(operator):
    return operator.removesuffix("_forward").removesuffix("_backward")


def by_kernel(cupy, key, arrays, settings, grad):
    """Return {"output": array}, or the gradients by name, of a rung; None where it does not take the problem."""
    given = {k: cupy.asarray(v) for k, v in arrays.items()}
    call = OneRung(given["input"], RUNGS[key])
    if key[0].endswith("_backward"):
        given = {"grad_output": cupy.asarray(grad), **given}
    try:
        found = getattr(deformable, key[0].removesuffix("_forward"))(**given, **settings, call=call)
    except NotTaken:
        return None
    return by_name(found)


def by_name(found):
    """Return an output, or gradients, as NumPy arrays by name."""
    named = found._asdict() if isinstance(found, tuple) else {"output": found}
    return {key: None if array is None else as_numpy(array) for key, array in named.items()}


def by_reference(key, arrays, settings, grad):
    output, grads = cases.reference(name_of(key[0]), arrays, settings, grad)
    return by_name(grads if key[0].endswith("_backward") else output)


def require(found, key):
    if found is None:
        pytest.skip(f"{'/'.join(key)} does not take this problem")
    return found


def require_close(actual, wanted, key, arrays, settings):
    """Within rounding; of kernels that compute in half precision too, within four roundings of the sum of sizes."""
    if RUNGS[key].dtypes != ("float16",):
        expect(actual, wanted, "/".join(key))
        return
    sizes = {k: v if k == "offset" else abs(v) for k, v in arrays.items()}
    with np.errstate(all="ignore"):
        allowed = 4 * 2.0**-11 * getattr(reference, name_of(key[0]))(**cases.exact(sizes), **settings) + 2.0**-25
    assert np.array_equal(np.isnan(actual), np.isnan(wanted))
    finite = np.isfinite(wanted)
    assert (abs(actual[finite].astype(float) - wanted[finite]) <= allowed[finite]).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("key", "label"),
    [(key, label) for key in DEFORMABLE for label in LABELS[name_of(key[0])]],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else value,
)
def test_the_reference(cupy, key, label, dtype):
    name = name_of(key[0])
    arrays, settings, grad = cases.make_case(name, label, dtype)
    found = require(by_kernel(cupy, key, arrays, settings, grad), key)
    for what, wanted in by_reference(key, arrays, settings, grad).items():
        require_close(found[what], wanted, key, arrays, settings)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("key", DEFORMABLE, ids="-".join)
def test_values_that_are_not_finite(cupy, key, dtype):
    name = name_of(key[0])
    arrays, settings, grad = cases.broken(name, dtype)
    found = require(by_kernel(cupy, key, arrays, settings, grad), key)
    for what, wanted in by_reference(key, arrays, settings, grad).items():
        require_close(found[what], wanted, key, arrays, settings)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("key", DEFORMABLE, ids="-".join)
def test_golden_data(cupy, key, dtype):
    name, taken = name_of(key[0]), 0
    for path in cases.GOLDEN_FILES:
        if (path.parent.name == "dcnv2") != (name == "deform_conv2d"):
            continue
        arrays, settings, data = (golden_deform_conv2d if name == "deform_conv2d" else golden_dcnv3)(path)
        arrays = {k: v.astype(dtype) for k, v in arrays.items()}
        grad = data.get("grad_output", np.ones(data["output"].shape)).astype(dtype)
        found = by_kernel(cupy, key, arrays, settings, grad)
        if found is None:
            continue
        taken += 1
        if key[0].endswith("_forward"):
            assert_close(found["output"], data["output"], name=path.stem)
        elif "grad_output" in data:
            for what in arrays:
                assert_close(found[what], expected_gradient(data, what), name=f"{path.stem}: gradient of {what}")
    if not taken:
        pytest.skip(f"{'/'.join(key)} takes no golden problem")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", layers.CASES, ids=" ".join)
def test_the_other_operators(cupy, case, dtype):
    name = case[0]
    shapes, settings = layers.CASES[case]
    arrays, grad = layers.make_case(name, shapes, settings, dtype)
    given = {k: cupy.asarray(v) for k, v in arrays.items()}
    found = [None if a is None else as_numpy(a) for a in layers.run(name, given, settings, cupy.asarray(grad))]
    for wanted in layers.references(name, arrays, settings, grad):
        layers.expect_all(found, wanted)


def test_an_empty_batch_and_one_pixel(cupy):
    for batch in (0, 1):
        x, offset, mask = (cupy.asarray(np.ones((batch, 1, 1, n), np.float32)) for n in (2, 18, 9))
        call = Call(x)
        assert deformable.dcnv3(x, offset, mask, call=call).shape == (batch, 1, 1, 2)
        grads = deformable.dcnv3_backward(x, x, offset, mask, call=call)
        assert [g.shape for g in grads] == [x.shape, offset.shape, mask.shape]
