"""How `make docs` builds the site: Sphinx, MyST for Markdown, API pages from the docstrings."""

import ast
import textwrap
from itertools import groupby
from typing import Any

from faster import __version__

project = "faster"
author = "The faster maintainers"
version = release = __version__
language = "en"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown"}
html_theme = "furo"
html_title = f"faster {release}"

# Markdown as the hosting site shows it: headings have anchors, and a link to a missing one is a warning.
myst_heading_anchors = 4

# Docstrings are in Google's form: Args, Raises.
napoleon_google_docstring = True
napoleon_numpy_docstring = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
add_module_names = False
python_use_unqualified_type_names = True
# One backtick is code in our docstrings, as in Markdown.
default_role = "code"


def is_code(paragraph: str) -> bool:
    """Whether a docstring's paragraph is a program: it parses, and imports, calls or assigns something."""
    try:
        nodes = ast.walk(ast.parse(textwrap.dedent(paragraph)))
    except SyntaxError:
        return False
    return any(isinstance(node, ast.Import | ast.ImportFrom | ast.Call | ast.Assign) for node in nodes)


def mark_code(_app: Any, _what: str, _name: str, _object: Any, _options: Any, lines: list[str]) -> None:
    """Show the examples and tables in docstrings as they are written."""
    marked: list[str] = []
    before = ""  # the last line above that is not blank
    for blank, group in groupby(lines, key=lambda line: not line.strip()):
        paragraph = list(group)
        if not blank:
            last = paragraph[-1]
            text = "\n".join(paragraph)
            is_table = before.endswith(":") and all(line.startswith(" ") for line in paragraph)
            if is_code(text) or is_table:
                language = "python" if is_code(text) else "text"
                block = textwrap.dedent(text).splitlines()
                paragraph = [f".. code-block:: {language}", "", *(f"   {line}" for line in block)]
            before = last
        marked += paragraph
    lines[:] = marked


def setup(app: Any) -> None:
    """What Sphinx calls."""
    app.connect("autodoc-process-docstring", mark_code, priority=400)  # before napoleon
