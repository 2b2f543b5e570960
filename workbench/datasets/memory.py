"""A data set held in memory as bytes; order and augmentation are pure functions of (seed, epoch, index).

So there is no worker state to save: a run that continues sees what it would have seen.
"""

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


def order(seed: int, epoch: int, count: int) -> Tensor:
    """The permutation (count,) of one epoch."""
    return torch.from_numpy(np.argsort(_draws(seed, epoch, ORDER, count), kind="stable"))


class Batches:
    """Batches of one split on one device, normalised, and augmented when asked: pad, random crop, random flip.

    The whole step is one gather: the split is padded once, and cropping and flipping are arithmetic on pixel numbers.
    """

    def __init__(self, split: Split, device: torch.device):
        self.height, self.width = split.pictures.shape[1:3]
        pad = split.pad
        padded = F.pad(split.pictures, (0, 0, pad, pad, pad, pad))
        self.stride = self.width + 2 * pad
        self.area = (self.height + 2 * pad) * self.stride
        self.split, self.device = split, device
        self.pixels = padded.reshape(-1, 3).to(device)
        self.labels = split.labels.to(device)
        mean, std = (torch.tensor(values, device=device) * 255 for values in (split.mean, split.std))
        self.scale, self.shift = 1 / std, -mean / std
        rows = torch.arange(self.height)[:, None] * self.stride
        columns = torch.arange(self.width)
        plain, flipped = rows + columns, rows + columns.flip(0)
        self.window = torch.stack([plain.flatten(), flipped.flatten()]).to(device)

    def __call__(self, index: Tensor, draws: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """index (B,) -> pictures (B, 3, H, W) float32 in channels_last memory, labels (B,).

        draws: (N, 3) row offset, column offset and flip of every picture, as `augmentation` makes them; None for the
        pictures as they are.
        """
        pad = self.split.pad
        if draws is None:
            corner, flip = torch.full_like(index, pad * self.stride + pad), torch.zeros_like(index)
        else:
            row, column, flip = draws[index].unbind(1)
            corner = row * self.stride + column
        index = index.to(self.device)
        start = index * self.area + corner.to(self.device)
        pixels = self.pixels[start[:, None] + self.window[flip.to(self.device)]]
        x = (pixels * self.scale + self.shift).view(-1, self.height, self.width, 3).permute(0, 3, 1, 2)
        return x, self.labels[index]


def augmentation(seed: int, epoch: int, split: Split) -> Tensor:
    """Row offset and column offset in 0 .. 2 pad, and flip in 0 .. 1, for every picture: (N, 3) int64."""
    draws = _draws(seed, epoch, AUGMENTATION, 3 * len(split)).reshape(-1, 3)
    limits = np.array([2 * split.pad + 1, 2 * split.pad + 1, 1 + split.flip], dtype=np.uint64)
    return torch.from_numpy((draws % limits).astype(np.int64))


def _draws(seed: int, epoch: int, stream: int, count: int) -> np.ndarray:
    """`count` 64-bit numbers of Philox, whose raw stream numpy promises not to change."""
    return np.random.Philox(key=np.array([seed, epoch * 2 + stream], dtype=np.uint64)).random_raw(count)
