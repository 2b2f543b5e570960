"""Fixtures for all tests: no test reads or writes outside its own folder, and small data sets stand in for the real."""

import hashlib
import os
import pickle
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the cores are shared by processes: pytest -n, and forked children


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The module that trains for minutes comes first, so that with -n 2 nobody waits for it at the end."""
    items.sort(key=lambda item: item.path.name != "test_reproduce.py")


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs and data sets lie in the test's own folder, whatever the caller's environment says."""
    monkeypatch.setenv("WORKBENCH_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path / "data"))


@pytest.fixture
def tiny_layouts(monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    """`layouts` with 320 training and 64 test pictures."""
    from workbench.datasets import layouts

    splits = layouts.make(320, seed=0), layouts.make(64, seed=1)
    monkeypatch.setattr(layouts, "load", lambda: splits)
    return splits


@pytest.fixture
def tiny_cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a CIFAR-10 of 80 + 20 pictures and a CIFAR-100 of 300 + 40; $WORKBENCH_DATA names it."""
    root = tmp_path / "data"
    write_cifar(root, monkeypatch.setattr)
    return root


@pytest.fixture(scope="session")
def fake_cifar() -> Callable[..., None]:
    """`write_cifar` itself, for a child process that outlives no test."""
    return write_cifar


@pytest.fixture(scope="session")
def forked() -> Callable[..., int]:
    """`run_forked`, where a process may be forked at all."""
    import torch
    import torch._inductor  # torch's deterministic mode imports it; once, not in every child

    if torch.cuda.is_available():  # autograd then keeps threads, which a fork loses
        pytest.skip("forks processes that train on the CPU; run it with CUDA_VISIBLE_DEVICES=")
    return run_forked


def run_forked(action: Callable[[], Any], limit_s: int = 120, kill_after_s: float = 0) -> int:
    """Run `action` in a child process on one thread: 0, its error's exit code, or minus the signal that ended it.

    kill_after_s: when to send it SIGKILL, wherever it is; not at all if 0.
    """
    import torch

    from workbench.errors import WorkbenchError

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking with threads; the child starts none
        child = os.fork()
    if child == 0:
        code = 99
        try:
            signal.alarm(limit_s)
            torch.set_num_threads(1)
            action()
            code = 0
        except WorkbenchError as error:
            code = error.exit_code
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    if kill_after_s:
        time.sleep(kill_after_s)
        os.kill(child, signal.SIGKILL)  # a child that has ended waits to be asked, so the number is still its own
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def write_cifar(root: Path, patch: Callable[[Any, str, Any], Any]) -> None:
    """Random pictures in torchvision's layout under `root`; `patch` puts their checksums in place of the real ones."""
    import numpy as np
    from torchvision.datasets import CIFAR10, CIFAR100

    rng = np.random.default_rng(0)

    def part(count: int, classes: int, label: str) -> dict[str, Any]:
        pictures = rng.integers(0, 256, (count, 3072), dtype=np.uint8)
        return {"data": pictures, label: [i % classes for i in range(count)]}

    batches = {name: part(16, 10, "labels") for name, _ in CIFAR10.train_list}
    _write(CIFAR10, root, patch, batches, {"test_batch": part(20, 10, "labels")}, 10, "label_names")
    train = part(300, 100, "fine_labels") | {"coarse_labels": [0] * 300}
    test = part(40, 100, "fine_labels") | {"coarse_labels": [0] * 40}
    _write(CIFAR100, root, patch, {"train": train}, {"test": test}, 100, "fine_label_names")


def _write(reader: Any, root: Path, patch: Callable, train: dict, test: dict, classes: int, names: str) -> None:
    folder = root / reader.base_folder
    folder.mkdir(parents=True)

    def save(name: str, content: Any) -> list[str]:
        data = pickle.dumps(content)  # as the originals; read only by torchvision, after its checksum
        (folder / name).write_bytes(data)
        return [name, hashlib.md5(data).hexdigest()]

    patch(reader, "train_list", [save(name, content) for name, content in train.items()])
    patch(reader, "test_list", [save(name, content) for name, content in test.items()])
    filename, md5 = save(reader.meta["filename"], {names: [f"class {i}" for i in range(classes)]})
    patch(reader, "meta", {"filename": filename, "key": names, "md5": md5})
