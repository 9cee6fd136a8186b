"""What the operators are measured beside: other libraries where they are installed, and the straightforward way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from dcnlab.geometry import IntOrPair, pair, sampling_modulation, sampling_positions


def gather_einsum_dcnv3(input: np.ndarray, offset: np.ndarray, mask: np.ndarray, groups: int) -> np.ndarray:
    """DCNv3 (3x3, stride 1, padding 1) as one would first write it: gather four corners, weigh them, einsum."""
    n, height, width, channels = input.shape
    positions = sampling_positions(offset, 3, padding=1, layout="dcnv3")
    modulation = sampling_modulation(mask, 9, layout="dcnv3")
    image = input.reshape(n, height, width, groups, channels // groups)
    batch = np.arange(n)[:, None, None, None, None]
    group = np.arange(groups)[:, None]
    y, x = positions[..., 0], positions[..., 1]
    y0, x0 = np.floor(y).astype(int), np.floor(x).astype(int)
    values = np.zeros((*y.shape, channels // groups), input.dtype)
    for dy in (0, 1):
        for dx in (0, 1):
            row, column = y0 + dy, x0 + dx
            weight = (1 - abs(y - row)) * (1 - abs(x - column))
            weight = weight * ((row >= 0) & (row < height) & (column >= 0) & (column < width))
            corner = image[batch, row.clip(0, height - 1), column.clip(0, width - 1), group]
            values += weight[..., None].astype(input.dtype) * corner
    return np.einsum("nyxgk,nyxgkc->nyxgc", modulation, values).reshape(input.shape)


def onnxruntime_deform_conv2d(
    arrays: dict[str, np.ndarray], stride: IntOrPair = 1, padding: IntOrPair = 0, dilation: IntOrPair = 1
) -> Callable[[], np.ndarray] | None:
    """Return a call that runs onnxruntime's DeformConv on these arrays in one thread, or None if it is not installed.

    `arrays` has input, offset, weight and perhaps bias and mask, as in `dcnlab.deform_conv2d`.
    """
    try:
        import onnx
        import onnxruntime
    except ImportError:
        return None
    kh, kw = arrays["weight"].shape[2:]
    strides, (ph, pw) = pair(stride, "stride", 1), pair(padding, "padding", 0)
    names = {"X": "input", "W": "weight", "offset": "offset", "B": "bias", "mask": "mask"}
    kind = onnx.helper.np_dtype_to_tensor_dtype(arrays["input"].dtype)
    node = onnx.helper.make_node(
        "DeformConv",
        [onnx_name if name in arrays else "" for onnx_name, name in names.items()],
        ["Y"],
        kernel_shape=[kh, kw],
        strides=list(strides),
        pads=[ph, pw, ph, pw],
        dilations=list(pair(dilation, "dilation", 1)),
        group=arrays["input"].shape[1] // arrays["weight"].shape[1],
        offset_group=arrays["offset"].shape[1] // (2 * kh * kw),
    )
    inputs = [
        onnx.helper.make_tensor_value_info(onnx_name, kind, arrays[name].shape)
        for onnx_name, name in names.items()
        if name in arrays
    ]
    output = onnx.helper.make_tensor_value_info("Y", kind, None)
    graph = onnx.helper.make_graph([node], "deform_conv", inputs, [output])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 22)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feed = {onnx_name: np.ascontiguousarray(arrays[name]) for onnx_name, name in names.items() if name in arrays}
    return lambda: session.run(None, feed)[0]


def openvino_deform_conv2d(arrays: dict[str, np.ndarray], padding: int) -> Callable[[], Any] | None:
    """Return a call of OpenVINO's DeformableConvolution-8 on these arrays in one thread; None if not installed."""
    try:
        import openvino
        from openvino import opset8
    except ImportError:
        return None
    parameters = {name: opset8.parameter(list(arrays[name].shape), np.float32) for name in ("input", "offset", "mask")}
    node = opset8.deformable_convolution(
        parameters["input"],
        parameters["offset"],
        opset8.constant(arrays["weight"]),
        [1, 1],
        [padding, padding],
        [padding, padding],
        [1, 1],
        mask=parameters["mask"],
        bilinear_interpolation_pad=True,
    )
    model = openvino.Model([node], list(parameters.values()))
    settings = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    request = openvino.compile_model(model, "CPU", settings).create_infer_request()
    feed = [arrays[name] for name in parameters]
    return lambda: request.infer(feed)


def torchvision_deform_conv2d(
    arrays: dict[str, np.ndarray], grad_output: np.ndarray, padding: int
) -> tuple[Callable[[], Any], Callable[[], Any]] | None:
    """Return calls of torchvision's op, forward, and forward and backward, in one thread; None if not installed."""
    try:
        import torch
        import torchvision
    except ImportError:
        return None
    torch.set_num_threads(1)
    tensors = {name: torch.from_numpy(array).requires_grad_() for name, array in arrays.items()}
    grad = torch.from_numpy(grad_output)

    def forward() -> Any:
        return torchvision.ops.deform_conv2d(**tensors, padding=padding)

    def forward_only() -> Any:
        with torch.no_grad():
            return forward()

    def both() -> Any:
        return torch.autograd.grad(forward(), list(tensors.values()), grad)

    return forward_only, both
