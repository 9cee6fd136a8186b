import pytest

from dcnlab.demo import run


@pytest.fixture(scope="session")
def small_run(tmp_path_factory):
    """One run of the whole demo on 64 pixels, shared by the tests that look at what it wrote."""
    folder = tmp_path_factory.mktemp("demo")
    return folder, run(out=folder, seed=1, size=64, steps=(40, 40), progress=False)
