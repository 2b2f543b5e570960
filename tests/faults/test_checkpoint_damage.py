"""A damaged checkpoint is noticed, named, kept, and replaced by an older whole one."""

import json
import logging
import pickle
import random
import re
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch

from workbench.build import build
from workbench.datasets import layouts
from workbench.errors import Corrupt
from workbench.experiments.experiment import Experiment
from workbench.experiments.store import Store
from workbench.training.checkpoint import Checkpoints
from workbench.training.environment import code_version
from workbench.training.loop import Training
from workbench.training.recipe import Recipe

EXPERIMENT = Experiment(model="circularnet", dataset="layouts", recipe=Recipe(batch=32, epochs=3, lr=0.1), seed=0)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path, at, bits=1):
    data = bytearray(path.read_bytes())
    data[at] ^= bits
    path.write_bytes(data)


def overwrite(data):
    return lambda path: path.write_bytes(data)


def edit(path, name):
    """Take a generator out of the scalars."""
    scalars = json.loads(path.read_bytes())
    del scalars["random"][name]
    path.write_text(json.dumps(scalars))


HUGE_HEADER = (100 * 2**20).to_bytes(8, "little") + b"{"
DAMAGE = {
    "half a model": ("model.safetensors", cut),
    "empty model": ("model.safetensors", overwrite(b"")),
    "no model": ("model.safetensors", Path.unlink),
    "one byte of a weight": ("model.safetensors", lambda path: flip(path, -5)),
    "one byte of the header": ("model.safetensors", lambda path: flip(path, 40)),
    "header of 100 MB": ("model.safetensors", overwrite(HUGE_HEADER)),
    "pickle for a model": ("model.safetensors", overwrite(pickle.dumps({"conv1.weight": 0}))),
    "one byte of momentum": ("optimizer.safetensors", lambda path: flip(path, -5)),
    "no generators": ("generators.safetensors", Path.unlink),
    "one byte of a generator": ("generators.safetensors", lambda path: flip(path, -5)),
    "half the mean loss": ("progress.safetensors", cut),
    "half the scalars": ("scalars.json", cut),
    "empty scalars": ("scalars.json", overwrite(b"")),
    "no scalars": ("scalars.json", Path.unlink),
    "scalars without python's generator": ("scalars.json", lambda path: edit(path, "python")),
    "scalars without numpy's generator": ("scalars.json", lambda path: edit(path, "numpy")),
    "one digit of python's generator": (
        "scalars.json",
        lambda path: flip(path, path.read_bytes().index(b"python") + 20),
    ),
    "one digit of numpy's generator": ("scalars.json", lambda path: flip(path, path.read_bytes().index(b"numpy") + 20)),
    "half a state": ("state.json", cut),
    "empty state": ("state.json", overwrite(b"")),
    "no state": ("state.json", Path.unlink),
    "state of no text": ("state.json", overwrite(b"\xff\xfe\x00")),
    "state a list": ("state.json", overwrite(b"[]")),
    "state without content": ("state.json", overwrite(b"{}")),
    "state of nothing": ("state.json", overwrite(b"null")),
    "state nested without end": ("state.json", overwrite(b"[" * 100_000)),
    "state of an endless number": ("state.json", overwrite(b"9" * 10_000)),
}


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A folder with the checkpoints of step 3 and step 4."""
    split = layouts.make(64, seed=0)
    torch.manual_seed(0)
    training = Training(build("circularnet", 32), split, split, EXPERIMENT.recipe, 0, "cpu")
    folder = tmp_path_factory.mktemp("template") / "ckpt"
    while training.position < 4:
        training.close_epoch() if training.position == 2 and not training.history else training.step()
        Checkpoints(folder, "key").save(training.position, *training.state())
    return folder


@pytest.fixture
def checkpoints(tmp_path, template):
    shutil.copytree(template, tmp_path / "ckpt")
    return Checkpoints(tmp_path / "ckpt", "key")


def newest(checkpoints):
    return checkpoints.folder / (checkpoints.folder / "latest").read_text()


def position(checkpoints):
    return checkpoints.load()[1]["position"]


@pytest.mark.parametrize("damage", DAMAGE)
def test_the_older_checkpoint_is_used_and_the_damage_named(checkpoints, caplog, damage):
    file, harm = DAMAGE[damage]
    assert position(checkpoints) == 4 and not caplog.records  # witness: whole before
    path = newest(checkpoints) / file
    harm(path)
    assert position(checkpoints) == 3
    [warning] = caplog.records
    assert warning.levelno == logging.WARNING
    named = path.parent if damage in ("state a list", "state without content", "state of nothing") else path
    assert str(named) in warning.message


def test_a_flipped_weight_would_pass_without_the_checksum(checkpoints):
    """Witness: safetensors itself notices nothing."""
    path = newest(checkpoints) / "model.safetensors"
    before = safetensors.torch.load(path.read_bytes())
    flip(path, -5)
    after = safetensors.torch.load(path.read_bytes())
    assert set(before) == set(after) and not all(torch.equal(before[name], after[name]) for name in before)


def test_a_flipped_byte_anywhere_in_the_state_is_noticed(checkpoints, caplog):
    """Position, history and two generators stand there: a silent change would be a silent other run."""
    path = newest(checkpoints) / "state.json"
    whole = path.read_bytes()
    unnoticed = []
    for at in [*range(200), *random.Random(0).sample(range(len(whole)), 100)]:
        flip(path, at)
        caplog.clear()
        if position(checkpoints) != 3 and "not bit-identical" not in caplog.text:  # the versions are only compared
            unnoticed.append((at, whole[at : at + 1]))
        path.write_bytes(whole)
    assert not unnoticed
    assert position(checkpoints) == 4  # witness: whole again


def test_a_checkpoint_of_another_run_is_not_used(tmp_path, checkpoints, caplog):
    split = layouts.make(64, seed=0)
    other = Training(build("circularnet", 32), split, split, EXPERIMENT.recipe, 1, "cpu")
    other.position = 5
    Checkpoints(checkpoints.folder, "another key").save(5, *other.state())
    assert position(checkpoints) == 4
    assert "belongs to another run" in caplog.text
    assert position(Checkpoints(checkpoints.folder, "another key")) == 5  # witness


def test_when_all_are_damaged_the_run_does_not_start_again_by_itself(checkpoints):
    for path in checkpoints.folder.glob("*/model.safetensors"):
        flip(path, -5)
    with pytest.raises(Corrupt) as caught:
        checkpoints.load()
    assert str(checkpoints.folder) in str(caught.value) and "Delete" in str(caught.value)
    shutil.rmtree(checkpoints.folder)
    assert checkpoints.load() is None  # witness: none is not all damaged


def test_a_run_with_damaged_checkpoints_is_refused_and_kept(tmp_path, tiny_layouts, template):
    store = Store(tmp_path / "runs")
    folder = store.root / EXPERIMENT.key() / "ckpt"
    folder.parent.mkdir(parents=True)
    shutil.copytree(template, folder)  # of another key
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(Corrupt, match=re.escape(str(folder))):
        store.run(EXPERIMENT, device="cpu", on_step=lambda training: pytest.fail("trained"))
    assert store.get(EXPERIMENT) is None
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_damaged_checkpoint_takes_no_whole_one_s_place(checkpoints):
    """Continued from step 10 because step 20 is damaged, and saved at step 15: both whole ones must stay."""
    tensors, scalars = checkpoints.load()
    for step in (10, 20):
        checkpoints.save(step, tensors, scalars | {"position": step})
    flip(newest(checkpoints) / "model.safetensors", -5)
    assert position(checkpoints) == 10
    checkpoints.save(15, tensors, scalars | {"position": 15})
    later = Checkpoints(checkpoints.folder, "key")  # another process, which never looks at step 20
    assert position(later) == 15
    later.save(16, tensors, scalars | {"position": 16})
    flip(newest(checkpoints) / "model.safetensors", -5)
    assert position(later) == 15  # still there


def test_what_was_damaged_is_kept_and_never_read_again(checkpoints, caplog):
    damaged = newest(checkpoints)
    cut(damaged / "model.safetensors")
    evidence = {path.name: path.read_bytes() for path in damaged.iterdir()}
    assert position(checkpoints) == 3 and f"{damaged.name}.bad" in caplog.text
    assert damaged.is_dir()  # looking changes nothing
    tensors, scalars = checkpoints.load()
    for step in (4, 5, 6, 7):  # step 4 comes again, under the same name
        checkpoints.save(step, tensors, scalars | {"position": step})
    bad = damaged.with_name(f"{damaged.name}.bad")
    assert {path.name: path.read_bytes() for path in bad.iterdir()} == evidence
    caplog.clear()
    assert position(Checkpoints(checkpoints.folder, "key")) == 7 and not caplog.records
    assert sorted(path.name[:13] for path in checkpoints.folder.glob("step-*")) == [
        "step-00000004", "step-00000006", "step-00000007",
    ]  # fmt: skip


@pytest.mark.parametrize("changed", [{"torch": "1.0.0"}, {"code": "00000000"}, None], ids=str)
def test_a_checkpoint_of_other_versions_is_continued_and_said_to_be_so(checkpoints, caplog, changed):
    path = newest(checkpoints) / "state.json"
    state = json.loads(path.read_text())
    assert state["made_with"] == {"torch": torch.__version__, "code": code_version()}
    assert position(checkpoints) == 4 and not caplog.records  # witness
    path.write_text(json.dumps(state | {"made_with": changed and state["made_with"] | changed}))
    assert position(checkpoints) == 4
    [warning] = caplog.records
    assert "not bit-identical" in warning.message and str(changed and next(iter(changed.values()))) in warning.message


def test_a_state_returns_as_it_was_saved(checkpoints, template):
    tensors, scalars = checkpoints.load()
    assert json.loads((newest(checkpoints) / "scalars.json").read_text()) == scalars
    assert json.loads((newest(checkpoints) / "state.json").read_text())["key"] == "key"
    assert set(tensors) == {"model", "optimizer", "generators", "progress"}
    assert len(scalars["history"]) == 1 and scalars["position"] == 4
