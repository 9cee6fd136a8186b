"""What a GPU is given, its instances and launches, runs on the CPU in check mode: right, and without a fault."""

import importlib

import numpy as np
import pytest
from helpers import each_gradient, expect

from dcnlab import catalogue
from dcnlab.bench.kernels import Counted, NotTaken
from dcnlab.compiled.ladder import AS_ON_A_GPU, rungs_of
from dcnlab.launch import module

pytestmark = [pytest.mark.usefixtures("compiler"), pytest.mark.check_kernels]

HOMES = {
    "deform_conv2d": "deformable",
    "dcnv3": "deformable",
    "depthwise_conv2d": "depthwise",
    "layer_norm": "normalisation",
    "gelu": "activation",
    "softmax": "activation",
}
CASES = [case for case in catalogue.CASES if case.operator.name in HOMES]


@pytest.mark.parametrize("dtype", ["float64", "float16"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.operator.name} {case.label}")
def test_every_rung_as_a_gpu_gets_it(case, dtype):
    name, rng = case.operator.name, np.random.default_rng(0)
    arrays = {key: value.astype(dtype) for key, value in case.arguments(rng).items()}
    exact = {key: value.astype(float) for key, value in arrays.items()}
    wanted = case.operator.function(**exact, **case.settings)
    grad = rng.standard_normal(wanted.shape).astype(dtype)
    wanted_grads = each_gradient(case.operator.backward(grad.astype(float), **exact, **case.settings))
    home, taken = importlib.import_module(f"dcnlab.compiled.{HOMES[name]}"), set()
    for rung in [*rungs_of(f"{name}_forward"), *rungs_of(f"{name}_backward")]:
        call = Counted(arrays["input"], rung)
        try:
            if rung.operator.endswith("_forward"):
                found, expected = [getattr(home, name)(**arrays, **case.settings, call=call)], [wanted]
            else:
                back = getattr(home, f"{name}_backward")
                found, expected = each_gradient(back(grad, **arrays, **case.settings, call=call)), wanted_grads
        except NotTaken:
            continue
        taken.add(rung.operator)
        for number, (a, e) in enumerate(zip(found, expected, strict=True)):
            expect(a, e, f"{rung.path}, result {number}")
        assert any(traffic.written + traffic.atomic for traffic in call.traffic.values())
    assert taken == {f"{name}_forward", f"{name}_backward"}


def test_the_form_is_that_of_a_gpu():
    """kernels/include/taps.cuh takes taps one by one on a GPU, nine together on a CPU."""
    source = '#include "taps.cuh"\nextern "C" __global__ void together(int* y) { y[0] = TOGETHER; }\n'
    found = np.zeros(1, np.int32)
    for defines, expected in (({}, 9), (AS_ON_A_GPU, 1)):
        module(source, target="cpu", defines=defines)["together"][1, 1](found)
        assert found[0] == expected
