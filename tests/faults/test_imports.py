"""Without the packages of any extra everything imports, the core works, and a command that needs one says which."""

import json
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from workbench import cli

ROOT = Path(__file__).resolve().parents[2]
EXTRAS = ("notebooks", "app", "explain", "bench")
DRAWN = ("anatomy_figures", "chain", "curves", "detections", "exhibits", "family", "figures", "panels", "pictures")
CORE = (
    ["list"],
    ["show", "dca-cra7-resnet50"],
    ["count", "cra-4"],
    ["train", "circularnet", "--data", "layouts", "--recipe", "smoke", "--epochs", "1", "--device", "cpu"],
    ["runs"],
    ["table", "cra-4"],
    ["doctor"],
)
NEEDY = {
    "app": (["app"], "streamlit"),
    "lab": (["lab"], "jupyterlab"),
    "reproduce": (["reproduce", "cra-4", "--budget", "count"], "papermill"),
}
WITHOUT = """
import contextlib, io, json, pkgutil, sys
from importlib.machinery import PathFinder

blocked, core, needy = json.loads(sys.argv[1])


class Without(PathFinder):
    def find_spec(name, path=None, target=None):
        return None if name.split(".")[0] in blocked else PathFinder.find_spec(name, path, target)


sys.meta_path[sys.meta_path.index(PathFinder)] = Without
import workbench
from workbench import cli
from workbench.datasets import layouts

layouts.load = lambda: (layouts.make(64, seed=0), layouts.make(32, seed=1))


def call(arguments):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main(arguments)
    return code, err.getvalue()


imported, failed = [], {}
for module in pkgutil.walk_packages(workbench.__path__, "workbench."):
    if module.name != "workbench.__main__":
        try:
            __import__(module.name)
            imported.append(module.name)
        except ModuleNotFoundError as error:
            failed[module.name] = error.name
print(json.dumps({
    "imported": imported,
    "failed": failed,
    "core": {arguments[0]: call(arguments) for arguments in core},
    "needy": {name: call(arguments) for name, arguments in needy.items()},
    "heavy": sorted({name.split(".")[0] for name in sys.modules} & set(blocked)),
}))
"""


def packages(extra):
    """The import names of what an extra asks for."""
    asked = [line for line in metadata.requires("attention-workbench") if re.search(f"extra == '{extra}'", line)]
    asked = {re.match(r"[\w.-]+", line)[0] for line in asked}
    found = {module for module, owners in metadata.packages_distributions().items() if asked & {*owners}}
    return sorted(name for name in found if not re.search("^_|_launcher$|^(mpl_toolkits|pylab)$", name))


@pytest.fixture(scope="module")
def without(tmp_path_factory):
    """What a process says in which no package of an extra can be imported."""
    blocked = [name for extra in EXTRAS for name in packages(extra)]
    assert {"streamlit", "papermill", "pytorch_grad_cam", "plotly", "pandas", "timm", "jupyterlab"} <= {*blocked}
    given = json.dumps([blocked, CORE, {name: arguments for name, (arguments, _) in NEEDY.items()}])
    folder = tmp_path_factory.mktemp("without")
    environment = os.environ | {
        "PYTHONPATH": str(ROOT), "WORKBENCH_RUNS": str(folder / "runs"), "WORKBENCH_DATA": str(folder / "data"),
    }  # fmt: skip
    answer = subprocess.run(
        [sys.executable, "-c", WITHOUT, given], env=environment, capture_output=True, text=True, timeout=200
    )
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout)


def test_every_module_imports_but_those_that_draw(without):
    assert len(without["imported"]) > 40 and without["heavy"] == []
    assert without["failed"] == {f"workbench.explain.{name}": "plotly" for name in DRAWN}


@pytest.mark.parametrize("arguments", CORE, ids=lambda arguments: arguments[0])
def test_the_core_works(without, arguments):
    code, said = without["core"][arguments[0]]
    assert code == 0 or arguments[0] == "doctor", said  # which tells of a full disk as well
    assert "pip install" not in said and "Traceback" not in said


@pytest.mark.parametrize("name", NEEDY)
def test_a_command_that_needs_a_package_says_which(without, name):
    """Witness of the block: with the package these do not end so."""
    code, said = without["needy"][name]
    package = NEEDY[name][1]
    assert code == 2
    assert (
        said
        == f"workbench: this needs {package}; in the project's folder, pip install -e '.[{cli.EXTRAS[package]}]'.\n"
    )


SHARED = ("pandas", "plotly", "pytorch_grad_cam")  # in several extras


@pytest.mark.parametrize("extra", EXTRAS)
def test_every_package_of_an_extra_is_known_by_it(extra):
    known = {name for name, extras in cli.EXTRAS.items() if extras == extra or name in SHARED}
    assert packages(extra) and {*packages(extra)} <= known
