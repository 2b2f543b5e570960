"""A data set held in memory as bytes; order and augmentation are pure functions of (seed, epoch, index).

So there is no worker state to save: a run that continues sees what it would have seen.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

ORDER, AUGMENTATION = 0, 1  # streams of random numbers


@dataclass(frozen=True)
class Split:
    """Pictures (N, H, W, 3) uint8 and labels (N,) int64; `mean` and `std` of the channels in [0, 1]."""

    pictures: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    pad: int = 0
    flip: bool = False

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def side(self) -> int:
        """Height of the pictures in pixels."""
        return self.pictures.shape[1]

    def at(self, index: Sequence[int]) -> Tensor:
        """These pictures as they are: (n, H, W, 3) uint8."""
        return self.pictures[list(index)]

    def batches(self, device: torch.device, size: int, share: tuple[int, int] = (0, 1), workers: int = 0) -> "Batches":
        """The split on a device; `workers` would decode, and nothing here needs decoding."""
        return Batches(self, device, size, share)


def order(seed: int, epoch: int, count: int) -> Tensor:
    """The permutation (count,) of one epoch."""
    return torch.from_numpy(np.argsort(_draws(seed, epoch, ORDER, count), kind="stable"))


class Batches:
    """A split on one device, in batches of `size`: what a training loop asks of every data set.

    Pictures come normalised, and augmented in training: pad, random crop, random flip.  That is one gather of rows: the
    split is padded once, a crop begins at any pixel, and a flipped row is read from a mirrored copy.  No step waits for
    the host, so a GPU can replay it.  share = (rank, processes): of each batch every process gets its own part.
    """

    def __init__(self, split: Split, device: torch.device, size: int, share: tuple[int, int] = (0, 1)):
        count, self.height, self.width, _ = split.pictures.shape
        pad = split.pad
        self.stride = self.width + 2 * pad
        self.area = (self.height + 2 * pad) * self.stride
        self.count = count
        self.split, self.device, self.size, self.share = split, device, size, share
        padded = F.pad(split.pictures, (0, 0, pad, pad, pad, pad))
        both = torch.stack([padded, padded.flip(2)]) if split.flip else padded
        pixels = both.to(device).flatten()
        self.rows = pixels.as_strided((len(pixels) // 3 - self.width + 1, 3 * self.width), (3, 1))
        self.labels = split.labels.to(device)
        mean, std = (torch.tensor(values, device=device) * 255 for values in (split.mean, split.std))
        self.scale, self.shift = (value.repeat(self.height * self.width) for value in (1 / std, -mean / std))
        self.down = torch.arange(self.height, device=device) * self.stride
        self.order = torch.empty(count, dtype=torch.int64, device=device)
        self.draws = torch.empty(count, 3, dtype=torch.int64, device=device)
        self.mine = torch.arange(share[0], size, share[1], device=device)

    def open(self, seed: int, epoch: int, start: int = 0) -> None:
        """Begin an epoch, at its batch number `start`."""
        self.order.copy_(order(seed, epoch, self.count))
        self.draws.copy_(augmentation(seed, epoch, self.split))

    def advance(self) -> None:
        """Make the next batch ready; here every batch always is."""

    def batch(self, cursor: Tensor) -> tuple[Tensor, Tensor]:
        """This process's part of batch number `cursor` () int64, in the memory of the device."""
        index = self.order[cursor * self.size + self.mine]
        return self(index, self.draws[index])

    def ordered(self) -> Iterator[tuple[Tensor, Tensor]]:
        """This process's part of all pictures as they are, in batches."""
        rank, processes = self.share
        for index in torch.arange(rank, self.count, processes, device=self.device).split(self.size):
            yield self(index)

    def close(self) -> None:
        """Let go of what the batches hold besides memory: nothing here."""

    def __call__(self, index: Tensor, draws: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """index (B,) -> pictures (B, 3, H, W) float32 in channels_last memory, labels (B,).

        draws: (B, 3) row offset, column offset and flip of each, as `augmentation` makes them; None for the pictures as
        they are.
        """
        pad = self.split.pad
        start = index * self.area
        if draws is None:
            start = start + pad * self.stride + pad
        else:
            row, column, flip = draws.unbind(1)
            column = torch.where(flip.bool(), 2 * pad - column, column)
            start = start + row * self.stride + column + flip * (self.count * self.area)
        rows = self.rows.index_select(0, (start[:, None] + self.down).flatten())
        values = rows.view(len(index), -1).float().mul_(self.scale).add_(self.shift)
        return values.view(-1, self.height, self.width, 3).permute(0, 3, 1, 2), self.labels[index]


def augmentation(seed: int, epoch: int, split: Split) -> Tensor:
    """Row offset and column offset in 0 .. 2 pad, and flip in 0 .. 1, for every picture: (N, 3) int64."""
    draws = _draws(seed, epoch, AUGMENTATION, 3 * len(split)).reshape(-1, 3)
    limits = np.array([2 * split.pad + 1, 2 * split.pad + 1, 1 + split.flip], dtype=np.uint64)
    return torch.from_numpy((draws % limits).astype(np.int64))


def _draws(seed: int, epoch: int, stream: int, count: int) -> np.ndarray:
    """`count` 64-bit numbers of Philox, whose raw stream numpy promises not to change."""
    return np.random.Philox(key=np.array([seed, epoch * 2 + stream], dtype=np.uint64)).random_raw(count)
