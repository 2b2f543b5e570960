"""A table as people look at it: frames and figures for the notebooks and the explorer."""

from typing import TYPE_CHECKING, Any

from workbench.build import build
from workbench.experiments.compare import compare, groups, protocol, reading, show, value
from workbench.experiments.grid import run_all
from workbench.experiments.store import Store
from workbench.experiments.tables import Metric, Table

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


def heading(table: Table, budget: str) -> str:
    """What is measured at this budget, in Markdown."""
    if budget == "count":
        return f"**Budget `count`**: parameters and multiply-adds of the table's own models. {table.protocol}"
    chosen = table.budget(budget)
    return f"**Budget `{budget}`**: data set `{chosen.dataset}`, recipe `{chosen.recipe}`. {chosen.note}"


def models(table: Table, budget: str) -> "pd.DataFrame":
    """The paper's model of each row and the twin that is trained at this budget, with its parameters."""
    import pandas as pd
    import torch

    lines = []
    for row in (*table.rows, *table.controls):
        twin = row.twin.get(budget, "")
        with torch.device("meta"):
            params = sum(p.numel() for p in build(twin, 10).parameters()) if twin else None
        lines.append({"row": row.label, "paper's model": row.model or "-", "twin": twin or "-", "twin's parameters": params})
    return pd.DataFrame(lines).set_index("row").astype({"twin's parameters": "Int64"})


def run(table: Table, budget: str, store: Store, seeds: int = 0, device: str = "auto", jobs: int = 0) -> None:
    """Train whatever this budget still lacks, with a progress bar over epochs."""
    from tqdm.auto import tqdm

    if budget == "count":
        return
    with tqdm(unit="epoch", desc=f"{table.key} at {budget}", leave=False) as bar:

        def progress(epochs: int, total: int) -> None:
            bar.total = total
            bar.update(epochs - bar.n)

        run_all(table.experiments(budget, seeds), store, device, jobs, progress)


def frame(table: Table, entries: list[dict[str, Any]]) -> "pd.DataFrame":
    """Published and measured columns side by side; one measured column for each protocol."""
    import pandas as pd

    lines = []
    for entry in entries:
        line: dict[tuple[str, str], str] = {}
        for metric in table.metrics:
            line["published", label(metric)] = entry["printed"].get(metric.key, "-")
        for metric in table.metrics:
            for measured in entry["measured"]:
                if measured["metric"] == metric.key:
                    line[measured["protocol"], label(metric)] = show(metric, measured)
        line["", "status"] = entry["status"]
        lines.append(line)
    columns = list(dict.fromkeys(key for line in lines for key in line if key[0]))
    columns = sorted(columns, key=lambda c: (c[0] != "published", not c[0].startswith("counted"))) + [("", "status")]
    index = pd.Index([entry["row"] for entry in entries], name="row")
    return pd.DataFrame(lines, index=index, columns=pd.MultiIndex.from_tuples(columns)).fillna("not measured")


def label(metric: Metric) -> str:
    return f"{metric.title} ({metric.unit})"


def figure(table: Table, store: Store, budget: str) -> "go.Figure":
    """The first trained metric of the table, published beside measured, every seed a point."""
    from workbench.explain.figures import published_and_measured

    metric = next(metric for metric in table.metrics if metric.source == "train")
    rows = table.measured_rows(budget)
    found = of_budget(table, store, budget)
    group = max(found, key=len, default=[])
    values = {record.spec["model"]["name"]: [] for record in group}
    for record in group:
        values[record.spec["model"]["name"]].append(value(metric, record))
    return published_and_measured(
        [row.label for row, _ in rows],
        [float(row.published[metric.key]) if metric.key in row.published else None for row, _ in rows],
        [values.get(twin, []) for _, twin in rows],
        label(metric),
        protocol(group[0]) if group else "not measured",
    )


def training_curves(table: Table, store: Store, budget: str, metric: str = "test_top1_error") -> "go.Figure":
    """One curve a row with the band of its seeds."""
    from workbench.explain.figures import curves

    names = {twin: row.label for row, twin in table.measured_rows(budget)}
    runs = [
        {
            "label": names[record.spec["model"]["name"]],
            "seed": record.spec["seed"],
            "values": [entry[metric] for entry in record.curves],
        }
        for group in of_budget(table, store, budget)
        for record in group
    ]
    order = list(names.values())
    return curves(sorted(runs, key=lambda run: order.index(run["label"])), metric, metric.replace("_", " ") + " (%)")


def of_budget(table: Table, store: Store, budget: str) -> list[list[Any]]:
    """Finished records of a budget's twins by machine and recipe, over all rows and seeds."""
    from workbench.experiments.experiment import Experiment
    from workbench.training.recipe import as_dict, recipe

    chosen = table.budget(budget)
    twins = {twin for _, twin in table.measured_rows(budget)}
    wanted = as_dict(recipe(chosen.recipe))
    records = [
        record
        for record in store.records()
        if record.status == "done"
        and record.spec["model"]["name"] in twins
        and record.spec["dataset"]["name"] == chosen.dataset
        and record.spec["recipe"] == wanted
    ]
    machines: dict[str, list[Any]] = {}
    for group in groups(records):
        machines.setdefault(repr(group[0].environment["device"]), []).extend(group)
    return list(machines.values())


__all__ = ["compare", "figure", "frame", "heading", "models", "reading", "run", "training_curves"]
