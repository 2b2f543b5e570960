"""Photographs with boxes, in files as COCO (Lin et al., 2014) has them, through torchvision's reader, pycocotools'.

What a file lists and no detector can learn from is left out and counted in `skipped`, by names of its own:

    unknown_picture, unknown_category   boxes of a picture or of a category that the file does not list
    no_area, outside                    boxes without width or height, as they are or once cut at the picture's edges
    empty_pictures                      of training, pictures without a box that is left and not of a crowd
"""

import contextlib
import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from workbench import files
from workbench.datasets.images import decode
from workbench.errors import Corrupt, DataMissing, OutOfRange

FAULTS = ("unknown_picture", "unknown_category", "no_area", "outside")


class Boxes(NamedTuple):
    """n boxes, of one picture or of many.

    corners: (n, 4) float32, left, top, right, bottom in px, inside of the picture; labels: (n,) int64 from 0 on;
    areas: (n,) float32, of the object's outline, by which COCO calls it small, medium or large;
    crowd: (n,) bool, around a group that nobody counted, to be neither learned nor missed.
    """

    corners: Tensor
    labels: Tensor
    areas: Tensor
    crowd: Tensor


class Item(NamedTuple):
    """A photograph (H, W, 3) uint8, its boxes, none perhaps outside of training, and COCO's number of it."""

    picture: Tensor
    boxes: Tensor
    labels: Tensor
    areas: Tensor
    crowd: Tensor
    image_id: int


@dataclass(frozen=True, eq=False)
class DetectionSplit:
    """N photographs in files with their boxes, by COCO's numbers of the pictures, ascending.

    files: (N,) paths below `root`, as bytes; ids: (N,) COCO's numbers; sizes: (N, 2) height and width in px as listed;
    first: (N + 1,) row of each picture's first box; categories: (C,) COCO's numbers of the classes, 1 to 90 with gaps;
    remedy: what to do about what is damaged.
    """

    root: Path
    annotations: Path
    files: np.ndarray
    ids: Tensor
    sizes: Tensor
    first: Tensor
    boxes: Boxes
    classes: tuple[str, ...]
    categories: tuple[int, ...]
    skipped: dict[str, int]
    remedy: str

    def __len__(self) -> int:
        return len(self.files)

    def path(self, index: int) -> Path:
        return files.child(self.root, os.fsdecode(self.files[index]))

    def item(self, index: int) -> Item:
        """A picture and its boxes; raises Corrupt or OutOfRange, naming it, and IndexError."""
        index = range(len(self))[index]
        try:
            picture = decode(self.path(index))
        except (Corrupt, OutOfRange) as error:
            raise type(error)(f"Picture {index} of {len(self)}: {error} {self.remedy}") from error
        height, width = self.sizes[index].tolist()
        if picture.shape[:2] != (height, width):
            raise Corrupt(
                f"Picture {index} of {len(self)}: {self.path(index)} has {picture.shape[1]} x {picture.shape[0]} "
                f"pixels and {self.annotations} says {width} x {height}, so its boxes do not fit. {self.remedy}"
            )
        mine = slice(*self.first[index : index + 2].tolist())
        corners, labels, areas, crowd = (column[mine] for column in self.boxes)
        return Item(picture, corners, labels, areas, crowd, int(self.ids[index]))

    __getitem__ = item


class Listed(NamedTuple):
    """What a file of annotations says, as it says it: pictures by their number, boxes in the order of the file.

    owner, labels: (M,) row of the picture and of the category, -1 where it is not listed; corners: (M, 4) float64.
    """

    files: np.ndarray
    ids: np.ndarray
    sizes: np.ndarray
    owner: np.ndarray
    labels: np.ndarray
    corners: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray
    classes: tuple[str, ...]
    categories: tuple[int, ...]


def split(root: Path, annotations: Path, training: bool, remedy: str) -> DetectionSplit:
    """The photographs below `root` that a file of annotations lists; raises DataMissing, Corrupt or OutOfRange."""
    for needed in (root, annotations):
        if not needed.exists():
            raise DataMissing(f"{needed} is not there. {remedy}")
    listed = _listed(root, annotations, remedy)
    corners, fault = _within(listed)
    kept = fault == ""
    pictures = np.ones(len(listed.ids), bool)
    if training:
        pictures = np.bincount(listed.owner[kept & ~listed.crowd], minlength=len(listed.ids)) > 0
        kept &= pictures[listed.owner]
    if not pictures.any():
        raise OutOfRange(f"{annotations} lists no picture to use, with a box in it for training. {remedy}")
    _check_there(root, annotations, listed.files[pictures], remedy)
    rows = np.flatnonzero(kept)[np.argsort(listed.owner[kept], kind="stable")]
    first = np.searchsorted(listed.owner[rows], np.append(np.flatnonzero(pictures), len(pictures)))
    columns = (corners[rows], listed.labels[rows], listed.areas[rows], listed.crowd[rows])
    skipped = {name: int((fault == name).sum()) for name in FAULTS}
    return DetectionSplit(
        root,
        annotations,
        listed.files[pictures],
        torch.from_numpy(listed.ids[pictures]),
        torch.from_numpy(listed.sizes[pictures]),
        torch.from_numpy(first),
        Boxes(*(torch.from_numpy(column) for column in columns)),
        listed.classes,
        listed.categories,
        skipped | {"empty_pictures": int((~pictures).sum())},
        remedy,
    )


def _listed(root: Path, annotations: Path, remedy: str) -> Listed:
    from torchvision.datasets import CocoDetection

    try:
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints what it does
            reader = CocoDetection(root, str(annotations))
        return _columns(reader)
    except (AssertionError, AttributeError, LookupError, OSError, OverflowError, TypeError, ValueError) as error:
        raise Corrupt(
            f"{annotations} is no file of boxes as COCO's ({type(error).__name__}: {error}). {remedy}"
        ) from error


def _columns(reader: Any) -> Listed:
    coco = reader.coco
    pictures, boxes = [coco.imgs[number] for number in reader.ids], coco.dataset["annotations"]
    categories = tuple(sorted(coco.cats))
    row = {number: row for row, number in enumerate(reader.ids)}
    label = {number: label for label, number in enumerate(categories)}
    places = np.array([box["bbox"] for box in boxes], np.float64).reshape(len(boxes), 4)
    places[:, 2:] += places[:, :2]  # left, top, width, height as COCO has them
    return Listed(
        np.array([os.fsencode(picture["file_name"]) for picture in pictures], np.bytes_),
        np.array(reader.ids, np.int64),
        np.array([(picture["height"], picture["width"]) for picture in pictures], np.int64).reshape(-1, 2),
        np.array([row.get(box["image_id"], -1) for box in boxes], np.int64),
        np.array([label.get(box["category_id"], -1) for box in boxes], np.int64),
        places,
        np.array([box["area"] for box in boxes], np.float32),
        np.array([box["iscrowd"] for box in boxes], bool),
        tuple(str(coco.cats[number]["name"]) for number in categories),
        categories,
    )


def _within(listed: Listed) -> tuple[np.ndarray, np.ndarray]:
    """The boxes cut at the edges of their pictures, (M, 4) float32, and of each the fault, "" for none, (M,)."""
    sizes = np.append(listed.sizes, [[0, 0]], 0)[listed.owner]  # the last, without area, of those of no picture
    cut = np.clip(listed.corners, 0, sizes[:, [1, 0, 1, 0]]).astype(np.float32)

    def flat(corners: np.ndarray) -> np.ndarray:
        return np.logical_not((corners[:, 2:] > corners[:, :2]).all(axis=1))  # true also of what is no number

    faults = (listed.owner < 0, listed.labels < 0, flat(listed.corners), flat(cut))
    return cut, np.select(faults, FAULTS, "")


def _check_there(root: Path, annotations: Path, names: np.ndarray, remedy: str) -> None:
    """Raise Corrupt unless every picture is there."""
    with os.scandir(root) as entries:
        here = {os.fsencode(entry.name) for entry in entries}
    gone = [name for name in names if name not in here and not (root / os.fsdecode(name)).is_file()]
    if gone:
        raise Corrupt(
            f"{len(gone):,} of the {len(names):,} pictures that {annotations} lists are not in {root}, "
            f"{os.fsdecode(gone[0])} first. {remedy}"
        )
