"""Batches of pictures with boxes; order and flips are pure functions of (seed, epoch, index), as in datasets.memory.

So there is no state to save: a run that continues sees what it would have seen, whoever decodes the pictures.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from workbench.datasets.ahead import Ahead
from workbench.datasets.boxes import Boxes, Item
from workbench.datasets.memory import AUGMENTATION, order


class Split(Protocol):
    """Pictures with boxes, in memory or in files; those in files have a `root`."""

    def __len__(self) -> int: ...

    def item(self, index: int) -> Item: ...


class DetectionBatches:
    """A split in batches of `size` pictures, each as large as it is, on a device.

    share = (rank, processes): of each batch every process gets its own part.  workers: processes that decode pictures
    in files ahead of time; those in memory need none.
    """

    def __init__(
        self,
        split: Split,
        size: int,
        share: tuple[int, int] = (0, 1),
        workers: int = 0,
        device: torch.device = torch.device("cpu"),  # noqa: B008
    ):
        self.split, self.size, self.share, self.device = split, size, share, device
        root: Path | None = getattr(split, "root", None)
        self._ahead = Ahead(partial(_items, split), root or Path(), workers if root else 0, device.type == "cuda")

    def __len__(self) -> int:
        """How many batches an epoch has: the incomplete last one is dropped."""
        return len(self.split) // self.size

    def epoch(self, seed: int, epoch: int, start: int = 0) -> Iterator[tuple[list[Tensor], list[Boxes]]]:
        """The batches of an epoch from number `start` on: half of the pictures mirrored, no boxes around crowds.

        Pictures are (3, H, W) float32 in [0, 1].  Raises the error of a picture that cannot be decoded.
        """
        rank, processes = self.share
        rows = order(seed, epoch, len(self.split))[: len(self) * self.size].view(-1, self.size)
        plan = rows[start:, rank::processes].tolist()
        for row, items in zip(plan, self._decoded(plan), strict=True):
            drawn = [learned(item, flipped(seed, epoch, index)) for index, item in zip(row, items, strict=True)]
            yield [picture for picture, _ in drawn], [self._moved(boxes) for _, boxes in drawn]

    def ordered(self) -> Iterator[list[Item]]:
        """This process's part of all pictures, as they are, in batches; all their boxes, which stay on the host."""
        rank, processes = self.share
        mine = range(rank, len(self.split), processes)
        return self._decoded([mine[begin : begin + self.size] for begin in range(0, len(mine), self.size)])

    def close(self) -> None:
        """End the processes that decode; the next epoch would start others."""
        self._ahead.close()

    def _decoded(self, plan: list[Sequence[int]]) -> Iterator[list[Item]]:
        """Pictures on the device; boxes on the host, where choosing some of them waits for nobody."""
        for answers in self._ahead.all(plan):
            yield [
                Item._make([picture.to(self.device, non_blocking=True), *map(torch.from_numpy, columns), number])
                for picture, *columns, number in answers
            ]

    def _moved(self, boxes: Boxes) -> Boxes:
        return Boxes(*(column.to(self.device, non_blocking=True) for column in boxes))


def flipped(seed: int, epoch: int, index: int) -> bool:
    """Is this picture mirrored in this epoch?  Drawn from the stream that Philox has for the seed and the epoch."""
    key = np.array([seed, epoch * 2 + AUGMENTATION], np.uint64)
    return bool(np.random.Philox(key=key, counter=index).random_raw() % 2)


def learned(item: Item, flip: bool) -> tuple[Tensor, Boxes]:
    """A picture (3, H, W) float32 in [0, 1] and its boxes without those of crowds, both mirrored if `flip`."""
    single = ~item.crowd
    boxes = Boxes(item.boxes[single], item.labels[single], item.areas[single], item.crowd[single])
    picture = as_input(item.picture)
    if flip:
        picture = picture.flip(2)
        left, top, right, bottom = boxes.corners.unbind(1)
        width = picture.shape[2]
        boxes = boxes._replace(corners=torch.stack([width - right, top, width - left, bottom], 1))
    return picture, boxes


def as_input(picture: Tensor) -> Tensor:
    """(H, W, 3) uint8 -> (3, H, W) float32 in [0, 1]."""
    return picture.permute(2, 0, 1).float() / 255


def _items(split: Split, index: Sequence[int]) -> list[tuple[Any, ...]]:
    """What a worker decodes.  Boxes are sent as arrays: every tensor between processes costs an open file."""
    items = (split.item(one) for one in index)
    return [(item.picture, *(column.numpy() for column in item[1:5]), item.image_id) for item in items]
