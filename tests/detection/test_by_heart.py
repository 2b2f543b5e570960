"""A detector learns a few pictures by heart: batches, losses, updates and boxes fit together, on drawn and real ones.

It says nothing of a module.  It rules out what training hides, such as boxes of other pictures.
"""

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from workbench import files
from workbench.build import build
from workbench.datasets import PLACES, coco, shapes
from workbench.detection.batches import DetectionBatches
from workbench.detection.start import start
from workbench.detection.training import DetectionTraining, evaluate
from workbench.experiments import begin, tables
from workbench.experiments.store import Store
from workbench.training.recipe import Recipe

DATA = files.data_dir()  # as the caller's environment says, before any test has its own
REGIONS = "anchor=4,finest=4,proposals=100,regions=64"
SMALL = {"retinanet": "anchor=2,finest=4,norm=group", "fasterrcnn": REGIONS, "cascadercnn": REGIONS}


@dataclass
class First:
    """The first pictures of a split."""

    split: Any
    count: int

    def __len__(self):
        return self.count

    def item(self, index):
        return self.split.item(index)

    @property
    def classes(self):
        return self.split.classes


def learned(detector, split, lr):
    """AP on the first 8 pictures before and after 120 updates, in percent."""
    few = First(split, 8)
    before = evaluate(detector.eval(), DetectionBatches(few, 8), "float32")
    recipe = Recipe(batch=4, epochs=60, lr=lr, schedule="onecycle")
    training = DetectionTraining(detector, few, few, recipe, 0, "cpu")
    while training.position < 120:
        training.step()
    return before["ap"], evaluate(detector.eval(), DetectionBatches(few, 8), "float32")["ap"]


@pytest.mark.parametrize("kind", SMALL)
def test_drawn_pictures(kind):
    torch.manual_seed(0)
    detector = build(f"{kind}[{SMALL[kind]},image_size=64,width=32]-cra4-resnet8", 6)
    before, after = learned(detector, shapes.make(8, seed=0), 0.05)
    assert after > 40 > 5 > before


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / PLACES["coco-mini"]).is_dir(), reason="coco-mini is not in $WORKBENCH_DATA")
@pytest.mark.parametrize("fresh", [False, True])
def test_photographs(fresh):
    """By the twin of CRA Table VI at coco-mini, its backbone from CIFAR-10 or not: 30 boxes of 12 of 80 classes."""
    experiment = tables.load("cra-6").experiments("coco-mini")[0]
    torch.manual_seed(0)
    detector = build(experiment.model, 80)
    if not fresh:
        start(detector, begin.trained(begin.backbone(experiment), Store()))
    before, after = learned(detector, coco.load_mini(DATA)[0], 0.02)
    print(f"AP before {before:.1f} %, after {after:.1f} %")
    assert after > 40 > 1 > before
