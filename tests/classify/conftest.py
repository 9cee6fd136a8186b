import matplotlib
import pytest
from compiler import require_compiler

matplotlib.use("agg")


@pytest.fixture(autouse=True)
def close_figures():
    yield
    import matplotlib.pyplot as plt

    plt.close("all")


@pytest.fixture(scope="session")
def compiler():
    require_compiler()
