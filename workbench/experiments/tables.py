"""A paper's table is data: rows are model names, cells are printed numbers, budgets say which twins measure them."""

import tomllib
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from workbench import files
from workbench.datasets import DATASETS
from workbench.errors import Corrupt, OutOfRange, UnknownName
from workbench.names import CONVENTIONS, parse
from workbench.training.recipe import recipe


class Metric(NamedTuple):
    """A column.  unit: "%", "M" (1e6) or "G" (1e9); better: "lower" or "higher"; source: "count" or "train"."""

    key: str
    title: str
    unit: str
    better: str
    source: str


METRICS = {
    metric.key: metric
    for metric in (
        Metric("top1_error", "top-1 error", "%", "lower", "train"),
        Metric("top5_error", "top-5 error", "%", "lower", "train"),
        Metric("top1_accuracy", "top-1 accuracy", "%", "higher", "train"),
        Metric("top5_accuracy", "top-5 accuracy", "%", "higher", "train"),
        Metric("params", "parameters", "M", "lower", "count"),
        Metric("macs", "multiply-adds", "G", "lower", "count"),
    )
}
SCALE = {"%": 1.0, "M": 1e6, "G": 1e9}


class Row(NamedTuple):
    """One line.  published: metric -> the number exactly as printed; twin: budget -> the model measured there.

    recipe: the row's own, instead of the budget's.
    """

    label: str
    model: str
    published: dict[str, str]
    twin: dict[str, str]
    note: str = ""
    recipe: str = ""

    def __str__(self) -> str:
        return self.label


class Budget(NamedTuple):
    """A scale at which a table is measured."""

    key: str
    dataset: str
    recipe: str
    seeds: int
    note: str


class Table(NamedTuple):
    """One published table.  `controls` are rows that the paper does not have."""

    key: str
    paper: str
    caption: str
    protocol: str
    metrics: tuple[Metric, ...]
    convention: str
    classes: int
    baseline: str
    rows: tuple[Row, ...]
    controls: tuple[Row, ...]
    budgets: dict[str, Budget]
    claims: tuple[dict[str, str], ...]
    errata: tuple[dict[str, str], ...]

    def budget(self, key: str) -> Budget:
        """The budget of this name; raises UnknownName."""
        if key not in self.budgets:
            raise UnknownName(f"budget of {self.key}", key, [*self.budgets, "count"])
        return self.budgets[key]

    def measured_rows(self, budget: str) -> list[tuple[Row, str]]:
        """Rows and controls that have a twin at this budget, with its name."""
        return [(row, row.twin[budget]) for row in (*self.rows, *self.controls) if budget in row.twin]

    def experiments(self, budget: str, seeds: int = 0) -> list[Any]:
        """The runs of a budget, all rows of one seed before the next; its own number of seeds when 0."""
        from workbench.experiments.experiment import Experiment

        chosen = self.budget(budget)
        if seeds < 0:
            raise OutOfRange(f"{seeds} seeds; ask for at least 1.")
        return [
            Experiment(model=twin, dataset=chosen.dataset, recipe=recipe(row.recipe or chosen.recipe), seed=seed)
            for seed in range(seeds or chosen.seeds)
            for row, twin in self.measured_rows(budget)
        ]


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
        rows = tuple(_row(row, metrics) for row in raw["rows"])
        controls = tuple(_row(row | {"model": "", "published": {}}, ()) for row in raw.get("controls", ()))
        labels = [row.label for row in (*rows, *controls)]
        if len(set(labels)) < len(labels):
            raise OutOfRange(f"two rows have one label among {labels}")
        if raw["baseline"] not in labels:
            raise OutOfRange(f"baseline {raw['baseline']!r} is not a row; rows are {labels}")
        budgets = {key: Budget(key, **value) for key, value in raw.get("budgets", {}).items()}
        _check(raw["convention"], budgets, (*rows, *controls))
        plain = {key: raw[key] for key in ("key", "paper", "caption", "protocol", "convention", "classes", "baseline")}
        texts = {key: tuple(raw.get(key, ())) for key in ("claims", "errata")}
        parts: dict[str, Any] = plain | texts | {"rows": rows, "controls": controls, "budgets": budgets}
        return Table(metrics=metrics, **parts)
    except (tomllib.TOMLDecodeError, KeyError, TypeError, ValueError) as error:
        raise Corrupt(f"{path}: {error}. Correct the file.") from error


def agrees(printed: str, value: float, unit: str) -> bool:
    """Is `value`, in plain units, the printed number to its last digit?"""
    digits = Decimal(printed)
    return round(Decimal(value / SCALE[unit]), -int(digits.as_tuple().exponent)) == digits


def _check(convention: str, budgets: dict[str, Budget], rows: tuple[Row, ...]) -> None:
    """Every name leads somewhere; raises UnknownName or OutOfRange."""
    if convention not in CONVENTIONS:
        raise UnknownName("counting convention", convention, CONVENTIONS)
    for budget in budgets.values():
        recipe(budget.recipe)
        if budget.dataset not in DATASETS:
            raise UnknownName("data set", budget.dataset, DATASETS)
        if type(budget.seeds) is not int or budget.seeds < 1:
            raise OutOfRange(f"budget {budget.key!r}: seeds = {budget.seeds!r} must be a whole number from 1")
    for row in rows:
        for key in row.twin:
            if key not in budgets:
                raise UnknownName(f"budget in row {row.label!r}:", key, budgets)


def _row(raw: dict[str, Any], metrics: tuple[Metric, ...]) -> Row:
    row = Row(
        raw["label"], raw["model"], raw["published"], raw.get("twin", {}), raw.get("note", ""), raw.get("recipe", "")
    )
    try:
        for name in filter(None, (row.model, *row.twin.values())):
            parse(name)
        if row.recipe:
            recipe(row.recipe)
    except (OutOfRange, UnknownName) as error:
        raise OutOfRange(f"row {row.label!r}: {error}") from error
    if set(row.published) != {metric.key for metric in metrics}:
        raise OutOfRange(
            f"row {row.label!r} must print {[metric.key for metric in metrics]}, has {list(row.published)}"
        )
    for metric in metrics:
        value = Decimal(row.published[metric.key]) if _is_number(row.published[metric.key]) else Decimal("nan")
        if not value.is_finite() or value <= 0 or (metric.unit == "%" and not 1 <= value <= 100):
            raise OutOfRange(
                f"row {row.label!r}: {metric.key} = {row.published[metric.key]!r} must be a printed number"
                + (" in percent, not a fraction" if metric.unit == "%" else "")
            )
    return row


def _is_number(text: object) -> bool:
    try:
        return isinstance(text, str) and bool(Decimal(text).is_finite())
    except ArithmeticError:
        return False
