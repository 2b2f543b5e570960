"""The steps that `bench detect` compares train the same detector."""

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
    monkeypatch.setattr(detect, "SIDE", 64)


def test_ours_and_torchvisions_make_the_same_step(small):
    """RetinaNet, whose losses draw nothing at random."""
    drawn = [learned(item, False) for item in shapes.make(2, seed=0)]
    scenes = [x for x, _ in drawn], [known for _, known in drawn]
    detector, peer = detect.pair("retinanet", CPU)
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    step = detect.ours(detector, scenes), detect.plain(peer, scenes, detector.background)
    step[0](), step[1]()
    after, theirs = detector.state_dict(), peer.state_dict()
    for name, value in theirs.items():
        torch.testing.assert_close(after[name], value, rtol=1e-5, atol=1e-7)
    assert not torch.equal(
        after["head.classification_head.cls_logits.bias"], before["head.classification_head.cls_logits.bias"]
    )


def test_every_entry_tells_time_and_memory_as_ratios(small):
    found = list(detect.entries(Settings(data_dir=Path("nowhere"), rounds=1)))
    assert [one["name"] for one in found] == ["retinanet-resnet50", "fasterrcnn-resnet50"]
    for one in found:
        assert one["ratio"] == one["peer_s"] / one["time_s"] > 0 and one["shape"] == "2x3x64x64"
        assert one["step_megabytes"] > 100 and 0.5 < one["memory_of_peer"] < 1.5
