"""Processes on one machine share its processors."""

import os

import pytest

from dcnlab.launch.threads import num_threads
from dcnlab.train import distributed
from dcnlab.train.distributed import ALONE, World, share_processors


@pytest.fixture(autouse=True)
def eight_processors(monkeypatch):
    monkeypatch.setattr(distributed, "num_threads", lambda: 8)
    monkeypatch.setattr(distributed, "limit_blas", lambda: None)


def world_of(size):
    world = World()
    world.size = size
    return world


@pytest.mark.parametrize(
    ("size", "told", "threads"),
    [
        (2, {}, "4"),
        (3, {}, "2"),
        (16, {}, "1"),
        (8, {"MPI_LOCALNRANKS": "2"}, "4"),  # of eight, two are on this machine
        (8, {"OMPI_COMM_WORLD_LOCAL_SIZE": "4"}, "2"),
        (2, {"MPI_LOCALNRANKS": "nonsense"}, "4"),
        (2, {"DCNLAB_NUM_THREADS": "7"}, "7"),
    ],
)
def test_each_process_gets_its_part(size, told, threads):
    environment = dict(told)
    share_processors(world_of(size), environment)
    assert environment["DCNLAB_NUM_THREADS"] == threads


def test_one_process_keeps_all():
    environment = {}
    share_processors(ALONE, environment)
    assert environment == {}


def test_the_variable_is_what_kernels_go_by(monkeypatch):
    monkeypatch.setenv("DCNLAB_NUM_THREADS", "")
    share_processors(world_of(2), os.environ)
    assert num_threads() == 4
