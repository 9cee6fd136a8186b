"""The gradient checker: passes what is right, fails what is wrong by 0.1 %, and is right at the kinks."""

import numpy as np
import pytest

import dcnlab
from dcnlab import catalogue
from dcnlab.catalogue import CASES
from dcnlab.gradient_table import check_operators
from dcnlab.gradients import TOLERANCE, gradcheck

pytestmark = pytest.mark.usefixtures("each_backend")

IDS = [f"{case.operator.name}-{case.label}" for case in CASES]


def problem(case, seed=0):
    """Return function, backward and arguments of a case, as `gradcheck` takes them."""
    fixed = case.fixed()

    def function(**arrays):
        return case.operator.function(**arrays, **fixed)

    def backward(grad, **arrays):
        return case.operator.backward(grad, **arrays, **fixed)

    return function, backward, case.arguments(np.random.default_rng(seed))


def mutated(backward, name, change):
    """Return the backward pass with the gradient of one input changed."""

    def wrong(grad, **arrays):
        grads = backward(grad, **arrays)
        if not hasattr(grads, "_replace"):
            return change(grads)
        return grads._replace(**{name: change(getattr(grads, name))})

    return wrong


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_every_gradient_is_right_and_wrong_by_a_thousandth_fails(case):
    function, backward, arguments = problem(case)
    report = gradcheck(function, backward, arguments, positions=case.positions, form=case.form)
    assert report.ok, str(report)
    assert len(report.checks) == len(arguments)
    for name in arguments:
        wrong = mutated(backward, name, lambda g: g * 1.001)
        report = gradcheck(function, wrong, arguments, wrt=[name], positions=case.positions, form=case.form)
        assert not report.ok, f"a gradient of {name} that is wrong by 0.1 % passed"
        assert "WRONG" in str(report)


@pytest.mark.parametrize("seed", range(1, 6))
def test_other_seeds_pass_too(seed):
    table = check_operators(seed=seed)
    assert table.ok, str(table)


@pytest.mark.parametrize("name", ["deform_conv2d", "dcnv3"])
def test_zero_offsets_are_reported_as_kinks_and_checked_one_sided(name):
    case = next(c for c in CASES if c.operator.name == name and "zero offsets" in c.label)
    function, backward, arguments = problem(case)
    report = gradcheck(function, backward, arguments, positions=case.positions)
    offset = next(c for c in report.checks if c.input == "offset")
    assert offset.ok
    assert offset.kinks == arguments["offset"].size
    assert offset.kink_distance == 0
    assert offset.skipped == 0
    assert f"on it ({offset.kinks})" in str(report)
    assert "ok, one-sided" in str(report)


def test_zero_offsets_fail_a_check_that_does_not_know_where_the_kinks_are():
    """The trap that users fall into: a correct backward pass that looks wrong."""
    case = next(c for c in CASES if c.operator.name == "dcnv3" and c.label == "zero offsets")
    report = gradcheck(*problem(case), wrt=["offset"])
    assert not report.ok


@pytest.mark.parametrize("form", ["directions", "jacobian"])
@pytest.mark.parametrize(
    ("offset", "slope"),
    [
        (0.0, -2.0),
        (0.5, -2.0),
        (-1.0, 0.0),
        (-0.5, 3.0),
        (1.0, -1.0),
        (2.0, 0.0),
        (7.0, 0.0),
        (-1e-9, 3.0),
        (1 - 1e-9, -2.0),
    ],
)
def test_the_slope_on_each_side_of_each_kink(form, offset, slope):
    """Pixels 3, 1: the interpolant rises by 3 from -1 to 0, falls by 2 and then by 1, and is 0 outside."""
    image = np.array([3.0, 1.0]).reshape(1, 1, 1, 2)

    def function(offset):
        return dcnlab.deform_conv2d(image, offset, np.ones((1, 1, 1, 1)))

    def backward_with(value):
        def backward(grad, offset):
            gradient = np.zeros_like(offset)
            gradient[0, 1] = value
            return gradient * grad

        return backward

    def positions(arguments):
        return dcnlab.sampling_positions(arguments["offset"], 1, layout="deform_conv2d")[0, 0, 0, 0, 0]

    argument = np.zeros((1, 2, 1, 2))
    argument[0, 1, 0] = (offset, 50.0)  # the second pixel looks far away
    at = {"offset": argument}

    def right(grad, offset):
        found = dcnlab.deform_conv2d_backward(grad, image, offset, np.ones((1, 1, 1, 1))).offset
        assert found[0, 1, 0, 0] == pytest.approx(slope * grad[0, 0, 0, 0])
        return found

    report = gradcheck(function, right, at, positions=positions, form=form)
    # The y positions are on the lattice line y = 0, between the empty row above and the one below.
    assert report.ok, str(report)

    def wrong(grad, offset):
        found = right(grad, offset)
        found[0, 1, 0, 0] += 0.01 * grad[0, 0, 0, 0]
        return found

    assert not gradcheck(function, wrong, at, positions=positions, form=form).ok


def test_steps_never_leave_the_cell(rng):
    """Every point that the checker evaluates lies in the cell of its sample: what makes the differences exact."""
    case = next(c for c in CASES if c.operator.name == "deform_conv2d" and c.label == "v2 integer offsets")
    function, backward, arguments = problem(case)
    start = case.positions(arguments)
    cell = np.where(start == -1, -2, np.floor(start))
    seen = []

    def watched(**arrays):
        seen.append(case.positions(arrays))
        return function(**arrays)

    gradcheck(watched, backward, arguments, wrt=["offset"], positions=case.positions)
    assert len(seen) > 10
    for positions in seen:
        assert ((positions >= cell) & (positions <= cell + 1)).all()


def test_one_argument_that_moves_many_samples():
    """A bias added to all offsets of a layer, as in a network: from a lattice point, both directions are known."""
    rng = np.random.default_rng(3)
    image, weight = rng.standard_normal((1, 2, 5, 5)), rng.standard_normal((2, 2, 3, 3))

    def spread(bias):
        return np.broadcast_to(bias.reshape(1, 18, 1, 1), (1, 18, 5, 5)).copy()

    def function(bias):
        return dcnlab.deform_conv2d(image, spread(bias), weight, padding=1)

    def backward(grad, bias):
        return dcnlab.deform_conv2d_backward(grad, image, spread(bias), weight, padding=1).offset.sum(axis=(0, 2, 3))

    def positions(arguments):
        return dcnlab.sampling_positions(spread(arguments["bias"]), 3, padding=1, layout="deform_conv2d")

    off_lattice = {"bias": rng.uniform(0.1, 0.9, 18)}
    assert gradcheck(function, backward, off_lattice, positions=positions).ok
    # At zero, samples on y = -1 would have to go left and all others right: no direction suits both, and it says so.
    report = gradcheck(function, backward, {"bias": np.zeros(18)}, positions=positions)
    assert not report.ok
    assert report.checks[0].skipped == 3
    assert "every step crosses a kink" in str(report)


def test_the_report_names_the_worst_entry():
    def wrong(grad, input):
        found = 3 * input**2 * grad
        found[1, 2] *= 1.5
        return found

    x = np.random.default_rng(0).uniform(1, 2, (2, 3))
    report = gradcheck(lambda input: input**3, wrong, {"input": x}, form="jacobian")
    assert not report.ok
    assert "d output[1, 2] / d input[1, 2]: backward" in str(report)
    assert report.worst.input == "input"


def test_bad_calls_say_so():
    x = np.ones(3)
    square, back = (lambda input: input**2), (lambda grad, input: 2 * input * grad)
    with pytest.raises(ValueError, match="form must be"):
        gradcheck(square, back, {"input": x}, form="both")
    with pytest.raises(ValueError, match="directions must be at least 3"):
        gradcheck(square, back, {"input": x}, directions=1)
    with pytest.raises(TypeError, match="input must be a float64 array"):
        gradcheck(square, back, {"input": x.astype(np.float32)}, wrt=["input"])
    with pytest.raises(ValueError, match="gradient of input must have its shape"):
        gradcheck(square, lambda grad, input: grad[:2], {"input": x})
    with pytest.raises(ValueError, match="not finite"), np.errstate(all="ignore"):
        gradcheck(lambda input: input / 0, back, {"input": x})


def test_a_zero_gradient_is_compared_absolutely():
    """The gradient of a constant is 0: any other answer is wrong, and 0 is right."""
    x = np.ones(3)
    assert gradcheck(lambda input: 0 * input, lambda grad, input: 0 * grad, {"input": x}).ok
    assert not gradcheck(lambda input: 0 * input, lambda grad, input: 1e-3 * grad, {"input": x}).ok


def test_the_table_covers_every_operator_and_every_input():
    table = check_operators()
    assert table.ok
    assert {row.operator for row in table.rows} == set(catalogue.OPERATORS)
    for name, inputs in (
        ("deform_conv2d", {"input", "offset", "weight", "bias", "mask"}),
        ("dcnv3", {"input", "offset", "mask"}),
        ("conv2d", {"input", "weight", "bias"}),
    ):
        rows = [row for row in table.rows if row.operator == name]
        assert {row.input for row in rows} == inputs
        assert len({row.geometry for row in rows}) >= 3
    worst = max(row.error for row in table.rows)
    assert worst < TOLERANCE
    text = str(table)
    assert f"{len(table.rows)} of {len(table.rows)} checks passed" in text
    assert f"{worst:.1e}" in text
