"""The commands about this machine: its data sets, speed and health, and the servers that run on it."""

import argparse
import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any

from workbench import files


def data(options: argparse.Namespace) -> None:
    from workbench import datasets
    from workbench.datasets import DATASETS

    root = files.data_dir(options.data_dir)
    named = [datasets.canonical(name) for name in options.names]
    if options.action == "list":
        for name in named or DATASETS:
            print(f"{name:10} {DATASETS.get(name) or _size(*_splits(name, root))}")
        print(f"\nin {root} (--data-dir, WORKBENCH_DATA); folder:PATH is a folder of your own pictures, coco:PATH of")
        print("pictures with boxes, which lie as COCO's do")
        return
    for name in named or _by_default(options.action, root):
        if options.action == "fetch" and name in datasets.PLACES:
            files.ensure_writable(root)
            datasets.fetch(name, root)
        if options.action == "verify" or name not in datasets.PLACES:  # to decode all of ImageNet takes long
            datasets.verify(name, options.skip_bad_images, root)
        print(f"{name}: {_size(*_splits(name, root))}, {'fetched' if options.action == 'fetch' else 'verified'}")


def _by_default(action: str, root: Path) -> list[str]:
    """What is fetched without a name: the small ones; what is verified: those that are there."""
    from workbench.datasets import DATASETS, PLACES

    if action == "fetch":
        return ["cifar10", "cifar100", "imagenette"]
    return [name for name in DATASETS if name not in PLACES or (root / PLACES[name]).is_dir()]


def _splits(name: str, root: Path) -> tuple[Any, Any]:
    from workbench import datasets

    return datasets.load_boxes(name, root) if datasets.detects(name) else datasets.load(name, root)


def _size(train: Any, test: Any) -> str:
    return f"{len(train):,} + {len(test):,} pictures, {len(train.classes)} classes"


def bench(options: argparse.Namespace) -> int:
    from workbench.bench import measure, settings, text

    machine, entries = measure.measure(options.what, settings.chosen(vars(options)))
    found: list[dict[str, Any]] = []
    try:
        for line in text.lines(machine, entries, found):
            print(line, file=sys.stderr if options.json else sys.stdout, flush=True)
    finally:  # a failure does not take along what was measured before it
        if options.json:
            print(json.dumps({"machine": machine, "entries": found}, indent=1))
    return int(any("failed" in entry for entry in found))


def doctor(options: argparse.Namespace) -> int:
    from workbench.experiments.doctor import examine

    checks = []
    for check in examine(files.runs_dir(options.runs), files.data_dir(options.data_dir)):
        checks.append(check)
        if not options.json:
            print(f"{check.state:5}  {check.name:16} {check.text}", flush=True)
    if options.json:
        print(json.dumps([check._asdict() for check in checks], indent=1))
    return int(any(check.state == "wrong" for check in checks))


def app(options: argparse.Namespace) -> None:
    _require("streamlit")
    script = files.share("app") / "main.py"
    os.environ["WORKBENCH_RUNS"] = str(files.runs_dir(options.runs).resolve())
    os.environ["WORKBENCH_DATA"] = str(files.data_dir(options.data_dir).resolve())
    settings = {"address": "127.0.0.1", "port": options.port, "headless": "true"}  # the rest is in app/.streamlit
    flags = [f"--server.{key}={value}" for key, value in settings.items()]
    print(f"The explorer: http://127.0.0.1:{options.port} (Ctrl-C ends it)", flush=True)
    os.execv(sys.executable, [sys.executable, "-m", "streamlit", "run", str(script), *flags])


def lab(options: argparse.Namespace) -> None:
    _require("jupyterlab")
    os.environ["WORKBENCH_RUNS"] = str(files.runs_dir(options.runs).resolve())
    os.environ["WORKBENCH_DATA"] = str(files.data_dir(options.data_dir).resolve())
    root = files.share("notebooks").parent
    flags = ["--ip=127.0.0.1", f"--ServerApp.root_dir={root}", "--LabApp.default_url=/lab/tree/notebooks"]
    flags += [
        "--LabApp.news_url=None",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]  # nothing leaves
    if os.geteuid() == 0:  # in a container; the server listens on this machine alone, with a token
        flags.append("--allow-root")
    os.execv(sys.executable, [sys.executable, "-m", "jupyterlab", *flags])


def _require(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise ModuleNotFoundError(name=package)
