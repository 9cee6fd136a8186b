"""Tests over several processes: skipped with the reason where MPI is not installed, unless it must be."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

import dcnlab
from dcnlab.train import distributed

SECONDS = 60  # after which mpiexec ends a run that hangs
GRACE = 15  # that it gets to do so


def find_mpiexec():
    """Return mpiexec: the one beside Python, which a wheel brings, or the one on the PATH."""
    here = str(Path(sys.executable).parent)
    found = shutil.which("mpiexec", path=here) or shutil.which("mpiexec")
    missing = [
        name for name, there in (("mpi4py", importlib.util.find_spec("mpi4py")), ("mpiexec", found)) if not there
    ]
    if missing:
        reason = f"{' and '.join(missing)} not installed: {distributed.INSTALL}"
        if os.environ.get("DCNLAB_REQUIRE_MPI") == "1":
            pytest.fail(f"DCNLAB_REQUIRE_MPI=1, but {reason}")
        pytest.skip(reason)
    return found


@pytest.fixture
def start_ranks():
    """Return a function that starts a script on several ranks: the process of mpiexec, with its output piped."""
    mpiexec = find_mpiexec()
    paths = [str(Path(dcnlab.__file__).parents[1]), str(Path(__file__).parents[1])]  # the package, and tests/
    outside = {k: v for k, v in os.environ.items() if not k.startswith(("PMI", "OMPI_", "HYD"))}
    environment = {
        **outside,
        "PYTHONPATH": os.pathsep.join(paths),
        "OPENBLAS_NUM_THREADS": "1",
        "MPIEXEC_TIMEOUT": str(SECONDS),
    }
    started = []

    def start(script, *arguments, ranks=2):
        line = [mpiexec, "-n", str(ranks), sys.executable, str(script), *map(str, arguments)]
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(line, env=environment, stdout=pipe, stderr=pipe, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()  # does nothing to one that has ended
        process.communicate()


@pytest.fixture
def run_ranks(start_ranks):
    """Return a function that runs a script on several ranks: exit status, stdout, stderr and the seconds it took."""

    def run(script, *arguments, ranks=2):
        begun = time.monotonic()
        process = start_ranks(script, *arguments, ranks=ranks)
        out, err = process.communicate(timeout=SECONDS + GRACE)
        return process.returncode, out, err, time.monotonic() - begun

    return run
