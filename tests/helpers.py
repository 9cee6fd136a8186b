"""Comparisons and geometries that several test files use."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import strategies as st

GOLDEN = Path(__file__).parent / "golden"

# Largest deviation, relative to the largest entry. A result sums n products, n up to about 1,000 here, with a
# rounding error of up to n * eps / 2 of the sum of their sizes; cancellation takes up to another factor of 10.
TOLERANCE = {"float64": 1e-12, "float32": 1e-5}


def assert_close(actual, expected, tolerance=None, name=""):
    """Compare two arrays relative to the largest entry of the second; NaN and inf must stand in the same places."""
    assert actual.shape == expected.shape, f"{name}: shape {actual.shape}, expected {expected.shape}"
    assert np.array_equal(np.isfinite(actual), np.isfinite(expected)), f"{name}: other entries are not finite"
    finite = np.isfinite(expected)
    if not finite.any():
        return
    tolerance = TOLERANCE[actual.dtype.name] if tolerance is None else tolerance
    scale = max(float(abs(expected[finite]).max()), 1e-300)
    error = float(abs(actual[finite].astype(float) - expected[finite]).max()) / scale
    assert error <= tolerance, f"{name}: relative error {error:.3e} exceeds {tolerance:.0e}"


def expect(actual, expected, what):
    """Within rounding of the float64 reference, relative to the largest entry; not finite in the same places."""
    if expected is None:
        assert actual is None
        return
    if actual.dtype != np.float16:
        assert_close(actual, expected, name=what)
        return
    assert np.array_equal(np.isnan(actual), np.isnan(expected)), what
    finite = np.isfinite(expected)
    a, e = actual[finite].astype(float), expected[finite]
    # Rounding the exact result costs half a unit in the last place; float accumulation adds far less.
    allowed = np.maximum(np.spacing(np.abs(e).astype(np.float16)).astype(float), 2e-7) + 1e-5 * abs(e).max(initial=0)
    assert (abs(a - e) <= allowed).all(), f"{what}: {(abs(a - e) / allowed).max():.2f} x what is allowed"


def each_gradient(grads):
    """Return what a backward pass returns as a tuple: operators of one argument return its gradient alone."""
    return grads if isinstance(grads, tuple) else (grads,)


def assert_grads_close(actual, expected, tolerance=None):
    """Compare two NamedTuples of gradients field by field, or one gradient; None must meet None."""
    if not isinstance(expected, tuple):
        assert_close(actual, expected, tolerance, "gradient")
        return
    for name in expected._fields:
        a, e = getattr(actual, name), getattr(expected, name)
        if e is None:
            assert a is None, f"gradient of {name} should be None"
        else:
            assert_close(a, e, tolerance, f"gradient of {name}")


def golden_deform_conv2d(path):
    """Return (arrays, settings, expected) of a golden DCNv1/DCNv2 file."""
    data = dict(np.load(path, allow_pickle=False))
    arrays = {name: data[name] for name in ("input", "offset", "weight", "bias", "mask") if name in data}
    settings = {name: tuple(int(v) for v in data[name]) for name in ("stride", "padding", "dilation")}
    return arrays, settings, data


def golden_dcnv3(path):
    """Return (arrays, settings, expected) of a golden DCNv3 operator file."""
    data = dict(np.load(path, allow_pickle=False))
    arrays = {name: data[name] for name in ("input", "offset", "mask")}
    pairs = {"kernel_size": "kernel_size", "stride": "stride", "padding": "pad", "dilation": "dilation"}
    settings = {name: tuple(int(v) for v in data[key]) for name, key in pairs.items()}
    settings |= {
        "groups": int(data["group"]),
        "offset_scale": float(data["offset_scale"]),
        "remove_center": bool(data["remove_center"]),
    }
    return arrays, settings, data


def expected_gradient(data, name):
    """Return the golden gradient of an argument; on the lattice, the one by the published kernels' rule."""
    key = f"grad_{name}"
    return data[key] if key in data else data[f"{key}_zero_outside"]


# -- random geometries ----------------------------------------------------------------------------------------------

PAIRS = st.tuples(st.integers(1, 3), st.integers(1, 3))
OFFSETS = st.sampled_from(["zero", "integer", "small", "medium", "large"])


@st.composite
def windows(draw, padding=True):
    """Draw kernel, stride, padding, dilation and an image that they fit."""
    kernel, stride, dilation = draw(PAIRS), draw(PAIRS), draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    pad = draw(st.tuples(st.integers(0, 2), st.integers(0, 2))) if padding else (0, 0)
    size = []
    for axis in (0, 1):
        least = max(1, dilation[axis] * (kernel[axis] - 1) + 1 - 2 * pad[axis])
        size.append(draw(st.integers(least, least + 4)))
    settings = {"stride": stride, "padding": pad, "dilation": dilation}
    return settings, {"kernel_size": kernel, "size": tuple(size)}


@st.composite
def deform_conv2d_cases(draw, offsets=OFFSETS):
    """Draw (settings, shapes) for `catalogue.deform_conv2d_arguments`."""
    settings, shapes = draw(windows())
    groups, offset_groups = draw(st.sampled_from([(1, 1), (2, 1), (1, 2), (2, 4), (3, 2), (4, 2)]))
    unit = int(np.lcm(groups, offset_groups))
    return settings, {
        **shapes,
        "groups": groups,
        "offset_groups": offset_groups,
        "channels": unit * draw(st.integers(1, 2)),
        "outputs": groups * draw(st.integers(1, 2)),
        "batch": draw(st.integers(0, 2)),
        "mask": draw(st.booleans()),
        "bias": draw(st.booleans()),
        "offsets": draw(offsets),
    }


@st.composite
def dcnv3_cases(draw, offsets=OFFSETS):
    """Draw (settings, shapes) for `catalogue.dcnv3_arguments`."""
    settings, shapes = draw(windows())
    kernel = shapes.pop("kernel_size")
    groups = draw(st.integers(1, 3))
    settings |= {
        "kernel_size": kernel,
        "groups": groups,
        "offset_scale": draw(st.sampled_from([1.0, 0.5, 2.0, 1.1])),
        "remove_center": kernel == (3, 3) and draw(st.booleans()),
    }
    shapes |= {"channels": groups * draw(st.integers(1, 3)), "batch": draw(st.integers(0, 2)), "offsets": draw(offsets)}
    return settings, shapes


@st.composite
def conv_cases(draw, depthwise=False):
    """Draw (settings, shapes) for `catalogue.conv_arguments`."""
    settings, shapes = draw(windows())
    groups = draw(st.integers(1, 3))
    channels = groups if depthwise else groups * draw(st.integers(1, 2))
    outputs = groups if depthwise else groups * draw(st.integers(1, 2))
    shapes |= {"groups": groups, "channels": channels, "outputs": outputs, "batch": draw(st.integers(0, 2))}
    return settings, {**shapes, "bias": draw(st.booleans())}
