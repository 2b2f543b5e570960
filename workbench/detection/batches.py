"""Batches of pictures with boxes; order and flips are pure functions of (seed, epoch, index), as in datasets.memory.

So there is no state to save: a run that continues sees what it would have seen.
"""

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from workbench.datasets.boxes import Boxes, Item
from workbench.datasets.memory import AUGMENTATION, order


class Split(Protocol):
    """Pictures with boxes, in memory or in files."""

    def __len__(self) -> int: ...

    def item(self, index: int) -> Item: ...


class DetectionBatches:
    """A split in batches of `size` pictures, each as large as it is, on the host.

    share = (rank, processes): of each batch every process gets its own part.
    """

    def __init__(self, split: Split, size: int, share: tuple[int, int] = (0, 1)):
        self.split, self.size, self.share = split, size, share

    def __len__(self) -> int:
        """How many batches an epoch has: the incomplete last one is dropped."""
        return len(self.split) // self.size

    def epoch(self, seed: int, epoch: int, start: int = 0) -> Iterator[tuple[list[Tensor], list[Boxes]]]:
        """The batches of an epoch from number `start` on: half of the pictures mirrored, no boxes around crowds.

        Pictures are (3, H, W) float32 in [0, 1].  Raises the error of a picture that cannot be decoded.
        """
        rank, processes = self.share
        rows = order(seed, epoch, len(self.split))[: len(self) * self.size].view(-1, self.size)
        for row in rows[start:, rank::processes].tolist():
            drawn = [learned(self.split.item(index), flipped(seed, epoch, index)) for index in row]
            yield [picture for picture, _ in drawn], [boxes for _, boxes in drawn]

    def ordered(self) -> Iterator[list[Item]]:
        """This process's part of all pictures with all their boxes, as they are, in batches."""
        rank, processes = self.share
        mine = range(rank, len(self.split), processes)
        for begin in range(0, len(mine), self.size):
            yield [self.split.item(index) for index in mine[begin : begin + self.size]]


def flipped(seed: int, epoch: int, index: int) -> bool:
    """Is this picture mirrored in this epoch?  Drawn from the stream that Philox has for the seed and the epoch."""
    key = np.array([seed, epoch * 2 + AUGMENTATION], np.uint64)
    return bool(np.random.Philox(key=key, counter=index).random_raw() % 2)


def learned(item: Item, flip: bool) -> tuple[Tensor, Boxes]:
    """A picture (3, H, W) float32 in [0, 1] and its boxes without those of crowds, both mirrored if `flip`."""
    single = ~item.crowd
    boxes = Boxes(item.boxes[single], item.labels[single], item.areas[single], item.crowd[single])
    picture = item.picture.permute(2, 0, 1).float() / 255
    if flip:
        picture = picture.flip(2)
        left, top, right, bottom = boxes.corners.unbind(1)
        width = picture.shape[2]
        boxes = boxes._replace(corners=torch.stack([width - right, top, width - left, bottom], 1))
    return picture, boxes
