"""From what the sources hold to what Sphinx reads: docstrings to reStructuredText, LaTeX to MathML."""

import re
from itertools import groupby

from docutils import nodes
from docutils.utils.math import MathError, latex2mathml
from sphinx.util import logging

log = logging.getLogger(__name__)
SPELLED = (  # what docutils does not know, by what it does
    (r"\\([bB]igg?)(?![a-zA-Z])", r"\\\1l"),
    (r"\\tag\{([^{}]*)\}", r"\\qquad\\text{(\1)}"),
    (r"\\textbf\{", r"\\text{"),
    (r"\\(text|display)style(?![a-zA-Z])", ""),  # which it knows as the first word of a group alone
)


def docstring(app, what, name, obj, options, lines):
    """Replace the lines of a docstring by the same text as reStructuredText."""
    lines[:] = rst(lines)


def rst(lines):
    """Paragraphs stay paragraphs, `code` becomes code, and indented lines are kept as they stand."""
    found = []
    for (blank, indented), group in groupby(lines, lambda line: (not line.strip(), line.startswith(" "))):
        if blank:
            continue
        if indented:
            found += ["::", "", *(f"   {line}" for line in group), ""]
        else:
            found += [paragraph(" ".join(group)), ""]
    return found


def paragraph(text):
    """One line, in which only `code` is markup."""
    parts = re.split(r"`([^`]+)`", text)
    escaped = [re.sub(r"([\\*_|`])", r"\\\1", part) for part in parts[::2]]
    code = [f"\\ ``{part.strip()}``\\ " for part in parts[1::2]]
    return "\\ " + "".join(a + b for a, b in zip(escaped, [*code, ""], strict=True))


def skipped(app, what, name, obj, skip, options):
    """The fields of a NamedTuple have no text of their own."""
    return True if (getattr(obj, "__doc__", None) or "").startswith("Alias for field number") else None


def inline_math(writer, node):
    writer.body.append(mathml(node, block=False))
    raise nodes.SkipNode


def block_math(writer, node):
    writer.body.append(f'<div class="math" style="overflow-x: auto">{mathml(node, block=True)}</div>')
    raise nodes.SkipNode


def mathml(node, block):
    """The equation as browsers show it on their own; one that cannot be read is a warning, so the build fails."""
    text = node.astext()
    for pattern, other in SPELLED:
        text = re.sub(pattern, other, text)
    try:
        return latex2mathml.tex2mathml(text, as_block=block)
    except MathError as error:
        log.warning("cannot read the equation %r: %s", node.astext(), error, location=node)
        return ""
