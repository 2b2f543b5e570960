"""`layouts`: pictures whose class is a texture and a place, made from a seed.

16x16 colour pictures of independent Gaussian noise with one 3x3 patch of stripes in one of 4x4 cells of 4x4 pixels.
Class = texture (horizontal or vertical stripes) x cell: 32 classes.  The patch wraps around the border, so the pictures
of one cell are exactly the circular shifts of those of another.  A network that cannot tell where errs on 15 of 16.
"""

import numpy as np
import torch

from workbench.datasets.memory import Split

VERSION = "layouts-1"
SIDE, CELL, PATCH, JITTER = 16, 4, 3, 2
TEXTURES = ("horizontal", "vertical")
CONTRAST = 2.0  # of the stripes, in standard deviations of the noise


def load() -> tuple[Split, Split]:
    """4,096 training and 2,048 test pictures."""
    return make(4096, seed=0), make(2048, seed=1)


def make(count: int, seed: int) -> Split:
    """`count` pictures; classes are drawn independently and uniformly."""
    rng = np.random.Generator(np.random.Philox(seed))
    cells = SIDE // CELL
    label = rng.integers(0, len(TEXTURES) * cells * cells, count)
    texture, row, column = np.unravel_index(label, (len(TEXTURES), cells, cells))
    picture = rng.standard_normal((count, SIDE, SIDE, 3))
    corner = np.stack([row, column], 1) * CELL + rng.integers(0, JITTER, (count, 2))
    stripes = CONTRAST * np.array([1.0, -1.0, 1.0])
    for i in range(PATCH):
        for j in range(PATCH):
            y, x = (corner[:, 0] + i) % SIDE, (corner[:, 1] + j) % SIDE
            picture[np.arange(count), y, x] += np.where(texture == 0, stripes[i], stripes[j])[:, None]
    pictures = np.clip(np.rint(128 + 32 * picture), 0, 255).astype(np.uint8)
    names = tuple(
        f"{texture} {row}.{column}" for texture in TEXTURES for row in range(cells) for column in range(cells)
    )
    half, quarter = (0.5,) * 3, (0.125,) * 3
    return Split(torch.from_numpy(pictures), torch.from_numpy(label), names, half, quarter)
