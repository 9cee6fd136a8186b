"""The fused rungs of deformable convolution: any geometry, how they are chosen, and sums that are cut into parts."""

import numpy as np
import pytest
from helpers import expect
from hypothesis import given, settings
from hypothesis import strategies as st

from dcnlab import catalogue
from dcnlab.compiled import deformable as compiled
from dcnlab.compiled.calls import DEFORM_CONV2D_SHAPE, Call, deform_conv2d_problem
from dcnlab.compiled.fused_rungs import channel_slice, weight_parts
from dcnlab.compiled.rungs import RUNGS, pick
from dcnlab.reference import deformable

pytestmark = pytest.mark.usefixtures("compiler")

FUSED = {"deform_conv2d_forward": "3_fused", "deform_conv2d_backward": "3_fused"}


def problem(target="cuda", dtype="float32", **sizes):
    """What `deform_conv2d` chooses a rung for."""
    defaults = {"batch": 2, "channels": 64, "outputs": 64, "groups": 1, "conv_groups": 1, "taps": 9}
    sizes = dict.fromkeys(DEFORM_CONV2D_SHAPE.names, 1) | defaults | {"out_height": 56, "out_width": 56} | sizes
    call = Call(np.zeros(1))
    call.target = target
    return deform_conv2d_problem(call, np.array(tuple(sizes.values()), DEFORM_CONV2D_SHAPE), np.dtype(dtype))


def both(arrays, grad_seed=0, **rest):
    """Return (output, gradients) by the fused rungs, and by the reference in float64."""
    exact = {key: value.astype(float) for key, value in arrays.items()}
    wanted = deformable.deform_conv2d(**exact, **rest)
    grad = np.random.default_rng(grad_seed).standard_normal(wanted.shape).astype(arrays["input"].dtype)
    call = Call(arrays["input"], rungs=FUSED)
    found = compiled.deform_conv2d(**arrays, **rest, call=call)
    grads = compiled.deform_conv2d_backward(grad, **arrays, **rest, call=call)
    exact_grads = deformable.deform_conv2d_backward(grad.astype(float), **exact, **rest)
    return [found, *grads], [wanted, *exact_grads]


@st.composite
def geometries(draw):
    """Widths of groups that are multiples of each other or not, and sizes around those of the tiles."""
    groups, offset_groups = draw(st.sampled_from([1, 2, 3])), draw(st.sampled_from([1, 2, 4]))
    shapes = {
        "batch": draw(st.integers(1, 3)),
        "channels": np.lcm(groups, offset_groups) * draw(st.sampled_from([1, 2, 3, 4, 16, 17, 33])),
        "outputs": groups * draw(st.sampled_from([1, 5, 16, 17, 65])),
        "size": (draw(st.integers(3, 7)), draw(st.integers(3, 7))),
        "kernel_size": (draw(st.integers(1, 3)), draw(st.integers(1, 3))),
        "groups": groups,
        "offset_groups": offset_groups,
        "mask": draw(st.booleans()),
        "bias": draw(st.booleans()),
        "offsets": draw(st.sampled_from(["medium", "large", "zero"])),
    }
    rest = {"stride": draw(st.integers(1, 2)), "padding": draw(st.integers(1, 2)), "dilation": draw(st.integers(1, 2))}
    return {**shapes, **rest}, rest, draw(st.integers(0, 2**32 - 1))


@settings(deadline=None, max_examples=40)
@given(geometries())
def test_any_geometry(geometry):
    shapes, rest, seed = geometry
    arrays = catalogue.deform_conv2d_arguments(np.random.default_rng(seed), **shapes)
    for found, wanted in zip(*both(arrays, **rest), strict=True):
        expect(found, wanted, f"{shapes}")


@pytest.mark.parametrize("batch", [0, 1, 3])
def test_batches(batch):
    """Tiles go on from one image to the next: with 4 pixels each, one tile has them all."""
    arrays = catalogue.deform_conv2d_arguments(np.random.default_rng(1), batch=batch, size=(2, 2))
    for found, wanted in zip(*both(arrays, padding=1), strict=True):
        expect(found, wanted, f"batch {batch}")


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_the_gradient_of_the_weights_in_parts(dtype):
    arrays = catalogue.deform_conv2d_arguments(np.random.default_rng(2), batch=2, size=(17, 18))
    sizes = {"batch": 2, "channels": 4, "outputs": 4, "out_height": 17, "out_width": 18}
    assert weight_parts(problem("cpu", **sizes)) == (3, 256)
    arrays = {key: value.astype(dtype) for key, value in arrays.items()}
    for found, wanted in zip(*both(arrays, padding=1), strict=True):
        expect(found, wanted, dtype)


@pytest.mark.parametrize("pixels", [1, 255, 256, 257, 3136, 64 * 3136, 10**9])
@pytest.mark.parametrize("channels", [1, 64, 512])
def test_parts_have_all_pixels_once(pixels, channels):
    parts, each = weight_parts(problem(batch=1, out_height=pixels, channels=channels, outputs=channels, out_width=1))
    assert (parts - 1) * each < pixels <= parts * each
    assert each % 16 == 0
    assert parts <= 65535


def test_no_order_of_threads_shows_in_sums_that_are_not_scattered():
    arrays = catalogue.deform_conv2d_arguments(np.random.default_rng(3), channels=20, outputs=20, batch=2)
    arrays = {key: value.astype(np.float32) for key, value in arrays.items()}
    grad = np.random.default_rng(4).standard_normal((2, 20, 5, 6)).astype(np.float32)
    results = [
        compiled.deform_conv2d_backward(grad, **arrays, padding=1, call=Call(grad, thread_order=order, rungs=FUSED))
        for order in ("forward", "backward", 1)
    ]
    for other in results[1:]:
        for name in ("offset", "mask", "weight"):
            assert np.array_equal(getattr(results[0], name), getattr(other, name)), name


def test_a_slice_of_channels_lies_in_one_group_of_both_kinds():
    for channels, groups, conv_groups in ((64, 1, 1), (64, 4, 1), (64, 1, 4), (12, 3, 2), (30, 6, 10)):
        width = channel_slice(problem(channels=channels, groups=groups, conv_groups=conv_groups))
        for first in range(0, channels, width):
            for count in (groups, conv_groups):
                assert len({c // (channels // count) for c in range(first, first + width)}) == 1


@pytest.mark.parametrize("operator", FUSED)
def test_which_rung_is_chosen(operator):
    assert pick(operator, problem("cuda")).idea == "3_fused"
    assert pick(operator, problem("cpu")).idea == "2_columns"
    huge = problem("cuda", batch=2**12, out_height=2**14, out_width=2**14)  # more blocks than a grid can have
    assert pick(operator, huge).idea == "2_columns"


def test_vectors_are_loaded_only_where_they_lie():
    forward = RUNGS["deform_conv2d_forward", "3_fused"]
    names = {channels: forward.instance_for(problem(channels=channels, groups=2)) for channels in (24, 20)}
    assert names == {24: "deform_conv2d_fused<float, float, true>", 20: "deform_conv2d_fused<float, float, false>"}
