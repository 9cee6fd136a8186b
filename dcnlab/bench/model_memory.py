"""Peak memory of a forward pass of InternImage, in a process of its own: the peak of a process never falls.

`python -m dcnlab.bench.model_memory VARIANT SIZE BACKEND` prints it as JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import numpy as np

from dcnlab.bench.memory import peak

HUGE_BOUND_MB = 8000  # for variant H at 224 x 224


def measure(variant: str, size: int, backend: str) -> dict[str, Any]:
    """Run this module in a fresh process and return what it printed."""
    command = [sys.executable, "-m", "dcnlab.bench.model_memory", variant, str(size), backend]
    child = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(child.stdout)
    return found


def sentence(memory: dict[str, Any]) -> str:
    """Return what was measured in words."""
    bound = 2 * memory["weights_mb"] + memory["largest_stage_mb"]
    return (
        f"memory, InternImage-{memory['variant']} forward at {memory['size']} x {memory['size']}: "
        f"{memory['model_and_forward_mb']} MB (weights {memory['weights_mb']} MB; bound: twice the weights and the "
        f"{memory['largest_stage_mb']} MB of the largest stage's activations, {bound} MB); peak RSS of the process "
        f"{memory['peak_rss_mb']} MB"
    )


def _main(variant: str, size: int, backend: str) -> None:
    from dcnlab.bench.model import forward, random_images, random_model
    from dcnlab.internimage import InternImage
    from dcnlab.internimage.summary import costs

    tiny = InternImage(8, [1, 1, 1, 1], [1, 2, 4, 8], rng=0).eval()
    forward(tiny, random_images(32), backend)  # load what is loaded on first use
    start = peak()
    model = random_model(variant)
    logits = forward(model, random_images(size), backend)
    found = costs(model, size)
    json.dump(
        {
            "variant": variant,
            "size": size,
            "backend": backend,
            "finite": bool(np.isfinite(logits).all()),
            "weights_mb": round(sum(4 * cost.parameters for cost in found) / 1e6),
            "largest_stage_mb": round(max(4 * cost.kept for cost in found) / 1e6),
            "model_and_forward_mb": round((peak() - start) / 1e6),
            "peak_rss_mb": round(peak() / 1e6),
        },
        sys.stdout,
    )


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
