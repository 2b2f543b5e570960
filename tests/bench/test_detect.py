"""The steps that `bench detect` compares train the same detector."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from workbench.bench import detect
from workbench.bench.settings import Settings
from workbench.datasets import shapes
from workbench.detection.batches import learned

CPU = torch.device("cpu")


@pytest.fixture
def small(monkeypatch):
    """Pictures of 64 px, and a rate at which one step is seen."""
    monkeypatch.setattr(detect, "SIDE", 64)
    monkeypatch.setattr(detect, "RECIPE", replace(detect.RECIPE, lr=0.01))


@pytest.mark.parametrize("decay", [1e-4, 0])
def test_ours_and_torchvisions_make_the_same_step(small, monkeypatch, decay):
    """RetinaNet, whose losses draw nothing at random; a peer without weight decay is the witness."""
    drawn = [learned(item, False) for item in shapes.make(2, seed=0)]
    scenes = [x for x, _ in drawn], [known for _, known in drawn]
    detector, peer = detect.pair("retinanet", CPU)
    detect.ours(detector, scenes)()
    monkeypatch.setattr(detect, "RECIPE", replace(detect.RECIPE, weight_decay=decay))
    detect.plain(peer, scenes, detector.background)()
    ours, theirs = detector.state_dict(), peer.state_dict()
    same = [torch.allclose(ours[name], value, rtol=2e-7, atol=1e-7) for name, value in theirs.items()]
    assert all(same) == (decay > 0)


def test_every_entry_tells_time_and_memory_as_ratios(small):
    found = list(detect.entries(Settings(data_dir=Path("nowhere"), rounds=1)))
    assert [one["name"] for one in found] == ["retinanet-resnet50", "fasterrcnn-resnet50"]
    for one in found:
        assert one["ratio"] == one["peer_s"] / one["time_s"] > 0 and one["shape"] == "2x3x64x64"
        assert one["step_megabytes"] > 100 and 0.5 < one["memory_of_peer"] < 1.5
