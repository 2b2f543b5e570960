"""The two files of a network's weights as they come with the project, read so that neither can do harm."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from workbench import files
from workbench.errors import Corrupt, DataMissing, WorkbenchError
from workbench.experiments.experiment import Record, outdated
from workbench.names import parse

if TYPE_CHECKING:
    from torch import Tensor

LIMIT_BYTES = 200_000_000  # of a file of weights, which is read as a whole
LIMIT_SIDE = 1024  # of a picture that a network reads, px
ERROR, AP = "top1_error", "ap"  # what a classifier is known by, and a detector


class Reads(NamedTuple):
    """What a network reads: pictures of `side` px, their channels' mean and deviation in [0, 1], and its classes."""

    side: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]

    def uint8(self, picture: np.ndarray) -> np.ndarray:
        """(H, W, 3) -> (side, side, 3): the middle square, resized."""
        from PIL import Image, ImageOps

        size = (self.side, self.side)
        return np.asarray(ImageOps.fit(Image.fromarray(picture), size, Image.Resampling.BILINEAR))

    def normalised(self, picture: np.ndarray) -> "Tensor":
        """(H, W, 3) uint8 -> (1, 3, side, side) float32, as in training."""
        import torch

        values = (self.uint8(picture) / 255 - np.array(self.mean)) / np.array(self.std)
        return torch.from_numpy(values.astype(np.float32)).permute(2, 0, 1)[None].contiguous()


class Whole(NamedTuple):
    """What a detector reads: whole pictures, of which it knows these classes."""

    classes: tuple[str, ...]

    def scaled(self, picture: np.ndarray) -> "Tensor":
        """(H, W, 3) uint8 -> (3, H, W) float32 in [0, 1], as in training."""
        import torch

        return torch.from_numpy((picture / np.float32(255)).transpose(2, 0, 1)).contiguous()


def described(path: Path) -> dict[str, Any]:
    """What the file says, with the record as a Record and what the network reads as Reads; raises Corrupt."""
    kept = files.read_json(path)
    try:
        record = Record(**kept["record"])
        whole = (
            record.key == path.stem
            and ":" not in record.spec["model"]["name"]  # a user's own class, whose file would be run
            and isinstance(kept["sha256"], str)
            and 0 <= float(kept[measure(record)]) <= 100
        )
        reads = _reads(kept["reads"]) if measure(record) == ERROR else _whole(kept["reads"])
    except (KeyError, TypeError, ValueError, OverflowError, WorkbenchError) as error:
        raise Corrupt(f"{path} does not describe weights ({error!r}); fetch it again from the project.") from error
    if not (whole and reads):
        raise Corrupt(f"{path} does not describe weights; fetch it again from the project.")
    if parts := outdated(record.spec):
        raise Corrupt(f"{path} was made with another {' and '.join(parts)}; export the run again.")
    return kept | {"record": record, "reads": reads}


def measure(record: Record) -> str:
    """The name of what a network is known by."""
    return ERROR if parse(record.spec["model"]["name"]).detector is None else AP


def _reads(fields: dict[str, Any]) -> Reads | None:
    """None for what no network can read."""
    side, mean, std = fields["side"], tuple(fields["mean"]), tuple(fields["std"])
    good = (
        isinstance(side, int)
        and 0 < side <= LIMIT_SIDE
        and len(mean) == len(std) == 3
        and all(math.isfinite(value) for value in (*mean, *std))
        and min(std) > 0
        and _named(fields["classes"])
    )
    return Reads(side, mean, std, tuple(fields["classes"])) if good else None


def _whole(fields: dict[str, Any]) -> Whole | None:
    return Whole(tuple(fields["classes"])) if _named(fields["classes"]) else None


def _named(classes: Any) -> bool:
    """Is this a list of names, each once?"""
    return (
        isinstance(classes, list)
        and len({*classes}) == len(classes) > 1
        and all(isinstance(name, str) for name in classes)
    )


def read(path: Path) -> tuple[dict[str, "Tensor"], Reads | Whole]:
    """The weights beside this description, and what their network reads; raises DataMissing or Corrupt."""
    from workbench.training.checkpoint import read_tensors

    kept, file = described(path), path.with_suffix(".safetensors")
    if not file.is_file():
        raise DataMissing(f"The weights {file} are not here; fetch them again from the project.")
    if file.stat().st_size > LIMIT_BYTES:
        raise Corrupt(f"{file} has more than {LIMIT_BYTES / 1e6:.0f} MB; fetch it again from the project.")
    data = file.read_bytes()
    if files.sha256(data) != kept["sha256"]:
        raise Corrupt(f"{file} is not what was written (sha256); fetch it again from the project.")
    try:
        return read_tensors(file, data), kept["reads"]
    except Corrupt as error:
        raise Corrupt(f"{error} Fetch it again from the project.") from error
