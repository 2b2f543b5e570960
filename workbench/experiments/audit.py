"""Printed parameters and multiply-adds against counted ones, each table in its paper's own convention."""

from typing import Any

from workbench.experiments.tables import SCALE, Row, Table, agrees


def audit(table: Table) -> list[dict[str, Any]]:
    """One entry a row: {"table", "row", "model", "params", "macs", "convention", "published", "agrees"}."""
    return [_line(table, row) for row in table.rows]


def counted(table: Table, row: Row) -> list[dict[str, Any]]:
    """The counted metrics of a row as measured entries, in the unit of the print."""
    if not row.model:
        return []
    cost = _cost(table, row)
    return [
        {
            "metric": metric.key,
            "budget": "count",
            "column": "counted",
            "mean": getattr(cost, metric.key) / SCALE[metric.unit],
            "std": None,
            "n": 1,
            "protocol": f"{table.convention} convention, {cost.image_size} px, {table.classes} classes",
            "dataset": None,
            "model": row.model,
            "agrees": agrees(row.published[metric.key], getattr(cost, metric.key), metric.unit),
        }
        for metric in table.metrics
        if metric.source == "count"
    ]


def _line(table: Table, row: Row) -> dict[str, Any]:
    cost, cells = _cost(table, row), counted(table, row)
    return {
        "table": table.key,
        "row": row.label,
        "model": row.model,
        "params": cost.params,
        "macs": cost.macs,
        "convention": table.convention,
        "published": {cell["metric"]: row.published[cell["metric"]] for cell in cells},
        "agrees": {cell["metric"]: cell["agrees"] for cell in cells},
    }


def _cost(table: Table, row: Row) -> Any:
    from workbench.explain.complexity import count

    return count(row.model, table.classes, convention=table.convention)
