"""The site, built once for all tests of this folder, and the modules that build it."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path += [str(ROOT / "docs"), str(ROOT / "docs" / "extensions")]


@pytest.fixture(scope="session")
def require_sphinx():
    try:
        import myst_nb  # noqa: F401
        import pydata_sphinx_theme  # noqa: F401
        import sphinx  # noqa: F401
    except ImportError as error:
        if os.environ.get("DCNLAB_REQUIRE_DOCS") == "1":
            pytest.fail(f"DCNLAB_REQUIRE_DOCS=1, but {error}")
        pytest.skip(f"{error}: pip install 'dcnlab[docs]'")


@pytest.fixture(scope="session")
def built(require_sphinx, tmp_path_factory):
    """Return the folder of the site and what Sphinx said; the first of several workers builds it, the others wait."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    site, log = shared / "site", shared / "site.log"
    with (shared / "site.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not log.exists():
            command = [sys.executable, "-m", "sphinx", "-q", "-E", "-b", "html", "-d", str(shared / "trees")]
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
            done = subprocess.run(
                [*command, str(ROOT / "docs"), str(site)],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env=environment,
                timeout=600,
                check=False,
            )
            log.write_text(f"{done.stdout}{'' if done.returncode == 0 else 'sphinx failed'}", encoding="utf-8")
    return site, log.read_text(encoding="utf-8")
