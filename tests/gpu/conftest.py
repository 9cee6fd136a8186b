"""Tests that need a GPU: skipped with the reason where there is none, failed then under DCNLAB_REQUIRE_GPU=1.

DCNLAB_GPU_STAND_IN=1 runs them on the stand-in of strict_cupy.py, which compiles the kernels for this CPU: to test the
tests.
"""

import os

import pytest
import strict_cupy

from dcnlab.compiled import rungs
from dcnlab.errors import BackendUnavailable
from dcnlab.launch.cuda import import_cupy


@pytest.fixture(scope="session")
def cupy():
    if os.environ.get("DCNLAB_GPU_STAND_IN") == "1":
        with pytest.MonkeyPatch.context() as patch:
            yield strict_cupy.install(patch, kernels=True)
            rungs.kernel.cache_clear()
        return
    try:
        found = import_cupy()
    except BackendUnavailable as error:
        if os.environ.get("DCNLAB_REQUIRE_GPU") == "1":
            pytest.fail(f"DCNLAB_REQUIRE_GPU=1, but {error}")
        pytest.skip(str(error))
    yield found
