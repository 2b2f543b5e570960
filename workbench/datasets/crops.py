"""What is cut out of a decoded picture: at random in training, as torchvision's RandomResizedCrop, else the centre.

The random cut is a pure function of (seed, epoch, index): not of workers, batches, or where a run continued.
"""

import math
from typing import NamedTuple

import numpy as np
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from workbench.datasets.memory import AUGMENTATION

SCALE, RATIO, ATTEMPTS = (0.08, 1.0), (3 / 4, 4 / 3), 10
DRAWS = 4 * -(-(3 + 2 * ATTEMPTS) // 4)  # numbers a picture, in whole blocks of Philox, which are of 4
STRIP = 4  # of a picture longer than this many times its shorter side, the middle is taken before it is resized


class Crop(NamedTuple):
    """A rectangle in pixels, and whether it is mirrored."""

    top: int
    left: int
    height: int
    width: int
    flip: bool


def augmented(picture: Tensor, side: int, seed: int, epoch: int, index: int) -> Tensor:
    """(H, W, 3) uint8 -> (side, side, 3): the random cut of picture number `index` in this epoch."""
    top, left, height, width, flip = random_crop(picture.shape[0], picture.shape[1], seed, epoch, index)
    planes = picture.permute(2, 0, 1)
    planes = F.resized_crop(planes, top, left, height, width, [side, side], InterpolationMode.BILINEAR, antialias=True)
    return (F.horizontal_flip(planes) if flip else planes).permute(1, 2, 0)


def centred(picture: Tensor, side: int) -> Tensor:
    """(H, W, 3) uint8 -> (side, side, 3): the shorter side to 256/224 of `side`, then the centre."""
    planes = picture.permute(2, 0, 1)
    shorter, longer = sorted(picture.shape[:2])
    if longer > STRIP * shorter:  # or a strip of one row would become a sheet of gigabytes
        planes = F.center_crop(planes, [min(length, STRIP * shorter) for length in picture.shape[:2]])
    planes = F.resize(planes, [round(side * 256 / 224)], InterpolationMode.BILINEAR, antialias=True)
    return F.center_crop(planes, [side, side]).permute(1, 2, 0)


def random_crop(height: int, width: int, seed: int, epoch: int, index: int) -> Crop:
    """A share SCALE of the area in a shape RATIO, at any place, distributed as RandomResizedCrop's; flipped or not."""
    draws = _draws(seed, epoch, index)
    flip, down, right = draws[:3].tolist()
    for size, shape in _uniform(draws[3 : 3 + 2 * ATTEMPTS]).reshape(ATTEMPTS, 2).tolist():
        area = height * width * (SCALE[0] + size * (SCALE[1] - SCALE[0]))
        ratio = math.exp(math.log(RATIO[0]) + shape * (math.log(RATIO[1]) - math.log(RATIO[0])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return Crop(down % (height - h + 1), right % (width - w + 1), h, w, bool(flip % 2))
    h, w = min(height, round(width / RATIO[0])), min(width, round(height * RATIO[1]))  # the most of a long picture
    return Crop((height - h) // 2, (width - w) // 2, h, w, bool(flip % 2))


def _draws(seed: int, epoch: int, index: int) -> np.ndarray:
    """(DRAWS,) 64-bit numbers: block number `index` of the one stream that Philox has for this seed and epoch."""
    key = np.array([seed, epoch * 2 + AUGMENTATION], dtype=np.uint64)
    return np.random.Philox(key=key, counter=index * DRAWS // 4).random_raw(DRAWS)


def _uniform(draws: np.ndarray) -> np.ndarray:
    """64-bit numbers as float64 in [0, 1)."""
    return (draws >> np.uint64(11)) * 2.0**-53
