"""Problems and rungs: what is made, that a wrong rung is seen, that what is replayed does the same again."""

from functools import partialmethod

import numpy as np
import pytest
import strict_cupy

from dcnlab.bench.gpu import rungs, workloads
from dcnlab.bench.gpu.device import CudaDevice
from dcnlab.bench.gpu.rungs import Recorder, calls_of, check, ideas_for, largest_error
from dcnlab.bench.gpu.timing import measure
from dcnlab.bench.gpu.workloads import Noise, Plan, Shape, dcnv3_workload, items, layer_workload, sampling_workload
from dcnlab.bench.kernels import OneRung
from dcnlab.compiled.calls import Call
from dcnlab.compiled.rungs import RUNGS

pytestmark = pytest.mark.usefixtures("compiler")
OTHERS = dict.fromkeys(o for o, _ in RUNGS if not o.startswith("dcnv3") and o not in workloads.PARTS)
TINY = Shape("tiny", 5, 12, 3)
PLAN = Plan(shapes=(TINY,), dtypes=("float32",), batches=(2,), layers_side=5, layers_channels=16)


@pytest.fixture
def device(monkeypatch):
    strict_cupy.install(monkeypatch, kernels=True)
    return CudaDevice()


def tiny(operator, dtype="float32", offsets="N(0, 2)", shape=TINY):
    return dcnv3_workload(Noise(2), operator, shape, dtype, 2, offsets)


def test_every_operator_of_the_table_has_problems():
    assert workloads.unknown_operators() == []
    titles = " ".join(item.title for item in items(Plan()))
    for operator, _ in RUNGS:
        assert workloads.PARTS.get(operator, operator) in titles


def test_an_operator_without_a_problem_is_named(monkeypatch):
    monkeypatch.setitem(workloads.RUNGS, ("new_forward", "1_naive"), None)
    assert workloads.unknown_operators() == ["new_forward"]


def test_the_protocol_s_problems_are_all_there():
    found = list(items(Plan()))
    dcnv3 = [item.title for item in found if item.title.startswith("dcnv3")]
    assert len(dcnv3) == len(set(dcnv3)) == 7 * 2 * 2 * 3 * 2  # shapes, types, batches, offsets, directions
    for part in (
        "7x7",
        "stride 2",
        " G7 ",
        " G10 ",
        "float16",
        "batch 1 ",
        "batch 64 ",
        "N(0, 0.5)",
        "N(0, 2)",
        "zero",
    ):
        assert any(part in title for title in dcnv3), part
    first = [item.title for item in found if item.importance == 0]
    assert len(first) == 28
    assert all("batch 64 offsets N(0, 0.5)" in title for title in first)


def test_offsets_are_what_the_label_says_and_the_share_outside_grows():
    rough, fine, zero = (tiny("dcnv3_forward", offsets=o) for o in ("N(0, 2)", "N(0, 0.5)", "zero"))
    assert np.array_equal(rough.arrays["offset"], 4 * fine.arrays["offset"])
    assert not zero.arrays["offset"].any()
    assert zero.outside == pytest.approx(1 - (13 / 15) ** 2, abs=1e-4), "of 15 rows of taps, 2 outside, and columns"
    assert zero.outside < rough.outside
    assert rough.arrays["offset"].std() == pytest.approx(2, rel=0.05)
    assert rough.arrays["mask"].reshape(2, 5, 5, 3, 9).sum(axis=-1) == pytest.approx(1, rel=1e-5)


def test_a_smaller_batch_is_the_beginning_of_a_larger_one():
    noise = Noise(3)
    one, three = (dcnv3_workload(noise, "dcnv3_backward", TINY, "float32", n, "zero") for n in (1, 3))
    for key in ("input", "offset", "mask", "grad_output"):
        assert np.array_equal(one.arrays[key], three.arrays[key][:1])
        assert np.array_equal(three.first_image()[key], one.arrays[key])


@pytest.mark.parametrize("operator", ["dcnv3_forward", "dcnv3_backward"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_every_rung_is_right_and_a_wrong_one_is_seen(device, operator, dtype, monkeypatch):
    workload = tiny(operator, dtype)
    ideas = ideas_for(workload, device.xp)
    assert set(ideas) >= {idea for of, idea in RUNGS if of == operator and idea[0] in "12"}
    found = check(workload, ideas, device.xp)
    assert list(found) == ideas
    assert all(each.right and each.error > 0 for each in found.values())
    real = workload.reference

    def off_by_one_percent(arrays):
        found = real(arrays)
        return type(found)(*(1.01 * f for f in found)) if isinstance(found, tuple) else 1.01 * found

    monkeypatch.setattr(type(workload), "reference", lambda self, arrays: off_by_one_percent(arrays))
    assert not any(each.right for each in check(workload, ideas, device.xp).values())


def test_the_largest_error():
    wanted = np.array([1.0, -4.0])
    assert largest_error(np.array([1.0, -4.0]), wanted) == 0
    assert largest_error(np.array([1.2, -4.0]), wanted) == pytest.approx(0.05)
    assert largest_error(np.array([np.nan, -4.0]), wanted) == float("inf")
    assert largest_error((wanted, None), (wanted + 0.4, None)) == pytest.approx(0.4 / 3.6)
    assert largest_error(np.zeros(0), np.zeros(0)) == 0


@pytest.mark.parametrize("idea", ["1_atomic", "2_point"])
def test_a_replay_does_the_same_again(device, idea):
    """Sums that the kernel adds to start at 0 every time."""
    workload = tiny("dcnv3_backward")
    arrays = rungs.on_device(device.xp, workload.arrays)
    recorder = Recorder(arrays["input"], RUNGS["dcnv3_backward", idea])
    grads = workload.compiled(arrays, recorder)
    (replay,) = recorder.launched
    assert len(replay.sums) == (3 if idea == "1_atomic" else 1)
    before = grads.input.copy()
    assert before.any()
    for _ in range(2):
        replay()
        assert np.array_equal(grads.input.get(), before.get())


def test_a_rung_of_several_kernels_is_timed_as_a_whole(device):
    """The second may use what the first left behind: none of them can be repeated by itself."""
    workload = tiny("dcnv3_forward")
    real, once = workload.compiled, []

    def twice(arrays, call):
        once.append(call)
        real(arrays, call)
        return real(arrays, call)

    workload.compiled = twice
    copies = rungs.copies_of(workload, device)
    calls, alone = calls_of(workload, "2_point", copies)
    assert not alone
    assert len(calls) == len(copies)
    assert len(once) == 1, "the first copy told"
    for call in calls:
        call()
    assert len(once) == 1 + len(copies)
    assert all(type(call) is OneRung and call.rungs == {"dcnv3_forward": "2_point"} for call in once[1:])


def test_a_part_of_a_rung_is_not_repeated_by_itself(device, monkeypatch):
    monkeypatch.setattr(Call, "launch", lambda self, operator, problem, *arguments, part=None: None)
    workload = tiny("dcnv3_forward")
    arrays = rungs.on_device(device.xp, workload.arrays)
    whole, part = (Recorder(arrays["input"], RUNGS["dcnv3_forward", "2_point"]) for _ in range(2))
    workload.compiled(arrays, whole)
    monkeypatch.setattr(Recorder, "launch", partialmethod(Recorder.launch, part="taps"))
    workload.compiled(arrays, part)
    assert [type(replay).__name__ for replay in whole.launched] == ["Replay"]
    assert part.launched == [None]


@pytest.mark.parametrize("operator", OTHERS)
def test_the_other_operators_are_right_too(device, operator):
    make = sampling_workload if operator == "sampling" else None
    workload = make(PLAN, "float32") if make else layer_workload(operator, PLAN, "float32", 2)
    ideas = ideas_for(workload, device.xp)
    assert ideas == [idea for of, idea in RUNGS if of == operator]
    assert all(each.right for each in check(workload, ideas, device.xp).values())
    copies = rungs.copies_of(workload, device)
    assert len(copies) == max(1, -(-3 * device.l2_bytes // int(workload.work.bytes)))
    for idea in ideas:
        calls, alone = calls_of(workload, idea, copies)
        assert alone is (not operator.startswith("deform_conv2d"))
        assert len(calls) == len(copies)
        assert measure(device, calls).us > 0
    moved = sum(a.nbytes for a in workload.arrays.values())
    assert moved < workload.work.bytes <= 3 * moved + 225 * 16 * 4
