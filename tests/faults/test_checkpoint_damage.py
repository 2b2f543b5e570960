"""A damaged checkpoint is noticed, named, and replaced by an older whole one; nothing in it is ever unpickled."""

import json
import logging
import os
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
from workbench.files import PACKAGE
from workbench.training.checkpoint import Checkpoints
from workbench.training.loop import Training
from workbench.training.recipe import Recipe

EXPERIMENT = Experiment(model="circularnet", dataset="layouts", recipe=Recipe(batch=32, epochs=3, lr=0.1), seed=0)


class Canary:
    """Unpickled, it leaves a folder behind."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path, at, bits=1):
    data = bytearray(path.read_bytes())
    data[at] ^= bits
    path.write_bytes(data)


def overwrite(data):
    return lambda path: path.write_bytes(data)


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
    "half a state": ("state.json", cut),
    "empty state": ("state.json", overwrite(b"")),
    "no state": ("state.json", Path.unlink),
    "state of no text": ("state.json", overwrite(b"\xff\xfe\x00")),
    "state a list": ("state.json", overwrite(b"[]")),
    "state without content": ("state.json", overwrite(b"{}")),
    "state of nothing": ("state.json", overwrite(b"null")),
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
    caplog.set_level(logging.CRITICAL, "workbench")
    path = newest(checkpoints) / "state.json"
    whole = path.read_bytes()
    unnoticed = []
    for at in [*range(200), *random.Random(0).sample(range(len(whole)), 100)]:
        flip(path, at)
        if position(checkpoints) != 3:
            unnoticed.append((at, whole[at : at + 1]))
        path.write_bytes(whole)
    assert not unnoticed
    assert position(checkpoints) == 4  # witness: whole again


@pytest.mark.parametrize("content", [b"", b"step-0000", b"\xff\xfe", b"../..", b"step-99999999-00000", None], ids=str)
def test_a_damaged_pointer_costs_nothing(checkpoints, content):
    pointer = checkpoints.folder / "latest"
    pointer.unlink() if content is None else pointer.write_bytes(content)
    assert position(checkpoints) == 4


def test_the_pointer_decides_between_whole_checkpoints(checkpoints):
    """A process killed between the rename and the pointer leaves a newer whole checkpoint: either is right."""
    older = sorted(path.name for path in checkpoints.folder.glob("step-*"))[0]
    (checkpoints.folder / "latest").write_text(older)
    assert position(checkpoints) in (3, 4)


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


@pytest.mark.parametrize("name", ["extra.safetensors", "model.pt", "optimizer.bin", "random_states_0.pkl"])
def test_a_pickle_in_the_folder_is_never_opened(checkpoints, tmp_path, name):
    bomb = pickle.dumps(Canary(tmp_path / "canary"))
    for folder in (checkpoints.folder, *checkpoints.folder.glob("step-*")):
        (folder / name).write_bytes(bomb)
    assert position(checkpoints) == 4
    assert not (tmp_path / "canary").exists()
    pickle.loads(bomb)
    assert (tmp_path / "canary").exists()  # witness


@pytest.mark.parametrize("name", ["model", "optimizer", "generators", "progress"])
def test_a_pickle_in_the_place_of_tensors_is_never_opened(checkpoints, tmp_path, name):
    for folder in checkpoints.folder.glob("step-*"):
        (folder / f"{name}.safetensors").write_bytes(pickle.dumps(Canary(tmp_path / "canary")))
    with pytest.raises(Corrupt):
        checkpoints.load()
    assert not (tmp_path / "canary").exists()


def test_no_source_of_the_package_unpickles():
    pattern = re.compile(r"(?<!safetensors\.)torch\.load\(|\b(import|from)\s+(c?pickle|dill|joblib|shelve|marshal)\b")
    sources = {path: path.read_text() for path in PACKAGE.rglob("*.py")}
    assert not [path for path, text in sources.items() if pattern.search(text)] and len(sources) > 20
    assert pattern.search("import pickle") and pattern.search("torch.load(path)")  # witness


def test_two_checkpoints_are_kept_and_the_pointer_names_the_newest(checkpoints):
    tensors, scalars = checkpoints.load()
    for step in range(5, 9):
        checkpoints.save(step, tensors, scalars | {"position": step})
        names = sorted(path.name for path in checkpoints.folder.iterdir())
        assert len(names) == 3 and names[0] == "latest"
        assert newest(checkpoints).name == names[-1] and position(checkpoints) == step


def test_a_damaged_checkpoint_takes_no_whole_one_s_place(checkpoints):
    """Continued from step 10 because step 20 is damaged, and saved at step 15: both whole ones must stay."""
    tensors, scalars = checkpoints.load()
    for step in (10, 20):
        checkpoints.save(step, tensors, scalars | {"position": step})
    flip(newest(checkpoints) / "model.safetensors", -5)
    assert position(checkpoints) == 10
    checkpoints.save(15, tensors, scalars | {"position": 15})
    assert position(checkpoints) == 15
    flip(newest(checkpoints) / "model.safetensors", -5)
    assert position(checkpoints) == 10  # still there


def test_a_state_returns_as_it_was_saved(checkpoints, template):
    tensors, scalars = checkpoints.load()
    assert json.loads((newest(checkpoints) / "scalars.json").read_text()) == scalars
    assert json.loads((newest(checkpoints) / "state.json").read_text())["key"] == "key"
    assert set(tensors) == {"model", "optimizer", "generators", "progress"}
    assert len(scalars["history"]) == 1 and scalars["position"] == 4
