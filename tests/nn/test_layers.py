"""What layers compute: identities, types, unusual shapes, messages."""

import re

import numpy as np
import pytest
from helpers import assert_close, windows
from hypothesis import given
from hypothesis import strategies as st
from nn.layers import LAYERS, randomise

import dcnlab
from dcnlab import nn

IDS = [case.name for case in LAYERS]
SINGLE = 1e-5


def gradients(layer, inputs, grad=None):
    """Return the output, the gradients of the inputs and those of the parameters; for a random grad_output."""
    output = layer(*inputs)
    if grad is None:
        grad = np.random.default_rng(2).standard_normal(np.shape(output)).astype(output.dtype)
    found = layer.backward(grad)
    return output, found if isinstance(found, tuple) else (found,), layer.grad_dict()


# -- types and memory ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("case", LAYERS, ids=IDS)
def test_float32_stays_float32_and_agrees_with_float64(case, mode):
    single = gradients(case.layer(np.float32).train(mode == "train"), case.inputs(np.float32))
    double = gradients(case.layer(np.float64).train(mode == "train"), case.inputs(np.float64))
    assert_close(np.asarray(single[0]), np.asarray(double[0]), name="output")
    for actual, expected in zip(single[1], double[1], strict=True):
        assert_close(actual, expected, name="gradient of the input")
    for name, expected in double[2].items():
        if name not in case.constant_in:
            assert_close(single[2][name], expected, name=name)
    assert {np.asarray(a).dtype.name for a in (single[0], *single[1], *single[2].values())} == {"float32"}


@pytest.mark.parametrize("case", LAYERS, ids=IDS)
def test_memory_layout_changes_nothing_and_nothing_is_modified(case):
    layer, inputs = case.layer(), case.inputs()
    layer.eval()
    expected = gradients(layer, inputs, np.asarray(layer(*inputs)))
    grad = np.array(layer(*inputs), order="F")
    odd = tuple(np.asfortranarray(x) for x in inputs)
    for array in (*odd, grad, *layer.state_dict().values()):
        array.flags.writeable = False  # writing would raise
    actual = gradients(layer, odd, grad)
    assert_close(np.asarray(actual[0]), np.asarray(expected[0]))
    for a, e in zip(actual[1], expected[1], strict=True):
        assert_close(a, e)
    for name, e in expected[2].items():
        if name not in case.constant_in:
            assert_close(actual[2][name], e, name=name)


@pytest.mark.parametrize("case", [c for c in LAYERS if c.labels is None], ids=lambda c: c.name)
def test_an_empty_batch(case):
    layer = case.layer()
    inputs = tuple(x[:0] for x in case.inputs())
    output, grads, parameters = gradients(layer, inputs)
    assert len(output) == 0
    assert [g.shape for g in grads] == [x.shape for x in inputs]
    assert not any(grad.any() for grad in parameters.values())
    assert all(np.isfinite(array).all() for array in layer.state_dict().values())


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(4, 2, 3, padding=1), (1, 4, 1, 1)),
        (nn.DepthwiseConv2d(4, 3, padding=1), (1, 4, 1, 1)),
        (nn.DeformConv2d(4, 2, 3, padding=1), (1, 4, 1, 1)),
        (nn.BatchNorm2d(4), (2, 4, 1, 1)),
        (nn.BatchNorm2d(4).eval(), (1, 4, 1, 1)),
        (nn.GlobalAveragePool(), (1, 4, 1, 1)),
        (nn.PixelShuffle(2), (1, 4, 1, 1)),
        (nn.DCNv3(4), (1, 1, 1, 4)),
        (nn.DCNv3(4, stride=2, center_feature_scale=True), (1, 1, 1, 4)),
        (nn.MultiHeadSelfAttention(4, 2), (1, 1, 4)),
        (nn.WindowAttention(4, 2, 7), (1, 1, 1, 4)),
        (nn.AttentionPoolingBlock(4, 2), (1, 1, 4)),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, nn.Module) else "",
)
def test_one_pixel(layer, shape):
    output, (grad,), _ = gradients(layer, (np.ones(shape, np.float32),))
    assert np.isfinite(output).all()
    assert grad.shape == shape


def test_nan_warns_nobody(rng):
    for case in LAYERS:
        layer, inputs = case.layer(), case.inputs()
        if isinstance(layer, nn.CrossEntropy):
            continue
        for value in (np.nan, np.inf):
            inputs[0].reshape(-1)[1] = value
            gradients(layer, inputs)  # warnings are errors here


# -- convolutions --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("modulation", ["none", "twice_sigmoid"])
@pytest.mark.parametrize("settings", [{"padding": 1}, {"stride": 2, "padding": 1, "dilation": (1, 2)}, {"groups": 2}])
def test_a_new_deformable_convolution_is_a_regular_one(rng, modulation, settings):
    deformable = nn.DeformConv2d(4, 6, 3, modulation=modulation, rng=0, **settings)
    regular = nn.Conv2d(4, 6, 3, **settings)
    regular.load_state_dict({name: deformable.state_dict()[name] for name in ("weight", "bias")})
    x = rng.standard_normal((2, 4, 7, 6)).astype(np.float32)
    expected = gradients(regular, (x,))
    actual = gradients(deformable, (x,))
    assert_close(actual[0], expected[0], SINGLE)
    for name in ("weight", "bias"):
        assert_close(actual[2][name], expected[2][name], SINGLE, name)
    assert_close(
        actual[1][0], expected[1][0], SINGLE, "the offset branch has weight 0: the input gets nothing through it"
    )
    assert actual[2]["conv_offset.weight"].any(), "but it is about to learn"


def test_sigmoid_modulation_starts_at_one_half(rng):
    deformable = nn.DeformConv2d(4, 6, 3, bias=False, rng=0)
    regular = nn.Conv2d(4, 6, 3, bias=False)
    regular.weight.value = deformable.weight.value
    x = rng.standard_normal((1, 4, 5, 5)).astype(np.float32)
    assert_close(deformable(x), 0.5 * regular(x), SINGLE)


@given(windows(), st.integers(0, 2), st.integers(1, 3), st.booleans())
def test_a_depthwise_convolution_of_a_channels_last_view(case, batch, channels, bias):
    """The same numbers, in the memory layout of the input."""
    (settings, shapes), rng = case, np.random.default_rng(0)
    layer = nn.DepthwiseConv2d(channels, shapes["kernel_size"], bias=bias, dtype=np.float64, rng=0, **settings)
    images = rng.standard_normal((batch, *shapes["size"], channels))
    view = images.transpose(0, 3, 1, 2)
    expected = gradients(layer, (np.ascontiguousarray(view),), grad := rng.standard_normal(layer(view).shape))
    actual = gradients(layer, (view,), grad)
    assert_close(actual[0], expected[0])
    assert_close(actual[1][0], expected[1][0])
    for name, array in expected[2].items():
        assert_close(actual[2][name], array, name=name)
    if not view.flags.c_contiguous:  # one pixel, or one channel, lies either way
        for array in (actual[0], actual[1][0]):
            assert array.transpose(0, 2, 3, 1).flags.c_contiguous


def test_pixel_shuffle_puts_channels_where_pytorch_does():
    x = np.arange(8.0).reshape(1, 8, 1, 1)
    np.testing.assert_array_equal(nn.PixelShuffle(2)(x)[0], [[[0, 1], [2, 3]], [[4, 5], [6, 7]]])


# -- DCNv3 ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scaling", [False, True])
@pytest.mark.parametrize("stride", [2, 3, (1, 2)])
@pytest.mark.parametrize("size", [(7, 6), (8, 9)])
def test_a_stride_takes_every_so_many_of_the_outputs(rng, stride, size, scaling):
    settings = {"groups": 2, "dw_kernel_size": 5, "center_feature_scale": scaling, "dtype": np.float64}
    dense, sparse = nn.DCNv3(4, **settings), nn.DCNv3(4, stride=stride, **settings)
    randomise(dense, rng)
    dense.offset.weight.value *= 50  # samples all over the image
    sparse.load_state_dict(dense.state_dict())
    x = rng.standard_normal((2, *size, 4))
    sy, sx = stride if isinstance(stride, tuple) else (stride, stride)
    whole = dense(x)
    output = sparse(x)
    assert_close(output, whole[:, ::sy, ::sx])
    grad = rng.standard_normal(output.shape)
    spread = np.zeros_like(whole)
    spread[:, ::sy, ::sx] = grad
    assert_close(sparse.backward(grad), dense.backward(spread))
    for name, expected in dense.grad_dict().items():
        assert_close(sparse.grad_dict()[name], expected, 1e-11, name)


def test_a_new_layer_starts_as_published():
    layer = nn.DCNv3(8, groups=2, center_feature_scale=True, rng=0)
    state = layer.state_dict()
    zero = [name for name, array in state.items() if not array.any()]
    branches = [f"{name}.{kind}" for name in ("offset", "mask") for kind in ("weight", "bias")]
    scaling = ["center_feature_scale_proj_weight", "center_feature_scale_proj_bias"]
    assert sorted(zero) == sorted([*branches, *scaling, "dw_conv.1.1.bias", "input_proj.bias", "output_proj.bias"])
    bound = (6 / 16) ** 0.5
    assert 0.9 * bound < abs(state["input_proj.weight"]).max() <= bound
    assert abs(state["dw_conv.0.weight"]).max() <= 1 / 3
    layer(np.ones((1, 5, 5, 8), np.float32))
    np.testing.assert_allclose(layer.kept().mask, 1 / 9, rtol=1e-6)
    assert layer.sampling_positions().shape == (1, 5, 5, 2, 9, 2)
    np.testing.assert_array_equal(
        layer.sampling_positions()[0, 2, 2, 0], [[y, x] for x in (1, 2, 3) for y in (1, 2, 3)]
    )


@pytest.mark.parametrize(
    ("kind", "start"), [("softmax", 1 / 9), ("sigmoid", 0.5), ("twice_sigmoid", 1), ("none", 1 / 9)]
)
def test_each_modulation_starts_equal(kind, start):
    layer = nn.DCNv3(4, modulation=kind)
    layer(np.ones((1, 4, 4, 4), np.float32))
    np.testing.assert_allclose(layer.kept().mask, start, rtol=1e-6)


def test_the_backend_in_force_runs_the_operator(monkeypatch):
    from dcnlab.nn import deformable

    seen = []
    right = deformable.deformable.dcnv3
    monkeypatch.setattr(
        deformable.deformable, "dcnv3", lambda *a: seen.append(dcnlab.backends.choose(None, a[0])) or right(*a)
    )
    with dcnlab.use_backend("numpy"):
        nn.DCNv3(4)(np.ones((1, 4, 4, 4), np.float32))
    assert [backend.name for backend in seen] == ["numpy"]


# -- normalisation, dropping ---------------------------------------------------------------------------------------


def test_running_statistics(rng):
    layer = nn.BatchNorm2d(3, momentum=0.25, dtype=np.float64)
    mean, variance = np.zeros(3), np.ones(3)
    for step in (1, 2):
        x = rng.standard_normal((2, 3, 4, 5)) * 3 + 1
        layer(x)
        pixels = x.transpose(1, 0, 2, 3).reshape(3, -1)
        mean = 0.75 * mean + 0.25 * pixels.mean(axis=1)
        variance = 0.75 * variance + 0.25 * pixels.var(axis=1, ddof=1)
        assert_close(layer.running_mean.value, mean)
        assert_close(layer.running_var.value, variance)
        assert layer.num_batches_tracked.value == step
        assert layer.num_batches_tracked.value.dtype == np.int64
    output = layer.eval()(x)
    assert_close(output, (x - mean[:, None, None]) / np.sqrt(variance + 1e-5)[:, None, None])
    assert layer.num_batches_tracked.value == 2, "inference tracks nothing"


def test_one_value_has_no_variance():
    layer = nn.BatchNorm2d(3)
    with pytest.raises(ValueError, match=r"more than one value per channel, got \(1, 3, 1, 1\)"):
        layer(np.ones((1, 3, 1, 1), np.float32))
    np.testing.assert_array_equal(layer.running_var.value, 1)


@pytest.mark.parametrize("make", [nn.Dropout, nn.DropPath])
def test_dropping(make):
    layer, x = make(0.25, rng=0), np.ones((2000, 3, 2), np.float32)
    output = layer(x)
    assert set(np.unique(output)) == {np.float32(0), np.float32(1 / 0.75)}
    assert 0.2 < (output == 0).mean() < 0.3
    np.testing.assert_array_equal(layer.backward(x), output, err_msg="the same mask")
    assert (layer(x) != output).any(), "another mask"
    rows = output.reshape(2000, -1)
    assert (rows == rows[:, :1]).all() == (make is nn.DropPath), "whole samples, or single entries"
    assert layer.eval()(x) is x
    assert layer.backward(x) is x
    assert make(0.0)(x) is x
    np.testing.assert_array_equal(make(0.25, rng=0)(x), output, err_msg="a seed gives the same masks")
    for p in (1, -0.1, float("nan")):
        with pytest.raises(ValueError, match="p must lie from 0 to less than 1"):
            make(p)


def test_drop_path_unscaled():
    assert set(np.unique(nn.DropPath(0.5, scale_by_keep=False, rng=0)(np.ones((50, 2))))) == {0, 1}


# -- attention, loss -----------------------------------------------------------------------------------------------


def test_one_window_over_all_is_global_attention_and_windows_do_not_see_each_other(rng):
    everywhere = nn.MultiHeadSelfAttention(4, 2, dtype=np.float64, rng=0)
    windowed = nn.WindowAttention(4, 2, (3, 4), dtype=np.float64)
    windowed.load_state_dict(everywhere.state_dict())
    x = rng.standard_normal((2, 3, 4, 4))
    assert_close(windowed(x), everywhere(x))
    tiled = rng.standard_normal((1, 7, 6, 4))  # windows of 3x4, 3x2, 1x4 and 1x2
    output = windowed(tiled)
    for rows in (slice(0, 3), slice(3, 6), slice(6, 7)):
        for columns in (slice(0, 4), slice(4, 6)):
            assert_close(output[:, rows, columns], everywhere(tiled[:, rows, columns]))


def test_attention_by_hand(rng):
    layer = nn.MultiHeadSelfAttention(6, 2, dtype=np.float64, rng=0)
    x = rng.standard_normal((1, 4, 6))
    q, k, v = (
        part.reshape(4, 2, 3) for part in np.split(x[0] @ layer.qkv.weight.value.T + layer.qkv.bias.value, 3, axis=1)
    )
    heads = []
    for h in range(2):
        scores = np.exp(q[:, h] @ k[:, h].T / 3**0.5)
        heads.append(scores / scores.sum(axis=1, keepdims=True) @ v[:, h])
    expected = np.concatenate(heads, axis=1) @ layer.proj.weight.value.T + layer.proj.bias.value
    assert_close(layer(x)[0], expected)


def test_pooling_is_cross_attention_of_the_mean(rng):
    block = nn.AttentionPoolingBlock(4, 2, 3, dtype=np.float64)
    randomise(block, rng)
    x = rng.standard_normal((2, 5, 4))
    query = block.norm1_q(x.mean(axis=1, keepdims=True))
    expected = block.cross_dcn(query, block.norm1_k(x), block.norm1_v(x))[:, 0]
    assert_close(block(x), expected)
    block.backward(np.ones((2, 3)))
    scale = abs(block.cross_dcn.v_bias.grad).max()
    assert abs(block.cross_dcn.k_bias.grad).max() < 1e-13 * scale


def test_cross_entropy_is_a_mean(rng):
    logits = rng.standard_normal((3, 5))
    loss = nn.CrossEntropy()
    expected = -np.log(dcnlab.softmax(logits)[range(3), [1, 0, 4]]).mean()
    assert loss(logits, [1, 0, 4]) == pytest.approx(expected, rel=1e-14)
    smooth = nn.CrossEntropy(1.0)  # all classes are equally right
    assert smooth(logits, [1, 0, 4]) == pytest.approx(-np.log(dcnlab.softmax(logits)).mean(), rel=1e-14)
    assert loss(logits[:0], []) == 0
    assert loss.backward().shape == (0, 5)
    huge = np.array([[1e4, 0.0, -1e4]])
    assert loss(huge, [0]) == 0
    assert loss(huge, [2]) == 2e4


# -- messages ------------------------------------------------------------------------------------------------------

X = np.ones((1, 4, 5, 4), np.float32)
MESSAGES = [
    (
        lambda: nn.DCNv3(64)(np.ones((1, 64, 56, 56), np.float32)),
        "expected (N, H, W, 64), got (1, 64, 56, 56): channels last",
    ),
    (lambda: nn.DCNv3(10, groups=4), "DCNv3: groups must divide channels = 10, got 4"),
    (
        lambda: nn.DCNv3(8, modulation="tanh"),
        "modulation must be one of softmax, sigmoid, twice_sigmoid, none, got 'tanh'",
    ),
    (
        lambda: nn.DCNv3(8, 5),
        "must be dilation*(kernel_size - 1)/2, so that each output pixel has its offsets: expected 2, 2, got 1, 1",
    ),
    (lambda: nn.DCNv3(8, 2, dw_kernel_size=3), "expected 0.5, 0.5, got 1, 1"),
    (lambda: nn.DCNv3(8, dw_kernel_size=4), "dw_kernel_size must be odd, to have a centre, got (4, 4)"),
    (lambda: nn.DCNv3(8, (3, 5), padding=(1, 2), remove_center=True), "remove_center needs a square odd kernel"),
    (
        lambda: nn.DeformConv2d(4, 4, 3, modulation="softmax"),
        "modulation must be one of sigmoid, twice_sigmoid, none, got 'softmax'",
    ),
    (lambda: nn.DeformConv2d(4, 4, 3, offset_groups=3), "offset_groups must divide 4 channels, got 3"),
    (lambda: nn.Conv2d(4, 6, 3, groups=4), "groups must divide in_channels and out_channels, got 4, 4 and 6"),
    (lambda: nn.Linear(3, 2)(X), "linear: input must have shape (..., in) = (..., 3), got (1, 4, 5, 4)"),
    (lambda: nn.LayerNorm(3)(X), "layer_norm: input must have shape (..., C) = (..., 3), got (1, 4, 5, 4)"),
    (lambda: nn.LayerScale(3)(X), "LayerScale: expected (..., 3), got (1, 4, 5, 4)"),
    (lambda: nn.BatchNorm2d(3)(X), "batch_norm: weight must have shape (C,) = (4,), got (3,)"),
    (lambda: nn.PixelShuffle(3)(X), "PixelShuffle: expected (N, C*3*3, H, W), got (1, 4, 5, 4)"),
    (lambda: nn.GlobalAveragePool()(X[:, :, :0]), "GlobalAveragePool: expected (N, C, H, W), got (1, 4, 0, 4)"),
    (lambda: nn.GlobalAveragePool()(X[0]), "GlobalAveragePool: expected (N, C, H, W), got (4, 5, 4)"),
    (lambda: nn.MultiHeadSelfAttention(4, 3), "heads must divide dim = 4, got 3"),
    (lambda: nn.MultiHeadSelfAttention(4, 2)(X[0, 0]), "expected (N, ..., 4), got (5, 4)"),
    (lambda: nn.WindowAttention(4, 2, 2)(X[0]), "WindowAttention: expected (N, H, W, 4), got (4, 5, 4): channels last"),
    (lambda: nn.CrossAttention(4, 2)(X, X, X), "CrossAttention: expected (N, tokens, 4), got (1, 4, 5, 4)"),
    (lambda: nn.AttentionPoolingBlock(4, 2)(X[0][:, :0]), "expected (N, tokens, dim), got (4, 0, 4)"),
    (lambda: dcnlab.cross_entropy(X[0, 0], [0, 1, 4, 3, 2]), "labels must lie from 0 to K - 1 = 3, got 0 to 4"),
    (lambda: dcnlab.cross_entropy(X[0, 0], [0, 1]), "labels must have shape (N,) = (5,), got (2,)"),
    (lambda: dcnlab.cross_entropy(X[0, 0, :1], [0], 1.5), "label_smoothing must lie from 0 to 1, got 1.5"),
    (lambda: dcnlab.batch_norm(X, *np.ones((3, 4), np.float32)), "mean and variance come together"),
    (
        lambda: dcnlab.attention(X, X[:, :, :0], X[:, :, :0]),
        "key must have at least one row to attend to, got (1, 4, 0, 4)",
    ),
    (lambda: dcnlab.attention(X, X[..., :3], X), "key must have shape (..., K, D) = (1, 4, K, 4), got (1, 4, 5, 3)"),
]


@pytest.mark.parametrize(("call", "message"), MESSAGES, ids=[m[:50] for _, m in MESSAGES])
def test_messages(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


@pytest.mark.parametrize("case", LAYERS, ids=IDS)
def test_every_layer_refuses_another_grad_output_and_what_is_no_array(case):
    layer, inputs = case.layer().eval(), case.inputs()
    output = np.asarray(layer(*inputs))
    wrong = output[..., :-1] if output.ndim else np.ones(3)
    with pytest.raises(ValueError, match="grad_output must have"):
        layer.backward(wrong)
    with pytest.raises(ValueError, match="grad_output must have"):
        layer.backward(np.concatenate([wrong, wrong]))
    with pytest.raises(TypeError, match="must be a NumPy or CuPy array, got list"):
        layer(inputs[0].tolist(), *inputs[1:])


def test_types_are_named():
    with pytest.raises(TypeError, match="one dtype, got input float64 and weight float32"):
        nn.Linear(4, 2)(X.astype(np.float64))
    with pytest.raises(TypeError, match="labels must be integers, got float64"):
        dcnlab.cross_entropy(X[0, 0], np.zeros(5))
