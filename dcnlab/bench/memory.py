"""Peak memory of a large deformable convolution, beyond its arguments and results, in a process of its own.

`python -m dcnlab.bench.memory` prints it as JSON: a fresh process, because the peak of a process never falls.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

SIDE, CHANNELS = 512, 64


def measure() -> dict[str, Any]:
    """Run `python -m dcnlab.bench.memory` and return what it printed."""
    child = subprocess.run([sys.executable, "-m", "dcnlab.bench.memory"], capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(child.stdout)
    return found


def peak() -> int:
    """Return the peak resident size of this process in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux, where ru_maxrss would include the parent's size at the fork
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return 1024 * int(line.split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _main() -> None:
    from dcnlab import deform_conv2d, deform_conv2d_backward

    rng = np.random.default_rng(0)
    image = rng.standard_normal((1, CHANNELS, SIDE, SIDE), np.float32)
    offset = rng.standard_normal((1, 18, SIDE, SIDE), np.float32)
    weight = rng.standard_normal((CHANNELS, CHANNELS, 3, 3), np.float32)
    mask = rng.random((1, 9, SIDE, SIDE), np.float32)
    small_image, small_offset = (np.ascontiguousarray(a[..., :8, :8]) for a in (image, offset))
    deform_conv2d(small_image, small_offset, weight, padding=1)  # load what is loaded on first use
    start = peak()
    output = deform_conv2d(image, offset, weight, None, 1, 1, 1, mask)
    forward = peak() - start - output.nbytes
    grads = deform_conv2d_backward(output, image, offset, weight, None, 1, 1, 1, mask)
    results = output.nbytes + sum(g.nbytes for g in grads if g is not None)
    both = peak() - start - results
    arguments = image.nbytes + offset.nbytes + weight.nbytes + mask.nbytes
    json.dump(
        {
            "shape": list(image.shape),
            "arguments_mb": round(arguments / 1e6),
            "forward_workspace_mb": round(forward / 1e6),
            "backward_workspace_mb": round(both / 1e6),
            "peak_rss_mb": round(peak() / 1e6),
        },
        sys.stdout,
    )


if __name__ == "__main__":
    _main()
