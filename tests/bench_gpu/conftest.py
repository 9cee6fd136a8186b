import pytest
from compiler import require_compiler


@pytest.fixture(scope="session")
def compiler():
    require_compiler()
