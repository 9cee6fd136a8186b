"""Regenerate what README.md shows of recorded runs: `make figures` records them anew first.

The runs are docs/results/ops.json (`dcnlab bench ops --out`) and docs/results/demo.json (the results.json of a demo).
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def bench_block(record: dict[str, Any]) -> str:
    """Return the benchmark's table in Markdown."""
    names = list(record["deform_conv2d"][0]["ms"])
    lines = ["| deform_conv2d, 3x3, float32, one thread | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for row in record["deform_conv2d"]:
        cells = [f"{row['ms'][name]:.2f} ms ({row['ratio'][name]:.2f}x)" for name in names]
        lines.append(f"| {row['size']} | " + " | ".join(cells) + " |")
    m, v3, memory = record["machine"], record["dcnv3"], record["memory"]
    lines += [
        "",
        f"In brackets: the ratio to `np.matmul` of the im2col size in the same run. dcnv3 at {v3['size']}: forward "
        f"{v3['ms']['forward']:.2f} ms, {v3['speedup']:.1f} times faster than a straightforward gather + einsum; "
        f"backward {v3['ms']['backward']:.2f} ms. A {'x'.join(map(str, memory['shape']))} input needs "
        f"{memory['forward_workspace_mb']} MB forward and {memory['backward_workspace_mb']} MB backward beyond its "
        f"arguments and results. Measured by `dcnlab bench ops` on {m['date']}: {m['cpu']}, {m['system']}, Python "
        f"{m['python']}, NumPy {m['numpy']}, SciPy {m['scipy']}.",
    ]
    return "\n".join(lines)


def demo_block(record: dict[str, Any]) -> str:
    """Return the demo's numbers as a sentence."""
    parts = [
        f"{name.upper().replace('DCNV', 'DCNv')} from {run['before']:.2f} to {run['after']:.2f} px "
        f"({run['before'] / run['after']:.1f} times closer)"
        for name, run in ((key, record[key]) for key in ("dcnv2", "dcnv3"))
    ]
    return (
        f"Seed {record['seed']}: mean distance to the true warp, before and after learning: {' and '.join(parts)}, "
        f"in {record['seconds']:.0f} s for everything. Run by `dcnlab demo` on {record['machine']['date']}: "
        f"{record['machine']['cpu']}, {record['machine']['system']}, Python {record['machine']['python']}."
    )


BLOCKS = {"ops": bench_block, "demo": demo_block}


def refreshed(readme: str) -> str:
    """Return README.md with every generated block made anew from its recorded run."""
    for name, block in BLOCKS.items():
        record = json.loads((ROOT / "docs" / "results" / f"{name}.json").read_text(encoding="utf-8"))
        pattern = re.compile(rf"(<!-- generated from docs/results/{name}\.json -->\n).*?(\n<!-- end -->)", re.DOTALL)
        if not pattern.search(readme):
            raise ValueError(f"README.md has no block for docs/results/{name}.json")
        text = block(record)
        readme = pattern.sub(lambda match, text=text: match[1] + text + match[2], readme)
    return readme


if __name__ == "__main__":
    path = ROOT / "README.md"
    path.write_text(refreshed(path.read_text(encoding="utf-8")), encoding="utf-8")
    sys.stdout.write(f"{path.name} is up to date with docs/results\n")
