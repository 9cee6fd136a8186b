"""What the rungs are timed beside: other libraries where they can be imported, and a copy of as many bytes.

All of them get the same arrays, without a copy (DLPack), and run on the same stream. A peer is timed as it is called.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dcnlab.arrays import Array, array_module
from dcnlab.bench.gpu.device import Device
from dcnlab.bench.gpu.timing import Timing, measure
from dcnlab.bench.gpu.workloads import TAPS, Workload

Maker = Callable[[Workload, Mapping[str, Array]], Callable[[], Any]]


@dataclass(frozen=True)
class Peer:
    """Another way to do the same, or something as large.

    Attributes
    ----------
    name : str
    modules : tuple of str
        What it needs.
    operators : tuple of str
        Of our own, beside which it is timed.
    make : callable
        ``make(workload, arrays)`` returns the call that is timed.
    note : str
        What it does otherwise than we do.
    """

    name: str
    modules: tuple[str, ...]
    operators: tuple[str, ...]
    make: Maker
    note: str = ""

    def missing(self) -> str:
        """Return why it cannot run here, or ""."""
        for module in self.modules:
            try:
                importlib.import_module(module)
            except Exception as error:  # an extension built for another version raises anything
                return f"{module} cannot be imported: {type(error).__name__}: {first_line(error)}"
        return ""


def first_line(error: Exception) -> str:
    """Return the first line of an error's message."""
    return next(iter(str(error).splitlines()), "")[:200]


def time_peer(peer: Peer, workload: Workload, device: Device, copies: Sequence[Mapping[str, Array]]) -> Timing:
    """Return the time of a peer on a problem."""
    device.release()  # torch takes memory of its own
    return measure(device, [peer.make(workload, each) for each in copies])


def _torch() -> Any:
    return importlib.import_module("torch")


def _tensors(arrays: Mapping[str, Array], with_gradient: bool) -> dict[str, Any]:
    torch = _torch()
    tensors = {key: torch.from_dlpack(value) for key, value in arrays.items()}
    return {key: t.requires_grad_(with_gradient and key != "grad_output") for key, t in tensors.items()}


def _timed(workload: Workload, forward: Callable[[], Any], inputs: list[Any], grad: Any) -> Callable[[], Any]:
    """Return the forward pass, or a backward pass through one that is done once."""
    torch = _torch()
    if not workload.operator.endswith("_backward"):

        def without_graph() -> Any:
            with torch.no_grad():
                return forward()

        return without_graph
    output = forward()
    grad = grad.reshape(output.shape)
    return lambda: torch.autograd.grad(output, inputs, grad, retain_graph=True)


def _torchvision(workload: Workload, arrays: Mapping[str, Array]) -> Callable[[], Any]:
    operator = importlib.import_module("torchvision").ops.deform_conv2d
    tensors = _tensors(arrays, workload.operator.endswith("_backward"))
    grad = tensors.pop("grad_output", None)
    forward = lambda: operator(**tensors, **workload.settings)
    return _timed(workload, forward, list(tensors.values()), grad)


def offset_mask(offset: Array, mask: Array, groups: int) -> Array:
    """Return offsets and modulation as DCNv4 takes them: side by side in each group, padded to a multiple of 8."""
    xp, head = array_module(offset), offset.shape[:3]
    width = 3 * TAPS * groups
    both = xp.zeros((*head, width + -width % 8), offset.dtype)
    each = both[..., :width].reshape(*head, groups, 3 * TAPS)
    each[..., : 2 * TAPS] = offset.reshape(*head, groups, 2 * TAPS)
    each[..., 2 * TAPS :] = mask.reshape(*head, groups, TAPS)
    both[..., :width] = each.reshape(*head, width)
    return both


def _by_offset_mask(operator: Callable[..., Any], *last: Any) -> Maker:
    def make(workload: Workload, arrays: Mapping[str, Array]) -> Callable[[], Any]:
        backward = workload.operator.endswith("_backward")
        groups, stride = workload.settings["groups"], workload.settings["stride"]
        given = {k: v for k, v in arrays.items() if k in ("input", "grad_output")}
        given["both"] = offset_mask(arrays["offset"], arrays["mask"], groups)
        tensors = _tensors(given, backward)
        image, both = tensors["input"], tensors["both"]
        geometry = (3, 3, stride, stride, 1, 1, 1, 1, groups, image.shape[-1] // groups, 1.0, 256, *last)
        forward = lambda: operator(image, both, *geometry)
        return _timed(workload, forward, [image, both], tensors.get("grad_output"))

    return make


def _dcnv4(*arguments: Any) -> Any:
    return importlib.import_module("DCNv4.functions").DCNv4Function.apply(*arguments)


def _deformops(*arguments: Any) -> Any:
    return importlib.import_module("deformops").deform2d(*arguments)


def _depthwise(workload: Workload, arrays: Mapping[str, Array]) -> Callable[[], Any]:
    torch = _torch()
    tensors = _tensors(
        {k: v for k, v in arrays.items() if k in ("input", "grad_output")}, workload.operator.endswith("_backward")
    )
    image = tensors["input"].permute(0, 3, 1, 2)  # channels-last memory, as cuDNN calls it
    channels, grad = image.shape[1], tensors.get("grad_output")
    weight = torch.ones(channels, 1, 3, 3, dtype=image.dtype, device=image.device)
    stride = workload.settings["stride"]
    forward = lambda: torch.nn.functional.conv2d(image, weight, None, stride, 1, 1, channels)
    grad = None if grad is None else grad.permute(0, 3, 1, 2)
    return _timed(workload, forward, [tensors["input"]], grad)


def _copy(workload: Workload, arrays: Mapping[str, Array]) -> Callable[[], Any]:
    xp = array_module(*arrays.values())
    source = xp.zeros(int(workload.work.bytes) // 2, xp.uint8)
    target = xp.zeros_like(source)
    return lambda: xp.copyto(target, source)


DCNV3 = ("dcnv3_forward", "dcnv3_backward")
PEERS = (
    Peer(
        "torchvision",
        ("torch", "torchvision"),
        ("deform_conv2d_forward", "deform_conv2d_backward"),
        _torchvision,
    ),
    Peer("DCNv4", ("torch", "DCNv4.functions"), DCNV3, _by_offset_mask(_dcnv4, False), "offsets and mask in one array"),
    Peer(
        "deformops",
        ("torch", "deformops"),
        DCNV3,
        _by_offset_mask(_deformops, False, False),
        "offsets and mask in one array",
    ),
    Peer("cuDNN depthwise 3x3", ("torch",), DCNV3, _depthwise, "no offsets, no modulation"),
    Peer("copy", (), DCNV3, _copy, "as many bytes, by the driver"),
)
