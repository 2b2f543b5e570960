"""A table as text: aligned columns, Markdown, CSV."""

import csv as csv_format
import io
from typing import Any

from workbench.experiments.compare import cells, protocols
from workbench.experiments.tables import Table


def plain(table: Table, entries: list[dict[str, Any]]) -> str:
    """Aligned columns under two lines of headings, then the protocols."""
    heads, lines = cells(table, entries)
    rows = [[metric for metric, _ in heads], [source for _, source in heads], *lines]
    widths = [max(len(row[i]) for row in rows) for i in range(len(heads))]
    aligned = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*aligned, "", *protocols(entries)])


def markdown(table: Table, entries: list[dict[str, Any]]) -> str:
    """A Markdown table and a list of protocols."""
    heads, lines = cells(table, entries)
    rows = [_titles(heads), ["---"] * len(heads), *lines]
    return "\n".join(
        [*("| " + " | ".join(row) + " |" for row in rows), "", *(f"- {note}" for note in protocols(entries))]
    )


def csv(table: Table, entries: list[dict[str, Any]]) -> str:
    """Comma-separated values with one line of headings."""
    heads, lines = cells(table, entries)
    out = io.StringIO()
    csv_format.writer(out, lineterminator="\n").writerows([_titles(heads), *lines])
    return out.getvalue()


def _titles(heads: list[tuple[str, str]]) -> list[str]:
    return [": ".join(filter(None, head)) for head in heads]
