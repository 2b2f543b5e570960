"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009) through torchvision's reader and checksums.

Augmented as CRA III-B says, "as [8]": pad 4, random crop, horizontal flip.
"""

from pathlib import Path
from typing import Any

import torch

from workbench.datasets.memory import Split
from workbench.errors import Corrupt, DataMissing

ARCHIVES = {"cifar10": "c58f30108f718f92721af3b95e74349a", "cifar100": "eb9058c3a382ffc7106e4002c42a8d85"}
STATISTICS = {  # mean and standard deviation of the training pictures' channels
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}


def load(name: str, root: Path) -> tuple[Split, Split]:
    """Both splits from torchvision's layout under `root`; raises DataMissing or Corrupt."""
    reader = _reader(name)
    folder = root / reader.base_folder
    if not folder.is_dir():
        raise DataMissing(
            f"{name} is not in {root} (expected {folder}, 170 MB). "
            f"Fetch it with `workbench data fetch {name}`, or point --data-dir or WORKBENCH_DATA at its parent folder."
        )
    try:
        train, test = (reader(root, train=part, download=False) for part in (True, False))
    except RuntimeError as error:
        raise Corrupt(
            f"{folder} is not whole: {_damaged(reader, folder)} fails its MD5 check. "
            f"Delete the folder and run `workbench data fetch {name}`."
        ) from error
    return _split(name, train, augment=True), _split(name, test, augment=False)


def fetch(name: str, root: Path) -> None:
    """Download into `root` through torchvision, which verifies the checksums; raises Corrupt."""
    try:
        _reader(name)(root, train=True, download=True)
    except RuntimeError as error:
        raise Corrupt(f"{name} came damaged into {root} ({error}); fetch {name} again.") from error


def version(name: str) -> str:
    """The MD5 of the archive, as torchvision has it."""
    return ARCHIVES[name]


def _reader(name: str) -> Any:
    import torchvision

    return {"cifar10": torchvision.datasets.CIFAR10, "cifar100": torchvision.datasets.CIFAR100}[name]


def _damaged(reader: Any, folder: Path) -> str:
    from torchvision.datasets.utils import check_integrity

    files = [*reader.train_list, *reader.test_list, [reader.meta["filename"], reader.meta["md5"]]]
    return next((name for name, md5 in files if not check_integrity(str(folder / name), md5)), "a file")


def _split(name: str, source: Any, augment: bool) -> Split:
    mean, std = STATISTICS[name]
    pad, flip = (4, True) if augment else (0, False)
    return Split(
        torch.from_numpy(source.data), torch.tensor(source.targets), tuple(source.classes), mean, std, pad, flip
    )
