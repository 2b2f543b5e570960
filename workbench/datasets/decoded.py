"""Batches of pictures that processes decode; order and augmentation are pure functions of (seed, epoch, index).

What is decoded where is a matter of speed alone: a worker is told which pictures to cut, and by which draws.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from workbench.datasets.ahead import Ahead
from workbench.datasets.memory import order

if TYPE_CHECKING:
    from workbench.datasets.folders import FolderSplit

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's training pictures, as torchvision has them

Wanted = tuple[np.ndarray, tuple[int, int] | None]  # numbers of pictures; (seed, epoch), or None for centred ones


class FolderBatches:
    """A split on one device, in batches of `size`; the interface of `workbench.datasets.memory.Batches`.

    `advance` waits for a batch and copies its bytes to fixed memory of the device, from where `batch` normalises it
    without a word to the host, so a GPU can replay it.  waited_s: the seconds that this waiting took so far.
    `ordered` ends an epoch that is open.  share = (rank, processes): of each batch every process decodes its own part.
    """

    def __init__(self, split: FolderSplit, device: torch.device, size: int, share: tuple[int, int], workers: int):
        self.split, self.device, self.size, self.share = split, device, size, share
        mine, side = len(range(share[0], size, share[1])), split.side
        self.pictures = torch.empty(mine, side, side, 3, dtype=torch.uint8, device=device)
        self.labels = torch.empty(mine, dtype=torch.int64, device=device)
        mean, std = (torch.tensor(values, device=device) * 255 for values in (MEAN, STD))
        self.scale, self.shift = (value.repeat(side) for value in (1 / std, -mean / std))
        self._ahead = Ahead(partial(decoded, split), split.root, workers, device.type == "cuda")

    def open(self, seed: int, epoch: int, start: int = 0) -> None:
        """Begin an epoch, at its batch number `start`; nothing before it is decoded."""
        rank, processes = self.share
        whole = len(self.split) // self.size * self.size
        rows = order(seed, epoch, len(self.split))[:whole].view(-1, self.size)[start:, rank::processes].numpy()
        self._ahead.start([(row, (seed, epoch) if self.split.augment else None) for row in rows])

    def advance(self) -> None:
        """Wait for the next batch and copy it to the device; raises the error of a picture that cannot be decoded."""
        pictures, labels = self._ahead.next()
        self.pictures.copy_(pictures, non_blocking=True)
        self.labels.copy_(labels, non_blocking=True)

    def batch(self, cursor: Tensor) -> tuple[Tensor, Tensor]:
        """This process's part of the batch that `advance` made ready, which is number `cursor`."""
        return self._normalised(self.pictures), self.labels.clone()

    def ordered(self) -> Iterator[tuple[Tensor, Tensor]]:
        """This process's part of all pictures, centred, in batches."""
        rank, processes = self.share
        mine = np.arange(rank, len(self.split), processes)
        plan = [(mine[i : i + self.size], None) for i in range(0, len(mine), self.size)]
        for pictures, labels in self._ahead.all(plan):
            here = pictures.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)
            yield self._normalised(here[0]), here[1]

    @property
    def waited_s(self) -> float:
        return self._ahead.waited_s

    def close(self) -> None:
        """End the worker processes; the next epoch would start others."""
        self._ahead.close()

    def _normalised(self, pictures: Tensor) -> Tensor:
        """(B, S, S, 3) uint8 -> (B, 3, S, S) float32 in channels_last memory."""
        values = pictures.flatten(2).float().mul_(self.scale).add_(self.shift)
        return values.view(pictures.shape).permute(0, 3, 1, 2)


def decoded(split: FolderSplit, wanted: Wanted) -> tuple[Tensor, Tensor]:
    """What a worker does: pictures (B, S, S, 3) uint8 and labels (B,); raises the first picture's error."""
    index, draw = wanted
    pictures = torch.empty(len(index), split.side, split.side, 3, dtype=torch.uint8)
    for row, number in zip(pictures, index.tolist(), strict=True):
        row.copy_(split.picture(number, draw))
    return pictures, split.labels[index]
