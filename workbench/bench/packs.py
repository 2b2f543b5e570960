"""Several runs at once: in one process, taking turns, or each in a process of its own."""

import multiprocessing
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from workbench.bench.settings import Settings, pictures
from workbench.bench.steps import Splits, compared, made, many, ours, turns
from workbench.bench.timing import interleaved
from workbench.build import image_size
from workbench.training.loop import Training
from workbench.training.together import together

ONE = "one run"
TURNS = 2  # of each run in one measurement
START_S = 300  # until every process must be ready


def packs(splits: Splits, settings: Settings, sizes: tuple[int, ...]) -> Iterator[dict[str, Any]]:
    """Runs that take turns in this process, on a GPU each on its own stream: the time, by the steps of all of them."""
    runs = [made(splits, settings) for _ in range(max(sizes))]
    steps = TURNS * many(settings)
    shares = {ONE: 1} | {f"{size} runs together": size for size in sizes}
    cases = {name: partial(finished, runs[:size], steps) for name, size in shares.items()}
    times = interleaved(cases, settings.rounds, settings.where)
    seconds = {name: duration / steps / shares[name] for name, duration in times.items()}
    for name in [*shares][1:]:
        yield compared(name, ONE, seconds, splits, settings)


def finished(runs: list[Training], steps: int) -> list[Training]:
    """The runs, each `steps` steps further."""
    return list(together((turns(run, steps) for run in runs), len(runs)))


def apart(splits: Splits, settings: Settings, sizes: tuple[int, ...]) -> Iterator[dict[str, Any]]:
    """As many runs, each in a process of its own; on a GPU their kernels overlap only under MPS."""
    seconds = {ONE: processes(1, settings)}
    for size in sizes:
        name = f"{size} processes"
        seconds[name] = processes(size, settings)
        yield compared(name, ONE, seconds, splits, settings, mps=mps())


def processes(count: int, settings: Settings) -> float:
    """Seconds from the start of the first to the end of the last, by the steps of all of them."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(count, context, _meet, (context.Barrier(count),)) as pool:
        spans = list(pool.map(_process, [settings] * count))
    return (max(end for _, end in spans) - min(start for start, _ in spans)) / length(settings) / count


def length(settings: Settings) -> int:
    """Steps of each process: enough that they are under way together."""
    return 4 * TURNS * many(settings)


def mps() -> bool:
    """Does NVIDIA's multi-process service run here, by which kernels of several processes overlap?"""
    return Path(os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps")).exists()


_barrier: Barrier


def _meet(barrier: Barrier) -> None:
    global _barrier
    _barrier = barrier


def _process(settings: Settings) -> tuple[float, float]:
    """When the steps of one process begin and end, on the clock of all processes."""
    _, *splits = pictures(settings, image_size(settings.model))
    training = made((splits[0], splits[1]), settings)
    ours(training, many(settings))()
    _barrier.wait(START_S)
    start = time.monotonic()
    ours(training, length(settings))()
    return start, time.monotonic()
