"""Imports run downwards only, and some packages belong to one room each."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLOORS = ("errors", "files names compiled", "attention", "backbones datasets", "build", "attach")
FLOORS = (
    *FLOORS,
    "training",
    "detection explain",
    "experiments bench",
    "commands machine papers",
    "cli",
    "__main__",
    "app",
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms.split()} | {
    "__init__": 0,
    "__version__": 0,
}
OWNER = {
    "accelerate": "workbench/training/",
    "papermill": "workbench/experiments/notebooks.py",
    "dask": "workbench/experiments/cluster.py",
    "distributed": "workbench/experiments/cluster.py",
    "duckdb": "workbench/experiments/store.py",
    "pytorch_grad_cam": "workbench/explain/cam.py",
    "streamlit": "app/",
}


def faults(path: str, source: str) -> list[str]:
    """What the file at `path` imports or calls that it must not."""
    found = []
    here = room(path.removesuffix(".py").replace("/", "."))
    for node in ast.walk(ast.parse(source)):
        for name in used(node):
            package, there = name.split(".")[0], room(name)
            upwards = package in ("workbench", "app") and there != here and FLOOR.get(there, 99) >= FLOOR[here]
            foreign = not path.startswith(OWNER.get(package, ""))
            if upwards or foreign or package in ("pickle", "dill", "joblib") or name == "torch.load":
                found.append(f"{path}: {name}")
    return found


def room(dotted: str) -> str:
    return "app" if dotted.split(".")[0] == "app" else dotted.split(".")[1] if "." in dotted else "__init__"


def used(node: ast.AST) -> list[str]:
    """Imported names in full, and attributes of a module such as torch.load."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [f"{'relative' if node.level else node.module}.{alias.name}" for alias in node.names]
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "torch":
        return [f"torch.{node.attr}"]
    return []


def test_imports_run_downwards():
    paths = [path for folder in ("workbench", "app") for path in sorted((ROOT / folder).rglob("*.py"))]
    assert len(paths) > 20
    assert not [fault for p in paths for fault in faults(p.relative_to(ROOT).as_posix(), p.read_text())]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("workbench/attention/se.py", "from workbench.backbones import Network"),
        ("workbench/attention/se.py", "def f():\n    import workbench.build"),
        ("workbench/datasets/cifar.py", "from workbench.backbones.resnet import ResNet"),
        ("workbench/training/loop.py", "from workbench import explain"),
        ("workbench/build.py", "from workbench.attach import attach"),
        ("workbench/files.py", "from workbench.names import parse"),
        ("workbench/cli.py", "import app.main"),
        ("workbench/cli.py", "import streamlit"),
        ("workbench/build.py", "from accelerate import Accelerator"),
        ("workbench/experiments/store.py", "import papermill"),
        ("workbench/training/checkpoint.py", "import torch; torch.load('x')"),
        ("workbench/training/checkpoint.py", "from torch import load"),
        ("app/main.py", "import pickle"),
    ],
)
def test_the_checker_reports_what_is_forbidden(path, source):
    assert len(faults(path, source)) == 1
    assert not faults(
        path, "import torch, safetensors.torch\nfrom workbench.errors import Busy\nsafetensors.torch.load(b'')"
    )
