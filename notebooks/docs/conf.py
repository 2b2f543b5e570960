"""Sphinx settings of the documentation site.  No page asks another host for anything; equations become MathML."""

import plain

project = "Attention workbench"
author = copyright = "The workbench authors"
extensions = ["myst_nb", "sphinx.ext.autodoc"]

myst_enable_extensions = ["amsmath", "dollarmath"]
myst_heading_anchors = 3
myst_update_mathjax = False
nb_execution_mode = "off"  # stored outputs are shown
nb_ipywidgets_js: dict[str, dict] = {}  # they would come from another host
nb_merge_streams = True

autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
add_module_names = False
python_maximum_signature_line_length = 100
toc_object_entries_show_parents = "hide"

highlight_language = "none"  # of the equations in docstrings
html_theme = "furo"
html_title = project
html_math_renderer = "mathml"
html_copy_source = False
html_show_sourcelink = False
html_show_copyright = False
html_show_search_summary = False  # it is fetched, which a browser refuses to a page opened as a file


def setup(app):
    """Docstrings here are plain English with indented equations, not reStructuredText."""
    app.add_html_math_renderer("mathml", (plain.inline_math, None), (plain.block_math, None))
    app.connect("autodoc-process-docstring", plain.docstring)
    app.connect("autodoc-skip-member", plain.skipped)
