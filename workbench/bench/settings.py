"""What a bench is told, and the pictures that it feeds to networks."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from workbench import files
from workbench.datasets import cifar
from workbench.datasets.memory import Split
from workbench.errors import DataMissing, OutOfRange

SIDE, COUNT = 32, 50_000  # of CIFAR-10's training pictures
RANDOM = "random bytes, no CIFAR-10 here"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The options of `workbench bench`; each bench reads those that concern it."""

    device: str = "cpu"
    rounds: int = 21
    dtype: str = "float32"
    compiled: bool = False
    model: str = ""
    batch: int = 64
    data: str = "cifar10"
    data_dir: Path
    workers: int = 2
    profile: bool = False

    def __post_init__(self) -> None:
        for option, value in (("rounds", self.rounds), ("batch", self.batch), ("workers", self.workers)):
            if value < 1:
                raise OutOfRange(f"--{option} {value}: give at least 1.")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise OutOfRange("Device cuda: PyTorch sees no GPU here; use cpu.")

    @property
    def where(self) -> torch.device:
        return torch.device(self.device)


def chosen(options: Mapping[str, Any]) -> Settings:
    """Those of a command's options that a bench reads."""
    read = {field.name for field in fields(Settings)}
    given = {name: value for name, value in options.items() if name in read}
    return Settings(**given | {"data_dir": files.data_dir(options["data_dir"])})


def pictures(settings: Settings, side: int = SIDE) -> tuple[str, Split, Split]:
    """What they are, in words, and both splits: CIFAR-10 at 32 px where it is to be had, else random bytes."""
    if side == SIDE:
        try:
            return "CIFAR-10", *cifar.load("cifar10", settings.data_dir)
        except DataMissing:
            return RANDOM, random_split(COUNT, side), random_split(settings.batch, side)
    few = 8 * settings.batch
    return f"random bytes, {side} px", random_split(few, side), random_split(few, side)


def random_split(count: int, side: int) -> Split:
    """Pictures of random bytes in ten classes, augmented as CIFAR-10's."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (count, side, side, 3), generator=generator, dtype=torch.uint8)
    mean, std = cifar.STATISTICS["cifar10"]
    return Split(noise, torch.arange(count) % 10, tuple("0123456789"), mean, std, pad=4, flip=True)
