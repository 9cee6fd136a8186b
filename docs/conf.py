"""The site: `make docs` builds it into docs/_build/html. Nothing is fetched, neither here nor by the pages."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "extensions"))

import dcnlab

project = "dcnlab"
author = "The dcnlab authors"
release = version = dcnlab.__version__
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx-mathjax-offline",
    # Ours, in docs/extensions:
    "api_pages",
    "command_line",
    "course_pages",
    "kernel_pages",
    "references",
    "repository_links",
]
exclude_patterns = ["_build", "results", "images", "extensions", "**/.ipynb_checkpoints"]
templates_path = ["_templates"]

# Docstrings: numpydoc's form; `name` links to what it names, and is set as code where that has no page.
default_role = "py:obj"
napoleon_google_docstring = False
napoleon_use_rtype = False
autodoc_typehints = "none"  # the docstrings give types, shapes and units
autodoc_member_order = "bysource"
autosummary_ignore_module_all = False
autosummary_context = {"public": dcnlab.__all__}  # what `dcnlab` itself has stands there, and only there

# Markdown, and notebooks as they were executed and stored.
nb_execution_mode = "off"
nb_ipywidgets_js: dict[str, dict[str, str]] = {}  # would come from a CDN; a static picture stands beside every widget
nb_merge_streams = True
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3

html_theme = "pydata_sphinx_theme"
html_title = "dcnlab"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_sidebars = {"index": []}
html_theme_options = {
    "navbar_align": "left",
    "header_links_before_dropdown": 6,
    "show_toc_level": 2,
    "pygments_light_style": "a11y-light",
    "pygments_dark_style": "a11y-dark",
    "footer_start": ["copyright"],
    "footer_end": [],
}
copyright = "The dcnlab authors. MIT licence"
