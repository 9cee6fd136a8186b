import pytest


@pytest.fixture
def load(tmp_path):
    """Write bytes to a file and load it."""

    def run(content, name="weights.pth"):
        import dcnlab

        path = tmp_path / name
        path.write_bytes(content)
        return dcnlab.load_checkpoint(path)

    return run
