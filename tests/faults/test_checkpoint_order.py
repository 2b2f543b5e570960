"""The newest checkpoint is told by the pointer and the step, never by a clock; durations come from a steady clock."""

import itertools
import os
import re
import time

import pytest
import torch

from workbench.experiments.experiment import Experiment
from workbench.experiments.store import Store
from workbench.files import PACKAGE
from workbench.training.checkpoint import Checkpoints
from workbench.training.recipe import Recipe

DAY_S = 86_400


def save(checkpoints, step):
    checkpoints.save(step, {"model": {"weight": torch.ones(3)}}, {"history": [], "position": step})


@pytest.fixture
def checkpoints(tmp_path):
    """Steps 3 and 4."""
    made = Checkpoints(tmp_path / "ckpt", "key")
    save(made, 3), save(made, 4)
    return made


def newest(checkpoints):
    return checkpoints.folder / (checkpoints.folder / "latest").read_text()


def position(checkpoints):
    return checkpoints.load()[1]["position"]


@pytest.mark.parametrize("content", [b"", b"step-0000", b"\xff\xfe", b"../..", b"step-99999999-00000", None], ids=str)
def test_a_damaged_pointer_costs_nothing_and_is_kept(checkpoints, caplog, content):
    """None: a process killed before it wrote the first one; nothing is damaged then."""
    pointer = checkpoints.folder / "latest"
    pointer.unlink() if content is None else pointer.write_bytes(content)
    assert position(checkpoints) == 4
    assert [str(pointer) in record.message for record in caplog.records] == [True] * (content is not None)
    save(checkpoints, 5)
    assert newest(checkpoints).name.startswith("step-00000005")
    bad = pointer.with_name("latest.bad")
    assert (bad.read_bytes() if bad.exists() else None) == content


def test_the_pointer_decides_between_whole_checkpoints(checkpoints):
    """A process killed between the rename and the pointer leaves a newer whole checkpoint: either is right."""
    older = sorted(path.name for path in checkpoints.folder.glob("step-*"))[0]
    (checkpoints.folder / "latest").write_text(older)
    assert position(checkpoints) in (3, 4)


def test_two_checkpoints_are_kept_and_the_pointer_names_the_newest(checkpoints):
    for step in range(5, 9):
        save(checkpoints, step)
        names = sorted(path.name for path in checkpoints.folder.iterdir())
        assert len(names) == 3 and names[0] == "latest"
        assert newest(checkpoints).name == names[-1] and position(checkpoints) == step


TIMES = {
    "set back a day": [(0, 0), (-DAY_S, -DAY_S)],
    "before 1970": [(0, 0), (-(10**9), -(10**9))],
    "equal": [(5, 5), (5, 5)],
    "in the future": [(10**10, 10**10), (0, 0)],
}


@pytest.mark.parametrize("pointer", [True, False], ids=["pointer", "no pointer"])
@pytest.mark.parametrize("times", TIMES)
def test_the_order_is_that_of_the_steps_whatever_the_clock_said(checkpoints, times, pointer):
    folders = sorted(checkpoints.folder.glob("step-*"))
    for folder, stamp in zip(folders, TIMES[times], strict=True):
        for path in (*folder.iterdir(), folder):
            os.utime(path, stamp)
    assert [folder.stat().st_mtime for folder in folders] == [stamp[1] for stamp in TIMES[times]]
    if not pointer:
        (checkpoints.folder / "latest").unlink()
    assert position(checkpoints) == 4
    save(checkpoints, 5)
    assert position(checkpoints) == 5
    assert [path.name[:13] for path in sorted(checkpoints.folder.glob("step-*"))] == ["step-00000004", "step-00000005"]


def test_a_run_through_a_jumping_clock(tmp_path, tiny_layouts, monkeypatch):
    """The wall clock goes back a day or forth an hour at every look, as at the end of summer time and worse."""
    experiment = Experiment(model="circularnet", dataset="layouts", recipe=Recipe(batch=64, epochs=2, lr=0.1), seed=0)
    plain = Store(tmp_path / "plain").run(experiment, "cpu")
    looks = itertools.count(1)
    monkeypatch.setattr(time, "time", lambda: 1.7e9 - next(looks) * DAY_S)
    monkeypatch.setattr(time, "time_ns", lambda: int(time.time() * 1e9))
    monkeypatch.setenv("TZ", "Europe/Berlin")
    seen = []
    record = Store(tmp_path / "runs").run(experiment, "cpu", on_step=lambda training: seen.append(training.elapsed_s))
    assert record._replace(duration_s=0) == plain._replace(duration_s=0)
    assert seen == sorted(seen) and seen[0] > 0 and seen[-1] <= record.duration_s + 1e-3
    assert time.time() > time.time()  # witness


STAMPED = {"files.py"}  # whose stamp says that a file is another one, and orders nothing


def test_no_source_of_the_package_asks_the_wall_clock():
    pattern = re.compile(
        r"\btime\.(time|time_ns|localtime|gmtime|ctime)\(|\bdatetime\b|\bst_[acm]time|\bget[acm]time\b"
    )
    sources = {path: path.read_text() for path in PACKAGE.rglob("*.py")}
    found = {path.name for path, text in sources.items() if pattern.search(text)}
    assert found == STAMPED and len(sources) > 20
    assert pattern.search("start = time.time()") and pattern.search("path.stat().st_mtime")  # witness
