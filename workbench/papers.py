"""What the `workbench` commands about the papers do: their tables, ablations and claims."""

import argparse
import json
import math
import os
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

from workbench import files
from workbench.errors import OutOfRange, UnknownName, WorkbenchError


def plan(options: argparse.Namespace) -> None:
    from workbench.experiments.plan import plan as planned
    from workbench.experiments.plan import text
    from workbench.experiments.store import Store

    found = planned(_table(options), options.budget, Store(options.runs, options.data_dir), options.seeds, _at(options))
    print(json.dumps(_plain(found), indent=1, allow_nan=False) if options.json else text(found))


def reproduce(options: argparse.Namespace) -> int:
    from workbench.experiments.notebooks import reproduce_all
    from workbench.experiments.store import Store

    wanted, store, resources = _tables(options), Store(options.runs, options.data_dir), _at(options)
    if options.seeds < 0:
        raise OutOfRange(f"{options.seeds} seeds; ask for at least 1.")

    def tell(number: int, count: int, table: str, state: str) -> None:
        if count > 1 and state != "failed":
            print(f"[{number}/{count}] {table} at {wanted[number - 1][1]}: {STATES[state]}", flush=True)

    alone, failed = len(wanted) == 1, list[WorkbenchError]()
    if alone:
        one, budget = wanted[0]
        where = f"{budget} on {one.data}" if one.data else budget
        print(f"{one.key}, {one.paper}: {one.caption}\nbudget {where}", flush=True)
    for outcome in reproduce_all(wanted, store, options.seeds, resources, tell):
        if outcome.error:
            failed.append(outcome.error)
        elif alone:
            _say(one, budget, store, os.path.relpath(str(outcome.path)))
    if alone and failed:
        raise failed[0]
    for error in failed:
        print(f"workbench: {error}", file=sys.stderr)
    if not alone:
        done = len(wanted) - len(failed)
        print(f"\n{done} of {len(wanted)} tables are reproduced; their notebooks lie in {store.root / 'notebooks'}.")
        print("Open next\n  make lab   the executed notebooks\n  make app   the tables in the explorer")
    return max((error.exit_code for error in failed), default=0)


STATES = {
    "runs": "measuring what is missing",
    "notebook": "executing its notebook",
    "done": "done",
    "unchanged": "done before, nothing changed",
}


def _say(table: Any, budget: str, store: Any, notebook: str) -> None:
    """The table as measured, and what to open next."""
    from workbench.experiments import text
    from workbench.experiments.compare import compare
    from workbench.experiments.reading import reading

    entries = compare(table, store, budget)
    print(text.plain(table, entries))
    print("\n" + "\n".join(reading(table, entries)))
    query = f"?table={table.key}" + (f"&budget={budget}" if budget in table.budgets else "")
    query += f"&data={quote(table.data)}" if table.data else ""
    print(f"\nOpen next\n  make lab   the executed notebook, {notebook}")
    print(f"  make app   the same table in the explorer, http://127.0.0.1:8501/{query}")


def table(options: argparse.Namespace) -> None:
    from workbench.experiments import tables, text
    from workbench.experiments.compare import compare
    from workbench.experiments.reading import reading
    from workbench.experiments.store import Store

    chosen = tables.load(options.table).on(options.data)
    entries = compare(chosen, Store(options.runs, options.data_dir), options.budget)
    if options.form == "json":
        print(json.dumps(entries, indent=1))
    elif options.form == "csv":
        print(text.csv(chosen, entries), end="")
    elif options.form == "md":
        print(text.markdown(chosen, entries))
    else:
        print(f"{chosen.key}, {chosen.paper}: {chosen.caption}\nPublished: {chosen.protocol}\n")
        print("\n".join([text.plain(chosen, entries), "", *reading(chosen, entries)]))
        if chosen.errata:
            print("\nWhat does not add up in print\n" + "\n".join(f"  {e.where}: {e.text}" for e in chosen.errata))


def ablate(options: argparse.Namespace) -> None:
    from workbench.experiments import ablations
    from workbench.experiments.store import Store

    plot = Path(options.html)
    if options.html:
        files.ensure_writable(plot.parent)
    common = {"dataset": options.data, "recipe": options.recipe, "seeds": options.seeds}
    common |= {"store": Store(options.runs, options.data_dir), "resources": _at(options)}
    if options.what == "cra-pool":
        found = ablations.cra_pool_size(options.backbone, options.sizes, baseline=not options.no_baseline, **common)
    else:
        axes = (options.schemas, options.matching, options.pooling, options.dims)
        found = ablations.dca_connection(options.backbone, options.attention, *axes, **common)
    if options.json:
        print(json.dumps(json.loads(found.frame.to_json(orient="records")), indent=1))
    elif options.csv:
        print(found.frame.to_csv(index=False), end="")
    else:
        print(found.summary().drop(columns="test").to_string(float_format="%.3f", na_rep="-"))
        print(f"\nTest: {ablations.TEST}.\n{found.sentence()}")
    if options.html:
        files.write_atomic(plot, found.figure().to_html().encode())


def claims(options: argparse.Namespace) -> None:
    import textwrap

    from workbench.experiments import claims as known
    from workbench.experiments.store import Store

    store = Store(options.runs, options.data_dir)
    if options.notebook:
        from workbench.experiments import notebooks

        print(os.path.relpath(notebooks.claims(store, options.paper)))
        return
    lines = known.report(store, options.paper)
    if options.json:
        print(json.dumps(lines, indent=1))
        return
    for line in lines:
        print(f"{line['verdict'].upper():13} {line['id']}  ({line['where']})")
        for text in (f'"{line["statement"]}"', line["evidence"]):
            print(textwrap.indent(textwrap.fill(text, 106), " " * 14))
    print("\n" + known.summary(lines))


def _plain(value: Any) -> Any:
    """Named tuples as dictionaries, however deep; None for what no number of seeds shows."""
    if hasattr(value, "_asdict"):
        return {key: _plain(one) for key, one in value._asdict().items()}
    if value == math.inf:
        return None
    return [_plain(one) for one in value] if isinstance(value, tuple) else value


def _table(options: argparse.Namespace) -> Any:
    from workbench.experiments import tables

    return tables.load(options.table).on(options.data, epochs=options.epochs)


def _tables(options: argparse.Namespace) -> list[tuple[Any, str]]:
    """The tables asked for, at the budget asked for; of all of them, those that do not have it are counted."""
    from workbench.experiments import tables

    everything = options.tables == ["all"]
    keys = tables.known() if everything else options.tables
    chosen = [tables.load(key).on(options.data, epochs=options.epochs) for key in keys]
    budgets = {"count", *(budget for one in chosen for budget in one.budgets)}
    if everything and options.budget not in budgets:
        raise UnknownName("budget", options.budget, budgets)
    if everything:
        return [(one, options.budget if options.budget in one.budgets else "count") for one in chosen]
    for one in chosen:
        if options.budget != "count":
            one.budget(options.budget)
    return [(one, options.budget) for one in chosen]


def _at(options: argparse.Namespace) -> Any:
    """The resources that the command names; what the workers of a cluster say is shown."""
    import logging

    from workbench.experiments.grid import Resources

    if options.engine == "dask":
        told = logging.getLogger("workbench.experiments.cluster")
        told.setLevel(logging.INFO)
        told.addHandler(logging.StreamHandler())
    names = ("engine", "device", "jobs", "workers", "scheduler")
    return Resources(**{name: getattr(options, name) for name in names})
