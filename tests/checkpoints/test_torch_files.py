"""What torch.save writes, in both formats: types, views, wrappers, and objects that are none of our business."""

import argparse
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
from checkpoint_files import (
    KINDS,
    Parameter,
    Stored,
    Tensor,
    bfloat16,
    stored,
    tensor,
    torch_legacy,
    torch_pickle,
    torch_zip,
)

import dcnlab

FORMATS = pytest.mark.parametrize("write", [torch_zip, torch_legacy], ids=["zip", "legacy"])
W = np.arange(6, dtype=np.float32).reshape(2, 3)


class Config(dict):
    """Stands for yacs' CfgNode: a dict subclass with attributes."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.frozen = True


def assert_same(loaded, expected):
    assert list(loaded) == list(expected)
    for name, array in expected.items():
        assert type(loaded[name]) is np.ndarray
        assert loaded[name].dtype == array.dtype
        assert loaded[name].shape == array.shape
        assert loaded[name].tobytes() == np.ascontiguousarray(array).tobytes(), name


@FORMATS
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_type_and_rank(write, protocol, load, rng):
    names = [name for name in KINDS if name != "bfloat16"]
    arrays = {name: (rng.normal(size=(2, 3, 1)) * 99).astype(name) for name in names}
    arrays |= {"scalar": np.array(7), "empty": np.zeros((0, 3), np.float32), "nan": np.float32([np.nan, np.inf, -0.0])}
    state = OrderedDict((name, tensor(array)) for name, array in arrays.items())
    loaded = load(write(state, protocol))
    assert_same(loaded, arrays)
    assert all(array.flags.writeable and array.flags.owndata for array in loaded.values())


@FORMATS
def test_bfloat16_becomes_float32_exactly(write, load):
    numbers = np.float32([1, -2.5, 3.3895314e38, 1e-40, 0, -0.0, np.inf, -np.inf, np.nan])
    numbers = (numbers.view(np.uint32) & 0xFFFF0000).view(np.float32)  # representable; one is subnormal
    assert_same(load(write({"w": bfloat16(numbers), "s": bfloat16(2.0)})), {"w": numbers, "s": np.array(2, np.float32)})


@FORMATS
def test_views_of_a_shared_storage(write, load):
    base = np.arange(24, dtype=np.float32)
    storage = stored(base)
    state = {
        "transposed": Tensor(storage, 0, (4, 6), (1, 4)),
        "slice": Tensor(storage, 5, (2, 3), (8, 2)),
        "channels_last": Tensor(storage, 0, (2, 3, 2, 2), (12, 1, 6, 3)),
        "expanded": Tensor(storage, 3, (4, 2), (0, 1)),
        "any_stride_along_one": Tensor(storage, 23, (1, 1), (10**12, 7)),
        "tied": Tensor(storage, 0, (24,), (1,)),
    }
    expected = {
        "transposed": base.reshape(6, 4).T,
        "slice": base[5:21].reshape(2, 8)[:, 0:6:2],
        "channels_last": base.reshape(2, 2, 2, 3).transpose(0, 3, 1, 2),
        "expanded": np.broadcast_to(base[3:5], (4, 2)),
        "any_stride_along_one": base[23:].reshape(1, 1),
        "tied": base,
    }
    loaded = load(write(state))
    assert_same(loaded, expected)
    loaded["tied"][:] = -1
    assert loaded["expanded"][0, 0] == 3  # no memory is shared


def test_old_views_of_a_part_of_a_storage(load):
    whole = stored(np.arange(10, dtype=np.int64))
    part = Stored(whole.raw, 10, "LongStorage", ("view", 4, 3))
    assert load(torch_legacy({"w": Tensor(part, 1, (2,), (1,))}))["w"].tolist() == [5, 6]
    with pytest.raises(dcnlab.UnsafeCheckpoint, match="element 3 of a storage that has 3"):
        load(torch_legacy({"w": Tensor(part, 1, (3,), (1,))}))
    with pytest.raises(dcnlab.UnsafeCheckpoint, match="ends at 11, expected at most 10"):
        load(torch_legacy({"w": Tensor(Stored(whole.raw, 10, "LongStorage", ("view", 8, 3)), 0, (1,), (1,))}))


def test_big_endian_zip(load):
    made = {"w": Tensor(stored(W, byteorder=">"), 0, (2, 3), (3, 1))}
    assert_same(load(torch_zip(made, byteorder="big")), {"w": W})
    with pytest.raises(ValueError, match="byteorder 'little' or 'big', got 'middle'"):
        load(torch_zip(made, byteorder="middle"))


def test_compressed_zip(load):
    assert_same(load(torch_zip({"w": tensor(W)}, compression=zipfile.ZIP_DEFLATED)), {"w": W})


@FORMATS
@pytest.mark.parametrize("wrapper", ["model", "module", "state_dict", "model_ema"])
def test_wrappers(write, wrapper, load):
    others = {
        "epoch": 3,
        "lr": 0.1,
        "optimizer": {"state": {0: {"step": tensor(9)}}, "param_groups": [{"params": [0]}]},
    }
    assert_same(load(write({**others, wrapper: OrderedDict(w=tensor(W))})), {"w": W})


def test_the_first_wrapper_that_holds_tensors(load):
    ema, other = {"w": tensor(W + 1)}, {"w": tensor(W)}
    assert load(torch_zip({"model_ema": ema, "state_dict": other}))["w"][0, 0] == 0
    assert load(torch_zip({"model": {"type": "net"}, "module": None, "model_ema": ema}))["w"][0, 0] == 1


def test_a_parameter_with_the_name_of_a_wrapper(load):
    assert_same(load(torch_zip({"model": tensor(W), "bias": tensor(W[0])})), {"model": W, "bias": W[0]})


@FORMATS
def test_parameters_and_metadata(write, load):
    state = OrderedDict(w=Parameter(tensor(W)))
    state._metadata = OrderedDict([("", {"version": 1})])
    assert_same(load(write(state)), {"w": W})


def test_tensors_with_attributes(load):
    """torch wraps the call that makes them in another, beside their class and attributes."""
    made, _ = torch_pickle({"w": tensor(W)})
    start, end = made.index(b"ctorch._utils"), made.rindex(b"Rq")
    mark = made.index(b"(", start)  # from here on its arguments, as a tuple
    wrapper = b"ctorch._tensor\n_rebuild_from_type_v2\n("
    wrapped = wrapper + made[start:mark] + b"ctorch\nTensor\n" + made[mark:end] + b"}X\x01\0\0\0aK\x01stR"
    program = made[:start] + wrapped + made[end + 1 :]
    assert_same(load(torch_zip({"w": tensor(W)}, data_pkl=program)), {"w": W})


@FORMATS
@pytest.mark.parametrize("protocol", [2, 4])
def test_foreign_objects_stay_inert(write, protocol, load, monkeypatch):
    foreign = {
        "config": Config({"NAME": Config({"depths": [1, 2]}), "set": {1, 2}, "frozen": frozenset("a")}),
        "arguments": argparse.Namespace(lr=0.1),
        "accuracy": np.float64(83.5),
        "history": np.arange(5),
        "bytes": b"raw",
        "range": range(3),
        "type": dict,
        "self": [],
        (1, 2): "a key that is a tuple",
    }
    foreign["self"].append(foreign["self"])
    content = write({"model": {"w": tensor(W)}, **foreign}, protocol)
    monkeypatch.setattr(Config, "__new__", None)  # building one would fail
    assert_same(load(content), {"w": W})


def test_inside_the_state_dict_instances_are_dropped_and_calls_refused(load):
    assert_same(load(torch_zip({"w": tensor(W), "n": 3, "text": "x", "config": Config({"a": 1})})), {"w": W})
    with pytest.raises(
        dcnlab.UnsafeCheckpoint, match=r"'v' is what numpy\..*_reconstruct makes, expected a plain tensor"
    ):
        load(torch_zip({"w": tensor(W), "v": W}))


def test_python_2_wrote_pairs_and_bytes(load):
    """Its OrderedDict came as a call with a list of lists, its str as bytes, its large ints and bools as lines."""
    program, _ = torch_pickle([tensor(W)])
    made = program[program.index(b"]") : -2]  # from the empty list on, before "append, stop"
    pairs = b"(](U\x01w" + made[made.index(b"c") :] + b"e](U\x01xI12345678901\ne](U\x01yI01\nee"
    python2 = b"\x80\x02ccollections\nOrderedDict\n](]" + pairs[2:] + b"\x85R."
    assert_same(load(torch_zip([tensor(W)], data_pkl=python2)), {"w": W})


@FORMATS
@pytest.mark.parametrize(
    ("made", "message"),
    [
        ({}, "got a value of type dict"),
        ({"epoch": 1, "lr": 2}, "expected a state dict, plain or under model, .*, got 'epoch', 'lr'"),
        ([1, 2], r"got \(1, 2\)"),
        ({"model": None}, "got None"),
        (Config({"a": 1}), "got an object that .*Config makes"),
        ({"model": Config({"a": 1})}, "got an object that .*Config makes"),
        ({"w": Tensor(Stored(bytes(8), 1, "ComplexFloatStorage"), 0, (1,), (1,))}, "got torch.ComplexFloatStorage"),
        ({"w": Tensor(stored(W), 0, (2, 3), (3, 1), (False, None, {"conj": True}))}, "conjugate or negative bit"),
    ],
)
def test_what_is_no_state_dict(write, made, message, load):
    with pytest.raises(ValueError, match=message):
        load(write(made))


def test_types_that_numpy_lacks_may_lie_beside_the_weights(load):
    other = Tensor(Stored(bytes(8), 1, "ComplexFloatStorage"), 0, (1,), (1,))
    assert_same(load(torch_zip({"model": {"w": tensor(W)}, "other": other})), {"w": W})
