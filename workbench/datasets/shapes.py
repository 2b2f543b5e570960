"""`shapes`: pictures of coloured figures on stripes and noise with the boxes around them, made from a seed.

96 x 96 px; class = figure (square, disc or triangle) x hue (warm or cool), so that neither alone tells it: 6 classes.
A picture has 1 to 6 objects of 12 to 48 px, as wide as high.  One may cover a part of another, a quarter of the smaller
box at the most and never so that a box would change; so each box is that of the whole figure and of what is seen of it.
Areas are those of the pixels that are seen; by COCO's measure objects are small or medium, and none is large.

Chance: a detector that says the same of each picture, boxes on a grid with each class by its frequency, has an AP below
0.2 % (tests/datasets/test_shapes.py).

A picture is a function of (seed, index) in whole numbers, from Philox, whose raw stream numpy promises not to change.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from workbench.datasets.boxes import Boxes, Item

VERSION = "shapes-1"
SIDE, SMALLEST, LARGEST, MOST = 96, 12, 48, 6  # px, px, px, objects
FIGURES, HUES = ("square", "disc", "triangle"), ("warm", "cool")
CLASSES = tuple(f"{hue} {figure}" for hue in HUES for figure in FIGURES)
ATTEMPTS = 40  # places that are drawn for the objects of a picture; those that fit nowhere are left out
NOISE = 33  # values that the noise of a pixel has, around 0


@dataclass(frozen=True, eq=False)
class MemoryBoxes:
    """N pictures (N, H, W, 3) uint8 in memory with their boxes; first: (N + 1,) row of each picture's first box.

    skipped: counts of what was left out, by name, as `workbench.datasets.boxes` has them.
    """

    pictures: Tensor
    first: Tensor
    boxes: Boxes
    classes: tuple[str, ...]
    skipped: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.pictures)

    def item(self, index: int) -> Item:
        """A picture and its boxes; its number is its index."""
        index = range(len(self))[index]
        mine = slice(*self.first[index : index + 2].tolist())
        corners, labels, areas, crowd = (column[mine] for column in self.boxes)
        return Item(self.pictures[index], corners, labels, areas, crowd, index)

    __getitem__ = item


def load() -> tuple[MemoryBoxes, MemoryBoxes]:
    """1,000 training and 200 test pictures."""
    return make(1000, seed=0), make(200, seed=1)


def make(count: int, seed: int) -> MemoryBoxes:
    """`count` pictures; the first are the same, however many there are."""
    pictures = np.empty((count, SIDE, SIDE, 3), np.uint8)
    found = [_draw(np.random.Philox(key=np.array([seed, i], np.uint64)), pictures[i]) for i in range(count)]
    first = np.cumsum([0, *map(len, found)])
    rows = np.concatenate([np.empty((0, 6), np.int64), *found])
    return MemoryBoxes(
        torch.from_numpy(pictures),
        torch.from_numpy(first),
        Boxes(
            torch.from_numpy(rows[:, :4].astype(np.float32)),
            torch.from_numpy(rows[:, 4].copy()),
            torch.from_numpy(rows[:, 5].astype(np.float32)),
            torch.zeros(len(rows), dtype=torch.bool),
        ),
        CLASSES,
    )


def figure(name: str, size: int) -> np.ndarray:
    """The pixels of a figure in its box, which it touches at all four sides: (size, size) bool."""
    y, x = np.mgrid[:size, :size]
    across, down = 2 * x + 1 - size, 2 * y + 1 - size  # from the middle, in halves of a pixel
    if name == "square":
        return np.ones((size, size), bool)
    return across**2 + down**2 <= size**2 if name == "disc" else np.abs(across) <= y + 1


def _draw(source: np.random.Philox, picture: np.ndarray) -> np.ndarray:
    """Paint into `picture` (SIDE, SIDE, 3); its objects (n, 6): left, top, right, bottom, label, area."""
    owner, objects = _placed(source)
    seen = _background(source)
    for number, (*_, label) in enumerate(objects, 1):
        strong, middle, weak = _below(source, 80, 112, 80)
        warm = (176 + strong, 16 + middle, 16 + weak)  # red, green, blue
        seen[owner == number] = warm if label < len(FIGURES) else warm[::-1]
    noise = source.random_raw(picture.size // 8).astype("<u8").view(np.uint8).reshape(picture.shape) % NOISE
    picture[:] = np.clip(seen + noise - NOISE // 2, 0, 255)
    areas = np.bincount(owner.ravel(), minlength=len(objects) + 1)[1:]
    return np.column_stack([np.array(objects, np.int64), areas])


def _placed(source: np.random.Philox) -> tuple[np.ndarray, list[tuple[int, ...]]]:
    """Which object a pixel shows, 0 for none, (SIDE, SIDE), and the objects: left, top, right, bottom, label."""
    owner, objects = np.zeros((SIDE, SIDE), np.int64), list[tuple[int, ...]]()
    (count,) = _below(source, MOST)
    for _ in range(ATTEMPTS):
        label, size = _below(source, len(CLASSES), LARGEST - SMALLEST + 1)
        size += SMALLEST
        left, top = _below(source, SIDE - size + 1, SIDE - size + 1)
        box = (left, top, left + size, top + size)
        tried = owner.copy()
        tried[top : top + size, left : left + size][figure(FIGURES[label % len(FIGURES)], size)] = len(objects) + 1
        if all(_apart(box, other) and _whole(tried == number, other) for number, other in enumerate(objects, 1)):
            owner, objects = tried, [*objects, (*box, label)]
        if len(objects) == count + 1:
            break
    return owner, objects


def _apart(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Do two boxes share a quarter of the smaller one at the most?"""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    smaller = min(one[2] - one[0], other[2] - other[0]) ** 2
    return min(width, height) <= 0 or 4 * width * height <= smaller


def _whole(seen: np.ndarray, box: tuple[int, ...]) -> bool:
    """Does what is seen of an object touch all four sides of its box?"""
    inside = seen[box[1] : box[3], box[0] : box[2]]
    return all(side.any() for side in (inside[0], inside[-1], inside[:, 0], inside[:, -1]))


def _background(source: np.random.Philox) -> np.ndarray:
    """Soft stripes of two dull colours in any direction: (SIDE, SIDE, 3)."""
    y, x = np.mgrid[:SIDE, :SIDE]
    down, across, period = _below(source, 7, 7, 17)
    period += 8
    share = np.abs(((down - 3) * y + (across - 3) * x) % (2 * period) - period)[..., None]
    light, dark = (
        [48 + grey + tint for tint in tints] for grey, *tints in (_below(source, 96, 65, 65, 65) for _ in "12")
    )
    return (np.array(light) * share + np.array(dark) * (period - share)) // period


def _below(source: np.random.Philox, *limits: int) -> list[int]:
    """A whole number from 0 to below each limit."""
    return [int(draw) % limit for draw, limit in zip(source.random_raw(len(limits)), limits, strict=True)]
