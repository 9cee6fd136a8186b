"""What weights of its own for every tap cost: counted for the published sizes, measured for the net of the digits."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from dcnlab import nn
from dcnlab.backends import use_backend
from dcnlab.internimage import VARIANTS, InternImage
from dcnlab.internimage.blocks import Block, require_dcnv3
from dcnlab.internimage.summary import costs

BYTES = 4  # float32
TRAINED = 4  # arrays of a parameter in training with Adam: value, gradient, and two moments
COUNTED = ("T", "H")  # the paper's sizes
PAPER = {
    "T": "66.1 % more parameters without sharing",
    "H": "sharing saves 42.0 % of the parameters and 84.2 % of the GPU memory",
}


def counted(variant: str) -> dict[str, Any]:
    """Count a published model with shared and with unshared weights, for one image of its size; allocates nothing.

    Without sharing, each of a block's K taps has a matrix of C x C: K - 1 more than DCNv3's output projection. For
    backward a block then keeps, for every pixel, C numbers less, as nothing is projected after the sum over the taps;
    but an implementation that stores the sampled values of all taps to multiply them by their matrices (im2col) keeps
    K C more. `nn.UnsharedDCNv3` samples once more in its backward pass instead.

    Returns
    -------
    dict
        "parameters", "kept" (numbers kept for backward) and "columns" (those of im2col), each {"shared", "unshared"};
        "more_parameters", "saved_parameters" and "saved_memory", shares. Memory is that of the parameters in training
        (`TRAINED` arrays) and of what is kept, with columns.
    """
    model, size = InternImage(**VARIANTS[variant].settings), VARIANTS[variant].size
    found = costs(model, size)
    shared = sum(cost.parameters for cost in found)
    kept = sum(cost.kept for cost in found)
    more = fewer = columns = 0
    for stage, cost in zip(model.stages, found[1:-1], strict=True):
        dcn, channels = require_dcnv3(stage.first_block), cost.output[2]
        pixels = cost.output[0] * cost.output[1]
        more += cost.blocks * (dcn.taps - 1) * dcn.output_proj.weight.size
        fewer += cost.blocks * pixels * channels
        columns += cost.blocks * pixels * channels * dcn.taps
    memory = [TRAINED * p + k for p, k in ((shared, kept), (shared + more, kept - fewer + columns))]
    return {
        "variant": variant,
        "size": size,
        "paper": PAPER[variant],
        "parameters": {"shared": shared, "unshared": shared + more},
        "kept": {"shared": kept, "unshared": kept - fewer},
        "columns": {"shared": 0, "unshared": columns},
        "more_parameters": more / shared,
        "saved_parameters": more / (shared + more),
        "saved_memory": 1 - memory[0] / memory[1],
    }


def measured(core_op: Callable[..., nn.Module], model: dict[str, Any], batch: int, size: int) -> dict[str, Any]:
    """Measure a forward and a backward pass of a model: parameters, bytes kept for backward, and the peak.

    Parameters
    ----------
    core_op, model
        Of `InternImage`.
    batch, size : int
        Of the images.

    Returns
    -------
    dict
        "parameters"; "kept_bytes" by walking the layers; "peak_bytes", the most that Python and NumPy held at once
        beyond parameters and images, by tracemalloc, on backend "numpy".
    """
    net = InternImage(**model, core_op=core_op, rng=0)
    images = np.random.default_rng(0).standard_normal((batch, 3, size, size)).astype(np.float32)
    with use_backend("numpy"):
        net.backward(np.ones_like(net(images[:2])))  # make the parameters, load what is loaded on first use
        for parameter in net.parameters():
            parameter.grad = None
        for module in everything(net):
            module._kept = None
        tracemalloc.start()
        try:
            logits = net(images)
            kept = kept_bytes(net)
            net.backward(np.ones_like(logits))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    return {"parameters": net.parameter_count(), "kept_bytes": kept, "peak_bytes": peak}


def kept_bytes(model: nn.Module) -> int:
    """Return how many bytes the layers keep for backward; what several of them keep counts once, parameters not."""
    owners: dict[int, np.ndarray] = {}
    for layer in everything(model):
        for value in vars(layer._kept or SimpleNamespace()).values():
            for array in value if isinstance(value, (list, tuple)) else [value]:
                if isinstance(array, np.ndarray):
                    owner = _owner(array)
                    owners[id(owner)] = owner
    parameters = {id(_owner(state.value)) for _, state in model.named_state()}
    return sum(owner.nbytes for key, owner in owners.items() if key not in parameters)


def everything(model: nn.Module) -> list[nn.Module]:
    """Return all layers of a model, also those that are no part of its state, such as a block's drop paths."""
    found = list(model.modules())
    branches = [branch for module in found if isinstance(module, Block) for branch in module.branches]
    return list({id(m): m for m in [*found, *(m for branch in branches for m in branch.modules)]}.values())


def _owner(array: np.ndarray) -> np.ndarray:
    """Return the array that holds the memory of a view."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array
