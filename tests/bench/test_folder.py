"""`bench data --data folder:PATH`: our batches from files beside torchvision's, and the wait of a training step."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from workbench import datasets
from workbench.bench import folder
from workbench.bench.settings import Settings
from workbench.errors import OutOfRange
from workbench.training import update


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Two classes of eight small photographs of noise."""
    root = tmp_path_factory.mktemp("pictures")
    generator = torch.Generator().manual_seed(0)
    for name in ("cat", "dog"):
        (root / name).mkdir()
        for number in range(8):
            noise = torch.randint(0, 256, (3, 40, 48), generator=generator, dtype=torch.uint8)
            Image.fromarray(noise.permute(1, 2, 0).numpy()).save(root / name / f"{number}.jpg")
    return f"folder:{root}"


def settings(name, **given):
    given = {"data": name, "data_dir": Path("nowhere"), "rounds": 1, "batch": 2, "workers": 1} | given
    return Settings(**given, model="resnet20")


def test_entries_without_and_with_workers_and_the_wait_of_a_step(pictures):
    facts, entries = folder.folder(settings(pictures))
    none, some, step = list(entries)
    assert facts == {"pictures": "14 in files", "batch": 2, "model": "resnet20"}
    assert [none["peer"], some["peer"]] == ["transforms, 0 workers", "transforms, 1 workers"]
    for entry in (none, some):
        assert entry["ratio"] == entry["peer_s"] / entry["time_s"] and entry["shape"] == "2x3x32x32"
        assert entry["pictures_per_s"] == pytest.approx(2 / entry["time_s"])
    assert step["name"] == "resnet20 step, 1 workers" and step["peer"] == "pictures ready"
    assert 0 < step["waited_percent"] < 100
    assert step["ratio"] == pytest.approx(1 - step["waited_percent"] / 100)


def test_steps_that_warm_up_or_are_recorded_do_not_count(pictures, monkeypatch):
    steps, ended = [], []
    monkeypatch.setattr(folder.Training, "step", lambda one: steps.append(one))
    monkeypatch.setattr(folder.Training, "look", lambda one: ended.append(len(steps)))
    folder.step("resnet8", datasets.load(pictures, Path("nowhere"), 32), settings(pictures))
    before, after = ended
    recorder, calls = update.Recorded(), []
    recorder._record = lambda function: calls.append(recorder.calls) or SimpleNamespace(replay=function)
    for _ in range(after):
        recorder(lambda: None)
    assert calls == [before - 1] and after - before == folder.STEPS  # the last one before is the one that is recorded
    assert before > 2  # witness: after two, it would be among those that count


def test_both_read_the_same_files(pictures):
    train, _ = datasets.load(pictures, Path("nowhere"), 32)
    theirs = folder.Files(train)
    assert len(theirs) == len(train) and theirs[3][0].shape == (3, 32, 32)
    assert [theirs[i][1] for i in range(len(theirs))] == train.labels.tolist()
    assert len(set(train.labels.tolist())) == 2  # witness


def test_a_batch_larger_than_the_folder_is_refused(pictures):
    with pytest.raises(OutOfRange, match=r"--batch 64: .* has 14 training pictures"):
        folder.folder(settings(pictures, batch=64))
