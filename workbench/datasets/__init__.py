"""Data sets by name; each is a pair of in-memory splits."""

from pathlib import Path

from workbench.datasets.memory import Split
from workbench.errors import UnknownName

DATASETS = {
    "cifar10": "CIFAR-10, 50,000 + 10,000 photographs of 32x32, 10 classes",
    "cifar100": "CIFAR-100, 50,000 + 10,000 photographs of 32x32, 100 classes",
    "layouts": "procedural, 4,096 + 2,048 pictures of 16x16, class = texture x place, no download",
}


def load(name: str, root: Path) -> tuple[Split, Split]:
    """The training and the test split; raises UnknownName, DataMissing or Corrupt."""
    from workbench.datasets import cifar, layouts

    if name not in DATASETS:
        raise UnknownName("data set", name, DATASETS)
    return layouts.load() if name == "layouts" else cifar.load(name, root)


def classes(name: str) -> int:
    """The number of classes of a data set, without reading it."""
    if name not in DATASETS:
        raise UnknownName("data set", name, DATASETS)
    return {"cifar10": 10, "cifar100": 100, "layouts": 32}[name]


def version(name: str) -> str:
    """What identifies the content of a data set in an experiment's key."""
    from workbench.datasets import cifar, layouts

    return layouts.VERSION if name == "layouts" else cifar.version(name)


__all__ = ["DATASETS", "Split", "classes", "load", "version"]
