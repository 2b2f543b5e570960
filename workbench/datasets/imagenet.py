"""ImageNet 2012 (Russakovsky et al., 2015) and Imagenette (Howard, 2019), ten of its classes: torchvision's readers.

    imagenette2-320/{train,val}/<wnid>/*.JPEG         the archive with a shorter side of 320 px, unpacked
    imagenet/meta.bin, {train,val}/<wnid>/*.JPEG      what torchvision makes of the three archives of ImageNet

The readers say what the classes and samples are; the pictures are decoded, cut and normalised as those of a folder.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from workbench.datasets import CLASSES, PLACES, folders
from workbench.datasets.folders import FolderSplit
from workbench.errors import Corrupt, DataMissing

PARTS = ("train", "val")
COUNTS = {"imagenette": (9_469, 3_925), "imagenet": (1_281_167, 50_000)}  # pictures of each part, as published
SIZES = {"imagenette": "340 MB", "imagenet": "155 GB"}
ARCHIVES = {  # and their MD5, as torchvision has them
    "imagenette": {"imagenette2-320.tgz": "3df6f0d01a2c9592104656642f5e78a3"},
    "imagenet": {
        "ILSVRC2012_img_train.tar": "1d675b47d978889d74fa0da5fadfb00e",
        "ILSVRC2012_img_val.tar": "29b22e2961454d5413ddabcf34fc5622",
        "ILSVRC2012_devkit_t12.tar.gz": "fa75699e90414af021442c21a62c3abf",
    },
}
VERSIONS = {name: "-".join(archives.values()) for name, archives in ARCHIVES.items()}
MADE_OF = dict(zip(("train", "val", "meta.bin"), ARCHIVES["imagenet"], strict=True))  # by the reader of ImageNet


def load(name: str, root: Path, side: int) -> tuple[FolderSplit, FolderSplit]:
    """The training and the validation pictures, brought to `side` px; raises DataMissing or Corrupt."""
    folder = root.expanduser() / PLACES[name]
    if missing := _missing(name, folder):
        raise DataMissing(
            f"{name} is not in {root} (expected {folder} with {' and '.join(missing)}, {SIZES[name]}). "
            f"{_how_to_get(name, folder)}, or point --data-dir or WORKBENCH_DATA at its parent folder."
        )
    train, test = (_split(name, folder, number, side) for number in range(len(PARTS)))
    if train.classes != test.classes:
        raise Corrupt(f"{folder}: the classes in train and val differ. {_again(name, folder / 'val')}")
    return train, test


def fetch(name: str, root: Path) -> None:
    """Download Imagenette, or unpack the archives of ImageNet that were put there, after a check of their MD5.

    What is there already stays as it is.  Raises DataMissing or Corrupt, or URLError without a network.
    """
    folder = root.expanduser() / PLACES[name]
    if name == "imagenet" and (absent := _absent(folder)):
        raise DataMissing(f"{folder} lacks {' and '.join(absent)}. {_how_to_get(name, folder)}.")
    try:
        if _missing(name, folder):
            for part in PARTS:
                _reader(name, folder, part, download=True)
    except RuntimeError as error:  # what torchvision says of an archive that fails its check
        raise Corrupt(f"An archive in {folder} is damaged ({error}). Replace it, then fetch {name} again.") from error


def verify(name: str, root: Path) -> None:
    """Decode every picture; raises Corrupt, naming the first that cannot be."""
    splits = load(name, root, side=1)
    paths = [os.fsdecode(path) for split in splits for path in split.files]
    if faults := folders.damaged(splits[0].root, paths):
        raise Corrupt(
            f"{len(faults):,} of {len(paths):,} pictures of {name} cannot be decoded: "
            f"{' '.join([*faults.values()][:3])} {_remedy(name, splits[0].root, len(faults))}"
        )


def _split(name: str, folder: Path, number: int, side: int) -> FolderSplit:
    part, expected = PARTS[number], COUNTS[name][number]
    reader = _opened(name, folder, part)
    samples = reader.samples if name == "imagenet" else reader._samples
    for what, found, right in (("classes", len(reader.wnids), CLASSES[name]), ("pictures", len(samples), expected)):
        if found != right:
            raise Corrupt(f"{folder / part} has {found:,} {what}, {name} {right:,}. {_again(name, folder / part)}")
    below = f"{folder}{os.sep}"
    paths = np.array([os.fsencode(path.removeprefix(below)) for path, _ in samples])
    labels = torch.tensor([label for _, label in samples])
    classes = tuple(", ".join(words) for words in reader.classes)
    return FolderSplit(folder, paths, labels, classes, side, part == "train", _remedy(name, folder, 1))


def _opened(name: str, folder: Path, part: str) -> Any:
    """The reader of what is there; raises Corrupt."""
    from torchvision.datasets.imagenet import load_meta_file

    if name == "imagenet":
        try:
            dict(load_meta_file(folder)[0])
        except Exception as error:  # torchvision unpickles tensors and plain values alone, and fails in every way
            raise Corrupt(f"{folder / 'meta.bin'} cannot be read. {_again(name, folder / 'meta.bin')}") from error
    try:
        return _reader(name, folder, part, download=False)
    except (LookupError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise Corrupt(
            f"{folder / part} is not {name} ({type(error).__name__}: {error}). {_again(name, folder / part)}"
        ) from error


def _reader(name: str, folder: Path, part: str, download: bool) -> Any:
    """torchvision's; that of ImageNet unpacks what is not there yet."""
    import torchvision

    if name == "imagenet":
        return torchvision.datasets.ImageNet(folder, part)
    return torchvision.datasets.Imagenette(folder.parent, part, "320px", download)


def _missing(name: str, folder: Path) -> list[str]:
    """Imagenette is there or not, in one piece; ImageNet is made in three."""
    if name == "imagenet":
        return [part for part in MADE_OF if not (folder / part).exists()]
    return [] if folder.is_dir() else [*PARTS]


def _absent(folder: Path) -> list[str]:
    """The archives of ImageNet that are still needed and not there."""
    return [MADE_OF[part] for part in _missing("imagenet", folder) if not (folder / MADE_OF[part]).is_file()]


def _how_to_get(name: str, folder: Path) -> str:
    if name == "imagenette":
        return f"Fetch it with `workbench data fetch {name}`"
    absent = _absent(folder)
    put = f"Put {', '.join(absent)} from image-net.org into {folder} and unpack" if absent else "Unpack"
    return f"{put} what lies there with `workbench data fetch {name}`"


def _again(name: str, damaged: Path) -> str:
    """How to put right what is not as published."""
    if name == "imagenet":
        archive = MADE_OF[damaged.name]
        return f"Delete {damaged}, put {archive} into {damaged.parent} and run `workbench data fetch imagenet`."
    return f"Delete {damaged.parent} and run `workbench data fetch {name}`."


def _remedy(name: str, folder: Path, count: int) -> str:
    return (
        f"{name} is whole or is not {name}: unpack it again, or train on 'folder:{folder}' after "
        f"{folders.skipping(folder, count)}."
    )
