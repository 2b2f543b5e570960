"""A table as people look at it: frames and figures for the notebooks and the explorer."""

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from workbench import datasets
from workbench.errors import UnknownName
from workbench.experiments.compare import cells, compare, groups, hardware, protocol, protocols, recorded
from workbench.experiments.experiment import HERE, Record
from workbench.experiments.grid import DEFAULT, Resources, bar, run_all
from workbench.experiments.metrics import METRICS, Metric, as_float, value
from workbench.experiments.reading import reading
from workbench.experiments.store import Store
from workbench.experiments.tables import Row, Table
from workbench.experiments.watched import Group, drawn, setting
from workbench.names import SLOTS, parse
from workbench.training.recipe import as_dict

BOTH = ("train_top1_error", "test_top1_error")

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


def heading(table: Table, budget: str) -> str:
    """What is measured at this budget, in Markdown."""
    if budget == "count":
        return f"**Budget `count`**: parameters and multiply-adds of the table's own models. {table.protocol}"
    rows = table.measured_rows(budget)
    sets = dict.fromkeys(f"`{table.task(row, budget)}`" for row, _ in rows)
    recipes = dict.fromkeys(table.recipe(row, budget).describe() for row, _ in rows)
    text = f"**Budget `{budget}`**: data {' and '.join(sets)}; {'; or '.join(recipes)}. {table.budget(budget).note}"
    return text if budget != "paper" else f"{text}\n\n*In the paper's words*: {table.protocol}"


def models(table: Table, budget: str) -> "pd.DataFrame":
    """The paper's model of each row and the twin that is trained at this budget, with its parameters."""
    import pandas as pd

    from workbench.explain.complexity import count

    lines = []
    for row in (*table.rows, *table.controls):
        twin = "" if budget == "count" else table.trained(row, budget)
        params = count(twin, datasets.classes(table.dataset(row, budget))).params if twin else None
        own: dict[str, str | int | None] = {"row": row.label, "paper's model": row.model or "-"}
        lines.append(own | {"twin": twin or "-", "twin's parameters": params})
    return pd.DataFrame(lines).set_index("row").astype({"twin's parameters": "Int64"})


def run(table: Table, budget: str, store: Store, seeds: int = 0, resources: Resources = DEFAULT) -> None:
    """Train whatever this budget still lacks, with a progress bar over epochs while there is something to train."""
    if budget == "count":
        return
    with bar(f"{table.key} at {budget}") as progress:
        run_all(table.experiments(budget, seeds), store, resources, progress)


def frame(table: Table, entries: list[dict[str, Any]]) -> "pd.DataFrame":
    """Published and measured columns side by side."""
    import pandas as pd

    heads, lines = cells(table, entries)
    columns = pd.MultiIndex.from_tuples(heads[1:])
    return pd.DataFrame([line[1:] for line in lines], [line[0] for line in lines], columns)


def label(metric: Metric) -> str:
    return f"{metric.title} ({metric.unit})"


def figure(table: Table, store: Store, budget: str) -> "go.Figure":
    """The first trained metric of the table, published beside measured, every seed a point."""
    from workbench.explain.figures import published_and_measured

    metric = next(metric for metric in table.metrics if metric.trained)
    found = of_budget(table, store, budget)
    rows = [row for row, _ in table.measured_rows(budget)]
    return published_and_measured(
        [row.label for row in rows],
        [float(row.published[metric.key]) if metric.key in row.published else None for row in rows],
        [[value(metric, record) for record in found[row.label]] for row in rows],
        label(metric),
        ["; ".join(dict.fromkeys(protocol(record) for record in found[row.label])) for row in rows],
        origin(found),
    )


def training_curves(table: Table, store: Store, budget: str, metric: str = "") -> "go.Figure":
    """One curve a row with the band of its seeds; by default of the test error, or of a detector's AP."""
    return drawn(lines(table, store, budget), metric or curve(table))


def curve(table: Table) -> str:
    """What the history of a run in this table calls the measure that the table is about."""
    return "test_ap" if any(metric.source == "detect" for metric in table.metrics) else "test_top1_error"


def lines(table: Table, store: Store, budget: str) -> list[Group]:
    """The measured rows of a table at this budget, each with its runs of one machine."""
    found = of_budget(table, store, budget)
    return [Group(row, setting(records[0]), records) for row, records in found.items() if records]


def both_curves(table: Table, store: Store, budget: str, rows: Sequence[str] = ()) -> "go.Figure":
    """Training and test top-1 error of these rows, or of all.  CRA Fig. 3 and 6."""
    from workbench.explain.curves import Trained, training_and_test_curves

    found = of_budget(table, store, budget)
    unknown = [row for row in rows if row not in found]
    if unknown:
        raise UnknownName(f"row of {table.key} at {budget}:", unknown[0], found)
    runs = {
        row: Trained(*([[entry[key] for entry in r.curves] for r in found[row]] for key in BOTH))
        for row in rows or found
        if found[row]
    }
    return training_and_test_curves(runs, "top-1 error (%)")


def logs(table: Table, store: Store, budget: str) -> "go.Figure":
    """Test accuracy over the epochs: the points of the logs that the paper shows, and every curve measured here."""
    from workbench.explain.curves import logs_beside

    metric = METRICS["accuracy"]
    runs = {
        row: [[100 - entry["test_top1_error"] for entry in record.curves] for record in records]
        for row, records in of_budget(table, store, budget).items()
        if records
    }
    shown = {row.label: [(epoch, 100 * value) for epoch, value in row.log] for row in table.rows if row.log}
    printed = {row.label: row.published[metric.key] for row in table.rows if metric.key in row.published}
    levels = {f"{name}, in the table: {text}": 100 * float(text) for name, text in printed.items()}
    return logs_beside(runs, shown, "test accuracy (%)", printed=levels)


def over_parameters(table: Table, store: Store, budget: str) -> "go.Figure":
    """The first trained metric over the parameters; a row is joined with the one it is measured against, if that is
    the same network without its connection or convolution.  DCA Fig. 1."""
    from workbench.explain.complexity import count
    from workbench.explain.figures import Point, accuracy_over_parameters

    metric = next(metric for metric in table.metrics if metric.trained)
    found = of_budget(table, store, budget)
    trained = {row.label: name for row, name in table.measured_rows(budget)}

    def params(row: Row) -> int | None:
        """Of the twin, which is counted only where there is a point to draw."""
        classes = datasets.classes(table.dataset(row, budget))
        return count(trained[row.label], classes).params if found.get(row.label) else None

    points = [
        Point(
            row.label,
            1e6 * as_float(row.published["params"], "M"),
            as_float(row.published[metric.key], metric.unit) if metric.key in row.published else None,
            [value(metric, record) for record in found.get(row.label, ())],
            params(row),
        )
        for row in table.rows
        if row.label in trained and "params" in row.published
    ]
    drawn = {point.label for point in points}
    pairs = [(table.base(row), row.label) for row in table.rows if _more(table, row) in ({"connection"}, {"conv"})]
    pairs = [pair for pair in pairs if drawn.issuperset(pair)]
    return accuracy_over_parameters(points, label(metric), pairs, origin(found))


def _more(table: Table, row: Row) -> set[str]:
    """The parts that a row's model has and that of its base has not."""
    base = next(other for other in table.rows if other.label == table.base(row))
    mine, theirs = parse(row.model), parse(base.model)
    if mine.backbone != theirs.backbone or row is base:
        return set()
    return {slot for slot in SLOTS if getattr(mine, slot) and not getattr(theirs, slot)}


def curve_frame(table: Table, store: Store, budget: str) -> "pd.DataFrame":
    """The same runs as a tidy frame, one line for each row, seed and epoch."""
    import pandas as pd

    found = of_budget(table, store, budget)
    lines = [
        {"row": name, "model": record.spec["model"]["name"], "seed": record.spec["seed"], **entry}
        for name, records in found.items()
        for record in records
        for entry in record.curves
    ]
    return pd.DataFrame(lines)


def folders(table: Table, store: Store) -> list[str]:
    """What folders of one's own pictures are called (`datasets.label`) on which models of this table were trained."""
    models = {name for row in (*table.rows, *table.controls) for name in (recorded(row.model), *row.twin.values())}
    found = (record.spec["dataset"] for record in store.records() if record.spec["model"]["name"] in models)
    return sorted({datasets.label(one) for one in found if one["name"].startswith(datasets.OWN)})


def origin(found: dict[str, list[Record]]) -> str:
    """By whom the runs were made, which are of one machine."""
    return next((record.origin for records in found.values() for record in records), HERE)


def of_budget(table: Table, store: Store, budget: str) -> dict[str, list[Record]]:
    """Row -> its finished records at this budget, of one machine: own ones first, then the most runs."""
    machines: dict[tuple[str, str], dict[str, list[Record]]] = {}
    by_task: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for record in store.records():
        if record.status == "done":
            by_task[record.spec["model"]["name"], datasets.label(record.spec["dataset"])].append(record)
    rows = table.measured_rows(budget)
    for row, name in rows:
        recipe = as_dict(table.recipe(row, budget))
        found = by_task[recorded(name), table.task(row, budget)]
        for group in groups(record for record in found if record.spec["recipe"] == recipe):
            machines.setdefault((group[0].origin, hardware(group[0])), {})[row.label] = group
    runs = {where: sum(map(len, found.values())) for where, found in machines.items()}
    best = machines[max(runs, key=lambda where: (where[0] == HERE, runs[where]))] if runs else {}
    return {row.label: best.get(row.label, []) for row, _ in rows}


__all__ = [
    "Resources",
    "both_curves",
    "compare",
    "curve_frame",
    "figure",
    "folders",
    "frame",
    "heading",
    "lines",
    "logs",
    "models",
    "of_budget",
    "over_parameters",
    "protocols",
    "reading",
    "run",
    "training_curves",
]
