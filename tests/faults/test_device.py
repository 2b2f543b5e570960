"""Without a GPU a run goes to the CPU and its record says so; one that moved there is not called bit-identical."""

import json
import shutil

import pytest
import torch

from workbench import cli
from workbench.errors import OutOfRange
from workbench.experiments.compare import hardware
from workbench.experiments.experiment import Experiment
from workbench.experiments.store import Store
from workbench.training.checkpoint import Checkpoints
from workbench.training.environment import device_name
from workbench.training.recipe import Recipe

EXPERIMENT = Experiment(model="circularnet", dataset="layouts", recipe=Recipe(batch=64, epochs=2, lr=0.1), seed=0)
TRAIN = ["train", "circularnet", "--data", "layouts", "--recipe", "smoke", "--epochs", "1", "--device"]
CPU = device_name(torch.device("cpu"))


class Stop(Exception):
    """Ends a run from inside."""


def stop(training):
    raise Stop


@pytest.fixture
def no_gpu(monkeypatch):
    """As under CUDA_VISIBLE_DEVICES= , on any machine."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)


def test_auto_is_the_cpu_where_no_gpu_is_seen(tmp_path, tiny_layouts, no_gpu):
    record = Store(tmp_path / "runs").run(EXPERIMENT, "auto")
    assert record.status == "done" and record.environment["device"] == CPU
    assert hardware(record).startswith(CPU) and "moved" not in hardware(record)
    plain = Store(tmp_path / "other").run(EXPERIMENT, "cpu")
    assert plain._replace(duration_s=0) == record._replace(duration_s=0)


def test_a_gpu_that_is_asked_for_and_not_there(tmp_path, tiny_layouts, no_gpu, capsys):
    with pytest.raises(OutOfRange, match="no GPU"):
        Store(tmp_path / "runs").run(EXPERIMENT, "cuda")
    assert cli.main([*TRAIN, "cuda"]) == 2
    [message] = capsys.readouterr().err.splitlines()
    assert "cuda" in message and "no GPU" in message and "cpu" in message
    assert not list(tmp_path.glob("runs/*"))  # nothing was started
    assert cli.main([*TRAIN, "auto"]) == 0  # witness


def test_a_checkpoint_of_a_gpu_goes_on_on_the_cpu_and_says_so(tmp_path, tiny_layouts, no_gpu, caplog):
    """The checkpoint is what a GPU would have written: its name, and a generator that is not here."""
    store = Store(tmp_path / "runs")
    with pytest.raises(Stop):
        store.run(EXPERIMENT, "cpu", on_epoch=stop)
    shutil.copytree(tmp_path / "runs", tmp_path / "stayed")
    checkpoints = Checkpoints(store.root / EXPERIMENT.key() / "ckpt", EXPERIMENT.key())
    tensors, scalars = checkpoints.load()
    tensors["generators"]["cuda"] = torch.zeros(16, dtype=torch.uint8)
    scalars["machines"] = ["NVIDIA H200, torch 2.15.0+cu130"]
    checkpoints.save(scalars["position"], tensors, scalars)

    record = store.run(EXPERIMENT, "auto")
    assert record.environment["device"] == CPU and record.status == "done"
    assert [name.split(",")[0] for name in record.environment["machines"]] == ["NVIDIA H200", CPU]
    assert "moved between machines" in hardware(record) and "no promise" in caplog.text
    written = json.loads((store.root / EXPERIMENT.key() / "record.json").read_text())
    assert written["environment"]["machines"] == record.environment["machines"]
    stayed = Store(tmp_path / "stayed").run(EXPERIMENT, "auto")
    assert "moved" not in hardware(stayed) and stayed.curves == record.curves  # witness
