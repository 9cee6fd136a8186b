"""The backend "cpu" through the public functions, and arrays of other libraries through DLPack."""

import importlib
import inspect
import sys
import types

import numpy as np
import pytest
from compiler import require_compiler
from helpers import assert_close, assert_grads_close, dcnv3_cases, deform_conv2d_cases, each_gradient
from hypothesis import given, settings
from hypothesis import strategies as st

import dcnlab
from dcnlab import catalogue, cli
from dcnlab.catalogue import OPERATORS
from dcnlab.compiled import rung as rung_module
from dcnlab.compiled import rungs
from dcnlab.gradient_table import check_operators

SEEDS = st.integers(0, 2**32 - 1)
# Modules that exist twice, as reference and compiled, and their operators.
PAIRS = {
    "deformable": ["deform_conv2d", "dcnv3"],
    "depthwise": ["depthwise_conv2d"],
    "normalisation": ["layer_norm"],
    "activation": ["gelu", "softmax"],
}


@pytest.fixture(scope="module", autouse=True)
def _compiler():
    require_compiler()


def pair(name, arguments, fixed, dtype):
    """Compare an operator and its backward on "cpu" with the reference in float64."""
    operator = OPERATORS[name]
    typed = {key: value.astype(dtype) for key, value in arguments.items()}
    exact = {key: value.astype(float) for key, value in typed.items()}
    output, expected = operator.function(**typed, **fixed, backend="cpu"), operator.function(**exact, **fixed)
    assert output.dtype == dtype
    assert_close(output, expected, name="output")
    grad = np.random.default_rng(0).standard_normal(output.shape).astype(dtype)
    grads = operator.backward(grad, **typed, **fixed, backend="cpu")
    assert all(g is None or (g.dtype == dtype and g.flags.c_contiguous) for g in each_gradient(grads))
    assert_grads_close(grads, operator.backward(grad.astype(float), **exact, **fixed))


@settings(max_examples=40)
@given(deform_conv2d_cases(), SEEDS)
def test_deform_conv2d_equals_the_reference(case, seed):
    fixed, shapes = case
    pair(
        "deform_conv2d", catalogue.deform_conv2d_arguments(np.random.default_rng(seed), **fixed, **shapes), fixed, float
    )


@settings(max_examples=40)
@given(dcnv3_cases(), SEEDS)
def test_dcnv3_equals_the_reference(case, seed):
    fixed, shapes = case
    pair("dcnv3", catalogue.dcnv3_arguments(np.random.default_rng(seed), **fixed, **shapes), fixed, float)


@pytest.mark.parametrize("case", [c for c in catalogue.CASES if c.operator.has_kernel], ids=lambda c: c.label)
def test_float32_equals_the_float64_reference(rng, case):
    pair(case.operator.name, case.arguments(rng), case.settings, np.float32)


@pytest.mark.parametrize("case", [c for c in catalogue.CASES if c.operator.has_kernel], ids=lambda c: c.label)
def test_float16_is_at_most_twice_the_rounding_of_the_exact_result(rng, case):
    half = {key: value.astype(np.float16) for key, value in case.arguments(rng).items()}
    exact = {key: value.astype(float) for key, value in half.items()}
    operator = case.operator
    output, expected = (
        operator.function(**half, **case.settings, backend="cpu"),
        operator.function(**exact, **case.settings),
    )
    grad = rng.standard_normal(output.shape).astype(np.float16)
    grads = operator.backward(grad, **half, **case.settings, backend="cpu")
    expected_grads = operator.backward(grad.astype(float), **exact, **case.settings)
    for actual, wanted in [(output, expected), *zip(each_gradient(grads), each_gradient(expected_grads), strict=True)]:
        if wanted is None:
            continue
        assert actual.dtype == np.float16
        # Half a unit in the last place is what rounding costs; 1e-5 of the largest entry is float32 arithmetic.
        unit = np.spacing(np.abs(wanted).astype(np.float16)).astype(float)
        assert (abs(actual - wanted) <= unit + 1e-5 * abs(wanted).max()).all()


def test_every_gradient_is_right_on_this_backend(capsys):
    table = check_operators("cpu")
    assert table.ok, str(table)
    assert cli.main(["gradcheck", "--backend", "cpu"]) == 0
    assert "checks passed" in capsys.readouterr().out


def test_the_two_implementations_have_the_same_functions_and_arguments():
    for name, functions in PAIRS.items():
        compiled = importlib.import_module(f"dcnlab.compiled.{name}")
        reference = importlib.import_module(f"dcnlab.reference.{name}")
        for function in (f"{f}{back}" for f in functions for back in ("", "_backward")):
            ours = list(inspect.signature(getattr(compiled, function)).parameters.values())
            assert ours[-1].name == "call", "which kernels: for tests and benchmarks"
            assert ours[:-1] == list(inspect.signature(getattr(reference, function)).parameters.values())
    pairs = {function for functions in PAIRS.values() for function in functions}
    assert pairs == {name for name, operator in OPERATORS.items() if operator.has_kernel} - {"normalise_modulation"}


@pytest.mark.parametrize("case", [c for c in catalogue.CASES if c.operator.has_kernel], ids=lambda c: c.label)
def test_a_backend_that_cannot_run_says_so(rng, case, monkeypatch):
    if case.settings.get("kind", "softmax") != "softmax":
        pytest.skip("array-library code in every backend")
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setitem(sys.modules, "cupy", None)
    arrays = case.arguments(rng)
    output = case.operator.function(**arrays, **case.settings)
    for backend, message in (("cpu", "backend 'cpu' cannot run: CXX="), ("cuda", "backend 'cuda' cannot run")):
        with pytest.raises(dcnlab.BackendUnavailable, match=message):
            case.operator.function(**arrays, **case.settings, backend=backend)
        with pytest.raises(dcnlab.BackendUnavailable, match=message), dcnlab.use_backend(backend):
            case.operator.backward(output, **arrays, **case.settings)


def test_images_too_large_for_the_kernels_numbers_are_refused():
    from dcnlab.compiled.calls import refuse_too_many

    refuse_too_many(2**31 - 1)
    with pytest.raises(ValueError, match="31 bits, this call has 2147483648; use backend='numpy'"):
        refuse_too_many(2**31)


def test_the_table_of_rungs_names_files_and_kernels_that_exist():
    from dcnlab.launch import kernels_folder

    for rung in rungs.RUNGS.values():
        assert f"{rung.kernel}(" in (kernels_folder() / rung.path).read_text()
    for (operator, target), ideas in rungs.PREFERRED.items():
        assert all((operator, idea) in rungs.RUNGS for idea in ideas)
        assert rungs.RUNGS[operator, ideas[-1]].fits is rung_module.anything, "the last takes any problem"
        assert set(rungs.RUNGS[operator, ideas[-1]].dtypes) == set(rung_module.DTYPES)
        assert target in rung_module.TARGETS


def test_the_dispatcher_takes_the_first_rung_that_fits(monkeypatch):
    even = rung_module.Rung(
        "dcnv3_forward",
        "9_even",
        "even",
        dtypes=("float16",),
        fits=lambda problem: problem.channels % 2 == 0 and problem["taps"] == 9,
        choices=((2, 9), (4, 9)),
        choose=lambda problem: (4 if problem.channels % 4 == 0 else 2, 9),
        plan=lambda problem: rung_module.Launch((problem.count, problem.images), 64, 128),
    )
    monkeypatch.setitem(rungs.RUNGS, ("dcnv3_forward", "9_even"), even)
    monkeypatch.setitem(rungs.PREFERRED, ("dcnv3_forward", "cuda"), ("9_even", "2_point"))

    def problem(dtype="float16", channels=4, taps=9):
        return rung_module.Problem("cuda", dtype, channels, 7, 3, sizes=(("taps", taps),))

    assert rungs.pick("dcnv3_forward", problem()) is even
    assert even.instance_for(problem()) == "even<__half, float, 4, 9>"
    assert even.instance_for(problem(channels=6)) == "even<__half, float, 2, 9>"
    assert even.instances("cuda") == ["even<__half, float, 2, 9>", "even<__half, float, 4, 9>"]
    assert even.launch(problem()) == ((7, 3), 64, 128)
    general = rungs.RUNGS["dcnv3_forward", "2_point"]
    for other in (problem(dtype="float32"), problem(channels=5), problem(taps=25)):
        assert rungs.pick("dcnv3_forward", other) is general
    assert rungs.pick("dcnv3_forward", problem(), "1_naive").idea == "1_naive"
    with pytest.raises(ValueError, match="dcnv3_forward 9_even does not take Problem"):
        rungs.pick("dcnv3_forward", problem(channels=5), "9_even")


# -- DLPack --------------------------------------------------------------------------------------------------------


class Tensor:
    """A CPU tensor of another library: memory that only DLPack gives out."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **kwargs):
        return self.array.__dlpack__(**kwargs)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


@pytest.fixture
def library(monkeypatch):
    """A library whose tensors they are, with the `from_dlpack` that the standard asks for."""
    module = types.ModuleType("elsewhere")
    module.from_dlpack = lambda value: Tensor(np.from_dlpack(value))
    monkeypatch.setitem(sys.modules, "elsewhere", module)
    monkeypatch.setattr(Tensor, "__module__", "elsewhere.tensors")


@pytest.mark.parametrize("backend", ["numpy", "cpu"])
@pytest.mark.parametrize("name", ["deform_conv2d", "dcnv3"])
def test_tensors_of_another_library_are_answered_in_kind(library, rng, name, backend):
    case = next(c for c in catalogue.CASES if c.operator.name == name)
    arrays = case.arguments(rng)
    expected = case.operator.function(**arrays, **case.settings)
    tensors = {key: Tensor(array) for key, array in arrays.items()}
    output = case.operator.function(**tensors, **case.settings, backend=backend)
    assert type(output) is Tensor
    assert_close(output.array, expected)
    grads = case.operator.backward(Tensor(expected), **tensors, **case.settings, backend=backend)
    assert_grads_close(
        type(grads)(*(g and g.array for g in grads)), case.operator.backward(expected, **arrays, **case.settings)
    )


def test_tensors_are_taken_without_a_copy(library, rng, monkeypatch):
    from dcnlab.reference import deformable

    seen = []
    original = deformable.dcnv3
    monkeypatch.setattr(deformable, "dcnv3", lambda *args: seen.append(args) or original(*args))
    arrays = catalogue.dcnv3_arguments(rng)
    dcnlab.dcnv3(**{key: Tensor(array) for key, array in arrays.items()}, groups=2)
    for got, array in zip(seen[0], arrays.values(), strict=False):
        assert np.shares_memory(got, array)


def test_tensors_that_cannot_be_taken_over_are_refused(library, rng):
    arrays = catalogue.dcnv3_arguments(rng)

    class Attached(Tensor):
        def __dlpack__(self, **kwargs):
            raise BufferError("Can't export tensors that require gradient, use tensor.detach()")

    class Elsewhere(Tensor):
        def __dlpack_device__(self):
            return (8, 0)

    with pytest.raises(TypeError, match=r"cannot be taken over through DLPack: Can't export .* use tensor.detach\(\)"):
        dcnlab.dcnv3(Attached(arrays["input"]), arrays["offset"], arrays["mask"], groups=2)
    with pytest.raises(TypeError, match="must be on the CPU or a CUDA device, got DLPack device type 8"):
        dcnlab.dcnv3(Elsewhere(arrays["input"]), arrays["offset"], arrays["mask"], groups=2)


@pytest.mark.parametrize("backend", ["numpy", "cpu"])
def test_pytorch_tensors(rng, backend):
    torch = pytest.importorskip("torch", reason="PyTorch is not a dependency; tested where it is installed")
    arrays = catalogue.dcnv3_arguments(rng)
    tensors = {key: torch.from_numpy(array) for key, array in arrays.items()}
    output = dcnlab.dcnv3(**tensors, groups=2, backend=backend)
    assert isinstance(output, torch.Tensor)
    assert_close(output.numpy(), dcnlab.dcnv3(**arrays, groups=2))
    with pytest.raises(TypeError, match="detach"):
        dcnlab.dcnv3(**{**tensors, "input": tensors["input"].requires_grad_()}, groups=2)
