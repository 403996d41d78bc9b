"""Sphinx configuration: pages in MyST, figures from the verification, tutorials that run."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
sys.path[:0] = [str(ROOT), str(DOCS / "_ext")]  # verification/ is not installed
# Tutorials end in plt.show().
warnings.filterwarnings("ignore", message="FigureCanvasAgg is non-interactive")

import geolora_ref  # noqa: E402
from docutils import nodes  # noqa: E402

project = "geolora_ref"
author = "The geolora_ref developers"
copyright = author  # noqa: A001  (the name that Sphinx reads)
version = release = geolora_ref.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_design",
    "sphinxcontrib.bibtex",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
    "sphinx-mathjax-offline",
    "docstrings",
    "machine_checked",
    "rendered",
    "verified",
]
exclude_patterns = [
    "_ext",
    "_templates",
    "_static",
    "_generated/figures",
    "tutorials",
    "**.ipynb",
    "gallery/README*",
]
suppress_warnings = [
    "config.cache",  # sphinx_gallery_conf holds a class
    "ref.python",  # a name is on the page of its package and on that of its module
]
nitpicky = False

myst_enable_extensions = ["amsmath", "attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
bibtex_bibfiles = ["references.bib"]
bibtex_default_style = "keys"
bibtex_reference_style = "label"
autosummary_generate = True
templates_path = ["_templates"]
napoleon_google_docstring = False
napoleon_use_rtype = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_type_aliases = {"Array": "Array"}
python_maximum_signature_line_length = 88
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

sphinx_gallery_conf = {
    "examples_dirs": "tutorials",
    "gallery_dirs": "gallery",
    "filename_pattern": r"/plot_",
    "within_subsection_order": "FileNameSortKey",
    "write_computation_times": False,
    "show_memory": False,
    "show_signature": False,
    "download_all_examples": False,
    "reset_modules": ("matplotlib",),
    "abort_on_example_error": True,
    "min_reported_time": 1000,
}
os.environ.setdefault("TQDM_DISABLE", "1")

html_theme = "furo"
html_title = "geolora_ref"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}
mathjax3_config = {
    "tex": {
        "macros": {
            "norm": [r"\left\lVert #1\right\rVert", 1],
            "inner": [r"\langle #1\rangle", 1],
            # The script has no sans-serif letters, and would take those of the browser.
            "mathsf": [r"\mathrm{#1}", 1],
        }
    },
    "options": {"enableMenu": False},
}


def without_last_lines(app: object, document: nodes.document) -> None:
    """Hide the empty line that a doctest needs after its output."""
    for block in document.findall(nodes.literal_block):
        text = block.astext()
        if block.rawsource == text and text.endswith("\n"):
            block.rawsource = text.rstrip("\n")
            block[:] = [nodes.Text(block.rawsource)]


def setup(app: object) -> None:
    """Formulas as SVG: one script is loaded, also from disk, where browsers refuse fonts."""
    app.config.mathjax_path = "mathjax/tex-svg.js"  # type: ignore[attr-defined]
    app.connect("doctree-read", without_last_lines)  # type: ignore[attr-defined]
