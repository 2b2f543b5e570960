"""Data sets by name, each a pair of splits: pictures in memory, or `folder:PATH`, a user's own, in files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.errors import OutOfRange, UnknownName

if TYPE_CHECKING:  # the names of data sets are needed where torch is not
    from workbench.datasets.folders import FolderSplit
    from workbench.datasets.memory import Split

DATASETS = {
    "cifar10": "CIFAR-10, 50,000 + 10,000 photographs of 32x32, 10 classes",
    "cifar100": "CIFAR-100, 50,000 + 10,000 photographs of 32x32, 100 classes",
    "layouts": "procedural, 4,096 + 2,048 pictures of 16x16, class = texture x place, no download",
}
CLASSES = {"cifar10": 10, "cifar100": 100, "layouts": 32}
FOLDER = "folder:"


def load(name: str, root: Path, side: int = 224) -> tuple[Split | FolderSplit, Split | FolderSplit]:
    """The training and the test split; raises UnknownName, DataMissing, OutOfRange or Corrupt.

    root: where downloaded sets lie; side: what a folder's pictures are brought to, in px, where the others have theirs.
    """
    name = canonical(name)
    if name.startswith(FOLDER):
        from workbench.datasets import folders

        return folders.load(_path(name), side)
    from workbench.datasets import cifar, layouts

    return layouts.load() if name == "layouts" else cifar.load(name, root)


def canonical(name: str) -> str:
    """The one way to write this data set, a folder's with its whole path; raises UnknownName, or what `load` raises."""
    if name in DATASETS:
        return name
    if not name.startswith(FOLDER):
        raise UnknownName("data set", name, [*DATASETS, f"{FOLDER}PATH"])
    if name == FOLDER:
        raise OutOfRange(f"{FOLDER} names no folder; write {FOLDER}PATH.")
    from workbench.datasets import folders

    path = _path(name).expanduser().resolve()
    folders.tree(path)
    return f"{FOLDER}{path}"


def classes(name: str) -> int:
    """How many classes the data set has."""
    if name in CLASSES:
        return CLASSES[name]
    from workbench.datasets import folders

    return len(folders.tree(_path(canonical(name))).classes)


def version(name: str) -> str:
    """What identifies the content of a data set in an experiment's key."""
    name = canonical(name)
    if name.startswith(FOLDER):
        from workbench.datasets import folders

        return folders.version(_path(name))
    from workbench.datasets import cifar, layouts

    return layouts.VERSION if name == "layouts" else cifar.version(name)


def verify(name: str, skip: int = 0) -> None:
    """Decode every picture of a folder, of which up to `skip` may be left out from then on; the others load verified.

    Raises Corrupt.
    """
    name = canonical(name)
    if name.startswith(FOLDER):
        from workbench.datasets import folders

        folders.verify(_path(name), skip)


def identity(name: str) -> dict[str, str]:
    """Name and version, the same wherever the data set lies: a folder has the last part of its path for a name."""
    name = canonical(name)
    return {"name": f"{FOLDER}{_path(name).name}" if name.startswith(FOLDER) else name, "version": version(name)}


def label(identity: Mapping[str, str]) -> str:
    """What a data set is called in tables: a folder by its name and the first digits of its version."""
    name, version = identity["name"], identity["version"]
    return f"{name}@{version[:8]}" if name.startswith(FOLDER) else name


def _path(name: str) -> Path:
    return Path(name.removeprefix(FOLDER))
