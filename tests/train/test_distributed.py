"""Several processes train as one: sums, shares, gradients and endings, with real ranks.

mpiexec runs this file itself on every rank: ``mpiexec -n 2 python test_distributed.py NAME FOLDER`` calls the function
of `ON_RANKS` with that name.
"""

import os
import re
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import assert_close
from strict_cupy import StrictArray, install, unwrap, wrap

from dcnlab import InternImage, nn
from dcnlab.errors import BackendUnavailable
from dcnlab.train import distributed
from dcnlab.train.distributed import (
    ALONE,
    MpiWorld,
    World,
    average_gradients,
    current_world,
    ending_together,
    share_of,
    synchronise,
)

SOON = 20  # seconds: far below the 60 after which a run that hangs is ended
BATCH, STEPS = 7, 10


# -- what runs on every rank ---------------------------------------------------------------------------------------


def arrays_of(rank):
    """Numbers whose sum depends on the order of adding; together more than one bucket; one is not contiguous."""
    rng = np.random.default_rng([3, rank])
    shapes = [(5,), (), (700, 500), (0, 3), (300, 700), (2, 3, 4)]
    arrays = [rng.standard_normal(shape) * 10.0 ** rng.integers(-8, 8, shape) for shape in shapes]
    return [np.asarray(array) for array in arrays[:-1]] + [arrays[-1].T]


def sums(world, folder):
    """Add up, hand out and gather."""
    arrays = arrays_of(world.rank)
    before = [array.copy() for array in arrays]
    totals = world.total_all(arrays)
    one = world.total(arrays[2])
    first = world.broadcast_all([*arrays, np.array(world.rank), np.float32(world.rank) * np.ones(3, np.float32)])
    assert all((a == b).all() for a, b in zip(arrays, before, strict=True)), "the arguments were changed"
    assert world.gathered(world.rank + 0.5) == [rank + 0.5 for rank in range(world.size)]
    assert world.total(np.array([world.rank + 2**60])).tolist() == [sum(range(world.size)) + world.size * 2**60]
    assert world.total_all([]) == []
    np.savez(folder / f"{world.rank}.npz", one, *totals, *first)


def first_model(world):
    """Return a small model, that of rank 0 on all ranks.

    No parameter is 0: one on which the loss does not depend, such as the last norm's bias before the batch norm, would
    stay at rounding, which compares with nothing. And no sample lies on a lattice line, where rounding chooses a slope.
    """
    settings = {"channels": 8, "depths": [1, 1, 1, 1], "groups": [1, 2, 4, 8], "num_classes": 5}
    rng = np.random.default_rng(world.rank)
    model = InternImage(**settings, drop_path_rate=0.3, dtype=np.float64, rng=rng)
    for parameter in model.parameters():
        parameter.value = parameter.value + 0.02 * rng.standard_normal(parameter.shape)
    states = [state for _, state in model.named_state()]
    for state, value in zip(states, world.broadcast_all([state.value for state in states]), strict=True):
        state.value = value
    synchronise(model, world)
    return model


def train(world, folder):
    """Ten steps of gradient descent on this rank's share of each batch; save the whole state."""
    model, loss, mine = first_model(world), nn.CrossEntropy(), share_of(BATCH, world)
    share = (mine.stop - mine.start) / BATCH
    for step in range(STEPS):
        rng = np.random.default_rng([1, step])
        images, labels = rng.standard_normal((BATCH, 3, 32, 32)), rng.integers(0, 5, BATCH)
        nn.seed_samples(model, 0, step, np.arange(BATCH)[mine])
        loss(model(images[mine]), labels[mine])
        model.backward(loss.backward(share))
        average_gradients(model, world)
        for parameter in model.parameters():
            parameter.value = parameter.value - 0.05 * parameter.grad
    np.savez(folder / f"{world.rank}.npz", **model.state_dict())


def fail(world, folder):
    """One rank fails; the others wait for it."""
    with ending_together(world):
        if world.rank == world.size - 1:
            raise ValueError("the data has no class 7")
        world.total(np.ones(3))


def fail_alike(world, folder):
    """All ranks fail, for one reason."""
    with ending_together(world):
        world.gathered(0)  # from here on at one time
        (folder / "missing").read_text()


def die(world, folder):
    """One rank is killed; the others wait for it."""
    with ending_together(world):
        if world.rank == world.size - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        world.total(np.ones(3))


def wait(world, folder):
    """Say that all are there, and work for ever."""
    with ending_together(world):
        world.gathered(0)
        (folder / str(world.rank)).touch()
        while True:
            time.sleep(0.01)


ON_RANKS = {function.__name__: function for function in (sums, train, fail, fail_alike, die, wait)}


# -- with real ranks -----------------------------------------------------------------------------------------------


def saved(folder, ranks):
    """Return what every rank saved, after checking that it is the same, bit for bit."""
    files = [dict(np.load(folder / f"{rank}.npz")) for rank in range(ranks)]
    for other in files[1:]:
        assert other.keys() == files[0].keys()
        for name, array in files[0].items():
            assert array.dtype == other[name].dtype
            assert array.tobytes() == other[name].tobytes(), f"{name} differs between ranks"
    return files[0]


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 3])
def test_sums(run_ranks, tmp_path, ranks):
    """Three numbers have a sum that depends on the order; it must be the same on all ranks all the same."""
    status, _, err, _ = run_ranks(__file__, "sums", tmp_path, ranks=ranks)
    assert status == 0, err
    one, *others = saved(tmp_path, ranks).values()
    arrays = [arrays_of(rank) for rank in range(ranks)]
    totals, first = others[: len(arrays[0])], others[len(arrays[0]) :]
    assert sum(array.nbytes for array in arrays[0]) > distributed.BUCKET_BYTES
    eps = np.finfo(float).eps
    for number, total in enumerate([one, *totals]):
        column = [mine[number - 1 if number else 2] for mine in arrays]
        assert total.shape == column[0].shape
        assert (abs(total - sum(column)) <= ranks * eps * sum(map(abs, column))).all()
    for received, sent in zip(first, [*arrays[0], np.array(0), np.zeros(3, np.float32)], strict=True):
        assert received.dtype == sent.dtype
        np.testing.assert_array_equal(received, sent)


@pytest.mark.slow
def test_two_ranks_train_as_one(run_ranks, tmp_path):
    """Every parameter and buffer after ten steps on batches of 7, 4 + 3; 1e-9 is what rounding may grow to in them."""
    status, _, err, _ = run_ranks(__file__, "train", tmp_path)
    assert status == 0, err
    found = saved(tmp_path, 2)
    (tmp_path / "alone").mkdir()
    train(ALONE, tmp_path / "alone")
    expected = saved(tmp_path / "alone", 1)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert_close(found[name], array, 1e-9, name)
    assert expected["conv_head.1.0.num_batches_tracked"] == STEPS


def test_a_rank_that_fails_ends_all(run_ranks, tmp_path):
    status, _, err, seconds = run_ranks(__file__, "fail", tmp_path)
    assert re.findall(r"dcnlab train: (.*)", err) == ["rank 1: the data has no class 7"]
    assert status == 2
    assert seconds < SOON


def test_ranks_that_fail_alike_say_so(run_ranks, tmp_path):
    status, _, err, seconds = run_ranks(__file__, "fail_alike", tmp_path)
    missing = f"[Errno 2] No such file or directory: '{tmp_path / 'missing'}'"
    said = re.findall(r"dcnlab train: rank \d: (.*)", err)
    assert said[0] == missing
    assert len(said) == said.count(missing) <= 2  # the first rank speaks for all, unless it is held up for too long
    assert status == 2
    assert seconds < SOON


def test_a_rank_that_is_killed_ends_all(run_ranks, tmp_path):
    """It cannot say anything: mpiexec does, in its own words."""
    status, out, err, seconds = run_ranks(__file__, "die", tmp_path)
    assert re.search("killed|signal 9", out + err, re.IGNORECASE), out + err
    assert status != 0
    assert seconds < SOON


def test_ctrl_c_ends_all(start_ranks, tmp_path):
    """It reaches mpiexec, which passes it on to the ranks, and one of them speaks."""
    process = start_ranks(__file__, "wait", tmp_path)
    deadline = time.monotonic() + SOON
    while len(list(tmp_path.iterdir())) < 2 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=SOON)
    assert re.findall(r"dcnlab train: rank \d: (.*)", err) == ["interrupted"]
    assert process.returncode == 130


# -- without -------------------------------------------------------------------------------------------------------


def test_a_world_of_one_is_what_it_has():
    x, y = np.ones(3), np.zeros(2, np.float32)
    assert (ALONE.rank, ALONE.size) == (0, 1)
    assert ALONE.total(x) is x
    for arrays in (ALONE.total_all([x, y]), ALONE.broadcast_all([x, y])):
        assert [id(array) for array in arrays] == [id(x), id(y)]
    assert ALONE.gathered(4) == [4]
    with pytest.raises(KeyboardInterrupt), ending_together(ALONE):
        raise KeyboardInterrupt


class Recording(World):
    """A rank that notes when it waits, and with what status it would end all."""

    def __init__(self, rank, size=2):
        self.rank, self.size, self.did = rank, size, []

    def sleep(self, seconds):
        self.did.append("waits")

    def abort(self, status):
        self.did.append(status)


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize(
    ("error", "message", "status"),
    [
        (ValueError("bad data"), "bad data", 2),
        (OSError(), "OSError", 2),
        (KeyboardInterrupt(), "interrupted", 130),
        (KeyError("lost"), "KeyError: 'lost'\nTraceback (most recent call last):\n", 1),
        (SystemExit(0), "SystemExit: 0\n", 1),
    ],
)
def test_every_exception_ends_all_with_its_reason(monkeypatch, capsys, rank, error, message, status):
    world = Recording(rank)
    monkeypatch.setattr(distributed.time, "sleep", world.sleep)
    with ending_together(world):
        raise error
    err = capsys.readouterr().err
    assert err.startswith(f"dcnlab train: rank {rank}: {message}")
    assert (err.count("\n") == 1) == (status != 1), "one line; a traceback for what is not a person's mistake"
    assert world.did == [*["waits"] * rank, status], "rank 0 speaks first"


def test_a_second_interrupt_stops_neither_message_nor_end(monkeypatch, capsys):
    world = Recording(1)

    def interrupted(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(distributed.time, "sleep", interrupted)
    with pytest.raises(KeyboardInterrupt), ending_together(world):
        raise ValueError("bad data")
    assert capsys.readouterr().err == "dcnlab train: rank 1: bad data\n"
    assert world.did == [2]


def test_shares_cover_the_batch_evenly_and_in_order():
    for size in range(1, 6):
        for count in range(size, 3 * size + 1):
            shares = [range(count)[share_of(count, Recording(rank, size))] for rank in range(size)]
            assert [position for share in shares for position in share] == list(range(count))
            lengths = [len(share) for share in shares]
            assert max(lengths) - min(lengths) <= 1
    with pytest.raises(ValueError, match="a sample for each process: expected at least 3, got 2"):
        share_of(2, Recording(0, 3))


class Doubling(World):
    """A world of two ranks that are the same."""

    size = 2

    def total_all(self, arrays):
        return [2 * array for array in arrays]


def test_gradients_are_replaced_by_their_sums():
    model = nn.Sequential(nn.Linear(3, 2, rng=0), nn.GELU(), nn.Linear(2, 2, rng=0))
    x = np.ones((4, 3), np.float32)
    with pytest.raises(ValueError, match=r"parameter 0\.weight \(and 3 more\) has no gradient; call model\.backward"):
        average_gradients(model, ALONE)
    model.backward(model(x))
    before = model.grad_dict()
    average_gradients(model, ALONE)
    assert all(model.grad_dict()[name] is grad for name, grad in before.items())
    average_gradients(model, Doubling())
    for name, grad in before.items():
        np.testing.assert_array_equal(model.grad_dict()[name], 2 * grad)
    model[2].bias.grad = None
    with pytest.raises(ValueError, match=r"parameter 2\.bias has no gradient"):
        average_gradients(model, Doubling())


def test_synchronise_reaches_every_batch_norm_and_turns_back():
    model = nn.Sequential(nn.BatchNorm2d(2), nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)))
    world = Doubling()
    synchronise(model, world)
    assert model[0].total == model[1][1].total == world.total
    synchronise(model, ALONE)
    assert model[0].total is model[1][1].total is None


class Mpi:
    """What `MpiWorld` uses of mpi4py.MPI, on one rank: it looks at what it is given."""

    IN_PLACE = object()
    rank, size = 0, 1

    def __init__(self):
        self.COMM_WORLD, self.messages = self, []

    def Allreduce(self, send, receive):
        assert send is self.IN_PLACE
        assert type(receive) is np.ndarray
        self.messages.append(receive.nbytes)
        receive += 1

    def Bcast(self, buffer, root):
        assert type(buffer) is np.ndarray
        assert root == 0


def test_arrays_of_a_gpu_travel_through_the_host(monkeypatch):
    install(monkeypatch)
    world = MpiWorld(Mpi())
    arrays = [wrap(np.zeros((2, 3))), wrap(np.zeros(4))]
    for total in (world.total(arrays[0]), *world.total_all(arrays), *world.broadcast_all(arrays)):
        assert type(total) is StrictArray
    assert [unwrap(total).tolist() for total in world.total_all(arrays)] == [[[1.0] * 3] * 2, [1.0] * 4]
    assert not any(unwrap(array).any() for array in arrays)
    with pytest.raises(TypeError, match=r"arrays\[1\] is not"):
        world.total_all([arrays[0], np.ones(3)])


def test_messages_have_a_few_megabytes():
    mpi, limit = Mpi(), distributed.BUCKET_BYTES
    sizes = [limit // 16] * 3 + [limit // 4, 1, 1]  # of 8 bytes: half a bucket each, then two buckets
    totals = MpiWorld(mpi).total_all([np.zeros(size) for size in sizes])
    assert mpi.messages == [limit, limit // 2, 2 * limit, 16]
    assert [total.size for total in totals] == sizes


@pytest.mark.parametrize("dtype", ["float16", "bool", "complex128"])
def test_what_cannot_be_added_is_refused(dtype):
    with pytest.raises(TypeError, match=f"must be float32 or float64 or int64, got {dtype}"):
        MpiWorld(Mpi()).total(np.ones(3, dtype))
    with pytest.raises(TypeError, match=r"one dtype, got arrays\[0\] float64 and arrays\[1\]"):
        MpiWorld(Mpi()).total_all([np.ones(2), np.ones(2, np.float32)])


def test_without_mpiexec_nothing_is_imported(monkeypatch):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    assert current_world({}) is ALONE
    assert current_world({"PMI_SIZE": "1", "PMI_RANK": "0"}) is ALONE


@pytest.mark.parametrize("variable", ["PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE", "PMIX_RANK"])
def test_without_mpi4py_the_line_that_brings_it(monkeypatch, variable):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    monkeypatch.delitem(sys.modules, "mpi4py.MPI", raising=False)
    with pytest.raises(
        BackendUnavailable, match=r"needs mpi4py and an MPI library .*; run: pip install 'dcnlab\[mpi\]'"
    ):
        current_world({variable: "2"})


def test_a_foreign_mpiexec_is_noticed(monkeypatch):
    """It starts processes of which each believes to be alone: they would overwrite each other's files."""
    monkeypatch.setattr(distributed.importlib, "import_module", lambda name: Mpi())
    with pytest.raises(BackendUnavailable, match="mpiexec started 4 processes, but mpi4py sees 1"):
        current_world({"OMPI_COMM_WORLD_SIZE": "4"})
    assert current_world({"PMIX_RANK": "0"}) is ALONE


if __name__ == "__main__":
    ON_RANKS[sys.argv[1]](current_world(), Path(sys.argv[2]))
