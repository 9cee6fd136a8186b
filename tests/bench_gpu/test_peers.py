"""Peers get our arrays, in their own layouts, and are called as their libraries ask. The libraries are stand-ins."""

import sys
import types
from contextlib import contextmanager

import numpy as np
import pytest

from dcnlab.bench.gpu import peers, workloads
from dcnlab.bench.gpu.peers import PEERS, offset_mask
from dcnlab.bench.gpu.workloads import Noise, Plan, Shape, dcnv3_workload, layer_workload

SHAPE = Shape("tiny", 5, 12, 3)
PLAN = Plan(layers_side=4, layers_channels=16)
BY_NAME = {peer.name: peer for peer in PEERS}


class Tensor(np.ndarray):
    """A NumPy array with the few words of torch's that are asked for."""

    device = "gpu"

    def requires_grad_(self, wanted=True):
        self.wanted = wanted
        return self

    def permute(self, *axes):
        return self.transpose(axes)


def tensor(array):
    return np.asarray(array).view(Tensor)


@pytest.fixture
def torch(monkeypatch):
    """Every library; takes down what it is asked."""
    log = []

    def operator(name, like=lambda *a, **k: a[0]):
        def call(*args, **kwargs):
            log.append((name, args, kwargs))
            return tensor(np.zeros_like(like(*args, **kwargs)))

        return call

    @contextmanager
    def no_grad():
        log.append("no_grad")
        yield

    def grad(output, inputs, arriving, retain_graph):
        assert output.shape == arriving.shape
        assert retain_graph
        log.append(("grad", [x.wanted for x in inputs]))

    torch = types.ModuleType("torch")
    torch.from_dlpack = tensor
    torch.no_grad, torch.autograd = no_grad, types.SimpleNamespace(grad=grad)
    torch.ones = lambda *shape, dtype, device: tensor(np.ones(shape, dtype))
    torch.nn = types.SimpleNamespace(functional=types.SimpleNamespace(conv2d=operator("conv2d")))
    torchvision = types.ModuleType("torchvision")
    torchvision.ops = types.SimpleNamespace(deform_conv2d=operator("deform_conv2d", lambda input, **_: input))
    dcnv4, functions = types.ModuleType("DCNv4"), types.ModuleType("DCNv4.functions")
    functions.DCNv4Function = types.SimpleNamespace(apply=operator("dcnv4"))
    deformops = types.ModuleType("deformops")
    deformops.deform2d = operator("deformops")
    for module in (torch, torchvision, dcnv4, functions, deformops):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    torch.log = log
    return torch


def dcnv3(operator, dtype="float32"):
    return dcnv3_workload(Noise(2), operator, SHAPE, dtype, 2, "N(0, 0.5)")


def test_all_are_there_with_their_libraries_and_said_to_be_missing_without(torch, monkeypatch):
    assert [peer.missing() for peer in PEERS] == [""] * len(PEERS)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    assert BY_NAME["torchvision"].missing().startswith("torchvision cannot be imported: ModuleNotFoundError")
    assert {o for peer in PEERS for o in peer.operators} <= {o for o, _ in workloads.RUNGS}


@pytest.mark.parametrize(("name", "last"), [("DCNv4", (False,)), ("deformops", (False, False))])
def test_operators_with_offsets_and_mask_in_one_array(torch, name, last):
    forward, backward = dcnv3("dcnv3_forward"), dcnv3("dcnv3_backward")
    BY_NAME[name].make(forward, forward.arrays)()
    assert torch.log[0] == "no_grad"
    (_, (image, both, *geometry), _) = torch.log[1]
    assert image.shape == (2, 5, 5, 12)
    assert both.shape == (2, 5, 5, 88), "3 groups of 27, padded to a multiple of 8"
    assert tuple(geometry) == (3, 3, 1, 1, 1, 1, 1, 1, 3, 4, 1.0, 256, *last)
    torch.log.clear()
    call = BY_NAME[name].make(backward, backward.arrays)
    assert len(torch.log) == 1, "the forward pass is made before"
    call()
    assert torch.log[1:] == [("grad", [True, True])]


def test_the_array_of_offsets_and_mask_by_hand():
    offset, mask = np.arange(36.0).reshape(1, 1, 1, 36), 100 + np.arange(18.0).reshape(1, 1, 1, 18)
    both = offset_mask(offset, mask, 2)[0, 0, 0]
    assert both.tolist() == [*range(18), *range(100, 109), *range(18, 36), *range(109, 118), 0, 0]


def test_torchvision(torch):
    forward = layer_workload("deform_conv2d_forward", PLAN, "float32", 2)
    BY_NAME["torchvision"].make(forward, forward.arrays)()
    name, _, given = torch.log[1]
    assert (torch.log[0], name, given.pop("padding")) == ("no_grad", "deform_conv2d", 1)
    assert {k: v.shape for k, v in given.items()} == {k: v.shape for k, v in forward.arrays.items()}
    torch.log.clear()
    backward = layer_workload("deform_conv2d_backward", PLAN, "float32", 2)
    BY_NAME["torchvision"].make(backward, backward.arrays)()
    assert torch.log[-1] == ("grad", [True] * 5)
    assert "grad_output" not in torch.log[0][2]


def test_cudnn_s_depthwise_convolution_reads_channels_last_memory(torch):
    workload = dcnv3("dcnv3_backward")
    BY_NAME["cuDNN depthwise 3x3"].make(workload, workload.arrays)()
    _, (image, weight, bias, stride, padding, dilation, groups), _ = torch.log[0]
    assert image.shape == (2, 12, 5, 5)
    assert image.strides[1] == image.itemsize
    assert (weight.shape, bias, stride, padding, dilation, groups) == ((12, 1, 3, 3), None, 1, 1, 1, 12)
    assert torch.log[-1] == ("grad", [True])


def test_a_copy_moves_as_many_bytes(monkeypatch):
    moved = []
    monkeypatch.setattr(np, "copyto", lambda target, source: moved.append(target.nbytes + source.nbytes))
    workload = dcnv3("dcnv3_forward")
    BY_NAME["copy"].make(workload, workload.arrays)()
    assert moved == [int(workload.work.bytes) // 2 * 2]


def test_a_first_line_is_one_line():
    assert peers.first_line(ValueError("a\nb")) == "a"
    assert peers.first_line(ValueError()) == ""
