"""The `workbench` command.  Nothing heavy is imported before it is needed.

Exit codes: 0 done, 1 a check failed, 2 usage, 3 data missing, 4 out of memory, 5 diverged, 130 and 143 signals.
"""

import argparse
import importlib.util
import json
import os
import re
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from fnmatch import fnmatch
from typing import Any

from workbench import __version__, files, names
from workbench.errors import OutOfRange, UnknownName, WorkbenchError

EXTRAS = {
    "papermill": "notebooks",
    "pandas": "notebooks",
    "plotly": "notebooks",
    "jupyterlab": "notebooks",
    "streamlit": "app",
}


def main(arguments: list[str] | None = None) -> int:
    """Run one command; errors become one sentence and an exit code."""
    options = parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        return options.command(options) or 0
    except WorkbenchError as error:
        print(f"workbench: {error}", file=sys.stderr)
        return error.exit_code
    except ModuleNotFoundError as error:
        extra = EXTRAS.get((error.name or "").split(".")[0])
        if extra is None:
            raise
        print(f"workbench: this needs {error.name}; pip install 'attention-workbench[{extra}]'.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "workbench: interrupted; finished runs are kept, the others continue when started again.", file=sys.stderr
        )
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":
            raise
        print(f"workbench: out of memory on the GPU; use a smaller batch or --device cpu. ({error})", file=sys.stderr)
        return 4


def parser() -> argparse.ArgumentParser:
    """All commands with their options."""
    top = argparse.ArgumentParser("workbench", description="Attention modules in CNNs: build, count, train, reproduce.")
    top.add_argument("--version", action="version", version=__version__)
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, function: Callable[..., Any], text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(command=function)
        return added

    def stored(added: argparse.ArgumentParser) -> argparse.ArgumentParser:
        added.add_argument("--runs", help="folder of the runs (WORKBENCH_RUNS, ./runs)")
        added.add_argument("--data-dir", help="folder of the data sets (WORKBENCH_DATA, ./data/sets)")
        return added

    def trained(added: argparse.ArgumentParser) -> argparse.ArgumentParser:
        added.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
        return stored(added)

    added = command("list", list_names, "names of backbones, attentions, connections, tables, data sets, recipes")
    added.add_argument("pattern", nargs="?", default="*", help="for example 'resnet*'")
    added.add_argument("--json", action="store_true")
    command("show", show_model, "a network: its attention, where it sits, what it costs").add_argument("model")
    added = command("count", count, "parameters and multiply-adds, published and computed")
    added.add_argument("names", nargs="*", metavar="TABLE|MODEL", help="all tables by default")
    added.add_argument("--classes", type=int, default=1000, help="of models named on their own")
    added.add_argument("--json", action="store_true")
    added = trained(command("train", train, "train one network"))
    added.add_argument("model")
    added.add_argument("--data", required=True, help="data set")
    added.add_argument("--recipe", required=True)
    added.add_argument("--epochs", type=int, help="instead of the recipe's")
    added.add_argument("--seed", type=int, default=0)
    added = trained(command("reproduce", reproduce, "measure a table and run its notebook"))
    added.add_argument("tables", nargs="+", metavar="TABLE", help="table names, or all")
    added.add_argument("--budget", default="smoke", help="count, smoke or cifar")
    added.add_argument("--seeds", type=int, default=0, help="seeds a row; the budget's own by default")
    added.add_argument("--jobs", type=int, default=0, help="runs at a time; one per core, or one on a GPU, by default")
    added = stored(command("table", table, "published beside measured"))
    added.add_argument("table")
    form = added.add_mutually_exclusive_group()
    for name in ("json", "csv", "md"):
        form.add_argument(f"--{name}", action="store_const", dest="form", const=name)
    added = stored(command("runs", runs, "finished and unfinished runs"))
    added.add_argument("--json", action="store_true")
    added = command("data", data, "list, fetch or verify the data sets")
    added.add_argument("action", choices=("list", "fetch", "verify"))
    added.add_argument("names", nargs="*", metavar="NAME")
    stored(added)
    added = stored(command("app", app, "the explorer, in the browser"))
    added.add_argument("--port", type=int, default=8501)
    stored(command("lab", lab, "JupyterLab on the notebooks"))
    return top


def list_names(options: argparse.Namespace) -> None:
    from workbench.datasets import DATASETS
    from workbench.experiments import tables
    from workbench.training.recipe import RECIPES

    known = {
        "backbones": list(names.BACKBONES),
        "attentions": list(names.ATTENTIONS),
        "connections": list(names.CONNECTIONS),
        "tables": tables.known(),
        "datasets": list(DATASETS),
        "recipes": list(RECIPES),
    }
    found = {kind: [name for name in words if fnmatch(name, options.pattern)] for kind, words in known.items()}
    if options.json:
        print(json.dumps(found, indent=1))
        return
    for kind, words in found.items():
        if words:
            print(f"{kind:12} {'  '.join(words)}")
    print("\nA model is [connection-][attention-]backbone: resnet20, cra7-resnet50, dca-se-resnet20.")


def show_model(options: argparse.Namespace) -> None:
    import inspect

    from workbench.build import build, canonical
    from workbench.explain.complexity import CONVENTIONS
    from workbench.explain.complexity import count as complexity

    network = build(options.model)
    print(canonical(options.model))
    blocks = list(network.attentions())
    for kind in dict.fromkeys(type(block) for block in blocks):
        print(f"\n{inspect.cleandoc(inspect.getmodule(kind).__doc__ or '')}")
        print(f"\nin blocks {' '.join(str(block.site) for block in blocks if type(block) is kind)}")
    cost = complexity(options.model)
    print(f"\nparameters    {cost.params:,} (1000 classes)")
    for convention in CONVENTIONS:
        macs = complexity(options.model, convention=convention).macs
        print(f"multiply-adds {macs:,} ({cost.image_size} px, {convention} convention)")


def count(options: argparse.Namespace) -> int:
    from workbench.experiments import tables
    from workbench.explain.complexity import count as complexity

    lines: list[dict[str, Any]] = []
    for name in options.names or tables.known():
        if re.fullmatch(r"[a-z]+-\d+", name):  # the form of a table's name, never of a model's
            lines += [_counted(tables.load(name), row) for row in tables.load(name).rows]
        else:
            cost = complexity(name, options.classes)
            lines.append({"model": name, "params": cost.params, "macs": cost.macs, "convention": "macs"})
    verdicts = [agrees for line in lines for agrees in line.get("agrees", {}).values()]
    if options.json:
        print(json.dumps(lines, indent=1))
    else:
        print("\n".join(map(_count_line, lines)))
        if verdicts:
            print(f"\n{sum(verdicts)} of {len(verdicts)} printed cells agree to the last digit.")
    return 0 if all(verdicts) else 1


def _counted(table: Any, row: Any) -> dict[str, Any]:
    from workbench.experiments.tables import METRICS, agrees
    from workbench.explain.complexity import count as complexity

    cost = complexity(row.model, table.classes, convention=table.convention)
    published = {metric.key: row.published[metric.key] for metric in table.metrics if metric.source == "count"}
    return {
        "table": table.key,
        "row": row.label,
        "model": row.model,
        "params": cost.params,
        "macs": cost.macs,
        "convention": table.convention,
        "published": published,
        "agrees": {key: agrees(text, getattr(cost, key), METRICS[key].unit) for key, text in published.items()},
    }


def _count_line(line: dict[str, Any]) -> str:
    where = f"{line.get('table', ''):7} {line.get('row', ''):14} {line['model']:58}"
    printed = (
        f"{key} {text} {'=' if line['agrees'][key] else 'differs'}" for key, text in line.get("published", {}).items()
    )
    return f"{where} {line['params']:>11,} {line['macs']:>14,}  {'  '.join(printed)}".rstrip()


def train(options: argparse.Namespace) -> None:
    from workbench.experiments.experiment import Experiment
    from workbench.experiments.store import Store
    from workbench.training.recipe import recipe

    chosen = recipe(options.recipe)
    if options.epochs is not None:
        chosen = replace(chosen, epochs=options.epochs)
    experiment = Experiment(model=options.model, dataset=options.data, recipe=chosen, seed=options.seed)
    store = Store(options.runs, options.data_dir)

    def report(training: Any) -> None:
        entry = training.history[-1]
        print(
            f"epoch {entry['epoch']:3}/{chosen.epochs}  train loss {entry['train_loss']:.4f}"
            f"  train error {entry['train_top1_error']:6.2f} %  test error {entry['test_top1_error']:6.2f} %",
            flush=True,
        )

    print(f"{experiment.model} on {experiment.dataset}, {chosen.describe()}, seed {experiment.seed}")
    record = store.run(experiment, options.device, on_epoch=report)
    if record.status == "diverged":
        print(f"workbench: {record.note}", file=sys.stderr)
        raise SystemExit(5)
    print(f"top-1 error {record.metrics['top1_error']:.2f} %, {record.duration_s:.0f} s, {store.root / record.key}")


def reproduce(options: argparse.Namespace) -> None:
    from workbench.experiments import tables
    from workbench.experiments.compare import compare, reading
    from workbench.experiments.notebooks import reproduce as run_notebook
    from workbench.experiments.store import Store

    keys = tables.known() if options.tables == ["all"] else options.tables
    chosen = [tables.load(key) for key in keys]
    if options.seeds < 0 or options.jobs < 0:
        raise OutOfRange("--seeds and --jobs are counts; give 1 or more.")
    if options.tables == ["all"]:
        chosen = [one for one in chosen if options.budget == "count" or options.budget in one.budgets]
    store = Store(options.runs, options.data_dir)
    for one in chosen:
        print(f"{one.key}, {one.paper}: {one.caption}\nbudget {options.budget}", flush=True)
        executed = run_notebook(one, options.budget, store, options.seeds, options.device, options.jobs)
        entries = compare(one, store)
        print(_text(one, entries, options.budget))
        print("\n" + "\n".join(reading(one, entries)))
        shown = os.path.relpath(executed)
        print(f"\nThe executed notebook: {shown} (make lab opens JupyterLab)")
        print("The explorer: make app, then http://127.0.0.1:8501/?table=" + one.key)


def table(options: argparse.Namespace) -> None:
    from workbench.experiments import tables
    from workbench.experiments.compare import compare
    from workbench.experiments.store import Store

    chosen = tables.load(options.table)
    entries = compare(chosen, Store(options.runs, options.data_dir))
    if options.form == "json":
        print(json.dumps(entries, indent=1))
    elif options.form == "csv":
        print(_csv(chosen, entries), end="")
    elif options.form == "md":
        print(_markdown(chosen, entries))
    else:
        print(f"{chosen.key}, {chosen.paper}: {chosen.caption}\nPublished: {chosen.protocol}\n")
        print(_text(chosen, entries))


def _text(table: Any, entries: list[dict[str, Any]], budget: str = "") -> str:
    from workbench.experiments.compare import cells, protocols

    heads, lines = cells(table, entries, budget)
    rows = [[metric for metric, _ in heads], [source for _, source in heads], *lines]
    widths = [max(len(row[i]) for row in rows) for i in range(len(heads))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*text, "", *protocols(entries, budget)])


def _markdown(table: Any, entries: list[dict[str, Any]]) -> str:
    from workbench.experiments.compare import cells, protocols

    heads, lines = cells(table, entries)
    rows = [[": ".join(filter(None, head)) for head in heads], ["---"] * len(heads), *lines]
    text = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([*text, "", *(f"- {note}" for note in protocols(entries))])


def _csv(table: Any, entries: list[dict[str, Any]]) -> str:
    import csv
    import io

    from workbench.experiments.compare import cells

    heads, lines = cells(table, entries)
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([[": ".join(filter(None, head)) for head in heads], *lines])
    return out.getvalue()


def runs(options: argparse.Namespace) -> None:
    from workbench.experiments.store import Store

    store = Store(options.runs, options.data_dir)
    lines = [
        {"key": r.key, "status": r.status, "epochs": len(r.curves), **r.metrics, "duration_s": r.duration_s}
        for r in store.records()
    ]
    lines += [{"key": key, "status": "unfinished", "epochs": len(log)} for key, _, log in store.unfinished()]
    if options.json:
        print(json.dumps(lines, indent=1))
        return
    for line in lines:
        error = f"{line['top1_error']:6.2f} %" if "top1_error" in line else " " * 8
        print(f"{line['status']:10} {line['epochs']:4} epochs  {error}  {line['key']}")
    if not lines:
        print(f"No runs in {store.root}; `workbench reproduce cra-4 --budget smoke` makes some.")


def data(options: argparse.Namespace) -> None:
    from workbench import datasets
    from workbench.datasets import DATASETS, cifar

    root = files.data_dir(options.data_dir)
    for name in options.names:
        if name not in DATASETS:
            raise UnknownName("data set", name, DATASETS)
    chosen = options.names or list(DATASETS)
    if options.action == "list":
        for name in chosen:
            print(f"{name:10} {DATASETS[name]}")
        print(f"\nin {root} (--data-dir, WORKBENCH_DATA)")
        return
    for name in chosen:
        if options.action == "fetch" and name != "layouts":
            files.ensure_writable(root)
            cifar.fetch(name, root)
        train, test = datasets.load(name, root)
        print(f"{name}: {len(train):,} + {len(test):,} pictures, {len(train.classes)} classes, verified")


def app(options: argparse.Namespace) -> None:
    _require("streamlit")
    script = files.share("app") / "main.py"
    os.environ["WORKBENCH_RUNS"] = str(files.runs_dir(options.runs).resolve())
    os.environ["WORKBENCH_DATA"] = str(files.data_dir(options.data_dir).resolve())
    settings = {
        "server.address": "127.0.0.1",
        "server.port": options.port,
        "server.maxUploadSize": 8,
        "server.fileWatcherType": "none",
        "server.headless": "true",
        "client.showErrorDetails": "none",
        "client.toolbarMode": "minimal",
        "browser.gatherUsageStats": "false",
    }
    flags = [part for key, value in settings.items() for part in (f"--{key}", str(value))]
    print(f"The explorer: http://127.0.0.1:{options.port} (Ctrl-C ends it)", flush=True)
    os.execv(sys.executable, [sys.executable, "-m", "streamlit", "run", str(script), *flags])


def lab(options: argparse.Namespace) -> None:
    _require("jupyterlab")
    os.environ["WORKBENCH_RUNS"] = str(files.runs_dir(options.runs).resolve())
    os.environ["WORKBENCH_DATA"] = str(files.data_dir(options.data_dir).resolve())
    folder = str(files.share("notebooks"))
    os.execv(sys.executable, [sys.executable, "-m", "jupyterlab", "--ip=127.0.0.1", f"--ServerApp.root_dir={folder}"])


def _require(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise ModuleNotFoundError(name=package)
