"""Record docs/results/train.json and docs/images/train.png: InternImage trained from scratch on real digits.

Runs `dcnlab train` with its default settings, which needs the digits (the extra `train`).
"""

from __future__ import annotations

import dataclasses
import shutil
import sys
import tempfile
import time
from pathlib import Path

from dcnlab.bench.timing import machine
from dcnlab.records import as_json
from dcnlab.train.history import History
from dcnlab.train.program import CURVES, LOG, train
from dcnlab.train.settings import Settings
from dcnlab.train.state import load_state

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Train, and write the record and the curves."""
    settings, started = Settings(), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        if train(settings, folder):
            sys.exit("training diverged")
        seconds = time.perf_counter() - started
        rows = History(Path(folder) / LOG).rows()
        state = load_state(Path(folder))
        shutil.copy(Path(folder) / CURVES, ROOT / "docs" / "images" / "train.png")
    assert state is not None
    record = {
        "machine": machine(),
        "backend": state[0].backend,
        "parameters": settings.build(10).parameter_count(),
        "seconds": round(seconds, 1),
        "settings": dataclasses.asdict(settings),
        "rows": rows,
    }
    (ROOT / "docs" / "results" / "train.json").write_text(as_json(record) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
