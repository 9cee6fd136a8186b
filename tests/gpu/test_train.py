"""A run of training on CuPy arrays is that on NumPy arrays, up to rounding."""

import numpy as np
import pytest
from training import bars

from dcnlab.train.loop import Trainer
from dcnlab.train.settings import Settings

pytestmark = pytest.mark.gpu


def test_a_run(cupy):
    settings = {"epochs": 1, "batch": 8, "drop_path": 0.3, "dtype": "float64", "rotate": 10.0}
    runs = {}
    for backend in ("numpy", "cuda"):
        runs[backend] = Trainer(Settings(**settings, backend=backend), bars(17), bars(8, seed=1))
        rows = runs[backend].fit()
        assert rows[0]["step"] == 2
    found, wanted = (runs[backend].arrays() for backend in ("cuda", "numpy"))
    for name, array in wanted.items():
        assert isinstance(found[name], np.ndarray)
        scale = np.abs(array).max()
        # Adam divides by the size of the gradient: what is rounding in it may be as large as a step, lr.
        small = 1e-6 * max(scale, 4e-3)
        np.testing.assert_allclose(found[name], array, rtol=1e-6, atol=small, err_msg=name)
