"""Pictures that processes decode ahead of time, in the order in which they are asked for."""

from __future__ import annotations

import signal
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from workbench.errors import WorkbenchError

STOPS = (signal.SIGINT, signal.SIGTERM)


class Ahead:
    """What `decode` says of each entry of a plan, by `workers` processes, or by the caller for 0.

    What is decoded where is a matter of speed alone.  waited_s: the seconds that `next` took so far; pinned: into
    memory from which a GPU copies beside other work; root: where the pictures lie, for the error of a worker that died.
    """

    def __init__(self, decode: Callable[[Any], Any], root: Path, workers: int, pinned: bool):
        self.decode, self.root, self.workers, self.pinned = decode, root, workers, pinned
        self.waited_s = 0.0
        self._plan: list[Any] = []
        self._held: dict[str, Any] = {}  # the loader and its open epoch, which has the worker processes
        weakref.finalize(self, _end, self._held)  # also when Python ends, which would wait for them

    def start(self, plan: Sequence[Any]) -> None:
        """Begin with the first entry; what is left of an earlier plan is given up."""
        self._plan[:] = plan
        if not self._held:
            self._held["loader"] = self._loader()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)  # so that none reaches a worker that is being born
        try:
            self._held["epoch"] = iter(self._held["loader"])
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def next(self) -> Any:
        """Wait for what comes next; raises the error of what cannot be decoded, and StopIteration after the last."""
        start = time.monotonic()
        try:
            found = next(self._held["epoch"])
        except RuntimeError as error:
            if "DataLoader worker (pid" not in str(error):
                raise
            raise WorkbenchError(f"A process that decodes {self.root} ended ({error}); start again.") from error
        finally:
            self.waited_s += time.monotonic() - start
        if isinstance(found, WorkbenchError):
            raise found
        return found

    def all(self, plan: Sequence[Any]) -> Iterator[Any]:
        """Each answer to a new plan."""
        self.start(plan)
        for _ in range(len(plan)):
            yield self.next()

    def close(self) -> None:
        """End the worker processes; the next plan would start others."""
        _end(self._held)

    def _loader(self) -> DataLoader:
        return DataLoader(
            Answers(self.decode),
            batch_size=None,
            sampler=self._plan,
            num_workers=self.workers,
            collate_fn=_as_it_is,
            pin_memory=self.pinned,
            worker_init_fn=_outlive_signals,
            persistent_workers=self.workers > 0,
            generator=torch.Generator(),  # or every epoch would draw from the generator that dropout draws from
        )


class Answers(Dataset):
    """What a worker does.  An error is an answer, so that it is raised where it is wanted, as it is."""

    def __init__(self, decode: Callable[[Any], Any]):
        self.decode = decode

    def __getitem__(self, wanted: Any) -> Any:
        try:
            return self.decode(wanted)
        except WorkbenchError as error:
            return error


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
