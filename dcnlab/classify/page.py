"""The page about where a model looked: one HTML file that needs nothing but itself."""

from __future__ import annotations

import html
from pathlib import Path
from string import Template

from dcnlab.classify.figures import SHARES, Look
from dcnlab.internimage.receptive import radius_of_share, share_within
from dcnlab.internimage.sampled import stage_stride
from dcnlab.pages import figure_element, page_part, style, table_rows

RADII = (8, 16, 32, 64, 112)  # pixels of the photo


def write_page(folder: Path, look: Look, captions: dict[str, str], version: str) -> None:
    """Write index.html beside the figures, with style and figures inside.

    Parameters
    ----------
    folder : path
        Holds the figures already.
    captions : file name of each figure -> its caption
    version : str
        Of dcnlab.
    """
    figures = {name: figure_element(folder / name, text) for name, text in captions.items()}
    points = [figure for name, figure in figures.items() if name.startswith("points")]
    page = Template(page_part("dcnlab.classify", "page.html")).substitute(
        css=style(),
        best=html.escape(_best(look)),
        model=html.escape(look.model),
        photo=html.escape(look.name),
        size=len(look.photo),
        classes=_classes(look),
        taps=look.sampled[0].grid.tap_count,
        points="\n".join(points),
        modulation=figures["modulation.png"],
        depth=figures["depth.png"],
        fields=figures["receptive-fields.png"],
        shares=_shares(look),
        version=html.escape(version),
    )
    (folder / "index.html").write_text(page, encoding="utf-8")


def _best(look: Look) -> str:
    first = look.found[0]
    return first.name or f"class {first.class_index}"


def _classes(look: Look) -> str:
    rows = [
        (str(rank), f"{100 * p.probability:.2f} %", str(p.class_index), p.name or "")
        for rank, p in enumerate(look.found, start=1)
    ]
    return table_rows(("rank", "probability", "index", "name" if look.found[0].name else ""), rows)


def _shares(look: Look) -> str:
    size = len(look.photo)
    radii = [radius for radius in RADII if radius < size]
    head = ("stage", "stride", *(f"within {r} px" for r in radii), *(f"{100 * s:.0f} % within" for s in SHARES))
    rows = []
    for stage, field in enumerate(look.fields):
        shares = [f"{100 * share:.1f} %" for share in share_within(field.values, field.centre, radii)]
        reach = [f"{radius_of_share(field.values, field.centre, share):.0f} px" for share in SHARES]
        rows.append((str(stage + 1), str(stage_stride(stage)), *shares, *reach))
    return table_rows(head, rows)
