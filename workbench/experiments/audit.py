"""Printed parameters and multiply-adds against counted ones, each table in its paper's own convention."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from workbench.experiments.metrics import SCALE, Metric, agrees, quantity
from workbench.experiments.tables import Erratum, Row, Table

PRINTED_AS = {"params": "params", "macs": "flops"}  # the papers print multiply-adds as FLOPs


class Cell(NamedTuple):
    """A printed count.  value: what is counted; erratum: why no definition reproduces the print."""

    table: Table
    row: Row
    metric: Metric
    value: int
    agrees: bool
    erratum: Erratum | None

    def __str__(self) -> str:
        return f"{self.table.key} {self.row.label} {self.metric.key}"

    @property
    def sound(self) -> bool:
        """Equal to the print, or excused by an erratum; an erratum on a cell that agrees is a fault of its own."""
        return self.agrees == (self.erratum is None)


def cells(table: Table) -> list[Cell]:
    """Every count that the table prints."""
    return [cell for row in table.rows for cell in _cells(table, row)]


def audit(table: Table) -> list[dict[str, Any]]:
    """One entry a row, verdicts None for what the paper does not print.

    {"table", "row", "model", "params", "multiply_adds", "published", "agrees": {"params", "flops"}, "erratum"}
    """
    return [_line(table, row) for row in table.rows]


def counted(table: Table, row: Row) -> list[dict[str, Any]]:
    """The printed counts of a row as measured entries, in the unit of the column.

    "unit": K, M or G where the cell prints its own, else "".
    """
    return [
        {
            "metric": cell.metric.key,
            "budget": "count",
            "column": "counted",
            "mean": cell.value / SCALE[cell.metric.unit],
            "std": None,
            "n": 1,
            "protocol": f"{table.convention} convention, {_cost(table, row).image_size} px, {row.classes} classes",
            "dataset": None,
            "model": row.model,
            "unit": quantity(row.published[cell.metric.key], "")[1],
            "agrees": cell.agrees,
        }
        for cell in _cells(table, row)
    ]


def summary(printed: Iterable[Cell]) -> list[str]:
    """A sentence for each paper: cells that agree, cells printed, errata."""
    papers: dict[str, list[Cell]] = {}
    for cell in printed:
        papers.setdefault(cell.table.paper, []).append(cell)
    sentences = []
    for paper, found in papers.items():
        errata = sum(cell.erratum is not None for cell in found)
        sentences.append(
            f"{paper}: {sum(cell.agrees for cell in found)} of {len(found)} printed cells agree to the last digit, "
            f"{errata} {'erratum' if errata == 1 else 'errata'}."
        )
    return sentences


def _cells(table: Table, row: Row) -> list[Cell]:
    found = []
    for metric in table.metrics:
        if metric.source == "count" and metric.key in row.published:
            value = getattr(_cost(table, row), metric.key)
            same = agrees(row.published[metric.key], value, metric.unit)
            found.append(Cell(table, row, metric, value, same, table.erratum(row.label, metric.key)))
    return found


def _line(table: Table, row: Row) -> dict[str, Any]:
    cost = _cost(table, row)
    found = _cells(table, row)
    verdicts = {cell.metric.key: cell.agrees for cell in found}
    errata = dict.fromkeys(cell.erratum.text for cell in found if cell.erratum)
    return {
        "table": table.key,
        "row": row.label,
        "model": row.model,
        "params": cost.params,
        "multiply_adds": cost.macs,
        "published": {PRINTED_AS.get(key, key): text for key, text in row.published.items()},
        "agrees": {name: verdicts.get(metric) for metric, name in PRINTED_AS.items()},
        "erratum": " ".join(errata) or None,
    }


def _cost(table: Table, row: Row) -> Any:
    from workbench.explain.complexity import count

    return count(row.model, row.classes, convention=table.convention)
