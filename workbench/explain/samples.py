"""Single pictures that are at hand without a download, by name.

`pattern:NAME` is drawn, `layouts:CLASS` made from a seed, `photo:NAME` lies inside an installed package, and
`cifar10:CLASS` is a test picture, where CIFAR has been fetched.  `shapes:NUMBER`, made from a seed, and
`coco-mini:NUMBER`, where it is here, are the first test pictures with boxes.
"""

import importlib.util
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
from torch import Tensor

from workbench.datasets import cifar, coco, layouts, shapes
from workbench.datasets.boxes import DetectionSplit, Item
from workbench.datasets.images import decode
from workbench.errors import UnknownName, WorkbenchError

PHOTOS = {  # name -> package, and the file inside it
    "china": ("sklearn", "datasets/images/china.jpg"),
    "flower": ("sklearn", "datasets/images/flower.jpg"),
    "grace-hopper": ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
}
SIDE = 64  # of a pattern, px
OF_EACH_CLASS = {"cifar10": 4, "cifar100": 1}
BOXED = 8  # pictures of each data set with boxes
_reading = threading.Lock()  # sessions that ask at once wait for one reader; a data set takes 200 MB while it is read


def known(root: Path) -> list[str]:
    """The names of all pictures; `root` is the folder of the data sets."""
    return [*_drawn(), *_layouts(), *_photos(), *_cifar(root), *_boxed(root)]


def telling(dataset: str, root: Path) -> list[str]:
    """Two pictures to begin with: of this data set where they are at hand, or photographs, or what is drawn."""
    names = known(root)
    kinds = ([name for name in names if name.partition(":")[0] == kind] for kind in (dataset, "photo"))
    found = next(filter(None, kinds), names)
    return [found[len(found) // 3], found[2 * len(found) // 3]]


def picture(name: str, root: Path) -> np.ndarray:
    """(H, W, 3) uint8, the caller's own; raises UnknownName, or Corrupt for a damaged photograph."""
    drawn, photos = _drawn(), _photos()
    if name in drawn:
        return drawn[name]()
    if name in photos:
        return decode(photos[name], name).numpy()
    for found in (_layouts, lambda: _cifar(root)):
        if name in found():
            return found()[name].numpy().copy()
    if item := boxed(name, root):
        return item[0].picture.numpy().copy()
    raise UnknownName("picture", name, known(root))


def boxed(name: str, root: Path) -> tuple[Item, tuple[str, ...]] | None:
    """The picture of this name with its boxes, and what its labels are called; None for one without boxes."""
    return _boxed(root).get(name)


def _photos() -> dict[str, Path]:
    found = {}
    for name, (package, file) in PHOTOS.items():
        spec = importlib.util.find_spec(package)
        path = Path(spec.origin).parent / file if spec and spec.origin else None
        if path and path.is_file():
            found[f"photo:{name}"] = path
    return found


@cache
def _layouts() -> dict[str, Tensor]:
    split = layouts.make(2048, seed=1)  # the test split
    return {f"layouts:{name}": split.pictures[i] for i, name in _firsts(split.labels, split.classes, 1)}


def _boxed(root: Path) -> dict[str, tuple[Item, tuple[str, ...]]]:
    with _reading:
        return _shapes() | (_coco(root) if _here("coco-mini", root) else {})


@cache
def _shapes() -> dict[str, tuple[Item, tuple[str, ...]]]:
    return _numbered("shapes", shapes.make(BOXED, seed=1))  # the test split


@cache
def _coco(root: Path) -> dict[str, tuple[Item, tuple[str, ...]]]:
    """None of a set that is not whole, which `data verify` is for."""
    try:
        return _numbered("coco-mini", coco.load_mini(root)[1])
    except WorkbenchError:
        return {}


def _numbered(dataset: str, split: DetectionSplit | shapes.MemoryBoxes) -> dict[str, tuple[Item, tuple[str, ...]]]:
    """The first pictures, counted from 1."""
    count = min(BOXED, len(split))
    return {f"{dataset}:{index + 1}": (split.item(index), split.classes) for index in range(count)}


def _cifar(root: Path) -> dict[str, Tensor]:
    with _reading:
        return {name: one for key in OF_EACH_CLASS if _here(key, root) for name, one in _read(key, root).items()}


def _here(key: str, root: Path) -> bool:
    from workbench.datasets import PLACES

    return (root / PLACES[key]).is_dir()


@cache
def _read(key: str, root: Path) -> dict[str, Tensor]:
    """A few test pictures of each class; none of a data set that is not whole, which `data verify` is for."""
    try:
        _, test = cifar.load(key, root)
    except WorkbenchError:
        return {}
    chosen = _firsts(test.labels, test.classes, OF_EACH_CLASS[key])
    return {f"{key}:{name}": test.pictures[i].clone() for i, name in chosen}


def _firsts(labels: Tensor, classes: tuple[str, ...], count: int) -> list[tuple[int, str]]:
    """Index and name of the first `count` pictures of each class: cat, cat 2, cat 3."""
    found = []
    for label, name in enumerate(classes):
        for number, index in enumerate((labels == label).nonzero()[:count, 0].tolist(), 1):
            found.append((index, name if number == 1 else f"{name} {number}"))
    return found


def _drawn() -> dict[str, Callable[[], np.ndarray]]:
    pixels = np.mgrid[:SIDE, :SIDE]
    (y, x), (row, column) = pixels / (SIDE - 1), pixels // (SIDE // 8)  # places in [0, 1], and 8 x 8 cells

    def grey(values: np.ndarray) -> np.ndarray:
        return np.round(255 * np.repeat(values[..., None], 3, 2)).astype(np.uint8)

    return {
        "pattern:grey": lambda: grey(np.full((SIDE, SIDE), 0.5)),
        "pattern:left to right": lambda: grey(x),
        "pattern:stripes": lambda: grey(row % 2),
        "pattern:checkerboard": lambda: grey((row + column) % 2),
        "pattern:disc, upper left": lambda: grey(((x - 0.25) ** 2 + (y - 0.25) ** 2 < 0.03).astype(float)),
        "pattern:disc, lower right": lambda: grey(((x - 0.75) ** 2 + (y - 0.75) ** 2 < 0.03).astype(float)),
    }
