"""What a budget of a table will cost here, and what it can show, before anything starts.

Hours are work times the rate that records or a probe of this machine give (throughput.py); the bytes are those of the
checkpoints, journals and records that runs leave; the smallest difference is what n seeds detect in 80 % of tables,
two-sided at 95 %, given the spread of paired differences known from records of the same budget (paired.py).
"""

import math
import statistics
from typing import NamedTuple

from workbench.errors import DataMissing, OutOfRange, UnknownName
from workbench.experiments.experiment import Experiment
from workbench.experiments.grid import DEFAULT, Resources
from workbench.experiments.paired import detectable
from workbench.experiments.report import curve, of_budget
from workbench.experiments.store import Store
from workbench.experiments.table import Row, Table
from workbench.experiments.throughput import COUNTS, Data, Rate, Setting, Throughput, data, makespan, setting, work
from workbench.names import parse
from workbench.training.recipe import Recipe

KEPT = 2  # checkpoints of a run, which stay when it is done
TENSOR_BYTES, RANDOM_BYTES = 90, 21_000  # of a checkpoint: the name of a tensor, the states of the random generators
LINE_BYTES, RECORD_BYTES = 210, 3_000  # an epoch in the journal; spec and record without their epochs


class Smallest(NamedTuple):
    """The smallest difference from the baseline that the seeds detect: in points, or None and in standard deviations.

    how: whose spread that is.
    """

    points: float | None
    deviations: float
    how: str


class Line(NamedTuple):
    """One row's runs.  hours: of those left, one after another; how: where that is from; size_bytes: on disk.

    smallest: None for the baseline, and where the backbone or the recipe is another than its own.
    """

    row: str
    model: str
    dataset: str
    runs: int
    done: int
    left: int
    hours: float
    how: str
    size_bytes: int
    smallest: Smallest | None


class Plan(NamedTuple):
    """A budget.  wall_hours: with so many runs at a time; missing_bytes: data sets that are not here."""

    table: str
    budget: str
    seeds: int
    lines: tuple[Line, ...]
    where: Setting
    wall_hours: float
    missing_bytes: dict[str, int]

    @property
    def hours(self) -> float:
        return sum(line.hours for line in self.lines)

    @property
    def size_bytes(self) -> int:
        return sum(line.size_bytes for line in self.lines)


class Runs(NamedTuple):
    """The runs of one row; left: epochs still to train, by seed, without those that a row before it trains."""

    row: Row
    model: str
    dataset: str
    recipe: Recipe
    size: Data
    done: int
    left: dict[int, int]


def plan(table: Table, budget: str, store: Store, seeds: int = 0, resources: Resources = DEFAULT) -> Plan:
    """What is done, what is left and what it takes; trains nothing but, where no record tells, a few steps."""
    if seeds < 0:
        raise OutOfRange(f"{seeds} seeds; ask for at least 1.")
    if budget == "count":
        return Plan(table.key, budget, 0, (), setting(resources, 1), 0, {})
    n = seeds or table.budget(budget).seeds
    rows = _rows(table, budget, store, n)
    where = setting(resources, sum(len(runs.left) for runs in rows))
    speed = Throughput(store, where)
    compared = _compared(rows, table)
    spread = _spreads(table, store, budget, compared)
    seconds: dict[tuple[int, int], float] = {}  # by seed and row, the order in which the grid begins them
    lines = []
    for number, runs in enumerate(rows):
        rate = Rate(0, "done" if runs.done == n else "in a row above")
        if runs.left:
            rate = speed.rate(runs.model, table.task(runs.row, budget), runs.size, runs.recipe)
        for seed, epochs in runs.left.items():
            seconds[seed, number] = rate.seconds * work(runs.model, runs.size, epochs)
        hours = sum(s for (_, row), s in seconds.items() if row == number) / 3600
        disk = len(runs.left) * run_bytes(runs.model, runs.size.classes, runs.recipe)
        smallest = _smallest(spread, runs.row.label, n) if runs.row.label in compared else None
        names = runs.row.label, runs.model, runs.dataset
        lines.append(Line(*names, n, runs.done, len(runs.left), hours, rate.how, disk, smallest))
    wall = makespan([seconds[key] for key in sorted(seconds)], where.jobs) / 3600
    used = {runs.dataset: runs.size for runs in rows}
    away = {name for name, size in used.items() if size.folder and not any(store.data.glob(f"{size.folder}*"))}
    missing = {name: used[name].size_bytes for name in sorted(away)}
    return Plan(table.key, budget, n, tuple(lines), where, wall, missing)


def text(found: Plan) -> str:
    """The plan as aligned lines, then the sums and how its numbers were got."""
    if not found.lines:
        return f"{found.table} at {found.budget}: counted, nothing to train."
    heads = ("row", "model", "runs done", "left", "time left", "how that is known", "disk", "smallest difference")
    lines = [_cells(line) for line in found.lines]
    widths = [max(map(len, column)) for column in zip(heads, *lines, strict=True)]
    cells = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in (heads, *lines)]
    aligned = ["  ".join(line).rstrip() for line in cells]
    where = found.where
    share = f"{where.jobs} at a time" + (f", {where.threads} thread(s) each" if not where.gpus else "")
    last = [
        f"\nIn all {duration(found.hours)} of training, {duration(found.wall_hours)} on this {where.device}, {share}; "
        f"{amount(found.size_bytes)} in the runs folder.",
        *(f"{name} is not here: {amount(size)} more." for name, size in found.missing_bytes.items()),
        f"Smallest difference: from the row that each is measured against, that n = {found.seeds} paired seeds detect "
        "in 80 % of tables (two-sided t at 95 %, noncentral t); one seed says nothing about the noise.",
    ]
    if 0 < where.gpus < where.jobs:
        last.append("Runs that share a GPU slow each other: the time on it is a lower bound.")
    return "\n".join([*aligned, *last])


def _cells(line: Line) -> tuple[str, ...]:
    runs = f"{line.done} of {line.runs}", str(line.left)
    known = duration(line.hours), line.how, amount(line.size_bytes), _difference(line.smallest)
    return line.row, line.model, *runs, *known


def run_bytes(model: str, classes: int, recipe: Recipe) -> int:
    """What one run leaves: two checkpoints of weights, momentum and BN statistics, journal and record."""
    import torch

    from workbench.build import build

    with torch.device("meta"):
        network = build(model, classes, checked=False)
    weights = list(network.parameters()) if recipe.momentum else []
    tensors = [*network.state_dict().values(), *weights]
    checkpoint = sum(TENSOR_BYTES + tensor.numel() * tensor.element_size() for tensor in tensors) + RANDOM_BYTES
    return KEPT * checkpoint + (KEPT + 2) * LINE_BYTES * recipe.epochs + RECORD_BYTES


def duration(hours: float) -> str:
    for unit, size in (("d", 24), ("h", 1), ("min", 1 / 60)):
        if hours >= 2 * size:
            return f"{hours / size:.1f} {unit}"
    return f"{3600 * hours:.0f} s"


def amount(size_bytes: float) -> str:
    power = min(4, max(1, int(math.log10(max(size_bytes, 1)) / 3)))
    return f"{size_bytes / 1000**power:.1f} {' kMGT'[power]}B" if size_bytes else "0"


def _rows(table: Table, budget: str, store: Store, seeds: int) -> list[Runs]:
    found, seen = [], set[str]()
    for row, model in table.measured_rows(budget):
        dataset, recipe = table.dataset(row, budget), table.recipe(row, budget)
        done, left = 0, {}
        for seed in range(seeds):
            key, epochs = _left(model, dataset, recipe, seed, store)
            done += epochs == 0
            if epochs and key not in seen:
                left[seed] = epochs
            seen.add(key)
        found.append(Runs(row, model, dataset, recipe, data(dataset, store), done, left))
    return found


def _left(model: str, dataset: str, recipe: Recipe, seed: int, store: Store) -> tuple[str, int]:
    """The key of a run, and its epochs that are still to train; a data set that is not here was not trained on."""
    from workbench.build import canonical

    name = str(canonical(model))
    try:
        experiment = Experiment(model=name, dataset=dataset, recipe=recipe, seed=seed)
        key = experiment.key()
    except (DataMissing, UnknownName):
        if dataset not in COUNTS:
            raise
        return f"{name} {dataset} {recipe} {seed}", recipe.epochs
    if store.get(experiment):
        return key, 0
    journal = store.root / key / "log.jsonl"
    trained = journal.read_bytes().count(b"\n") if journal.exists() else 0
    return key, max(1, recipe.epochs - trained)  # the last evaluation and the record at least


def _compared(rows: list[Runs], table: Table) -> dict[str, str]:
    """Row -> the one it is measured against, where their runs differ in nothing but the attention."""
    alike = {runs.row.label: (parse(runs.model).backbone, runs.dataset, runs.recipe) for runs in rows}
    bases = {runs.row.label: table.base(runs.row) for runs in rows}
    return {label: base for label, base in bases.items() if label != base and alike[label] == alike.get(base)}


def _spreads(table: Table, store: Store, budget: str, compared: dict[str, str]) -> dict[str, tuple[float, int]]:
    """Row -> standard deviation of its differences from its base over common seeds, and how many; where known."""
    found, key = of_budget(table, store, budget), curve(table).removeprefix("test_")
    errors = {label: {r.spec["seed"]: r.metrics[key] for r in records} for label, records in found.items()}
    spreads = {}
    for label, other in compared.items():
        mine, base = errors[label], errors.get(other, {})
        deltas = [mine[seed] - base[seed] for seed in sorted(mine.keys() & base.keys())]
        if len(deltas) > 1 and (std := statistics.stdev(deltas)) > 0:
            spreads[label] = std, len(deltas)
    return spreads


def _smallest(spreads: dict[str, tuple[float, int]], label: str, n: int) -> Smallest:
    """By the row's own spread; else by the pooled one of the other rows; else in standard deviations alone."""
    deviations = detectable(1, n)
    if label in spreads:
        std, pairs = spreads[label]
        return Smallest(std * deviations, deviations, f"spread of {pairs} pairs")
    if spreads:
        squares = sum(std**2 * (pairs - 1) for std, pairs in spreads.values())
        std = math.sqrt(squares / sum(pairs - 1 for _, pairs in spreads.values()))
        return Smallest(std * deviations, deviations, "spread of the other rows")
    return Smallest(None, deviations, "no spread is measured")


def _difference(smallest: Smallest | None) -> str:
    if smallest is None:
        return "-"
    if math.isinf(smallest.deviations):
        return "none with one seed"
    if smallest.points is None:
        return f"{smallest.deviations:.2f} standard deviations ({smallest.how})"
    return f"{smallest.points:.2f} points ({smallest.how})"
