"""Killed or out of space inside any write: the old state or the new one is found, and the end is the same."""

import contextlib
import errno
import itertools
import json
import os
import resource
import shutil
import signal

import pytest
import torch

from workbench.build import build
from workbench.datasets import layouts
from workbench.errors import CannotWrite
from workbench.experiments.experiment import Experiment
from workbench.experiments.store import Store
from workbench.training.checkpoint import Checkpoints
from workbench.training.environment import code_version
from workbench.training.loop import Training
from workbench.training.recipe import Recipe

CALLS = (
    (os, "fsync"),
    (os, "rename"),
    (os, "replace"),
    (os, "mkdir"),
    (os, "unlink"),
    (os, "rmdir"),
    (shutil, "rmtree"),
)
EXPERIMENT = Experiment(
    model="circularnet",
    dataset="layouts",
    recipe=Recipe(batch=16, epochs=3, lr=0.1, schedule="onecycle"),  # 3 epochs of 2 steps
    seed=1,
)
KEY = EXPERIMENT.key()


def count_calls(patch, reached):
    """Wrap every call that changes the disk's names; reached(number) happens before call `number`, from 1."""
    numbers = itertools.count(1)

    def wrapped(function):
        def call(*given, **named):
            reached(next(numbers))
            return None if function is fsync else function(*given, **named)

        return call

    fsync = os.fsync  # a killed process loses nothing that was written, so waiting for the disk is left out
    for module, name in CALLS:
        patch(module, name, wrapped(getattr(module, name)))


@pytest.fixture(scope="module")
def train(forked):
    """train(root, at): run the experiment in a child, which is killed at the call number `at`; the calls it made."""
    build(EXPERIMENT.model, 32, 16), code_version()  # once, not in every child

    def run(root, at):
        def reached(number):
            os.pwrite(tally, str(number).encode(), 0)
            if number == at:
                os.kill(os.getpid(), signal.SIGKILL)

        tally = os.open(root / "calls", os.O_CREAT | os.O_WRONLY)
        layouts.load = lambda: (layouts.make(32, seed=0), layouts.make(16, seed=1))
        save = Checkpoints.save

        def noted(checkpoints, step, tensors, scalars):
            state = step, len(scalars["history"])
            write_note(root, [*notes(root), state])
            save(checkpoints, step, tensors, scalars)

        Checkpoints.save = noted
        count_calls(setattr, reached)
        Store(root / "runs").run(EXPERIMENT, device="cpu")

    def train(root, at=0):
        root.mkdir(exist_ok=True)
        status = forked(lambda: run(root, at))
        return status, int((root / "calls").read_text())

    return train


def notes(root):
    """The states that were begun to be saved, oldest first."""
    path = root / "begun.json"
    return [tuple(state) for state in json.loads(path.read_text())] if path.exists() else [(0, 0)]


def write_note(root, states):
    (root / "begun.json").write_text(json.dumps(states))


def state(root):
    found = Checkpoints(root / "runs" / KEY / "ckpt", KEY).load()
    return (found[1]["position"], len(found[1]["history"])) if found else (0, 0)


def outcome(root):
    folder = root / "runs" / KEY
    record = json.loads((folder / "record.json").read_text())
    del record["duration_s"]
    newest = folder / "ckpt" / (folder / "ckpt" / "latest").read_text()
    return record, (folder / "log.jsonl").read_bytes(), {p.name: p.read_bytes() for p in newest.glob("*.safetensors")}


def test_killed_before_every_call_of_a_run(tmp_path, train):
    oracle = tmp_path / "oracle"
    status, calls = train(oracle)
    assert status == 0 and notes(oracle) == [(0, 0), (2, 1), (4, 2), (6, 3)]
    expected = outcome(oracle)
    assert 50 < calls < 120  # three checkpoints, spec, journal and record, and the first checkpoint deleted
    begun = set()
    for number in range(1, calls + 1):
        root = tmp_path / str(number)
        assert train(root, number) == (-signal.SIGKILL, number)
        assert state(root) in notes(root)[-2:], number  # the new state or the one before
        begun.add(notes(root)[-1])
        assert train(root)[0] == 0, number
        assert outcome(root) == expected, number
        shutil.rmtree(root)
    assert begun == set(notes(oracle))  # witness: the kills fell into every checkpoint


@pytest.fixture
def states():
    """Two states of one run, to be saved one after the other."""
    split = layouts.make(32, seed=0)
    torch.manual_seed(0)
    training = Training(build("circularnet", 32), split, split, EXPERIMENT.recipe, 0, "cpu")
    found = []
    for _ in range(2):
        training.step()
        tensors, scalars = training.state()
        copies = {name: {key: value.clone() for key, value in group.items()} for name, group in tensors.items()}
        found.append((training.position, copies, scalars))
    return found


def same(found, expected):
    tensors, scalars = found
    return scalars["position"] == expected[0] and all(
        torch.equal(tensors[name][key], value) for name, group in expected[1].items() for key, value in group.items()
    )


def no_parts(folder):
    return not [path for path in folder.rglob("*") if path.name.endswith(".part")]


@contextlib.contextmanager
def full_disk(monkeypatch, at):
    """From call number `at` on, nothing can be created or written; deleting still works."""

    def reached(number):
        if number >= at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setitem(globals(), "CALLS", ((os, "fsync"), (os, "rename"), (os, "replace"), (os, "mkdir")))
        count_calls(patch.setattr, reached)
        yield


@pytest.mark.parametrize("first", [True, False], ids=["first checkpoint", "later checkpoint"])
def test_a_full_disk_at_every_call(tmp_path, monkeypatch, states, first):
    refused = 0
    for at in itertools.count(1):
        run = tmp_path / str(at)
        run.mkdir()
        checkpoints = Checkpoints(run / "ckpt", "key")
        if not first:
            checkpoints.save(*states[0])
        try:
            with full_disk(monkeypatch, at):
                checkpoints.save(*states[1])
            break
        except CannotWrite as error:
            refused += 1
            assert "No space left" in str(error) and str(run) in str(error) and "continue" in str(error)
        assert no_parts(run)
        found = checkpoints.load()
        assert (first and found is None) or same(found, states[0]) or same(found, states[1])
        checkpoints.save(*states[1])  # space again
        assert same(checkpoints.load(), states[1])
    assert refused >= 12  # two folders, five files and their folder, the rename and its folder, `latest` in three calls


@pytest.mark.parametrize("size", [0, 10, 3000, 20_000])
def test_a_write_cut_short_by_the_system(tmp_path, states, size):
    """The kernel itself refuses to write beyond `size` bytes a file."""
    checkpoints = Checkpoints(tmp_path / "ckpt", "key")
    checkpoints.save(*states[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        with pytest.raises(CannotWrite, match="previous one is intact"):
            checkpoints.save(*states[1])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert no_parts(tmp_path)
    assert same(checkpoints.load(), states[0])
    checkpoints.save(*states[1])
    assert same(checkpoints.load(), states[1])  # witness


def test_what_a_killed_write_left_is_cleared_by_the_next(tmp_path, states):
    checkpoints = Checkpoints(tmp_path / "ckpt", "key")
    checkpoints.save(*states[0])
    (tmp_path / "ckpt" / "step-00000007-00000.part").mkdir()
    checkpoints.save(*states[1])
    assert no_parts(tmp_path)


@pytest.mark.parametrize("again", ["saved", "loaded", "another"])
def test_a_state_that_is_there_is_not_taken_away_to_be_written_again(tmp_path, monkeypatch, states, again):
    """As when a signal comes right after an epoch's end: killed before any call, it is still there."""
    lost = []

    def kill(number):
        if number == at:
            raise KeyboardInterrupt

    for at in itertools.count(1):
        checkpoints = Checkpoints(tmp_path / str(at) / "ckpt", "key")
        checkpoints.folder.mkdir(parents=True)
        checkpoints.save(*states[0]), checkpoints.save(*states[1])
        step, tensors, scalars = states[1]
        if again == "loaded":
            tensors, scalars = checkpoints.load()
        if again == "another":  # of the same name
            scalars = scalars | {"elapsed_s": -1}
        try:
            with monkeypatch.context() as patch:
                count_calls(patch.setattr, kill)
                checkpoints.save(step, tensors, scalars)
            break
        except KeyboardInterrupt:
            lost.append(not same(Checkpoints(checkpoints.folder, "key").load(), states[1]))
    assert lost and any(lost) == (again == "another")  # witness: it would be
