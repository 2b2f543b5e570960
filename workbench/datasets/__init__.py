"""Data sets by name, each a pair of splits: pictures in memory or in files.

`folder:PATH` is a user's own pictures in folders by class, `coco:PATH` a user's own with boxes, which lie as COCO does.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.errors import DataMissing, OutOfRange, UnknownName, WorkbenchError
from workbench.files import data_dir

if TYPE_CHECKING:  # the names of data sets are needed where torch is not
    from workbench.datasets.boxes import DetectionSplit
    from workbench.datasets.folders import FolderSplit
    from workbench.datasets.memory import Split
    from workbench.datasets.shapes import MemoryBoxes

DATASETS = {
    "cifar10": "CIFAR-10, 50,000 + 10,000 photographs of 32x32, 10 classes",
    "cifar100": "CIFAR-100, 50,000 + 10,000 photographs of 32x32, 100 classes",
    "imagenette": "Imagenette, 9,469 + 3,925 photographs, 10 classes of ImageNet, 340 MB",
    "imagenet": "ImageNet 2012, 1,281,167 + 50,000 photographs, 1,000 classes, 155 GB, downloaded by hand",
    "coco2017": "COCO 2017, 118,287 + 5,000 photographs, boxes of 80 classes, for detectors, 20 GB",
    "coco-mini": "604 photographs of COCO 2017 at up to 320 px, boxes of 80 classes, for detectors, put there by hand",
    "shapes": "procedural, 1,000 + 200 pictures of 96x96, boxes of 6 classes, for detectors, no download",
    "layouts": "procedural, 4,096 + 2,048 pictures of 16x16, class = texture x place, no download",
}
CLASSES = {
    "cifar10": 10,
    "cifar100": 100,
    "imagenette": 10,
    "imagenet": 1000,
    "coco2017": 80,
    "coco-mini": 80,
    "shapes": 6,
    "layouts": 32,
}
PLACES = {  # where each lies below the folder of all data sets; `shapes` and `layouts` are made when they are needed
    "cifar10": "cifar-10-batches-py",
    "cifar100": "cifar-100-python",
    "imagenette": "imagenette2-320",
    "imagenet": "imagenet",
    "coco2017": "coco",
    "coco-mini": "coco_mini_320",
}
IN_FILES, DETECTION = ("imagenette", "imagenet"), ("coco2017", "coco-mini", "shapes")
FOLDER, COCO = OWN = ("folder:", "coco:")


def load(name: str, root: Path, side: int = 224) -> tuple[Split | FolderSplit, Split | FolderSplit]:
    """The training and the test split; raises UnknownName, DataMissing, OutOfRange or Corrupt.

    root: where downloaded sets lie; side: what photographs in files are brought to, in px; the others have theirs.
    """
    name = canonical(name)
    if name.startswith(FOLDER):
        from workbench.datasets import folders

        return folders.load(_path(name), side)
    if detects(name):
        raise OutOfRange(
            f"{name} has boxes and is for detectors, which read it by `workbench.datasets.load_boxes`; "
            f"a classifier takes one of {', '.join(name for name in DATASETS if name not in DETECTION)}."
        )
    if name in IN_FILES:
        from workbench.datasets import imagenet

        return imagenet.load(name, root, side)
    from workbench.datasets import cifar, layouts

    return layouts.load() if name == "layouts" else cifar.load(name, root)


def load_boxes(name: str, root: Path) -> tuple[DetectionSplit, DetectionSplit] | tuple[MemoryBoxes, MemoryBoxes]:
    """The training and the test split of pictures with boxes; raises as `load` does."""
    from workbench.datasets import coco, shapes

    name = canonical(name)
    if not detects(name):
        raise OutOfRange(
            f"{name} has no boxes and is for classifiers; a detector takes one of {', '.join(DETECTION)}, {COCO}PATH."
        )
    if name.startswith(COCO):
        return coco.read(_path(name))
    if name == "shapes":
        return shapes.load()
    return coco.load(root) if name == "coco2017" else coco.load_mini(root)


def detects(name: str) -> bool:
    """Has this data set boxes, for detectors?"""
    return name in DETECTION or name.startswith(COCO)


def fetch(name: str, root: Path) -> None:
    """Get a data set into `root` and unpack it, or say what a person must put there: not for the made up, or a folder.

    Raises DataMissing or Corrupt.
    """
    from http.client import HTTPException

    from workbench.datasets import cifar, coco, imagenet

    name = canonical(name)
    try:
        if name in IN_FILES:
            imagenet.fetch(name, root)
        elif name == "coco2017":
            coco.fetch(root)
        elif name == "coco-mini":
            coco.load_mini(root)
        elif name in PLACES:
            cifar.fetch(name, root)
    except WorkbenchError:
        raise
    except (OSError, HTTPException) as error:  # no network, one that breaks off, or no room
        reason = getattr(error, "reason", error) or type(error).__name__
        raise DataMissing(
            f"{name} cannot be downloaded ({reason}); try again, or do so where the network is reached and bring "
            f"{root / PLACES[name]} here."
        ) from error


def canonical(name: str) -> str:
    """The one way to write this data set, a folder's with its whole path; raises UnknownName, or what `load` raises."""
    if name in DATASETS:
        return name
    if not name.startswith(OWN):
        raise UnknownName("data set", name, [*DATASETS, *(f"{kind}PATH" for kind in OWN)])
    if name in OWN:
        raise OutOfRange(f"{name} names no folder; write {name}PATH.")
    from workbench.datasets import coco, folders

    path = _path(name).expanduser().resolve()
    if name.startswith(COCO):
        coco.version(path)
        return f"{COCO}{path}"
    folders.tree(path)
    return f"{FOLDER}{path}"


def classes(name: str) -> int:
    """How many classes the data set has."""
    if name in CLASSES:
        return CLASSES[name]
    from workbench.datasets import coco, folders

    if name.startswith(COCO):
        return len(coco.read(_path(canonical(name)))[1].classes)
    return len(folders.tree(_path(canonical(name))).classes)


def version(name: str) -> str:
    """What identifies the content of a data set in an experiment's key."""
    name = canonical(name)
    if name.startswith(FOLDER):
        from workbench.datasets import folders

        return folders.version(_path(name))
    if name in IN_FILES:
        from workbench.datasets import imagenet

        return imagenet.VERSIONS[name]
    from workbench.datasets import cifar, coco, layouts, shapes

    if name.startswith(COCO):
        return coco.version(_path(name))
    if name in ("cifar10", "cifar100"):
        return cifar.version(name)
    return {
        "coco2017": coco.VERSION,
        "coco-mini": coco.MINI,
        "shapes": shapes.VERSION,
        "layouts": layouts.VERSION,
    }[name]


def verify(name: str, skip: int = 0, root: Path | None = None) -> None:
    """Decode every photograph in files; of a folder, up to `skip` may be left out from then on.  Raises Corrupt.

    root: where downloaded sets lie, by default where `files.data_dir` says.  The sets in memory load verified.
    """
    name = canonical(name)
    if name.startswith(FOLDER):
        from workbench.datasets import folders

        folders.verify(_path(name), skip)
        return
    from workbench.datasets import coco, imagenet

    if name in IN_FILES:
        imagenet.verify(name, root or data_dir())
    elif detects(name) and name != "shapes":
        coco.verify(*load_boxes(name, root or data_dir()))


def identity(name: str) -> dict[str, str]:
    """Name and version, the same wherever the data set lies: a folder has the last part of its path for a name."""
    name = canonical(name)
    kind = next((kind for kind in OWN if name.startswith(kind)), "")
    return {"name": f"{kind}{_path(name).name}" if kind else name, "version": version(name)}


def label(identity: Mapping[str, str]) -> str:
    """What a data set is called in tables: a folder by its name and the first digits of its version."""
    name, version = identity["name"], identity["version"]
    return f"{name}@{version[:8]}" if name.startswith(OWN) else name


def _path(name: str) -> Path:
    return Path(name.partition(":")[2])
