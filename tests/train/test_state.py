"""A run's state on disk: exact, whole, and refused where it is damaged."""

import json

import numpy as np
import pytest

from dcnlab.train.state import STATE, Progress, load_state, save_state

ARRAYS = {"model.w": np.array([1.5, np.nan], np.float32), "optimiser.steps": np.array(7)}


def test_what_was_saved_comes_back_exactly(tmp_path):
    assert load_state(tmp_path) is None
    for step in (3, 12):
        progress = Progress(step, 0.1 + 0.2, 17.0, 1e-300, 5.0, "cpu")
        save_state(tmp_path, progress, ARRAYS)
    found, arrays = load_state(tmp_path)
    assert found == progress
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], array)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state-00000012.safetensors", STATE]


@pytest.mark.parametrize(
    "change",
    [
        {"arrays": "../elsewhere.safetensors"},
        {"arrays": 3},
        {"step": -1},
        {"step": 1.5},
        {"loss": "much"},
        {"backend": None},
        {"unknown": 1},
    ],
)
def test_a_changed_state_is_refused_in_one_line(tmp_path, change):
    save_state(tmp_path, Progress(1), ARRAYS)
    path = tmp_path / STATE
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=r"state\.json: not the state of a run: [^\n]+$"):
        load_state(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "3", "[" * 9999])
def test_anything_else_is_refused_in_one_line(tmp_path, text):
    (tmp_path / STATE).write_text(text)
    with pytest.raises(ValueError, match=r"state\.json: not the state of a run: [^\n]+$"):
        load_state(tmp_path)


def test_damaged_arrays_are_refused(tmp_path):
    save_state(tmp_path, Progress(1), ARRAYS)
    arrays = next(tmp_path.glob("*.safetensors"))
    arrays.write_bytes(arrays.read_bytes()[:-4])
    with pytest.raises(ValueError, match=arrays.name):
        load_state(tmp_path)
