"""Faster R-CNN (Ren et al., NIPS 2015) with a feature pyramid, torchvision's: regions first, then what is in them.

    proposals: one anchor size a level, 3 shapes; a score and a box each; the best that do not overlap
    losses: cross-entropy of object or not and of the class, smooth L1 of both boxes

In words: a pyramid from stride 4 on and one level more -> a 3x3 convolution scores anchors and moves them -> the best
become regions -> 7x7 values of the level that fits a region's size -> two fully-connected layers -> class and box.
Logit 0 is the background and logit k + 1 is label k.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool
from torchvision.ops.poolers import initLevelMapper

from workbench.backbones import Network
from workbench.detection.detector import Detector, at_least, resizing, side
from workbench.detection.fpn import Pyramid, precise

SHAPES = (0.5, 1.0, 2.0)  # height / width of the anchors
CELLS = 7  # a region is read on a grid of 7x7


class FasterRCNN(Detector, GeneralizedRCNN):
    """image_size: px of the shorter side; 0: 800, or 3 times the side of a backbone for small pictures.

    fpn: attention and convolutions of the pyramid, such as aw-se.  width: channels of the pyramid, 1/4 of the head's;
    0: 256, or those of a narrower last map.  finest: stride of the first level in px; 0: 4, or the coarsest two maps of
    a backbone that has finer ones alone.  anchor: strides in the side of a level's anchor.
    proposals: regions a picture in training, half as many when evaluated.  regions: how many of them are learned from.
    """

    background = 1
    rpn: Any
    roi_heads: Any

    def __init__(
        self,
        network: Network,
        classes: int,
        image_size: int = 0,
        fpn: str = "",
        width: int = 0,
        finest: int = 0,
        anchor: int = 8,
        proposals: int = 2000,
        regions: int = 512,
    ):
        at_least("fasterrcnn", anchor=anchor, proposals=proposals, regions=regions)
        shorter = side(image_size, network)
        pyramid = Pyramid(network, fpn, width, finest, 4, lambda _: LastLevelMaxPool(), 1)
        sizes = tuple((anchor * stride,) for stride in pyramid.strides)
        pool = reader([shape.stride for shape in pyramid.taken])
        super().__init__(
            pyramid,
            proposer(pyramid.out_channels, sizes, proposals),
            self.heads(pool, pyramid.out_channels, classes + self.background, regions),
            resizing(shorter),
        )
        self.image_size = shorter

    def heads(self, pool: nn.Module, width: int, classes: int, regions: int) -> nn.Module:
        """What reads the regions; `classes` with the background."""
        return RoIHeads(pool, *layers(width, classes), 0.5, 0.5, regions, 0.25, None, 0.05, 0.5, 100)

    def learn(self, images: ImageList, maps: dict[str, Tensor], known: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        proposals, first = self.rpn(images, maps, known)
        _, second = self.roi_heads(maps, proposals, images.image_sizes, known)
        return second | first

    def find(self, images: ImageList, maps: dict[str, Tensor]) -> list[dict[str, Tensor]]:
        proposals, _ = self.rpn(images, maps)
        found, _ = self.roi_heads(maps, proposals, images.image_sizes)
        return found

    def outputs(self, maps: dict[str, Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Scores and boxes of all anchors; as many regions as there are proposals, empty ones, go through the head."""
        self.read(self.empty(maps))
        return self.rpn.head(list(maps.values()))

    def empty(self, maps: dict[str, Tensor]) -> Tensor:
        """(N proposals, width, 7, 7): regions that nothing was read into."""
        first = next(iter(maps.values()))
        count = len(first) * self.rpn._post_nms_top_n["testing"]
        return torch.empty(count, self.backbone.out_channels, CELLS, CELLS, dtype=first.dtype, device=first.device)

    def read(self, regions: Tensor) -> None:
        """Every layer once for each time that it reads a region when evaluated."""
        self.roi_heads.box_predictor(self.roi_heads.box_head(regions))


class ProposalHead(RPNHead):
    """Torchvision's, whose outputs are in at least float32: corners of boxes are made from them."""

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        scores, boxes = super().forward(x)
        return [precise(y) for y in scores], [precise(y) for y in boxes]


class Predictor(FastRCNNPredictor):
    """(N, in) -> logits (N, classes) and a box of each class (N, 4 classes), in at least float32."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        logits, boxes = super().forward(x)
        return precise(logits), precise(boxes)


def layers(width: int, classes: int) -> tuple[nn.Module, nn.Module]:
    """The two fully-connected layers of a region, 4 times as wide as the pyramid, and what predicts from them."""
    return TwoMLPHead(width * CELLS**2, 4 * width), Predictor(4 * width, classes)


def proposer(width: int, sizes: tuple[tuple[int, ...], ...], proposals: int) -> RegionProposalNetwork:
    """Torchvision's RPN: an anchor of IoU 0.7 or more is an object, below 0.3 none; 256 a picture are learned from."""
    kept = {"training": proposals, "testing": max(1, proposals // 2)}
    anchors = AnchorGenerator(sizes, (SHAPES,) * len(sizes))
    return RegionProposalNetwork(anchors, ProposalHead(width, len(SHAPES)), 0.7, 0.3, 256, 0.5, kept, dict(kept), 0.7)


def reader(strides: list[int]) -> MultiScaleRoIAlign:
    """Torchvision's RoIAlign on levels of these strides, each twice the one before.

    Untold, it would take them from the first picture and keep them: from a slim one, which is padded, wrong ones.
    """
    pool: Any = MultiScaleRoIAlign([str(level) for level in range(len(strides))], CELLS, sampling_ratio=2)
    pool.scales = [1 / stride for stride in strides]
    first, last = (stride.bit_length() - 1 for stride in (strides[0], strides[-1]))
    pool.map_levels = initLevelMapper(first, last, pool.canonical_scale, pool.canonical_level)
    return pool
