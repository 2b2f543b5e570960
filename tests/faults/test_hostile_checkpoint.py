"""A checkpoint made by a hostile hand, whose checksums are right, is refused by name and at no cost.

What cannot be read as tensors costs one checkpoint, like any damage; tensors or generators of another run stop the run.
"""

import copy
import json
import os
import pickle
import shutil
import struct
import time

import pytest
import safetensors.torch
import torch

from workbench.errors import Corrupt
from workbench.experiments.experiment import Experiment
from workbench.experiments.store import Store
from workbench.files import sha256
from workbench.training import checkpoint
from workbench.training.checkpoint import Checkpoints
from workbench.training.recipe import Recipe

EXPERIMENT = Experiment(model="circularnet", dataset="layouts", recipe=Recipe(batch=64, epochs=3, lr=0.1), seed=0)
KEY = EXPERIMENT.key()


class Stop(Exception):
    """Ends a run from inside."""


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A runs folder in which two epochs of three are done."""
    from workbench.datasets import layouts

    def stop(training):
        if len(training.history) == 2:
            raise Stop

    root = tmp_path_factory.mktemp("template")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layouts, "load", lambda: (layouts.make(320, seed=0), layouts.make(64, seed=1)))
        with pytest.raises(Stop):
            Store(root).run(EXPERIMENT, "cpu", on_epoch=stop)
    return root


@pytest.fixture
def store(tmp_path, template, tiny_layouts):
    shutil.copytree(template, tmp_path / "runs")
    return Store(tmp_path / "runs")


def checkpoints(store):
    return Checkpoints(store.root / KEY / "ckpt", KEY)


def newest(store):
    folder = store.root / KEY / "ckpt"
    return folder / (folder / "latest").read_text()


def forge(folder, name, data):
    """Put `data` in the place of a file, with its checksum."""
    state = json.loads((folder / "state.json").read_text())
    state["sha256"][name] = sha256(data)
    (folder / "state.json").write_text(json.dumps(state))
    (folder / name).write_bytes(data)


def tensors(header, data=b"", pad=0):
    text = json.dumps(header).encode() + b" " * pad
    return struct.pack("<Q", len(text)) + text + data


def info(start, end, shape=(2,), dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


HUGE = tensors({"one": info(0, 8)}, bytes(8), pad=100_000_000 - 100)
UNREADABLE = {
    "header of 100 MB": (HUGE, "header of 100 MB"),
    "header of 100 MB that is not there": (struct.pack("<Q", 100_000_000) + b"{", "header of 100 MB"),
    "header without end": (struct.pack("<Q", 2**63) + b"{", "header of"),
    "nested header": (struct.pack("<Q", 10**6) + b"[" * 10**6, "header"),
    "overlapping offsets": (tensors({"one": info(0, 8), "two": info(4, 12)}, bytes(12)), "two"),
    "a gap": (tensors({"one": info(0, 8), "two": info(12, 20)}, bytes(20)), "two"),
    "offset beyond the end": (tensors({"one": info(0, 800, [200])}, bytes(8)), "not fully covered"),
    "shape of another size": (tensors({"one": info(0, 8, [3])}, bytes(8)), "shape"),
    "shape without end": (tensors({"one": info(0, 8, [2**63, 2])}, bytes(8)), "overflow"),
    "unknown type": (tensors({"one": info(0, 8, dtype="F33")}, bytes(8)), "F33"),
    "type that torch has not": (tensors({"one": info(0, 8, [16], "F4")}, bytes(8)), "F4"),
    "nothing": (b"", "too small"),
    "a pickle": (pickle.dumps({"conv1.weight": 0}), "header"),
}


@pytest.mark.parametrize("fault", UNREADABLE)
@pytest.mark.parametrize("file", ["model.safetensors", "generators.safetensors"])
def test_what_cannot_be_read_costs_one_checkpoint(store, caplog, fault, file):
    data, said = UNREADABLE[fault]
    forge(newest(store), file, data)
    start = time.monotonic()
    assert checkpoints(store).load()[1]["position"] == 5
    assert time.monotonic() - start < 5
    [warning] = caplog.records
    assert file in warning.message and said in warning.message


def test_a_forged_checkpoint_is_refused_for_its_content_alone(store, caplog, monkeypatch):
    """Witness: its checksum is right, and safetensors itself would read 100 MB of header."""
    forge(newest(store), "model.safetensors", (newest(store) / "model.safetensors").read_bytes())
    assert checkpoints(store).load()[1]["position"] == 10 and not caplog.records
    forge(newest(store), "model.safetensors", HUGE)
    monkeypatch.setattr(checkpoint, "HEADER_BYTES", 2**40)
    assert set(checkpoints(store).load()[0]["model"]) == {"one"}


@pytest.mark.parametrize("name", ["../../../spec.json", "/dev/zero", "deep/model.safetensors", "pipe.safetensors"])
def test_a_state_names_files_of_its_own_folder_only(store, caplog, name):
    """/dev/zero has no end, and a pipe never begins."""
    os.mkfifo(newest(store) / "pipe.safetensors")
    path = newest(store) / "state.json"
    state = json.loads(path.read_text())
    path.write_text(json.dumps(state | {"sha256": {name: "0", **state["sha256"]}}))
    assert checkpoints(store).load()[1]["position"] == 5
    assert "no file of a checkpoint" in caplog.text


def put(name, change):
    return lambda group: group.__setitem__(name, change(group.get(name)))


ONE = put("fc.more", lambda value: torch.ones(1))
FOREIGN = {
    "a weight of another type": ("model", put("fc.weight", torch.Tensor.double), "'fc.weight'"),
    "a weight of another shape": ("model", put("fc.weight", lambda value: value[:-1]), "'fc.weight'"),
    "a weight that is missing": ("model", lambda group: group.pop("fc.weight"), "'fc.weight'"),
    "a weight too many": ("model", ONE, "'fc.more'"),
    "a momentum of another shape": ("optimizer", put("fc.weight", lambda value: value[:-1]), "'fc.weight'"),
    "a momentum that is missing": ("optimizer", lambda group: group.pop("fc.weight"), "'fc.weight'"),
    "a momentum too many": ("optimizer", ONE, "'fc.more'"),
    "a mean loss of another type": ("progress", put("progress", torch.Tensor.float), "'progress'"),
    "no generator of torch": ("generators", lambda group: group.pop("torch"), "'torch'"),
    "a short generator of torch": ("generators", put("torch", lambda value: value[:-1]), "RNG state"),
    "an empty generator of torch": ("generators", put("torch", torch.zeros_like), "mt19937"),
    "a generator of torch in floats": ("generators", put("torch", torch.Tensor.float), "RNG state"),
}


@pytest.mark.parametrize("fault", FOREIGN)
def test_tensors_of_another_run_stop_the_run(store, fault):
    name, change, said = FOREIGN[fault]
    path = newest(store) / f"{name}.safetensors"
    group = safetensors.torch.load(path.read_bytes())
    change(group)
    forge(newest(store), path.name, safetensors.torch.save({key: value.contiguous() for key, value in group.items()}))
    with pytest.raises(Corrupt, match=said):
        store.run(EXPERIMENT, "cpu", on_step=lambda training: pytest.fail("trained"))
    assert store.get(EXPERIMENT) is None


def python_words(change):
    return lambda random: random["python"].__setitem__(1, change(random["python"][1]))


def numpy_words(change):
    return lambda random: random["numpy"].__setitem__(0, change(random["numpy"][0]))


GENERATORS = {
    "no generator of Python": lambda random: random.pop("python"),
    "a short generator of Python": python_words(lambda words: words[:-2]),
    "an empty generator of Python": lambda random: random.update(python=[]),
    "a negative word for Python": python_words(lambda words: [-1, *words[1:]]),
    "a text for Python": python_words(lambda words: ["1", *words[1:]]),
    "a position beyond Python's words": python_words(lambda words: [*words[:-1], 10**6]),
    "no generator of numpy": lambda random: random.pop("numpy"),
    "a short generator of numpy": numpy_words(lambda words: words[:-2]),
    "a negative word for numpy": numpy_words(lambda words: [-1, *words[1:]]),
    "a word too large for numpy": numpy_words(lambda words: [2**40, *words[1:]]),
    "a text for numpy": numpy_words(lambda words: ["one", *words[1:]]),
    "a position beyond numpy's words": lambda random: random["numpy"].__setitem__(1, 10**6),
    "a position before numpy's words": lambda random: random["numpy"].__setitem__(1, -5),
    "nothing": lambda random: random.clear(),
}


@pytest.mark.parametrize("fault", GENERATORS)
def test_a_generator_that_is_none_stops_the_run(store, fault):
    path = newest(store) / "scalars.json"
    scalars = json.loads(path.read_text())
    forged = copy.deepcopy(scalars)
    GENERATORS[fault](forged["random"])
    assert forged != scalars
    forge(newest(store), path.name, json.dumps(forged).encode())
    with pytest.raises(Corrupt, match="does not belong to this run"):
        store.run(EXPERIMENT, "cpu", on_step=lambda training: pytest.fail("trained"))
    forge(newest(store), path.name, json.dumps(scalars).encode())
    assert store.run(EXPERIMENT, "cpu").status == "done"  # witness
