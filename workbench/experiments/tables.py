"""The tables of the papers, read from data/tables/*.toml and checked."""

import tomllib
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from workbench import datasets, files
from workbench.errors import Corrupt, OutOfRange, UnknownName
from workbench.experiments.metrics import METRICS, Metric, check_print
from workbench.experiments.table import Budget, Erratum, Row, Table
from workbench.names import CONVENTIONS, parse
from workbench.training.recipe import recipe

__all__ = ["Erratum", "Row", "Table", "known", "load", "read"]


def known() -> list[str]:
    """The names of all tables."""
    return sorted(path.stem for path in (files.share("data") / "tables").glob("*.toml"))


@cache
def load(key: str) -> Table:
    """The table of this name; raises UnknownName, or Corrupt naming the file and the row."""
    if key not in known():
        raise UnknownName("table", key, known())
    return read(files.share("data") / "tables" / f"{key}.toml")


def read(path: Path) -> Table:
    """The table in one TOML file, checked."""
    try:
        raw = tomllib.loads(path.read_text())
        unknown = [key for key in raw["metrics"] if key not in METRICS]
        if unknown:
            raise UnknownName("metric", unknown[0], METRICS)
        metrics = tuple(METRICS[key] for key in raw["metrics"])
        rows = tuple(_row(row, metrics, raw["classes"]) for row in raw["rows"])
        bare = {"model": "", "published": {}}
        controls = tuple(_row(row | bare, (), raw["classes"]) for row in raw.get("controls", ()))
        labels = [row.label for row in (*rows, *controls)]
        if len(set(labels)) < len(labels):
            raise OutOfRange(f"two rows have one label among {labels}")
        for one in (raw["baseline"], *(row.base for row in rows if row.base)):
            if one not in labels:
                raise OutOfRange(f"baseline {one!r} is not a row; rows are {labels}")
        budgets = {key: Budget(key, **{"datasets": {}} | value) for key, value in raw.get("budgets", {}).items()}
        _check(raw["convention"], budgets, (*rows, *controls))
        plain = {key: raw[key] for key in ("key", "paper", "caption", "protocol", "convention", "classes", "baseline")}
        claims = tuple(raw.get("claims", ()))
        errata = tuple(_erratum(item, rows) for item in raw.get("errata", ()))
        return Table(
            **plain, metrics=metrics, rows=rows, controls=controls, budgets=budgets, claims=claims, errata=errata
        )
    except (tomllib.TOMLDecodeError, KeyError, TypeError, ValueError) as error:
        raise Corrupt(f"{path}: {error}. Correct the file.") from error


def _check(convention: str, budgets: dict[str, Budget], rows: tuple[Row, ...]) -> None:
    """Every name leads somewhere; raises UnknownName or OutOfRange."""
    if convention not in CONVENTIONS:
        raise UnknownName("counting convention", convention, CONVENTIONS)
    for budget in budgets.values():
        recipe(budget.recipe)
        for name in (budget.dataset, *budget.datasets.values()):
            if name not in datasets.DATASETS:
                raise UnknownName("data set", name, datasets.DATASETS)
        if type(budget.seeds) is not int or budget.seeds < 1:
            raise OutOfRange(f"budget {budget.key!r}: seeds = {budget.seeds!r} must be a whole number from 1")
    for row in rows:
        for key in (*row.twin, *row.recipe):
            if key not in budgets:
                raise UnknownName(f"budget in row {row.label!r}:", key, budgets)
        for name in row.recipe.values():
            recipe(name)


def _erratum(raw: dict[str, Any], rows: tuple[Row, ...]) -> Erratum:
    """row and metric, one or a list each, name cells that are printed; raises OutOfRange."""
    cells = {key: raw.get(key, ()) for key in ("row", "metric")}
    found = Erratum(**raw | {key: (named,) if isinstance(named, str) else tuple(named) for key, named in cells.items()})
    if bool(found.row) != bool(found.metric):
        raise OutOfRange(f"erratum {found.where!r} names cells by both row and metric, or none")
    printed = {(row.label, metric) for row in rows for metric in row.published}
    for cell in product(found.row, found.metric):
        if cell not in printed:
            raise OutOfRange(f"erratum {found.where!r}: row {cell[0]!r} prints no {cell[1]!r}")
    return found


def _row(raw: dict[str, Any], metrics: tuple[Metric, ...], classes: int) -> Row:
    printed = {key: text for key, text in raw["published"].items() if text != "-"}
    layers = tuple((size, operations) for size, operations in raw.get("layers", ()))
    own = raw.get("classes", classes)
    log = tuple((epoch, value) for epoch, value in raw.get("log", ()))
    given = raw.get("twin", {}), raw.get("recipe", {}), raw.get("note", "")
    base = raw.get("base", "")
    row = Row(raw["label"], raw["model"], printed, *given, classes=own, layers=layers, log=log, base=base)
    try:
        for name in filter(None, (row.model, *row.twin.values())):
            parse(name)
    except (OutOfRange, UnknownName) as error:
        raise OutOfRange(f"row {row.label!r}: {error}") from error
    if type(own) is not int or own < 1:
        raise OutOfRange(f"row {row.label!r}: classes = {own!r} must be a whole number from 1")
    if set(raw["published"]) != {metric.key for metric in metrics}:
        raise OutOfRange(
            f"row {row.label!r} must print {[metric.key for metric in metrics]}, has {list(raw['published'])}; "
            'write "-" where the paper prints nothing'
        )
    for metric in metrics:
        if metric.key in printed:
            check_print(f"row {row.label!r}: {metric.key}", printed[metric.key], metric)
    return row
