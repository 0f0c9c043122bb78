"""Configures Sphinx for the manual; `make docs` builds it."""

import re
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
sys.path[:0] = [str(DOCS.parent), str(DOCS)]

from generate import write_all  # noqa: E402

project, author = "o2o", "o2o contributors"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme, html_title = "furo", "o2o"
html_static_path, html_css_files = ["_static"], ["manual.css"]
html_show_copyright = False
html_copy_source = False
myst_heading_anchors = 3
myst_enable_extensions = ["tasklist"]
nb_execution_mode = "off"  # a build trains nothing; the notebooks are shown as they are stored
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_use_ivar = True  # attributes of classes as a list, not as entries of the index


default_role = "literal"  # docstrings have `names` in single backticks, as Markdown has


def escape(app, what, name, obj, options, lines):
    """Escapes stars and bars of shapes and formulas, such as (N, *shape), for reStructuredText."""
    lines[:] = [re.sub(r"(?<![\\*])([*|])(?=[\w\[({])", r"\\\1", line) for line in lines]


def setup(app):
    """Writes the pages that follow from the code before Sphinx looks for pages."""
    write_all(DOCS)
    app.connect("autodoc-process-docstring", escape, priority=900)  # after napoleon
