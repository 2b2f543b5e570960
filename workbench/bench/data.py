"""Batches of training pictures as our runs take them, beside torchvision's transforms behind PyTorch's DataLoader."""

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.datasets import CIFAR10, VisionDataset
from torchvision.transforms import v2

from workbench.bench.settings import Settings, pictures
from workbench.bench.timing import Case, computing, entry, interleaved, now
from workbench.datasets import FOLDER
from workbench.datasets.memory import Batches, Split

BATCHES = 20  # of one measurement, from an iterator that is running
SETTLE_S = 0.1  # in which idle workers fill their queues, so that they do not compute in another's turn
AHEAD = 2  # batches that PyTorch's workers prepare ahead, each
Stream = Iterator[tuple[Tensor, Tensor]]


def data(settings: Settings) -> tuple[dict[str, Any], Iterator[dict[str, Any]]]:
    """The pictures and settings, and the entries: without workers in CPU seconds, with workers in wall seconds."""
    if settings.data.startswith(FOLDER):
        from workbench.bench.folder import folder

        return folder(settings)
    name, split, _ = pictures(settings)
    entries = (entry for workers in (0, settings.workers) for entry in beside(split, workers, settings))
    return {"threads": 1, "pictures": name, "batch": settings.batch}, entries


def beside(split: Split, workers: int, settings: Settings) -> list[dict[str, Any]]:
    """Ours in this process and on one thread, beside each of torchvision's ways with `workers` processes.

    Our epoch's opening, which draws its order and crops, is counted in by its share; the DataLoader's is not.
    """
    device, size = settings.where, settings.batch
    batches = split.batches(device, size)
    steps = len(split) // size
    loaders = {
        name: loader(Pictures(split, change), settings, workers) for name, change in augmentations(split).items()
    }
    streams = {"ours": ours(batches, steps)} | {name: endless(one, device) for name, one in loaders.items()}
    cases: dict[str, Case] = {name: partial(take, stream, BATCHES) for name, stream in streams.items()}
    cases["opening"] = partial(batches.open, 0, 0)
    clock = now if workers or device.type == "cuda" else computing

    def before(name: str) -> None:
        if workers:
            time.sleep(SETTLE_S)
            take(streams.get(name, iter(())), 2 * AHEAD * workers if name in loaders else 0)

    with one_thread():
        times = interleaved(cases, settings.rounds, device, clock, before)
    seconds = {name: times[name] / BATCHES for name in streams}
    seconds["ours"] += times["opening"] / steps
    unit = "wall" if clock is now else "CPU"
    shape = f"{size}x3x{split.side}x{split.side}"
    rates = {name: size / duration for name, duration in seconds.items()}
    return [
        entry(
            *(f"training batch, {unit}", shape, f"{name}, {workers} workers", seconds, "ours", name),
            seconds=unit,
            workers=workers,
            pictures_per_s=rates["ours"],
            peer_pictures_per_s=rates[name],
        )
        for name in loaders
    ]


class Pictures(CIFAR10):
    """torchvision's CIFAR-10, of pictures that are in memory already."""

    def __init__(self, split: Split, transform: Callable):
        VisionDataset.__init__(self, "", transform=transform)
        self.data, self.targets = split.pictures.numpy(), split.labels.tolist()


def augmentations(split: Split) -> dict[str, Callable]:
    """torchvision's two ways to pad, crop, flip and normalise a picture."""
    crop, norm = {"size": split.side, "padding": split.pad}, (split.mean, split.std)
    first = [transforms.RandomCrop(**crop), transforms.RandomHorizontalFlip()]
    second = [v2.RandomCrop(**crop), v2.RandomHorizontalFlip(), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    return {
        "transforms": transforms.Compose([*first, transforms.ToTensor(), transforms.Normalize(*norm)]),
        "transforms.v2": v2.Compose([*second, v2.Normalize(*norm)]),
    }


def loader(source: Dataset, settings: Settings, workers: int) -> DataLoader:
    """Shuffled, without the incomplete last batch, the workers kept from epoch to epoch."""
    return DataLoader(
        source,
        settings.batch,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        prefetch_factor=AHEAD if workers else None,
        pin_memory=settings.device == "cuda",
    )


def ours(batches: Batches | Any, steps: int) -> Stream:
    """Batches as `Training.step` takes them, `steps` of each epoch, without end."""
    cursor = torch.zeros((), dtype=torch.int64, device=batches.device)
    for epoch in itertools.count():
        batches.open(0, epoch)
        cursor.zero_()
        for _ in range(steps):
            batches.advance()
            yield batches.batch(cursor)
            cursor += 1


def endless(source: DataLoader, device: torch.device) -> Stream:
    """Epoch after epoch, on the device."""
    while True:
        for x, labels in source:
            yield x.to(device, non_blocking=True), labels.to(device, non_blocking=True)


def take(stream: Stream, count: int) -> None:
    """Let go of the next `count` batches."""
    for _ in itertools.islice(stream, count):
        pass


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
