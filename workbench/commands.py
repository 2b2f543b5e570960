"""What the `workbench` commands about models and runs do; every one imports what it needs when it runs."""

import argparse
import json
import os
import re
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from workbench import names
from workbench.errors import Diverged


def list_names(options: argparse.Namespace) -> None:
    from workbench.datasets import DATASETS
    from workbench.experiments import tables
    from workbench.training.recipe import RECIPES

    known = {
        "backbones": list(names.BACKBONES),
        "detectors": list(names.DETECTORS),
        "attentions": list(names.ATTENTIONS),
        "convs": list(names.CONVS),
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
    print("\nA model is [detector-][connection-][conv-][attention-]backbone: resnet20, cra7-resnet50,")
    print("dca-aw-se-resnet50v1, retinanet-cra7-resnet50;")
    print("in place of the attention, a class of your own: my_module:MyAttention-resnet20.")


def show(options: argparse.Namespace) -> None:
    from workbench.explain.describe import describe

    print(describe(options.name))


def count(options: argparse.Namespace) -> int:
    from workbench.experiments import tables
    from workbench.experiments.audit import audit, cells, summary
    from workbench.explain.complexity import count as complexity

    lines: list[dict[str, Any]] = []
    printed: list[Any] = []
    chosen = tables.known() if options.names in ([], ["all"]) else options.names
    for name in chosen:
        if re.fullmatch(r"[a-z]+-\d+", name):  # the form of a table's name, never of a model's
            lines += audit(tables.load(name))
            printed += cells(tables.load(name))
        else:
            cost = complexity(name, options.classes)
            lines.append({"model": name, "params": cost.params, "multiply_adds": cost.macs, "convention": "macs"})
    if options.json:
        print(json.dumps(lines, indent=1))
    else:
        print(f"{'table':8} {'row':32} {'model':58} {'parameters':>11} {'multiply-adds':>14}  printed")
        print("\n".join([*map(_count_line, lines), "", *summary(printed)]).rstrip())
    return 0 if all(cell.sound for cell in printed) else 1


def _count_line(line: dict[str, Any]) -> str:
    where = f"{line.get('table', ''):8} {line.get('row', ''):32} {line['model']:58}"
    params, macs = ("-" if line[key] is None else f"{line[key]:,}" for key in ("params", "multiply_adds"))
    verdicts = {True: "=", False: "differs, an erratum" if line.get("erratum") else "differs"}
    compared = {key: same for key, same in line.get("agrees", {}).items() if same is not None}
    printed = "  ".join(f"{key} {line['published'][key]} {verdicts[same]}" for key, same in compared.items())
    return f"{where} {params:>11} {macs:>14}  {printed}".rstrip()


def train(options: argparse.Namespace) -> None:
    from workbench.experiments.experiment import Experiment
    from workbench.experiments.store import Store
    from workbench.training.recipe import recipe

    given = {"epochs": options.epochs, "precision": options.precision, "accumulate": options.accumulate}
    chosen = recipe(options.recipe)
    if chosen.updates and options.epochs:
        chosen = chosen.lasting(options.epochs)
    chosen = replace(chosen, **{key: value for key, value in given.items() if value is not None})
    experiment = Experiment(model=options.model, dataset=options.data, recipe=chosen, seed=options.seed)
    store = Store(options.runs, options.data_dir)

    say = print if os.environ.get("RANK", "0") == "0" else lambda *text, **how: None  # one voice for all processes

    def report(training: Any) -> None:
        entry = training.history[-1]
        shown = {"train error": "train_top1_error", "test error": "test_top1_error", "AP": "test_ap"}
        found = "".join(f"  {name} {entry[key]:6.2f} %" for name, key in shown.items() if key in entry)
        say(f"epoch {entry['epoch']:3}/{chosen.epochs}  train loss {entry['train_loss']:.4f}{found}", flush=True)

    say(f"{experiment.model} on {experiment.dataset}, {chosen.describe()}, seed {experiment.seed}")
    settings = {"compiled": options.compile, "workers": options.workers, "recorded": not options.no_graph}
    record = store.run(experiment, options.device, on_epoch=report, **settings)
    if record.status == "diverged":
        raise Diverged(record.note)
    say(f"{_outcome(record.metrics)}, {record.duration_s:.0f} s, {store.root / record.key}")


def _outcome(metrics: dict[str, Any]) -> str:
    """What a run is known by: its top-1 error, or the average precision of a detector."""
    if "top1_error" in metrics:
        return f"top-1 error {metrics['top1_error']:.2f} %"
    return ", ".join(f"{name} {metrics[key]:.2f} %" for key, name in DETECTED.items() if key in metrics)


DETECTED = {"ap": "AP", "ap50": "AP50", "ap75": "AP75"}


def runs(options: argparse.Namespace) -> None:
    from workbench.experiments.store import Store

    store = Store(options.runs, options.data_dir)
    lines: list[dict[str, Any]] = [
        {"key": r.key, "status": r.status, "epochs": len(r.curves), **r.metrics, "duration_s": r.duration_s}
        for r in store.records()
    ]
    lines += [{"key": key, "status": "unfinished", "epochs": len(log)} for key, _, log in store.unfinished()]
    lines += [{"key": r.key, "status": "stale", "epochs": len(r.curves), "differs": d} for r, d in store.stale()]
    if options.json:
        print(json.dumps(lines, indent=1))
        return
    for line in lines:
        error = f"{line.get('top1_error', line.get('ap')):6.2f} %" if {"top1_error", "ap"} & set(line) else " " * 8
        error += " AP" if "ap" in line else ""
        differs = f"  made with another {' and '.join(line['differs'])}" if "differs" in line else ""
        print(f"{line['status']:10} {line['epochs']:4} epochs  {error}  {line['key']}{differs}")
    if not lines:
        print(f"No runs in {store.root}; `workbench reproduce cra-4 --budget smoke` makes some.")


def export(options: argparse.Namespace) -> None:
    from workbench import files
    from workbench.experiments import zoo
    from workbench.experiments.store import Store

    store, to = Store(options.runs, options.data_dir), files.ensure_writable(Path(options.to))
    kept = zoo.export(options.key, store, to)
    size = (to / f"{kept['record']['key']}.safetensors").stat().st_size
    print(f"{kept['record']['key']}.safetensors ({size / 1e6:.2f} MB, {_outcome(kept)}) in {to}")
