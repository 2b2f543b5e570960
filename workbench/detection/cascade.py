"""Cascade R-CNN (Cai and Vasconcelos, CVPR 2018) with a feature pyramid: three heads, each on the boxes of the one
before, each stricter about what is an object.

    stage t: proposals b_(t-1) with IoU >= u_t are objects, u = 0.5, 0.6, 0.7;   b_t = f_t(b_(t-1))
    loss: sum over t of l_t (cross-entropy + smooth L1), l = 1, 0.5, 0.25
    when evaluated: all three heads classify what is read from b_2, their mean counts; the third moves the boxes

Boxes are of no class and of unit variance, by weights 10 and 5 in the first stage, 20 and 10, 30 and 15.  As usual the
true boxes join the proposals of every stage in training, and no gradient goes through a box.
In words: regions -> class and a better box -> read again, twice -> the mean of three opinions and the last box.
Logit 0 is the background and logit k + 1 is label k.  Smooth L1 turns at 1/9, torchvision's value for Faster R-CNN.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss
from torchvision.ops import clip_boxes_to_image

from workbench.detection.fasterrcnn import CELLS, FasterRCNN
from workbench.detection.fpn import precise


class Stage(NamedTuple):
    """iou: from which on a proposal is an object; scale: of the differences of centres and sides that are learned;
    weight: of its losses."""

    iou: float
    scale: tuple[float, float, float, float]
    weight: float


STAGES = (
    Stage(0.5, (10.0, 10.0, 5.0, 5.0), 1.0),
    Stage(0.6, (20.0, 20.0, 10.0, 10.0), 0.5),
    Stage(0.7, (30.0, 30.0, 15.0, 15.0), 0.25),
)


class CascadeRCNN(FasterRCNN):
    """Faster R-CNN with a cascade of heads; its options are Faster R-CNN's."""

    stages = STAGES

    def heads(self, pool: nn.Module, width: int, classes: int, regions: int) -> nn.Module:
        return Cascade(pool, width, classes, regions, self.stages)

    def read(self, regions: Tensor) -> None:
        *earlier, _ = self.roi_heads.stages
        for stage in (*earlier, *self.roi_heads.stages):  # each moves the boxes once, then all read the last ones
            stage.box_predictor(stage.box_head(regions))


class Cascade(nn.Module):
    """The heads of the stages, in place of torchvision's one: `stages` are RoIHeads."""

    pool: Any
    stages: Any

    def __init__(self, pool: nn.Module, width: int, classes: int, regions: int, stages: tuple[Stage, ...] = STAGES):
        super().__init__()
        self.pool, self.weights = pool, [stage.weight for stage in stages]
        self.stages = nn.ModuleList()
        for stage in stages:
            parts = TwoMLPHead(width * CELLS**2, 4 * width), Agnostic(4 * width, classes)
            self.stages.append(RoIHeads(pool, *parts, stage.iou, stage.iou, regions, 0.25, stage.scale, 0.05, 0.5, 100))

    def forward(
        self,
        maps: dict[str, Tensor],
        proposals: list[Tensor],
        sizes: list[tuple[int, int]],
        known: list[dict[str, Tensor]] | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """({"boxes", "labels", "scores"} of each picture, {}), or in training ([], losses by name)."""
        if known is not None:
            return [], self.learn(maps, proposals, sizes, known)
        return self.find(maps, proposals, sizes), {}

    def learn(
        self,
        maps: dict[str, Tensor],
        proposals: list[Tensor],
        sizes: list[tuple[int, int]],
        known: list[dict[str, Tensor]],
    ) -> dict[str, Tensor]:
        losses = {}
        for number, (stage, weight) in enumerate(zip(self.stages, self.weights, strict=True), 1):
            proposals, _, labels, targets = stage.select_training_samples(proposals, known)
            logits, moves = predict(stage, self.pool(maps, proposals, sizes))
            classes, boxes = fastrcnn_loss(logits, moves, labels, targets)
            losses[f"loss_classifier_{number}"] = weight * classes
            losses[f"loss_box_reg_{number}"] = weight * boxes
            proposals = moved(stage, moves, proposals, sizes)
        return losses

    def find(
        self, maps: dict[str, Tensor], proposals: list[Tensor], sizes: list[tuple[int, int]]
    ) -> list[dict[str, Tensor]]:
        *earlier, last = self.stages
        for stage in earlier:
            _, moves = predict(stage, self.pool(maps, proposals, sizes))
            proposals = moved(stage, moves, proposals, sizes)
        regions = self.pool(maps, proposals, sizes)
        opinions = [predict(stage, regions) for stage in self.stages]
        scores = torch.stack([logits.softmax(-1) for logits, _ in opinions]).mean(0)
        # softmax(log p) = p, so that torchvision's own choice of boxes takes the mean as it is
        found = last.postprocess_detections(scores.log(), opinions[-1][1], proposals, sizes)
        return [{"boxes": b, "scores": s, "labels": k} for b, s, k in zip(*found, strict=True)]


class Agnostic(nn.Module):
    """(N, in) -> logits (N, classes) and one box, (N, 4 classes): repeated for each class."""

    def __init__(self, inputs: int, classes: int):
        super().__init__()
        self.cls_score = nn.Linear(inputs, classes)
        self.bbox_pred = nn.Linear(inputs, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return precise(self.cls_score(x)), precise(self.bbox_pred(x)).repeat(1, self.cls_score.out_features)


def predict(stage: Any, regions: Tensor) -> tuple[Tensor, Tensor]:
    return stage.box_predictor(stage.box_head(regions))


def moved(stage: Any, moves: Tensor, proposals: list[Tensor], sizes: list[tuple[int, int]]) -> list[Tensor]:
    """The proposals of each picture where the stage moves them, inside of the picture, without gradients."""
    boxes = stage.box_coder.decode(moves[:, :4].detach(), proposals).reshape(-1, 4)
    counts = [len(one) for one in proposals]
    return [clip_boxes_to_image(b, size) for b, size in zip(boxes.split(counts), sizes, strict=True)]
