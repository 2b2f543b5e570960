"""Published beside measured.  Each number keeps its protocol; none is subtracted across protocols."""

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

from workbench.datasets import label
from workbench.experiments.audit import counted
from workbench.experiments.experiment import Record
from workbench.experiments.metrics import SCALE, Metric, as_float, holds, value
from workbench.experiments.store import Store
from workbench.experiments.tables import Row, Table
from workbench.training.recipe import Recipe, as_dict


def compare(table: Table, store: Store, budget: str = "") -> list[dict[str, Any]]:
    """One entry a row: {"row", "model", "base", "published", "printed", "measured": [...], "status", "note"}.

    budget: only what was counted or measured at it, and no control that it does not have; raises UnknownName.
    A measured entry has {"metric", "budget", "origin", "mean", "std", "n", "values", "protocol", "dataset", "model",
    "hardware", "code", "column"}; std is None for one seed.  Counted ones have the budget "count", {"agrees"}, and no
    data set.
    """
    by_model: dict[str, list[Record]] = defaultdict(list)
    for record in store.records():
        by_model[record.spec["model"]["name"]].append(record)
    if budget not in ("", "count"):
        table.budget(budget)
    controls = [row for row in table.controls if not budget or budget in row.twin]
    entries = [_entry(table, row, by_model, budget) for row in (*table.rows, *controls)]
    _head(table, entries)
    return entries


def _entry(table: Table, row: Row, by_model: dict[str, list[Record]], budget: str) -> dict[str, Any]:
    wanted = _measures(table, row)
    found = [record for model in dict.fromkeys(model for model, _ in wanted) for record in by_model.get(model, ())]
    records = [r for r in found if (r.spec["model"]["name"], label(r.spec["dataset"])) in wanted]
    records = [record for record in records if not _of_another(table, row, record)]
    records = [record for record in records if budget in ("", budget_of(table, row, record))]
    done = [record for record in records if record.status == "done"]
    trained = [metric for metric in table.metrics if metric.trained]
    return {
        "row": row.label,
        "model": row.model or next(iter(row.twin.values())),
        "base": table.base(row),
        "published": {m.key: as_float(row.published[m.key], m.unit) for m in table.metrics if m.key in row.published},
        "printed": row.published,
        "measured": counted(table, row)
        + [
            _summary(metric, group, budget_of(table, row, group[0]))
            for group in groups(done)
            for metric in trained
            if all(holds(metric, record) for record in group)
        ],
        "status": _status(table, row, records, done),
        "note": row.note,
    }


def _measures(table: Table, row: Row) -> list[tuple[str, str]]:
    """(model, data set) whose runs stand in this row: the paper's model on any budget's data, a twin on its own."""
    tasks = [table.task(row, budget) for budget in table.budgets]
    twins = [recorded(table.trained(row, budget)) for budget in table.budgets]
    return [*((recorded(row.model), task) for task in tasks if row.model), *zip(twins, tasks, strict=True)]


def _of_another(table: Table, row: Row, record: Record) -> bool:
    """Is it the run of a row that trains the same network by a recipe of its own?"""
    others = [one for one in (*table.rows, *table.controls) if one is not row and (one.recipe or row.recipe)]
    return any(budget_of(table, one, record) for one in others) and not budget_of(table, row, record)


def _head(table: Table, entries: list[dict[str, Any]]) -> None:
    """Give each measured value the "column" it stands in.

    Of a protocol that is no budget data set and length are named, and all of it where that is not enough; the machine
    where there is more than one, and the network where one row has two by the same protocol.
    """
    machines: dict[str, set[str]] = defaultdict(set)
    trained = [m for entry in entries for m in entry["measured"] if m["dataset"]]
    brief = {m["protocol"]: ", ".join(m["protocol"].split(", ")[:2]) for m in trained if not m["budget"]}
    times = Counter(brief.values())
    for measured in trained:
        epochs = f"{table.epochs} epoch{'s' * (table.epochs != 1)}" if table.epochs else ""
        where = [measured["budget"], table.data, epochs]
        if not measured["budget"]:
            whole = measured["protocol"]
            where = [whole if times[brief[whole]] > 1 else brief[whole]]
        measured["column"] = ", ".join(filter(None, [f"measured {measured['origin']}", *where]))
        machines[measured["column"]].add(measured["hardware"])
    for measured in trained:
        if len(machines[measured["column"]]) > 1:
            measured["column"] += f", {measured['hardware']}"
    for entry in entries:
        places = Counter((measured["metric"], measured.get("column")) for measured in entry["measured"])
        for measured in (m for m in entry["measured"] if m["dataset"] and places[m["metric"], m["column"]] > 1):
            measured["column"] += f", {measured['model']}"


def budget_of(table: Table, row: Row, record: Record) -> str | None:
    """The budget of the table that this record was made at, or None."""
    for key in table.budgets:
        wanted = (recorded(table.trained(row, key)), table.task(row, key), as_dict(table.recipe(row, key)))
        if wanted == (record.spec["model"]["name"], label(record.spec["dataset"]), record.spec["recipe"]):
            return key
    return None


def groups(records: Iterable[Record]) -> list[list[Record]]:
    """Records that may be averaged: everything alike but the seed."""
    found: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        where: dict[str, Any] = {key: record.environment[key] for key in ("device", "threads", "compiled")}
        where["processes"] = record.environment.get("processes", 1)
        where["origin"] = record.origin
        where["moved"] = moved(record)
        alike = {key: value for key, value in record.spec.items() if key != "seed"}
        found[repr((alike, where))].append(record)
    return [sorted(group, key=lambda record: record.spec["seed"]) for group in found.values()]


def protocol(record: Record) -> str:
    """Data set and recipe in one line."""
    fields = record.spec["recipe"]
    return f"{label(record.spec['dataset'])}, {Recipe(**fields).describe()}"


def hardware(record: Record) -> str:
    where, threads = record.environment, record.environment["threads"]
    more = [f"{where['processes']} processes"] if where.get("processes", 1) > 1 else []
    more += ["compiled"] if where["compiled"] else []
    more += [f"moved between machines: {', then '.join(moved(record))}"] if moved(record) else []
    return ", ".join([where["device"], f"{threads} thread{'s' * (threads != 1)}", *more])


def moved(record: Record) -> list[str]:
    """The machines that a run was on, first to last, where it did not stay on one."""
    machines = record.environment.get("machines", [])
    return machines if len(machines) > 1 else []


def _summary(metric: Metric, group: list[Record], budget: str | None) -> dict[str, Any]:
    values = [value(metric, record) for record in group]
    first = group[0]
    return {
        "metric": metric.key,
        "budget": budget,
        "origin": group[0].origin,
        "mean": statistics.fmean(values),
        "std": statistics.stdev(values) if len(values) > 1 else None,
        "n": len(values),
        "values": {str(record.spec["seed"]): v for record, v in zip(group, values, strict=True)},
        "protocol": protocol(first),
        "dataset": label(first.spec["dataset"]),
        "model": first.spec["model"]["name"],
        "hardware": hardware(first),
        "code": sorted({record.environment["code"] for record in group}),
    }


def recorded(model: str) -> str:
    """The name under which runs of a row's own model are recorded."""
    from workbench.build import canonical

    return model and str(canonical(model))


def _status(table: Table, row: Row, records: list[Record], done: list[Record]) -> str:
    if all(metric.source == "count" for metric in table.metrics):
        return "counted"
    if not records:
        return "not measured"
    if not done:
        return "diverged"
    names = {record.spec["model"]["name"] for record in done}
    lost = f", {len(records) - len(done)} diverged" if len(records) > len(done) else ""
    return ("measured" if recorded(row.model) in names else "measured on twins") + lost


def protocols(entries: list[dict[str, Any]]) -> list[str]:
    """What stands behind the headings: protocol, hardware, and the rows where they differ."""
    rows: dict[tuple[str, str], list[str]] = defaultdict(list)
    for entry in entries:
        for measured in entry["measured"]:
            where = f", {measured['hardware']}" if measured["dataset"] else ""
            names = rows[measured["column"], measured["protocol"] + where]
            if entry["row"] not in names:
                names.append(entry["row"])
    shared = {heading for heading, _ in rows if sum(other == heading for other, _ in rows) > 1}
    return [
        f"{heading}: {text}" + (f" ({'; '.join(names)})" if heading in shared else "")
        for (heading, text), names in rows.items()
    ]


def cells(table: Table, entries: list[dict[str, Any]]) -> tuple[list[tuple[str, str]], list[list[str]]]:
    """Headings (metric, source) and lines: the row, then for each metric the print beside what was measured, status."""
    heads: list[tuple[str, str]] = []
    lines: list[list[str]] = [[entry["row"]] for entry in entries]
    for metric in table.metrics:
        mine = [
            {m["column"]: show(metric, m) for m in entry["measured"] if m["metric"] == metric.key} for entry in entries
        ]
        sources = sorted({source for found in mine for source in found})
        heads += [(f"{metric.title} ({metric.unit})", source) for source in ("published", *sources)]
        missing = "-" if metric.source == "count" else "not measured"
        for line, entry, found in zip(lines, entries, mine, strict=True):
            line.append(entry["printed"].get(metric.key, "-"))
            line.extend(found.get(source, missing) for source in sources)
    for line, entry in zip(lines, entries, strict=True):
        line.append(entry["status"])
    return [("", "row"), *heads, ("", "status")], lines


def show(metric: Metric, measured: dict[str, Any]) -> str:
    """A measured value as text: "5.62 +- 0.11 (n = 3)", one seed as one seed, a count with its verdict."""
    if "agrees" in measured:
        own = measured.get("unit", "")
        shown = measured["mean"] * SCALE[metric.unit] / SCALE[own or metric.unit]
        return f"{shown:.{3 if metric.unit == 'G' else 2}f}{own} {'=' if measured['agrees'] else 'differs'}"
    digits = 4 if metric.unit == "fraction" else 2
    if measured["std"] is None:
        return f"{measured['mean']:.{digits}f} (one seed)"
    return f"{measured['mean']:.{digits}f} +- {measured['std']:.{digits}f} (n = {measured['n']})"
