"""A training step of our detectors beside torchvision's own: same backbone, weights, pictures, losses and optimizer."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection import fasterrcnn_resnet50_fpn, retinanet_resnet50_fpn

from workbench.bench.settings import Settings
from workbench.bench.timing import Case, entry, interleaved, peak_bytes
from workbench.build import build
from workbench.datasets import shapes
from workbench.datasets.boxes import Boxes
from workbench.detection.batches import learned
from workbench.detection.detector import LONGER, Detector
from workbench.detection.training import DetectionUpdate
from workbench.training.processes import Processes
from workbench.training.recipe import Recipe

PEERS = {"retinanet": retinanet_resnet50_fpn, "fasterrcnn": fasterrcnn_resnet50_fpn}
PICTURES, SIDE, CLASSES = 2, 320, len(shapes.CLASSES)
RECIPE = Recipe(batch=PICTURES, epochs=1, lr=1e-4)
Scenes = tuple[list[Tensor], list[Boxes]]


def detect(settings: Settings) -> tuple[dict[str, Any], Iterator[dict[str, Any]]]:
    """What the pictures are, and the entries."""
    return {"pictures": "drawn, resized in the step"}, entries(settings)


def entries(settings: Settings) -> Iterator[dict[str, Any]]:
    """Of each detector that torchvision has, too."""
    device = settings.where
    split = shapes.make(PICTURES, seed=0)
    drawn = [learned(split.item(number), False) for number in range(PICTURES)]
    scenes = [x.to(device) for x, _ in drawn], [Boxes(*(column.to(device) for column in known)) for _, known in drawn]
    for kind in PEERS:
        detector, peer = pair(kind, device)
        cases = {"ours": ours(detector, scenes), "torchvision": plain(peer, scenes, detector.background)}
        times = interleaved(cases, settings.rounds, device)
        held = {name: peak_bytes(case, device) for name, case in cases.items()}
        more = {"step_megabytes": held["ours"] / 1e6, "memory_of_peer": held["ours"] / held["torchvision"]}
        shape = f"{PICTURES}x3x{SIDE}x{SIDE}"
        yield entry(f"{kind}-resnet50", shape, "torchvision", times, "ours", "torchvision", **more)


def pair(kind: str, device: torch.device) -> tuple[Detector, Any]:
    """Ours and torchvision's with the same weights, in training mode."""
    detector = build(f"{kind}[image_size={SIDE}]-resnet50", CLASSES).to(device).train()
    named = {"num_classes": CLASSES + detector.background, "min_size": SIDE, "max_size": SIDE * LONGER[0] // LONGER[1]}
    peer = PEERS[kind](weights=None, weights_backbone=None, **named)
    peer.load_state_dict(detector.state_dict())
    return detector, peer.to(device).train()


def ours(detector: Detector, scenes: Scenes) -> Case:
    """A guarded update, as in every run."""
    update = DetectionUpdate(detector, RECIPE, Processes(scenes[0][0].device.type))
    update.batch = scenes
    return lambda: update(RECIPE.lr)


def plain(peer: Any, scenes: Scenes, first: int) -> Callable[[], None]:
    """As torchvision's reference loop: losses, backward, SGD."""
    momentum, decay = RECIPE.momentum, RECIPE.weight_decay
    optimizer = torch.optim.SGD(peer.parameters(), lr=RECIPE.lr, momentum=momentum, weight_decay=decay)
    pictures, known = scenes
    targets = [{"boxes": one.corners, "labels": one.labels + first} for one in known]

    def step() -> None:
        optimizer.zero_grad()
        sum(peer(pictures, targets).values()).backward()
        optimizer.step()

    return step
