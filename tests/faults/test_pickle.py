"""Nothing in a run's folder is ever unpickled, under whatever name it lies there."""

import json
import os
import pickle
import re

import pytest
import torch

from workbench.errors import Corrupt
from workbench.files import PACKAGE, sha256
from workbench.training.checkpoint import Checkpoints

GROUPS = ("model", "optimizer", "generators", "progress")


class Canary:
    """Unpickled, it leaves a folder behind."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.fixture
def canary(tmp_path):
    return tmp_path / "canary"


@pytest.fixture
def checkpoints(tmp_path):
    made = Checkpoints(tmp_path / "ckpt", "key")
    for step in (3, 4):
        made.save(step, {name: {"values": torch.ones(9)} for name in GROUPS}, {"history": [], "position": step})
    return made


@pytest.mark.parametrize("name", ["extra.safetensors", "model.pt", "optimizer.bin", "random_states_0.pkl"])
def test_a_pickle_in_the_folder_is_never_opened(checkpoints, canary, name):
    bomb = pickle.dumps(Canary(canary))
    for folder in (checkpoints.folder, *checkpoints.folder.glob("step-*")):
        (folder / name).write_bytes(bomb)
    assert checkpoints.load()[1]["position"] == 4
    assert not canary.exists()
    pickle.loads(bomb)
    assert canary.exists()  # witness


@pytest.mark.parametrize("checksum", [False, True], ids=["checksum wrong", "checksum right"])
@pytest.mark.parametrize("name", [*(f"{group}.safetensors" for group in GROUPS), "scalars.json", "weights.pt"])
def test_a_pickle_in_the_place_of_tensors_is_never_opened(checkpoints, canary, name, checksum):
    for folder in checkpoints.folder.glob("step-*"):
        bomb = pickle.dumps(Canary(canary))
        (folder / name).write_bytes(bomb)
        state = json.loads((folder / "state.json").read_text())
        state["sha256"][name] = sha256(bomb) if checksum else "0"
        (folder / "state.json").write_text(json.dumps(state))
    with pytest.raises(Corrupt):
        checkpoints.load()
    assert not canary.exists()


def test_no_source_of_the_package_unpickles():
    pattern = re.compile(r"torch\.load\b|\b(import|from)\s+(c?pickle|dill|joblib|shelve|marshal)\b")
    sources = {path: path.read_text() for path in PACKAGE.rglob("*.py")}
    assert not [path for path, text in sources.items() if pattern.search(text)] and len(sources) > 20
    assert pattern.search("import pickle") and pattern.search("torch.load(path)")  # witness
