"""What is installed here and what is switched off, with the reason and the cure: `dcnlab info`."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys

from dcnlab.backends import BACKENDS
from dcnlab.tables import format_table

PACKAGES = ("numpy", "scipy", "matplotlib", "pillow", "threadpoolctl", "tqdm")
OPTIONAL = ("cupy-cuda12x", "cupy-cuda13x", "onnxruntime", "torch", "torchvision")


def show_config() -> str:
    """Print and return the versions, the threads, and every backend: on, or off with the reason and the cure.

    Returns
    -------
    str
        The text that was printed. Looks at metadata only; imports neither CuPy nor torch.
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
        format_table(["threads", "number", "from"], _threads()),
        "",
        format_table(
            ["backend", "state", "what", "why it is off, and what turns it on"],
            [[b.name, "on" if b.implementation else "off", b.what, b.missing] for b in BACKENDS.values()],
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


def _threads() -> list[list[str]]:
    """Return the thread pools of the numeric libraries that are loaded."""
    from threadpoolctl import threadpool_info

    pools = [
        [str(pool.get("internal_api")), str(pool["num_threads"]), str(pool.get("version") or "")]
        for pool in threadpool_info()
    ]
    return [*pools, ["cores", str(os.cpu_count()), "this machine"]]
