"""A paper's table is data: rows are model names, cells are printed numbers, budgets say which twins measure them."""

import tomllib
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from workbench import datasets, files
from workbench.errors import Corrupt, OutOfRange, UnknownName
from workbench.experiments.metrics import METRICS, Metric, check_print
from workbench.names import CONVENTIONS, parse
from workbench.training.recipe import recipe


class Row(NamedTuple):
    """One line.  published: metric -> the number exactly as printed; twin: budget -> the model measured there.

    A count may print its own unit, "853.02K"; a metric that the paper leaves out ("-") is not in `published`.
    recipe: the row's own, instead of the budget's; classes: of the row's data set; layers: (output size, operations)
    line by line, where the paper prints the architecture.
    """

    label: str
    model: str
    published: dict[str, str]
    twin: dict[str, str]
    note: str = ""
    recipe: str = ""
    classes: int = 0
    layers: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return self.label


class Budget(NamedTuple):
    """A scale at which a table is measured."""

    key: str
    dataset: str
    recipe: str
    seeds: int
    note: str


class Erratum(NamedTuple):
    """What does not add up in print.  row, metric: the cells that no definition reproduces, if it is about cells."""

    where: str
    text: str
    row: tuple[str, ...] = ()
    metric: tuple[str, ...] = ()


class Table(NamedTuple):
    """One published table.  `controls` are rows that the paper does not have; `classes` are a row's if it has none.

    data: what the data set is called (`datasets.label`) that all budgets have in place of their own; mostly none is.
    """

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
    errata: tuple[Erratum, ...]
    data: str = ""

    def on(self, dataset: str, label: str = "") -> "Table":
        """The same table with every budget on another data set; itself for "".

        label: what records call the data set, where only they are at hand, to show them and not to train.
        """
        if not dataset:
            return self
        if not label:
            dataset = datasets.canonical(dataset)
            label = datasets.label(datasets.identity(dataset))
        budgets = {}
        for key, budget in self.budgets.items():
            note = f"The twins and recipes of budget `{key}`, on `{label}` in place of `{budget.dataset}`."
            budgets[key] = budget._replace(dataset=dataset, note=note)
        return self._replace(data=label, budgets=budgets)

    def tasks(self, row: Row) -> set[str]:
        """What the data sets are called whose runs stand in this row: the budgets', and those of as many classes."""
        if self.data:
            return {self.data}
        alike = {name for name, classes in datasets.CLASSES.items() if classes == row.classes}
        return alike | {budget.dataset for budget in self.budgets.values()}

    def budget(self, key: str) -> Budget:
        """The budget of this name; raises UnknownName."""
        if key not in self.budgets:
            raise UnknownName(f"budget of {self.key}", key, [*self.budgets, "count"])
        return self.budgets[key]

    def erratum(self, row: str, metric: str) -> Erratum | None:
        """What is known about a cell that no definition reproduces; None for a sound one."""
        return next((found for found in self.errata if row in found.row and metric in found.metric), None)

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
        rows = tuple(_row(row, metrics, raw["classes"]) for row in raw["rows"])
        bare = {"model": "", "published": {}}
        controls = tuple(_row(row | bare, (), raw["classes"]) for row in raw.get("controls", ()))
        labels = [row.label for row in (*rows, *controls)]
        if len(set(labels)) < len(labels):
            raise OutOfRange(f"two rows have one label among {labels}")
        if raw["baseline"] not in labels:
            raise OutOfRange(f"baseline {raw['baseline']!r} is not a row; rows are {labels}")
        budgets = {key: Budget(key, **value) for key, value in raw.get("budgets", {}).items()}
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
        if budget.dataset not in datasets.DATASETS:
            raise UnknownName("data set", budget.dataset, datasets.DATASETS)
        if type(budget.seeds) is not int or budget.seeds < 1:
            raise OutOfRange(f"budget {budget.key!r}: seeds = {budget.seeds!r} must be a whole number from 1")
    for row in rows:
        for key in row.twin:
            if key not in budgets:
                raise UnknownName(f"budget in row {row.label!r}:", key, budgets)


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
    texts = {key: raw.get(key, "") for key in ("note", "recipe")}
    layers = tuple((size, operations) for size, operations in raw.get("layers", ()))
    own = raw.get("classes", classes)
    row = Row(raw["label"], raw["model"], printed, raw.get("twin", {}), **texts, classes=own, layers=layers)
    try:
        for name in filter(None, (row.model, *row.twin.values())):
            parse(name)
        if row.recipe:
            recipe(row.recipe)
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
