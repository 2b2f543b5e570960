"""Batches of pictures that processes decode; order and augmentation are pure functions of (seed, epoch, index).

What is decoded where is a matter of speed alone: a worker is told which pictures to cut, and by which draws.
"""

from __future__ import annotations

import signal
import time
import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from workbench.datasets.memory import order
from workbench.errors import WorkbenchError

if TYPE_CHECKING:
    from workbench.datasets.folders import FolderSplit

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's training pictures, as torchvision has them
STOPS = (signal.SIGINT, signal.SIGTERM)

Wanted = tuple[np.ndarray, tuple[int, int] | None]  # numbers of pictures; (seed, epoch), or None for centred ones


class FolderBatches:
    """A split on one device, in batches of `size`; the interface of `workbench.datasets.memory.Batches`.

    `advance` waits for a batch and copies its bytes to fixed memory of the device, from where `batch` normalises it
    without a word to the host, so a GPU can replay it.  waited_s: the seconds that this waiting took so far.
    `ordered` ends an epoch that is open.  share = (rank, processes): of each batch every process decodes its own part.
    """

    def __init__(self, split: FolderSplit, device: torch.device, size: int, share: tuple[int, int], workers: int):
        self.split, self.device, self.size, self.share, self.workers = split, device, size, share, workers
        self.waited_s = 0.0
        mine, side = len(range(share[0], size, share[1])), split.side
        self.pictures = torch.empty(mine, side, side, 3, dtype=torch.uint8, device=device)
        self.labels = torch.empty(mine, dtype=torch.int64, device=device)
        mean, std = (torch.tensor(values, device=device) * 255 for values in (MEAN, STD))
        self.scale, self.shift = (value.repeat(side) for value in (1 / std, -mean / std))
        self._plan: list[Wanted] = []
        self._held: dict[str, Any] = {}  # the loader and its open epoch, which has the worker processes
        weakref.finalize(self, _end, self._held)  # also when Python ends, which would wait for them

    def open(self, seed: int, epoch: int, start: int = 0) -> None:
        """Begin an epoch, at its batch number `start`; nothing before it is decoded."""
        rank, processes = self.share
        whole = len(self.split) // self.size * self.size
        rows = order(seed, epoch, len(self.split))[:whole].view(-1, self.size)[start:, rank::processes].numpy()
        self._start([(row, (seed, epoch) if self.split.augment else None) for row in rows])

    def advance(self) -> None:
        """Wait for the next batch and copy it to the device; raises the error of a picture that cannot be decoded."""
        pictures, labels = self._next()
        self.pictures.copy_(pictures, non_blocking=True)
        self.labels.copy_(labels, non_blocking=True)

    def batch(self, cursor: Tensor) -> tuple[Tensor, Tensor]:
        """This process's part of the batch that `advance` made ready, which is number `cursor`."""
        return self._normalised(self.pictures), self.labels.clone()

    def ordered(self) -> Iterator[tuple[Tensor, Tensor]]:
        """This process's part of all pictures, centred, in batches."""
        rank, processes = self.share
        mine = np.arange(rank, len(self.split), processes)
        self._start([(mine[i : i + self.size], None) for i in range(0, len(mine), self.size)])
        for _ in range(len(self._plan)):
            pictures, labels = (part.to(self.device, non_blocking=True) for part in self._next())
            yield self._normalised(pictures), labels

    def close(self) -> None:
        """End the worker processes; the next epoch would start others."""
        _end(self._held)

    def _loader(self) -> DataLoader:
        return DataLoader(
            Decoder(self.split),
            batch_size=None,
            sampler=self._plan,
            num_workers=self.workers,
            collate_fn=_as_it_is,
            pin_memory=self.device.type == "cuda",
            worker_init_fn=_outlive_signals,
            persistent_workers=self.workers > 0,
            generator=torch.Generator(),  # or every epoch would draw from the generator that dropout draws from
        )

    def _start(self, plan: list[Wanted]) -> None:
        self._plan[:] = plan
        if not self._held:
            self._held["loader"] = self._loader()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)  # so that none reaches a worker that is being born
        try:
            self._held["epoch"] = iter(self._held["loader"])
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _next(self) -> tuple[Tensor, Tensor]:
        start = time.monotonic()
        try:
            found = next(self._held["epoch"])
        except RuntimeError as error:
            if "DataLoader worker (pid" not in str(error):
                raise
            raise WorkbenchError(f"A process that decodes {self.split.root} ended ({error}); start again.") from error
        finally:
            self.waited_s += time.monotonic() - start
        if isinstance(found, WorkbenchError):
            raise found
        return found

    def _normalised(self, pictures: Tensor) -> Tensor:
        """(B, S, S, 3) uint8 -> (B, 3, S, S) float32 in channels_last memory."""
        values = pictures.flatten(2).float().mul_(self.scale).add_(self.shift)
        return values.view(pictures.shape).permute(0, 3, 1, 2)


class Decoder(Dataset):
    """What a worker does: pictures (B, S, S, 3) uint8 and labels (B,), or the error of the first that it cannot decode.

    The error is an answer, so that it is raised where the batch is wanted, as it is.
    """

    def __init__(self, split: FolderSplit):
        self.split = split

    def __getitem__(self, wanted: Wanted) -> tuple[Tensor, Tensor] | WorkbenchError:
        index, draw = wanted
        pictures = torch.empty(len(index), self.split.side, self.split.side, 3, dtype=torch.uint8)
        try:
            for row, number in zip(pictures, index.tolist(), strict=True):
                row.copy_(self.split.picture(number, draw))
        except WorkbenchError as error:
            return error
        return pictures, self.split.labels[index]


def _end(held: dict[str, Any]) -> None:
    """End the workers now: a traceback or a profiler may still hold the epoch, and collecting it later ends none."""
    epoch: Any = held.get("epoch")
    held.clear()
    if hasattr(epoch, "_shutdown_workers"):
        epoch._shutdown_workers()


def _as_it_is(batch: Any) -> Any:
    return batch


def _outlive_signals(worker: int) -> None:
    """Ctrl-C reaches a whole group of processes; the trainer decides when its workers end."""
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)
