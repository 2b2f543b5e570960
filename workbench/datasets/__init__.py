"""Data sets by name; each is a pair of in-memory splits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from workbench.errors import UnknownName

if TYPE_CHECKING:  # the names of data sets are needed where torch is not
    from workbench.datasets.memory import Split

DATASETS = {
    "cifar10": "CIFAR-10, 50,000 + 10,000 photographs of 32x32, 10 classes",
    "cifar100": "CIFAR-100, 50,000 + 10,000 photographs of 32x32, 100 classes",
    "layouts": "procedural, 4,096 + 2,048 pictures of 16x16, class = texture x place, no download",
}
CLASSES = {"cifar10": 10, "cifar100": 100, "layouts": 32}


def load(name: str, root: Path) -> tuple[Split, Split]:
    """The training and the test split; raises UnknownName, DataMissing or Corrupt."""
    from workbench.datasets import cifar, layouts

    if name not in DATASETS:
        raise UnknownName("data set", name, DATASETS)
    return layouts.load() if name == "layouts" else cifar.load(name, root)


def version(name: str) -> str:
    """What identifies the content of a data set in an experiment's key."""
    from workbench.datasets import cifar, layouts

    return layouts.VERSION if name == "layouts" else cifar.version(name)
