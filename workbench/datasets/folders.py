"""A user's own pictures, `folder:PATH`, as ImageNet and Imagenette lie unpacked.

    PATH/train/<class>/*.jpg and PATH/val/<class>/*.jpg     or PATH/test, where there is no PATH/val
    PATH/<class>/*.jpg     without any of the three: of each class every fifth picture, in the order of the names, is a
                           test picture

Classes are the names of the folders, sorted.  Pictures also lie deeper in them; names that begin with a dot are passed
over, and so are the files that PATH/bad-images.json lists (`workbench data verify` writes it).
"""

import contextlib
import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS

from workbench.datasets import crops
from workbench.datasets.decoded import MEAN, STD, FolderBatches
from workbench.datasets.images import decode
from workbench.errors import Corrupt, DataMissing, OutOfRange
from workbench.files import read_json, write_json

log = logging.getLogger(__name__)

FIFTH = 5  # of a folder that is not split, one picture in five is for testing
LEFT_OUT = "bad-images.json"
WHOLE_BYTES = 1_000_000_000  # up to this size a version is made of every byte, above of names and sizes
LAYOUT = "PATH/train/<class>/ and PATH/val/<class>/ (or PATH/test), or PATH/<class>/ alone, with pictures in them"


@dataclass(frozen=True, eq=False)
class FolderSplit:
    """Pictures in files, brought to side x side px: cut at random if `augment`, as published for ImageNet, or centred.

    files: (N,) paths below `root`, as bytes; labels: (N,) int64; remedy: what to do about a picture that is damaged.
    """

    root: Path
    files: np.ndarray
    labels: Tensor
    classes: tuple[str, ...]
    side: int
    augment: bool
    remedy: str
    mean: ClassVar[tuple[float, float, float]] = MEAN
    std: ClassVar[tuple[float, float, float]] = STD

    def __len__(self) -> int:
        return len(self.files)

    def at(self, index: Sequence[int]) -> Tensor:
        """These pictures, centred: (n, side, side, 3) uint8."""
        return torch.stack([self.picture(one, None) for one in index])

    def path(self, index: int) -> Path:
        return self.root / os.fsdecode(self.files[index])

    def picture(self, index: int, draw: tuple[int, int] | None) -> Tensor:
        """(side, side, 3) uint8, cut by the draws of (seed, epoch), or centred for None; raises Corrupt, OutOfRange."""
        try:
            picture = decode(self.path(index))
        except (Corrupt, OutOfRange) as error:
            raise type(error)(f"Picture {index} of {len(self)}: {error} {self.remedy}") from error
        return crops.augmented(picture, self.side, *draw, index) if draw else crops.centred(picture, self.side)

    def batches(
        self, device: torch.device, size: int, share: tuple[int, int] = (0, 1), workers: int = 0
    ) -> FolderBatches:
        """The split in batches on a device, decoded by this many processes, or by the caller for 0."""
        return FolderBatches(self, device, size, share, workers)


class Tree(NamedTuple):
    """What lies in a folder.  files: (path below the root, bytes, number of the class, is a test picture), by path."""

    classes: tuple[str, ...]
    files: tuple[tuple[str, int, int, bool], ...]


def load(root: Path, side: int) -> tuple[FolderSplit, FolderSplit]:
    """The training and the test split, brought to `side` px; raises DataMissing, OutOfRange or Corrupt."""
    classes, files = tree(root)
    remedy = f"Or leave it out: {skipping(root, 1)}."

    def split(test: bool) -> FolderSplit:
        mine = [file for file in files if file[3] == test]
        paths = np.array([os.fsencode(path) for path, *_ in mine])
        labels = torch.tensor([label for *_, label, _ in mine])
        return FolderSplit(root, paths, labels, classes, side, not test, remedy)

    return split(False), split(True)


@cache
def version(root: Path) -> str:
    """sha256 of the names and sizes of all pictures, and of their bytes if these are at most 1 GB."""
    digest = hashlib.sha256()
    files = tree(root).files
    whole = sum(size for _, size, _, _ in files) <= WHOLE_BYTES
    with _readable():
        for path, size, _, _ in files:
            digest.update(os.fsencode(path) + b"\0%d\0" % size)
            if whole:
                with open(root / path, "rb") as file:
                    digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


@cache
def tree(root: Path) -> Tree:
    """The classes and pictures of a folder, listed once a process; raises DataMissing, OutOfRange or Corrupt."""
    parts = _parts(root)
    bad = _left_out(root)
    with _readable():
        found = {part: _classes(root / part, root, bad) for part in parts}
    _check(root, found)
    classes = tuple(sorted(found[parts[0]]))
    files = [
        (path, size, label, part == parts[1] if parts[1:] else number % FIFTH == FIFTH - 1)
        for part, pictures in found.items()
        for label, name in enumerate(classes)
        for number, (path, size) in enumerate(pictures[name])
    ]
    return Tree(classes, tuple(sorted(files)))


def verify(root: Path, skip: int = 0) -> None:
    """Decode every picture.  Up to `skip` that cannot be are left out from now on, which changes the version.

    Raises Corrupt, naming the first, when there are more.
    """

    paths = [path for path, *_ in tree(root).files]
    faults = damaged(root, paths)
    if len(faults) > skip:
        raise Corrupt(
            f"{len(faults)} of {len(paths)} pictures cannot be decoded: {' '.join([*faults.values()][:3])} "
            f"Replace them, or leave them out: {skipping(root, len(faults))}."
        )
    if faults:
        write_json(root / LEFT_OUT, sorted(_left_out(root) | faults.keys()))
        tree.cache_clear()
        version.cache_clear()


def damaged(root: Path, paths: Sequence[str]) -> dict[str, str]:
    """Of these paths below the root, those that cannot be decoded, each with what is wrong."""

    def fault(path: str) -> str:
        try:
            decode(root / path)
        except (Corrupt, OutOfRange) as error:
            return str(error)
        return ""

    with ThreadPool() as threads:  # decoding lets go of the interpreter
        return {path: text for path, text in zip(paths, threads.imap(fault, paths, 16), strict=True) if text}


def skipping(root: Path, count: int) -> str:
    """The command that leaves out up to so many damaged pictures of a folder."""
    return f"`workbench data verify 'folder:{root}' --skip-bad-images {count}`"


@contextlib.contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataMissing(f"{error.filename} cannot be read ({error.strerror}); mend or remove it.") from error


def _parts(root: Path) -> tuple[str, ...]:
    """("train", "val"), ("train", "test"), or ("",) for a folder of classes."""
    if not root.is_dir():
        raise DataMissing(f"There is no folder {root}; folder:PATH expects {LAYOUT}.")
    here = [part for part in ("train", "val", "test") if (root / part).is_dir()]
    if here and (here[0] != "train" or len(here) == 1):
        raise DataMissing(f"{root} has {' and '.join(here)} alone; folder:PATH expects {LAYOUT}.")
    return tuple(here[:2]) or ("",)


def _left_out(root: Path) -> set[str]:
    """The paths below the root that are to be passed over."""
    listed = read_json(root / LEFT_OUT) if (root / LEFT_OUT).exists() else []
    if not isinstance(listed, list):
        raise Corrupt(f"{root / LEFT_OUT} is no list of paths; mend it, or delete it to use all pictures.")
    return set(listed)


def _classes(folder: Path, root: Path, bad: set[str]) -> dict[str, list[tuple[str, int]]]:
    """Class -> its pictures as (path below the root, bytes), by path."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    found = {}
    for name in names:
        below = ((Path(path).relative_to(root).as_posix(), size) for path, size in _pictures(folder / name))
        listed = sorted(below)
        found[name] = [picture for picture in listed if picture[0] not in bad]
        if count := len(listed) - len(found[name]):
            log.warning("%d pictures of %s are left out, as %s says.", count, folder / name, root / LEFT_OUT)
    return found


def _pictures(folder: Path) -> Iterator[tuple[str, int]]:
    """Path and bytes of every picture in a folder and below; a link that leads nowhere raises OSError."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from _pictures(Path(entry.path))
            elif entry.name.lower().endswith(IMG_EXTENSIONS):
                yield entry.path, entry.stat().st_size


def _check(root: Path, found: dict[str, dict[str, list]]) -> None:
    """Raise OutOfRange or DataMissing unless both parts have the same two or more classes, each with pictures."""
    first, last = next(iter(found)), [*found][-1]
    if odd := sorted(found[first].keys() ^ found[last].keys()):
        raise OutOfRange(
            f"{root}: {len(odd)} classes are in {first} or in {last} only ({', '.join(odd[:3])}); both need the same."
        )
    if len(found[first]) < 2:
        raise DataMissing(
            f"{root / first} has {len(found[first])} folders of pictures, and it takes two classes to tell apart; "
            f"folder:PATH expects {LAYOUT}."
        )
    for part, pictures in found.items():
        least = 1 if part else FIFTH
        for name, few in pictures.items():
            if len(few) < least:
                raise OutOfRange(
                    f"{root / part / name} has {len(few)} pictures; a class needs at least {least}. "
                    f"Add some, or remove the folder."
                )
