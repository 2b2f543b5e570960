"""The `workbench` command: its words, its errors.  Nothing heavy is imported before it is needed.

Exit codes: 0 done, 1 a check failed, 2 usage, 3 data missing, 4 out of memory, 5 diverged, 130 and 143 signals.
"""

import argparse
import io
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from workbench import __version__, commands, machine, papers
from workbench.errors import WorkbenchError

EXTRAS = {
    "papermill": "notebooks",
    "psutil": "notebooks",
    "pandas": "notebooks",
    "plotly": "notebooks",
    "jupyterlab": "notebooks",
    "matplotlib": "notebooks",
    "ipykernel": "notebooks",
    "ipywidgets": "notebooks",
    "streamlit": "app",
    "pytorch_grad_cam": "explain",
    "timm": "bench",
    "dask": "dask",
    "distributed": "dask",
    "faster_coco_eval": "detection",
    "pycocotools": "detection",
    "scipy": "imagenet",
}


def main(arguments: list[str] | None = None) -> int:
    """Run one command; errors become one sentence and an exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a path holds what not every terminal can print
    options = parser().parse_args(arguments)
    if "" not in sys.path:
        sys.path.append("")  # my_module:MyAttention is found in the folder that the command is called from
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
        print(
            f"workbench: this needs {error.name}; in the project's folder, pip install -e '.[{extra}]'.",
            file=sys.stderr,
        )
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
    words = top.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, function: Callable[..., Any] | None, text: str) -> argparse.ArgumentParser:
        added = words.add_parser(name, help=text, description=text)
        added.set_defaults(command=function)
        return added

    def stored(added: argparse.ArgumentParser) -> argparse.ArgumentParser:
        added.add_argument("--runs", help="folder of the runs (WORKBENCH_RUNS, ./runs)")
        added.add_argument("--data-dir", help="folder of the data sets (WORKBENCH_DATA, ./data/sets)")
        return added

    def trained(added: argparse.ArgumentParser) -> argparse.ArgumentParser:
        added.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
        added.add_argument("--workers", type=int, default=0, help="processes that decode pictures in files")
        return stored(added)

    def spread(added: argparse.ArgumentParser) -> argparse.ArgumentParser:
        added.add_argument(
            "--jobs", type=int, default=0, help="runs at a time; one per core, or one on a GPU, by default"
        )
        added.add_argument("--engine", default="local", help="local, or dask for a cluster that shares the runs folder")
        added.add_argument(
            "--scheduler", default="", help="of the cluster: its address or file; by default one is made"
        )
        return trained(added)

    def scaled(added: argparse.ArgumentParser) -> argparse.ArgumentParser:
        added.add_argument("--budget", default="smoke", help="count, smoke, or another of the table (cifar, paper ...)")
        added.add_argument("--data", default="", help="in place of the budget's; folder:PATH or coco:PATH for your own")
        added.add_argument("--seeds", type=int, default=0, help="seeds a row; the budget's own by default")
        added.add_argument("--epochs", type=int, default=0, help="instead of the recipes'")
        return spread(added)

    added = command("list", commands.list_names, "names of models, tables, data sets and recipes")
    added.add_argument("pattern", nargs="?", default="*", help="for example 'resnet*'")
    added.add_argument("--json", action="store_true")
    added = command("show", commands.show, "a module or a network: equations, place, options, what it costs")
    added.add_argument("name", help="for example cra, dca or dca-cra7-resnet50")
    added = command("count", commands.count, "parameters and multiply-adds, published and computed")
    added.add_argument("names", nargs="*", metavar="TABLE|MODEL", help="all tables by default")
    added.add_argument("--classes", type=int, default=1000, help="of models named on their own")
    added.add_argument("--json", action="store_true")
    added = trained(command("train", commands.train, "train one network"))
    added.add_argument("model")
    added.add_argument("--data", required=True, help="data set, folder:PATH, your own by class, or coco:PATH")
    added.add_argument("--recipe", required=True)
    added.add_argument("--epochs", type=int, help="instead of the recipe's")
    added.add_argument("--precision", choices=("float32", "bf16", "fp16"), help="instead of the recipe's")
    added.add_argument("--accumulate", type=int, help="compute each batch in this many parts, to save memory")
    added.add_argument("--seed", type=int, default=0)
    added.add_argument("--compile", action="store_true", help="through torch.compile")
    added.add_argument(
        "--no-graph", action="store_true", help="on a GPU, start every kernel instead of replaying a graph"
    )
    added = scaled(command("plan", papers.plan, "what a table would take, before anything starts"))
    added.add_argument("table")
    added.add_argument("--json", action="store_true")
    added = scaled(command("reproduce", papers.reproduce, "measure tables and run their notebooks"))
    added.add_argument("tables", nargs="+", metavar="TABLE", help="table names, or all")
    added = stored(command("table", papers.table, "published beside measured"))
    added.add_argument("table")
    added.add_argument("--budget", default="", help="only what was counted or measured at this one; all by default")
    added.add_argument("--data", default="", help="only the budgets' twins on this data set, such as folder:PATH")
    form = added.add_mutually_exclusive_group()
    for name in ("json", "csv", "md"):
        form.add_argument(f"--{name}", action="store_const", dest="form", const=name)
    kinds = command("ablate", None, "vary one thing in a network, over several seeds").add_subparsers(
        required=True, metavar="WHAT", dest="what"
    )
    for what, text in (("cra-pool", "the grid of CRA, as CRA Table IV"), ("dca-connection", "DCA Tables 2, 4, 5, 6")):
        added = spread(kinds.add_parser(what, help=text, description=text))
        added.set_defaults(command=papers.ablate)
        added.add_argument("backbone", help="for example circularnet or resnet20")
        added.add_argument("--data", default="layouts")
        added.add_argument("--recipe", default="smoke")
        added.add_argument("--seeds", type=int, default=3)
        added.add_argument("--html", default="", metavar="FILE", help="write the plot there")
        shape = added.add_mutually_exclusive_group()
        shape.add_argument("--json", action="store_true", help="one entry a run")
        shape.add_argument("--csv", action="store_true", help="one line a run")
        if what == "cra-pool":
            added.add_argument("--sizes", type=int, nargs="+", default=[1, 3, 5, 7])
            added.add_argument("--no-baseline", action="store_true", help="without the backbone alone")
        else:
            added.add_argument("--attention", default="se", help="as in a model's name, options included")
            added.add_argument("--schemas", nargs="+", default=["direct", "softmax", "weighted"])
            added.add_argument("--matching", nargs="+", default=["fc1"], help="fc1, fc2 or fc2:REDUCTION")
            added.add_argument("--pooling", nargs="+", default=["avg"], help="avg, max")
            added.add_argument("--dims", nargs="+", default=["all"], help="all, or such as channel and spatial")
    added = stored(command("claims", papers.claims, "what the papers say, and what the evidence here says of it"))
    added.add_argument("paper", nargs="?", default="", help="CRA, AW, DCA or Bridge")
    shape = added.add_mutually_exclusive_group()
    shape.add_argument("--json", action="store_true")
    shape.add_argument("--notebook", action="store_true", help="execute their page, runs/notebooks/claims.ipynb")
    added = command("bench", machine.bench, "our modules, batches and training steps beside others', as ratios")
    added.add_argument("what", choices=("attention", "aw", "data", "detect", "train"))
    added.add_argument("--rounds", type=int, default=21, help="of every case in turn; their median counts")
    added.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    added.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"), help="of the modules")
    added.add_argument("--compile", action="store_true", dest="compiled", help="ours and the peers by torch.compile")
    added.add_argument("--model", default="", help="for train (resnet56), and for data from files (resnet50)")
    added.add_argument("--batch", type=int, default=64, help="for data and train")
    added.add_argument("--data", default="cifar10", help="for data: cifar10, or folder:PATH")
    added.add_argument("--workers", type=int, default=2, help="for data: processes of the second comparison")
    added.add_argument("--profile", action="store_true", help="for train: where the time of our step goes")
    added.add_argument("--data-dir", help="folder of the data sets (WORKBENCH_DATA, ./data/sets)")
    added.add_argument("--json", action="store_true")
    added = stored(command("runs", commands.runs, "finished and unfinished runs"))
    added.add_argument("--json", action="store_true")
    added = stored(command("export", commands.export, "the weights of a finished run as two small files"))
    added.add_argument("key", help="as `workbench runs` lists it")
    added.add_argument("--to", default=".", metavar="FOLDER")
    added = command("data", machine.data, "list, fetch or verify the data sets")
    added.add_argument("action", choices=("list", "fetch", "verify"))
    added.add_argument(
        "names", nargs="*", metavar="NAME", help="or folder:PATH, coco:PATH; by default what is small, or there"
    )
    added.add_argument(
        "--skip-bad-images", type=int, default=0, metavar="N", help="verify: leave out up to N that cannot be decoded"
    )
    stored(added)
    added = stored(command("doctor", machine.doctor, "what this machine has and lacks, and what to do about it"))
    added.add_argument("--json", action="store_true")
    added = stored(command("app", machine.app, "the explorer, in the browser"))
    added.add_argument("--port", type=int, default=8501)
    stored(command("lab", machine.lab, "JupyterLab on the notebooks"))
    return top
