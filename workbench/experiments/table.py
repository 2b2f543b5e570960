"""A paper's table is data: rows are model names, cells are printed numbers, budgets say which models measure them."""

from dataclasses import replace
from typing import Any, NamedTuple

from workbench import datasets
from workbench.errors import OutOfRange, UnknownName
from workbench.experiments.metrics import Metric
from workbench.names import ModelName, parse
from workbench.training.recipe import Recipe, recipe


class Row(NamedTuple):
    """One line.  published: metric -> the number exactly as printed; twin: budget -> the model measured there.

    A count may print its own unit, "853.02K"; a metric that the paper leaves out ("-") is not in `published`.
    recipe: budget -> the row's own, instead of the budget's; classes: of the row's data set; layers: (output size,
    operations) line by line, where the paper prints the architecture; log: (epoch, value) as far as the paper shows it;
    base: the row that it is measured against, where its options hide that from `Table.base`.
    """

    label: str
    model: str
    published: dict[str, str]
    twin: dict[str, str]
    recipe: dict[str, str]
    note: str = ""
    classes: int = 0
    layers: tuple[tuple[str, str], ...] = ()
    log: tuple[tuple[int, float], ...] = ()
    base: str = ""

    def __str__(self) -> str:
        return self.label


class Budget(NamedTuple):
    """A scale at which a table is measured.

    datasets: number of classes -> the data set of the rows with so many, instead of `dataset`; own: the table's own
    models are trained, where a row names no twin.
    """

    key: str
    dataset: str
    recipe: str
    seeds: int
    note: str
    datasets: dict[str, str]
    own: bool = False


class Erratum(NamedTuple):
    """What does not add up in print.  row, metric: the cells that no definition reproduces, if it is about cells."""

    where: str
    text: str
    row: tuple[str, ...] = ()
    metric: tuple[str, ...] = ()


class Table(NamedTuple):
    """One published table.  `controls` are rows that the paper does not have; `classes` are a row's if it has none.

    data: what the data set is called (`datasets.label`) that all budgets have in place of their own; mostly none is.
    epochs: instead of the recipes' own; mostly 0.
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
    epochs: int = 0

    def on(self, dataset: str = "", label: str = "", epochs: int = 0) -> "Table":
        """The same table with every budget on another data set, for another number of epochs; "" and 0 change nothing.

        label: what records call the data set, where only they are at hand, to show them and not to train.
        """
        if epochs < 0:
            raise OutOfRange(f"{epochs} epochs; ask for at least 1.")
        changed = self._replace(epochs=epochs or self.epochs)
        if not dataset:
            return changed
        if not label:
            dataset = datasets.canonical(dataset)
            label = datasets.label(datasets.identity(dataset))
        budgets = {}
        for key, budget in self.budgets.items():
            note = f"The twins and recipes of budget `{key}`, on `{label}` in place of `{budget.dataset}`."
            budgets[key] = budget._replace(dataset=dataset, datasets={}, note=note)
        return changed._replace(data=label, budgets=budgets)

    def task(self, row: Row, budget: str) -> str:
        """What the data set is called that this row is measured on at this budget."""
        return self.data or self.dataset(row, budget)

    def dataset(self, row: Row, budget: str) -> str:
        """The data set that this row is trained on at this budget."""
        chosen = self.budget(budget)
        return chosen.datasets.get(str(row.classes), chosen.dataset)

    def recipe(self, row: Row, budget: str) -> Recipe:
        """The row's recipe at this budget; other epochs move the milestones in proportion."""
        plain = recipe(row.recipe.get(budget, self.budget(budget).recipe))
        return plain.lasting(self.epochs) if self.epochs else plain

    def trained(self, row: Row, budget: str) -> str:
        """The model that stands for this row at this budget; "" if none does."""
        own = row.model if self.budget(budget).own else ""
        return row.twin.get(budget, own)

    def base(self, row: Row) -> str:
        """The label of the row that this one is measured against.

        That of the same network without its outermost part, or of its bare backbone, or the table's baseline, under
        the same detector; a bare backbone is its own.
        """
        if row.base or not row.model:
            return row.base or self.baseline
        without = _without(parse(row.model))
        if not without:
            return row.label
        labels = {other.model: other.label for other in self.rows if other.classes == row.classes}
        return next(filter(None, map(labels.get, without)), self.baseline)

    def budget(self, key: str) -> Budget:
        """The budget of this name; raises UnknownName."""
        if key not in self.budgets:
            raise UnknownName(f"budget of {self.key}", key, [*self.budgets, "count"])
        return self.budgets[key]

    def erratum(self, row: str, metric: str) -> Erratum | None:
        """What is known about a cell that no definition reproduces; None for a sound one."""
        return next((found for found in self.errata if row in found.row and metric in found.metric), None)

    def measured_rows(self, budget: str) -> list[tuple[Row, str]]:
        """Rows and controls that are trained at this budget, with the model that stands for each."""
        return [(row, name) for row in (*self.rows, *self.controls) if (name := self.trained(row, budget))]

    def experiments(self, budget: str, seeds: int = 0) -> list[Any]:
        """The runs of a budget, all rows of one seed before the next; its own number of seeds when 0."""
        from workbench.experiments.experiment import Experiment

        chosen = self.budget(budget)
        if seeds < 0:
            raise OutOfRange(f"{seeds} seeds; ask for at least 1.")
        return [
            Experiment(model=name, dataset=self.dataset(row, budget), recipe=self.recipe(row, budget), seed=seed)
            for seed in range(seeds or chosen.seeds)
            for row, name in self.measured_rows(budget)
        ]


def _without(name: ModelName) -> list[str]:
    """The names of a network without its outermost part and without all; of a pyramid's, where a detector has some."""
    whole = [part for part in (name.connection, name.conv, name.attention) if part]
    detector, inner = name.detector, whole[1:]
    if detector and not whole:
        fpn = dict(detector.options).get("fpn", "")
        others = tuple((key, value) for key, value in detector.options if key != "fpn")
        left = fpn.partition("-")[2]
        outer = [
            replace(detector, options=(*others, ("fpn", left)) if left else others),
            replace(detector, options=others),
        ]
        return [f"{one}-{name.backbone}" for one in outer] if fpn else []
    under = [detector] if detector else []
    return ["-".join(map(str, (*under, *left, name.backbone))) for left in (inner, ())] if whole else []
