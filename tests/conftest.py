"""What all tests share: one BLAS thread a worker, no window, and reproducible examples."""

import os

# Before NumPy is imported: the workers of a parallel run share the cores between them.
for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
os.environ["MPLBACKEND"] = "Agg"

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

# The same examples in every run: a test that fails now and then is a bug. To look for new ones:
# pytest --hypothesis-profile=explore
settings.register_profile("suite", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("explore", deadline=None, max_examples=500)
settings.load_profile("suite")


@pytest.fixture
def rng():
    return np.random.default_rng(20)


@pytest.fixture(scope="module", params=["numpy", "cpu"])
def each_backend(request):
    """Run a whole file on every backend that can run here; operators without kernels are the same on all."""
    from compiler import require_compiler

    import dcnlab

    if request.param == "cpu":
        require_compiler()
    with dcnlab.use_backend(request.param):
        yield request.param


@pytest.fixture(autouse=True)
def _doctest_modules(doctest_namespace):
    import dcnlab

    doctest_namespace["np"] = np
    doctest_namespace["dcnlab"] = dcnlab
