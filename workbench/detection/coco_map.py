"""COCO's average precision (Lin et al., 2014) of detections, by the evaluator faster-coco-eval.

AP of a class is its mean precision at 101 recalls.  `ap` is the mean over the classes that have boxes and over the
overlaps 0.50, 0.55, ... 0.95 from which on a box counts as found; `ap50` and `ap75` are of one overlap; `ap_small`,
`ap_medium` and `ap_large` are of objects whose outline has up to 32^2, up to 96^2 and more pixels.  What is found in a
crowd counts neither way, and of a picture the best 100 detections of each class count.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from workbench.datasets.boxes import Boxes
from workbench.errors import OutOfRange

if TYPE_CHECKING:
    from workbench.detection.detector import Detections

OVERLAPS = slice(None)
METRICS: dict[
    str, tuple[slice | int, int]
] = {  # overlaps and areas of each, by their places in COCO's lists: 0.50 to 0.95; all, small, medium, large
    "ap": (OVERLAPS, 0),
    "ap50": (0, 0),
    "ap75": (5, 0),
    "ap_small": (OVERLAPS, 1),
    "ap_medium": (OVERLAPS, 2),
    "ap_large": (OVERLAPS, 3),
}


def average_precision(found: Sequence[Detections], truth: Sequence[Boxes], classes: int) -> dict[str, float]:
    """AP in percent, of what is `found` in each picture by the `truth` of it; one that is of no box at all is left out.

    Raises OutOfRange for what cannot be compared, and ModuleNotFoundError without the evaluator.
    """
    from faster_coco_eval import COCO, COCOeval_faster

    _check(found, truth, classes)
    boxes = [
        {"image_id": image, "category_id": label, "bbox": box, "area": area, "iscrowd": int(crowd)}
        for image, picture in enumerate(truth, 1)
        for box, label, area, crowd in zip(
            _placed(picture.corners), *(column.tolist() for column in picture[1:]), strict=True
        )
    ]
    detections = [
        {"image_id": image, "category_id": label, "bbox": box, "area": box[2] * box[3], "iscrowd": 0, "score": score}
        for image, picture in enumerate(found, 1)
        for box, label, score in zip(_placed(picture.boxes), *(column.tolist() for column in picture[1:]), strict=True)
    ]
    frame: dict[str, Any] = {
        "images": [{"id": image} for image in range(1, len(truth) + 1)],
        "categories": [{"id": label} for label in range(classes)],
    }
    sides = (COCO(frame | {"annotations": _numbered(side)}) for side in (boxes, detections))
    evaluator = COCOeval_faster(*sides, "bbox")
    evaluator.evaluate()
    evaluator.accumulate()
    precision = np.asarray(
        evaluator.eval["precision"]
    )  # (overlaps, recalls, classes, areas, 1 or 10 or 100 detections)
    parts = {name: precision[overlaps][..., area, -1] for name, (overlaps, area) in METRICS.items()}
    return {name: 100 * float(part[part > -1].mean()) for name, part in parts.items() if (part > -1).any()}


def _check(found: Sequence[Detections], truth: Sequence[Boxes], classes: int) -> None:
    """Raise OutOfRange where the evaluator would say nothing, and compare something else."""
    if len(found) != len(truth):
        raise OutOfRange(f"{len(found)} pictures of detections and {len(truth)} of boxes; give one of each a picture.")
    for number, picture in enumerate(found):
        if not bool(picture.boxes.isfinite().all() and picture.scores.isfinite().all()):
            raise OutOfRange(f"Detections of picture {number} have a box or a score that is no number; leave it out.")
    for kind, pictures in (("detections", found), ("boxes", truth)):
        for number, labels in enumerate(one.labels for one in pictures):
            if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
                raise OutOfRange(
                    f"{kind.capitalize()} of picture {number} have labels from {int(labels.min())} "
                    f"to {int(labels.max())}; with {classes} classes they go from 0 to {classes - 1}."
                )


def _placed(corners: Tensor) -> list[list[float]]:
    """Left, top, width and height of boxes (n, 4) of corners, in double precision."""
    places = corners.double()
    return torch.cat([places[:, :2], places[:, 2:] - places[:, :2]], 1).tolist()


def _numbered(boxes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same with numbers from 1 on: 0 would mean to the evaluator that nothing matches."""
    return [box | {"id": number} for number, box in enumerate(boxes, 1)]
