"""A user's own pictures in files: how fast they come, and how long a training step waits for them."""

import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch.utils.data import Dataset
from torchvision import transforms
from torchvision.datasets.folder import default_loader

from workbench import datasets
from workbench.bench.data import AHEAD, SETTLE_S, endless, loader, ours, take
from workbench.bench.settings import Settings
from workbench.bench.timing import entry, interleaved
from workbench.build import build, image_size
from workbench.datasets.decoded import MEAN, STD
from workbench.errors import OutOfRange
from workbench.training.loop import Training
from workbench.training.recipe import Recipe
from workbench.training.update import WARM

BATCHES = 8  # of one measurement
STEPS = 8  # of the network, after those that a GPU warms up with and the one that it records


def folder(settings: Settings) -> tuple[dict[str, Any], Iterator[dict[str, Any]]]:
    """The settings, and the entries: without and with workers beside torchvision's, then a training step."""
    model = settings.model or "resnet50"
    side = image_size(model)
    splits = datasets.load(settings.data, settings.data_dir, side)
    if len(splits[0]) < settings.batch:
        raise OutOfRange(f"--batch {settings.batch}: {settings.data} has {len(splits[0])} training pictures.")
    facts = {"pictures": f"{len(splits[0]):,} in files", "batch": settings.batch, "model": model}
    return facts, entries(model, splits, settings)


def entries(model: str, splits: tuple[Any, Any], settings: Settings) -> Iterator[dict[str, Any]]:
    """Pictures per second without workers and with them, and a step of the network with them."""
    for workers in (0, settings.workers):
        yield beside(splits[0], workers, settings)
    yield step(model, splits, settings)


class Files(Dataset):
    """The same files, cut at random and normalised by torchvision's transforms, as its ImageNet training does."""

    def __init__(self, split: Any):
        self.split = split
        crop, flip = transforms.RandomResizedCrop(split.side), transforms.RandomHorizontalFlip()
        self.change = transforms.Compose([crop, flip, transforms.ToTensor(), transforms.Normalize(MEAN, STD)])

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.change(default_loader(self.split.path(index))), int(self.split.labels[index])


def beside(split: Any, workers: int, settings: Settings) -> dict[str, Any]:
    """Ours and torchvision's with as many processes, in wall seconds."""
    device, size = settings.where, settings.batch
    batches = split.batches(device, size, workers=workers)
    theirs = endless(loader(Files(split), settings, workers), device)
    streams = {"ours": ours(batches, len(split) // size), "theirs": theirs}
    cases = {name: partial(take, stream, BATCHES) for name, stream in streams.items()}

    def before(name: str) -> None:
        if workers:
            time.sleep(SETTLE_S)
            take(streams[name], 2 * AHEAD * workers)

    times = interleaved(cases, settings.rounds, device, before=before)
    batches.close()
    seconds = {name: duration / BATCHES for name, duration in times.items()}
    shape, peer = f"{size}x3x{split.side}x{split.side}", f"transforms, {workers} workers"
    rates = {"pictures_per_s": size / seconds["ours"], "peer_pictures_per_s": size / seconds["theirs"]}
    return entry("batch from files", shape, peer, seconds, "ours", "theirs", workers=workers, **rates)


def step(model: str, splits: tuple[Any, Any], settings: Settings) -> dict[str, Any]:
    """A training step, beside itself without what the host waits for pictures (a GPU may still have work then)."""
    train, test = splits
    torch.manual_seed(0)
    recipe = Recipe(batch=settings.batch, epochs=10_000, lr=1e-3, schedule="constant", precision="bf16")
    network = build(model, len(train.classes), train.side)
    training = Training(network, train, test, recipe, 0, settings.device, settings.compiled, settings.workers)
    feed: Any = training.train
    for count in (WARM + 1, STEPS):
        waited, start = feed.waited_s, time.perf_counter()
        for _ in range(count):
            training.step()
        training.look()
        duration, waited = time.perf_counter() - start, feed.waited_s - waited
    feed.close()
    seconds = {"ours": duration / STEPS, "ready": (duration - waited) / STEPS}
    shape = f"{settings.batch}x3x{train.side}x{train.side}"
    name = f"{model} step, {settings.workers} workers"
    return entry(name, shape, "pictures ready", seconds, "ours", "ready", waited_percent=100 * waited / duration)
