"""What README.md shows of a notebook: title, summary, and a small picture made from its stored output."""

import base64
import io

import nbformat
import pytest
from lessons import Lesson, draw_pictures, lessons, made_from, table
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image


def png(colour, size=(640, 400)):
    stream = io.BytesIO()
    Image.new("RGB", size, colour).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


def cell(colour=None, tags=()):
    outputs = [new_output("stream", text="a")]
    if colour:
        outputs.append(new_output("display_data", {"image/png": png(colour)}))
    return new_code_cell("1", outputs=outputs, metadata={"tags": list(tags)})


def lesson(folder, text, *cells, name="03_forward.ipynb"):
    nbformat.write(new_notebook(cells=[new_markdown_cell(text), *cells]), folder / name)
    return Lesson(folder / name)


HEADINGS = ["Forward", "03. Forward", "03 · Forward", "Notebook 03: Forward", "Exercise 3: Forward"]


@pytest.mark.parametrize("heading", HEADINGS)
def test_a_title_leaves_the_number_out(tmp_path, heading):
    found = lesson(tmp_path, f"# {heading}\n\nText.")
    assert (found.number, found.title) == ("03", "Forward")


@pytest.mark.parametrize(
    ("paragraph", "expected"),
    [
        ("You will\nsee eq. 2 of 2.5 papers. More\n\nLast.", "You will see eq. 2 of 2.5 papers."),
        ("No end", "No end"),
        ("At the end of this notebook you can say *why*. And more.", "Say *why*."),
        ("By [`f[0]`](../a.md) | hand! $x$ follows.", "By `f[0]` \\| hand!"),
    ],
)
def test_a_summary_is_the_first_sentence(tmp_path, paragraph, expected):
    assert lesson(tmp_path, f"# T\n\n{paragraph}").summary == expected


def test_a_notebook_without_a_beginning_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"03_forward.ipynb must begin with a heading '# ...' and a paragraph"):
        _ = lesson(tmp_path, "no heading").title


def test_the_cover_is_the_tagged_figure_else_the_first(tmp_path):
    first = lesson(tmp_path, "# T\n\nA.", cell(), cell("red"), cell("blue"))
    assert first.cover == base64.b64decode(png("red"))
    tagged = lesson(tmp_path, "# T\n\nA.", cell("red"), cell("blue", ["hide-input", "cover"]))
    assert tagged.cover == base64.b64decode(png("blue"))
    assert lesson(tmp_path, "# T\n\nA.", cell()).cover is None


def test_pictures_are_small_and_say_what_they_were_made_from(tmp_path):
    import hashlib

    pictures = tmp_path / "pictures"
    found = lesson(tmp_path, "# T\n\nA.", cell("red"))
    pictures.mkdir()
    (pictures / "99.png").write_bytes(b"of a notebook that is gone")
    draw_pictures([found, lesson(tmp_path, "# T\n\nA.", name="04_none.ipynb")], pictures)
    assert [path.name for path in pictures.iterdir()] == ["03.png"]
    assert made_from(pictures / "03.png") == hashlib.sha256(found.cover).hexdigest()
    with Image.open(pictures / "03.png") as image:
        assert image.size == (320, 200)
        assert image.convert("RGB").getpixel((5, 5)) == (255, 0, 0)


def test_the_table(tmp_path):
    assert table(lessons(tmp_path)) == "No notebook is here yet."
    lesson(tmp_path, "# 04 Backward\n\nB.", name="04_backward.ipynb")
    lesson(tmp_path, '# Why "deform"\n\nA. More.', cell("red"))
    assert table(lessons(tmp_path)).splitlines()[2:] == [
        '| <img src="docs/images/course/03.png" width="160" alt="Why &quot;deform&quot;"> | '
        '03 [Why "deform"](notebooks/03_forward.ipynb)<br> A. |',
        "|  | 04 [Backward](notebooks/04_backward.ipynb)<br> B. |",
    ]
