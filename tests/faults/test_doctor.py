"""`workbench doctor` finds what is wrong before a run does, says what to do, and leaves nothing behind."""

import fcntl
import json
import sys
from importlib import metadata

import pytest

from workbench import cli
from workbench.datasets import DATASETS
from workbench.experiments import doctor
from workbench.experiments.doctor import examine


def found(tmp_path, runs=None):
    """Check by name."""
    checks = list(examine(runs or tmp_path / "runs", tmp_path / "data"))
    names = [check.name for check in checks]
    assert len(set(names)) == len(names) and all(check.text for check in checks)
    return {check.name: check for check in checks}


def test_a_sound_machine(tmp_path, capsys):
    checks = found(tmp_path)
    core = {"python", "torch", "torchvision", "accelerate", "numpy", "safetensors"}
    assert core | {"GPU", "C++ compiler", "CPU", "runs", "locks", "room"} | {*DATASETS} <= set(checks)
    assert {f"extra {name}" for name in ("notebooks", "app", "explain", "bench", "test")} <= set(checks)
    assert {checks[name].state for name in core | {"runs", "locks", "CPU"}} == {"ok"}
    assert not list(tmp_path.iterdir())  # nothing was made
    wrong = int(any(check.state == "wrong" for check in checks.values()))
    assert cli.main(["doctor"]) == wrong
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(checks) and all(line.split()[0] in ("ok", "note", "wrong") for line in lines)
    assert cli.main(["doctor", "--json"]) == wrong
    assert [check["name"] for check in json.loads(capsys.readouterr().out)] == [*checks]


def test_data_sets_are_looked_for_and_not_read(tmp_path, tiny_cifar):
    checks = found(tmp_path)
    assert checks["cifar10"].state == checks["layouts"].state == "ok"
    for path in (tiny_cifar / "cifar-10-batches-py").iterdir():
        path.write_bytes(b"")
    assert found(tmp_path)["cifar10"].state == "ok"  # witness: not read
    (tiny_cifar / "cifar-10-batches-py").rename(tiny_cifar / "elsewhere")
    assert found(tmp_path)["cifar10"].state == "note" and "data fetch cifar10" in found(tmp_path)["cifar10"].text


@pytest.mark.parametrize(
    ("package", "version", "check", "state"),
    [
        ("torch", "2.10.9+cu130", "torch", "wrong"),
        ("torch", "2.11.0a0", "torch", "ok"),
        ("torch", None, "torch", "wrong"),
        ("safetensors", "0.10.0", "safetensors", "ok"),  # more than 0.8
        ("streamlit", None, "extra app", "note"),
        ("papermill", "2.6.9", "extra notebooks", "note"),
        ("attention-workbench", None, "attention-workbench", "wrong"),
    ],
)
def test_packages_are_held_against_what_is_asked_for(tmp_path, monkeypatch, package, version, check, state):
    real, requires = metadata.version, metadata.requires

    def given(name):
        if name == package and version is None:
            raise metadata.PackageNotFoundError(name)
        return version if name == package else real(name)

    monkeypatch.setattr(metadata, "version", given)
    monkeypatch.setattr(metadata, "requires", lambda name: requires(name) if given(name) else None)
    line = found(tmp_path)[check]
    assert line.state == state and ("pip install" in line.text) == (state != "ok")
    assert state == "ok" or package in line.text + line.name


def test_a_torch_that_cannot_be_imported_is_no_traceback(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    checks = list(examine(tmp_path / "runs", tmp_path / "data"))
    assert ("torch", "wrong") in [(check.name, check.state) for check in checks]
    assert checks[-1].name == "room"  # and the rest is still examined


@pytest.mark.parametrize("runs", ["a file", "a file/runs"])
def test_a_folder_that_cannot_be_written(tmp_path, runs):
    (tmp_path / "a file").touch()
    line = found(tmp_path, tmp_path / runs)["runs"]
    assert line.state == "wrong" and "--runs" in line.text


def test_a_read_only_and_a_small_disk(tmp_path, on_own_disk):
    def scenario(disk):
        checks = found(tmp_path, disk.folder / "runs")
        assert checks["runs"].state == "ok" and checks["room"].state == "wrong" and "make room" in checks["room"].text
        assert checks["locks"].text == "honoured by tmpfs"
        disk.read_only(disk.folder)
        checks = found(tmp_path, disk.folder / "runs")
        assert checks["runs"].state == "wrong" and "Read-only" in checks["runs"].text
        assert cli.main(["doctor", "--runs", str(disk.folder)]) == 1

    assert on_own_disk(scenario) == 0


def test_locks_that_hold_nobody_out(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)  # here, not in the second process
    line = found(tmp_path)["locks"]
    assert line.state == "wrong" and "two processes" in line.text
    assert cli.main(["doctor"]) == 1


def test_locks_that_are_refused(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert found(tmp_path)["locks"].state == "wrong" and "No locks available" in found(tmp_path)["locks"].text


def test_a_file_system_of_several_machines_is_warned_of(tmp_path, monkeypatch):
    assert found(tmp_path)["locks"].state == "ok"  # witness
    for kind in ("nfs4", "cifs", "fuse.sshfs"):
        monkeypatch.setattr(doctor, "_file_system", lambda place, kind=kind: kind)
        line = found(tmp_path)["locks"]
        assert line.state == "note" and kind in line.text and "between machines" in line.text
