"""How images are split: each class gives its share, the seed decides."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from training import made, numbers

from dcnlab.train.data import split

# -- splitting -----------------------------------------------------------------------------------------------------


@given(
    counts=st.lists(st.integers(2, 40), min_size=1, max_size=8),
    share=st.floats(0, 1),
    seed=st.integers(0, 2**32),
)
def test_each_image_is_in_one_part_and_each_class_in_both(counts, share, seed):
    data = made(counts)
    classes, total = len(counts), sum(counts)
    test = classes + round(share * (total - 2 * classes))
    parts = split(data, test, seed)
    assert [len(part) for part in parts] == [total - test, test]
    assert sorted([*numbers(parts[0]), *numbers(parts[1])]) == list(range(total))
    for part in parts:
        assert part.counts().min() >= 1
        assert (np.diff(numbers(part)) > 0).all(), "the order of the data"
        np.testing.assert_array_equal(part.labels, data.labels[numbers(part)])
        assert part.names == data.names


@given(counts=st.lists(st.integers(20, 60), min_size=1, max_size=8), share=st.floats(0.1, 0.9))
def test_classes_give_their_share(counts, share):
    """Where the bounds of 1 and all but 1 do not matter, no class is a whole image off its exact share."""
    test = round(share * sum(counts))
    exact = np.array(counts) * test / sum(counts)
    assert abs(split(made(counts), test, 0)[1].counts() - exact).max() < 1


def test_a_small_class_keeps_one_image_in_each_part():
    train, test = split(made([100, 2, 2]), 4, seed=0)
    assert test.counts().tolist() == [2, 1, 1]
    train, test = split(made([100, 2, 2]), 101, seed=0)
    assert train.counts().tolist() == [1, 1, 1]


def test_the_seed_decides():
    data = made([50, 50])
    first, again, other = (numbers(split(data, 20, seed)[1]).tolist() for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_a_share_and_a_count_are_the_same():
    data = made([30, 30])
    for test in (0.25, np.float32(0.25), 15, np.int64(15)):
        assert numbers(split(data, test, 3)[1]).tolist() == numbers(split(data, 15, 3)[1]).tolist()


@pytest.mark.parametrize(
    ("counts", "test", "error", "message"),
    [
        ([5, 5, 5], 2, ValueError, r"each of the 3 classes an image in both parts: expected 3..12 of 15 images, got 2"),
        ([5, 5, 5], 13, ValueError, r"got 13"),
        ([5, 5, 5], 0, ValueError, r"got 0"),
        ([5, 5, 5], 0.01, ValueError, r"got 0$"),
        ([5, 1, 5], 4, ValueError, r"a class needs at least 2 images to be split, 'c1' has fewer"),
        ([5, 5], 1.0, ValueError, r"test must be a share between 0 and 1, or a whole number of images, got 1.0"),
        ([5, 5], float("nan"), ValueError, r"got nan"),
        ([5, 5], True, TypeError, r"test must be a number of images or a share, got True"),
        ([5, 5], "3", TypeError, r"got '3'"),
    ],
)
def test_what_cannot_be_split_is_refused(counts, test, error, message):
    with pytest.raises(error, match=message):
        split(made(counts), test, 0)
