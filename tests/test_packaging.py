"""pyproject.toml gives ranges, requirements.lock pins them, environment.yml installs the pins: the three agree.

Laws are functions that return the faults they find; every test also feeds them a fault that they must find.
"""

import json
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK = (ROOT / "requirements.lock").read_text()
ENVIRONMENT = (ROOT / "environment.yml").read_text()

PYTHONS = ("3.11.0", "3.11.9", "3.12.1", "3.13.0")
PRESCRIBED = {"torch", "torchvision", "accelerate", "jupyterlab", "ipywidgets", "papermill"}
PRESCRIBED |= {"streamlit", "plotly", "grad-cam", "pytest", "nbval"}
TOP_LEVEL = {"notebooks", "workbench", "app", "data", "tests", "environment.yml", "README.md", "pyproject.toml"}
TOP_LEVEL |= {"requirements.lock", "LICENSE", "Makefile", ".ci", ".gitignore"}
PIN = re.compile(r"[a-z0-9.-]+==[a-z0-9.!]+( ; [^@/]+)?")  # no URL, no option, no local version such as +cpu


def test_lock_holds_exact_pins_only():
    assert not lock_faults(LOCK)
    for fault in (
        "torch>=2.11",
        "torch==2.*",
        "torch==2.13.0+cpu",
        "torch @ file:///torch.whl",
        "torch==2.15.0 --hash=sha256:0",
        "torch==2.15.0 ; python_version",
        "--index-url x",
        "-e .",
    ):
        assert lock_faults(fault), fault


@pytest.mark.parametrize("python", PYTHONS)
def test_lock_pins_every_range_once(python):
    assert not range_faults(ranges(), LOCK, python)
    numpy = re.compile(r"^numpy==.*\n", re.MULTILINE)
    assert range_faults(ranges(), numpy.sub("", LOCK), python) == ["numpy: pinned 0 times"]
    assert range_faults(ranges(), LOCK + "numpy==2.4.0\n", python) == ["numpy: pinned 2 times"]
    assert range_faults(ranges(), numpy.sub("", LOCK) + "numpy==1.26.4\n", python) == ["numpy>=2: pinned at 1.26.4"]


def test_lock_is_closed():
    """What a pinned package needs is pinned too, and fits; so torchvision gets a torch it was built for."""
    assert not closure_faults(LOCK)
    broken = re.sub(r"^torch==.*$", "torch==2.11.0", LOCK, flags=re.MULTILINE)
    assert any(fault.startswith("torchvision: torch>=") for fault in closure_faults(broken))


def test_all_is_every_extra():
    extras = PROJECT["optional-dependencies"]
    (everything,) = map(Requirement, extras["all"])
    assert everything.name == PROJECT["name"]
    assert everything.extras == extras.keys() - {"all"}
    assert {requirement.name for requirement in ranges()} >= PRESCRIBED


def test_environment_installs_the_lock():
    assert not environment_faults(ENVIRONMENT, LOCK)
    for line in ("- -r requirements.lock", "- -e .[all]", "- torch", "- nbval"):
        assert line in ENVIRONMENT
        assert environment_faults(ENVIRONMENT.replace(f"{line}\n", "\n", 1), LOCK), line
    assert environment_faults(ENVIRONMENT.replace("- torch\n", "- torch==2.11\n"), LOCK) == [
        "torch==2.11: not a bare name"
    ]
    assert environment_faults(ENVIRONMENT.replace("- torch\n", "- torch\n      - jax\n"), LOCK) == ["jax: not pinned"]
    assert environment_faults(ENVIRONMENT.replace(">=3.11", ">=3.10"), LOCK) == [
        "python: not the range of pyproject.toml"
    ]


def test_top_level_is_as_agreed():
    git = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if git.returncode or not git.stdout:
        pytest.skip("not a git checkout")
    assert not strays(git.stdout.split("\n"))
    assert strays(["README.md", "setup.py", "scratch/a.py"]) == ["scratch", "setup.py"]


def test_wheel_runs_away_from_the_checkout(wheel, tmp_path):
    target, elsewhere = tmp_path / "target", tmp_path / "elsewhere"
    zipfile.ZipFile(wheel).extractall(target)  # a wheel is a zip: on the path, it is installed
    elsewhere.mkdir()

    def python(*arguments: str) -> str:
        return run(*arguments, cwd=elsewhere, env=os.environ | {"PYTHONPATH": str(target)})

    where = (
        "import workbench.files as f; print(f.__file__, *map(f.share, ('data/tables', 'notebooks', 'app')), sep='\\n')"
    )
    assert not [path for path in python("-c", where).split() if not Path(path).is_relative_to(target)]
    assert python("-m", "workbench", "list").strip()
    rows = json.loads(python("-m", "workbench", "table", "cra-4", "--json"))
    assert rows and isinstance(rows, list)

    (installed,) = metadata.distributions(path=[str(target)])
    (script,) = installed.entry_points
    assert (installed.name, script.name, script.value) == (PROJECT["name"], "workbench", "workbench.cli:main")
    assert installed.version == run("-c", "import workbench; print(workbench.__version__)", cwd=ROOT).strip()


def test_wheel_from_sdist_is_the_wheel_and_holds_nothing_ignored(wheel, tmp_path):
    with tarfile.open(build("sdist", ROOT, tmp_path / "sdist")) as archive:
        archive.extractall(tmp_path, filter="data")
        source = tmp_path / archive.getnames()[0].split("/")[0]
    ignored = "runs/a", "data/sets/a", "data/tables/.a.part", "app/__pycache__/a.pyc", "notebooks/.ipynb_checkpoints/a"
    for name in (*ignored, "app/witness.py"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).touch()
    again = build("wheel", source, tmp_path / "wheel")
    assert names(again) ^ names(wheel) == {"workbench/share/app/witness.py"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    return build("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


def build(kind: str, source: Path, folder: Path) -> Path:
    """Build the wheel or sdist of `source` into the fresh `folder`, without a network."""
    run("-m", "hatchling", "build", "--target", kind, "--directory", str(folder), cwd=source)
    (built,) = folder.iterdir()
    return built


def run(*arguments: str, cwd: Path, env: dict[str, str] | None = None) -> str:
    """Standard output of this Python with `arguments`; what it said otherwise when it fails."""
    done = subprocess.run([sys.executable, *arguments], cwd=cwd, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def names(wheel: Path) -> set[str]:
    return set(zipfile.ZipFile(wheel).namelist())


def strays(files: Iterable[str]) -> list[str]:
    return sorted({file.split("/")[0] for file in files if file} - TOP_LEVEL)


def ranges() -> list[Requirement]:
    """Every dependency of pyproject.toml, extras included, the project's reference to its own extras left out."""
    written = [
        *PROJECT["dependencies"],
        *(line for extra in PROJECT["optional-dependencies"].values() for line in extra),
    ]
    return [requirement for requirement in map(Requirement, written) if requirement.name != PROJECT["name"]]


def pins(lock: str, python: str | None = None) -> dict[str, list[Version]]:
    """name -> the versions that `lock` pins on this machine, or on Linux with the Python version given."""
    linux = {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix", "platform_machine": "x86_64"}
    version = {"python_full_version": python, "python_version": python.rpartition(".")[0]} if python else {}
    found: dict[str, list[Version]] = {}
    for line in map(Requirement, lock.splitlines()):
        if not line.marker or line.marker.evaluate(default_environment() | (linux if python else {}) | version):
            (exact,) = line.specifier
            found.setdefault(canonicalize_name(line.name), []).append(Version(exact.version))
    return found


def lock_faults(lock: str) -> list[str]:
    """Lines of `lock` that are not `name==version` or `name==version ; marker`."""
    return [line for line in lock.splitlines() if not PIN.fullmatch(line) or not parses(line)]


def parses(line: str) -> bool:
    try:
        return bool(Requirement(line))
    except ValueError:
        return False


def range_faults(requirements: Iterable[Requirement], lock: str, python: str) -> list[str]:
    """Requirements that `lock` does not pin exactly once, inside their range."""
    pinned, faults = pins(lock, python), set()
    for requirement in requirements:
        versions = pinned.get(canonicalize_name(requirement.name), [])
        if len(versions) != 1:
            faults.add(f"{requirement.name}: pinned {len(versions)} times")
        elif versions[0] not in requirement.specifier:
            faults.add(f"{requirement}: pinned at {versions[0]}")
    return sorted(faults)


def closure_faults(lock: str) -> list[str]:
    """Dependencies of the installed packages that `lock` pins elsewhere than they need."""
    pinned, faults = pins(lock), []
    for name in pinned:
        for text in needs(name):
            need = Requirement(text)
            if need.marker and not need.marker.evaluate(default_environment() | {"extra": ""}):
                continue
            if not any(version in need.specifier for version in pinned.get(canonicalize_name(need.name), [])):
                faults.append(f"{name}: {need.name}{need.specifier}")
    return faults


def needs(name: str) -> list[str]:
    try:
        return metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        return []


def environment_faults(environment: str, lock: str) -> list[str]:
    """Where an environment.yml departs from: Python's range, the lock, the project, bare names that the lock pins."""
    *conda, pip = (part for part in yaml.safe_load(environment)["dependencies"] if part != "pip")
    (python,) = map(Requirement, conda)
    entries = set(pip["pip"])
    steps = {"-r requirements.lock", "-e .[all]"}
    named = {entry for entry in entries if not entry.startswith("-")}
    pinned = set(pins(lock, PYTHONS[0]))
    agree = set(SpecifierSet(PROJECT["requires-python"])) <= set(python.specifier)
    agree &= all(version in python.specifier for version in PYTHONS)
    return [
        *([] if agree else ["python: not the range of pyproject.toml"]),
        *(f"{entry}: not installed" for entry in sorted(steps - entries)),
        *(f"{name}: not named" for name in sorted(PRESCRIBED - {re.split("[=<>]", name)[0] for name in named})),
        *(f"{name}: not a bare name" for name in sorted(named) if re.search("[=<>@]", name)),
        *(f"{name}: not pinned" for name in sorted(named) if re.split("[=<>@]", name)[0] not in pinned),
    ]
