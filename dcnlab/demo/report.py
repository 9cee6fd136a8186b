"""The report: one HTML file that needs nothing but itself."""

from __future__ import annotations

import html
import io
import json
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from dcnlab.demo.figures import COLOURS, MESH_EVERY, Scene, short, steepest_pixel
from dcnlab.demo.learning import Learning
from dcnlab.gradient_table import GradTable
from dcnlab.gradients import kink_text, verdict
from dcnlab.pages import data_uri, figure_element, page_part, style, table_rows
from dcnlab.viz.fields import mean_positions

CLOSE_UP = 14.0  # pixels of the image across the close-up of the taps


def write_report(
    folder: Path, scene: Scene, results: dict[str, Any], table: GradTable, captions: dict[str, str]
) -> None:
    """Write report.html beside the figures, with style, script, figures and animation inside.

    Parameters
    ----------
    folder : path
        Holds the figures already.
    table : what `dcnlab.gradient_table.check_operators` returned
    captions : file name of each figure -> its caption
    """
    shown = {name.removesuffix(".png"): figure_element(folder / name, text) for name, text in captions.items()}
    page = Template(page_part("dcnlab.demo", "page.html")).substitute(
        shown,
        css=style(),
        player=page_part("dcnlab.demo", "player.js"),
        facts=_facts(results),
        warning=_warning(results),
        modulation_table=_modulation_table(results["modulation"]),
        gradients=_gradients(table),
        footer=_footer(results),
        # "</" would end the script element that holds the data.
        data=json.dumps(animation(scene), separators=(",", ":")).replace("</", "<\\/"),
    )
    (folder / "report.html").write_text(page, encoding="utf-8")


def animation(scene: Scene) -> dict[str, Any]:
    """Return what the player shows: positions as (x, y) in pixels of the working image, frame by frame."""
    pixel = steepest_pixel(scene)
    goal = np.array(pixel) + scene.truth[pixel]
    last = scene.learnings[-1]
    height, width = scene.truth.shape[:2]
    middle = np.array(pixel) + scene.truth[pixel] / 2
    side = CLOSE_UP
    top, left = middle + 0.5 - np.array([side * height / width, side]) / 2
    return {
        "shape": [height, width],
        "steps": last.frame_steps,
        "distances": {r.sampler.name: [round(r.distances[s], 4) for s in r.frame_steps] for r in scene.learnings},
        "mesh": {r.sampler.name: _meshes(r) for r in scene.learnings},
        "taps": [_rounded(s.grid().positions()[0, *pixel, 0, :, ::-1]) for s in last.frames],
        "weights": [_rounded(s.modulation()[0, *pixel, 0]) for s in last.frames],
        "goal": _rounded(goal[::-1]),
        "close_up": {"left": round(float(left), 2), "top": round(float(top), 2), "side": side},
        "colours": COLOURS,
        "photo": data_uri(_encoded(scene.bent_large, "JPEG", quality=85), "image/jpeg"),
        "pixels": data_uri(_encoded(scene.bent, "PNG"), "image/png"),
    }


def _meshes(learning: Learning) -> list[Any]:
    """Return (rows, columns, 2) positions of every few output pixels for each frame."""
    height, width = learning.sampler.shape
    rows, columns = (np.linspace(0, n - 1, n // MESH_EVERY + 1).round().astype(int) for n in (height, width))
    meshes = []
    for sampler in learning.frames:
        mean = mean_positions(sampler.grid(), sampler.modulation())[0, :, :, 0, ::-1]
        meshes.append(_rounded(mean[np.ix_(rows, columns)]))
    return meshes


def _rounded(values: np.ndarray) -> Any:
    return values.round(2).tolist()


def _encoded(image: np.ndarray, format: str, **options: Any) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray((255 * np.clip(image, 0, 1)).round().astype(np.uint8)).save(buffer, format, **options)
    return buffer.getvalue()


def _facts(results: dict[str, Any]) -> str:
    facts = [
        (
            f"{name}, mean distance to the true offsets",
            f"{results[key]['before']:.2f} → {results[key]['after']:.2f} px",
            f"{results[key]['ratio']:.1f} times smaller after {sum(results['steps'])} steps",
        )
        for key, name in (("dcnv2", "DCNv2"), ("dcnv3", "DCNv3"))
    ]
    check = results["gradcheck"]
    verdict = "all agree" if check["ok"] else "some do not agree"
    facts.append(("gradient checks", verdict, f"{check['checks']} checks, worst error {check['worst_error']:.1e}"))
    height, width = results["shape"]
    facts.append(("photo", f"{width} × {height} px", f"{results['image']}, seed {results['seed']}"))
    return "\n".join(
        f"<div><dt>{html.escape(term)}</dt><dd>{html.escape(value)}<small>{html.escape(note)}</small></dd></div>"
        for term, value, note in facts
    )


def _warning(results: dict[str, Any]) -> str:
    from dcnlab.demo.program import GOOD_RATIO

    if min(results[key]["ratio"] for key in ("dcnv2", "dcnv3")) >= GOOD_RATIO:
        return ""
    return (
        '<p class="warning">The distance shrank less than '
        f"{GOOD_RATIO:g} times: parts of this photo have too little structure to show where they moved.</p>"
    )


def _modulation_table(numbers: dict[str, Any]) -> str:
    layers = len(next(iter(numbers.values()))["output_scale"]) - 1
    after = f"after {layers} layers"
    head = ("", "sum of the taps", f"output {after}", f"gradient {after}", "RMS gradient of a logit")
    rows = [
        (
            kind,
            _range(n["sum_min"], n["sum_max"]),
            f"× {short(n['output_scale'][-1])}",
            f"× {short(n['gradient_scale'][-1])}",
            f"{n['logit_gradient_rms']:.2e}",
        )
        for kind, n in numbers.items()
    ]
    return f'<div class="wide"><table>{table_rows(head, rows)}</table></div>'


def _range(low: float, high: float) -> str:
    return f"{low:.3g}" if high - low < 1e-6 else f"{low:.3g} to {high:.3g}"


def _gradients(table: GradTable) -> str:
    head = ("operator", "geometry", "input", "form", "relative error", "nearest kink", "verdict")
    cells = [
        (
            row.operator,
            row.geometry,
            row.input,
            row.form,
            f"{row.error:.1e}",
            kink_text(row.kink_distance, row.kinks),
            verdict(row.ok, row.kinks),
        )
        for row in table.rows
    ]
    return table_rows(head, cells, bad=[not row.ok for row in table.rows])


def _footer(results: dict[str, Any]) -> str:
    made = results["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    text = (
        f"Made by dcnlab demo in {results['seconds']:.0f} s on {made['date']}, "
        f"{made['cpu']}, {made['system']}. {versions}. "
        "All numbers are in results.json beside this file."
    )
    return html.escape(text)
