"""One run has one writer: the second is refused at once and told who holds it; a killed one leaves nothing held."""

import contextlib
import errno
import fcntl
import os
import signal
import time

import pytest
import torch

from workbench import files
from workbench.errors import Busy, CannotWrite
from workbench.experiments.experiment import Experiment
from workbench.experiments.store import Store
from workbench.training.recipe import Recipe

EXPERIMENT = Experiment(model="circularnet", dataset="layouts", recipe=Recipe(batch=64, epochs=2, lr=0.1), seed=0)


def fail(training):
    pytest.fail("trained")


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def first_writer(tmp_path, tiny_layouts, forked):
    """The number of a process that trains, and waits in its seventh step until someone kills it."""
    reached, here = os.pipe()

    def wait(training):
        if training.position == 7:
            os.write(here, b"7")
            signal.pause()

    child = os.fork()
    if child == 0:
        signal.alarm(60)
        torch.set_num_threads(1)
        with contextlib.suppress(BaseException):
            Store(tmp_path / "runs").run(EXPERIMENT, "cpu", on_step=wait)
        os._exit(1)
    os.close(here)
    assert os.read(reached, 1) == b"7"
    yield child
    os.close(reached)
    with contextlib.suppress(ProcessLookupError, ChildProcessError):
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_second_writer_is_refused_while_the_first_trains(tmp_path, first_writer):
    store = Store(tmp_path / "runs")
    folder = store.root / EXPERIMENT.key()
    before, start = contents(folder), time.monotonic()
    with pytest.raises(Busy) as caught:
        store.run(EXPERIMENT, "cpu", on_step=fail)
    assert time.monotonic() - start < 5 and contents(folder) == before
    assert str(folder / "run.lock") in str(caught.value) and f"process {first_writer};" in str(caught.value)

    os.kill(first_writer, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(first_writer, 0)[1]) == -signal.SIGKILL
    reached = []
    record = store.run(EXPERIMENT, "cpu", on_step=lambda training: reached.append(training.position))
    assert reached[0] == 6 and record.status == "done"  # free again, and continued from the first epoch


def test_without_the_lock_both_would_train(tmp_path, tiny_layouts, monkeypatch):
    """Witness of the test above."""
    folder = tmp_path / "runs" / EXPERIMENT.key()
    folder.mkdir(parents=True)
    with files.lock(folder / "run.lock"):
        with pytest.raises(Busy):
            Store(tmp_path / "runs").run(EXPERIMENT, "cpu", on_step=fail)
        monkeypatch.setattr(fcntl, "flock", lambda *_: None)
        assert Store(tmp_path / "runs").run(EXPERIMENT, "cpu").status == "done"


def test_a_holder_that_is_out_of_sight_has_no_number(tmp_path, monkeypatch):
    """As in another container, whose processes are not ours."""
    path = tmp_path / "run.lock"
    with files.lock(path):
        with pytest.raises(Busy, match=f"held by process {os.getpid()};"), files.lock(path):
            pass
        monkeypatch.setattr(files, "LOCKS", tmp_path / "none")
        with pytest.raises(Busy, match="held by another process;"), files.lock(path):
            pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP], ids=errno.errorcode.get)
def test_a_file_system_without_locks_is_said_before_training(tmp_path, tiny_layouts, monkeypatch, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(CannotWrite, match=os.strerror(number)) as caught:
        Store(tmp_path / "runs").run(EXPERIMENT, "cpu", on_step=fail)
    assert "nothing was started" in str(caught.value) and "workbench doctor" in str(caught.value)
