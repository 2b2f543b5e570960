"""One run on a worker of a Dask cluster; `worker` is Dask's own object of that process."""

import contextlib
import ctypes
import logging
import signal
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from workbench.errors import Busy, WorkbenchError
from workbench.experiments.experiment import Experiment
from workbench.experiments.store import Store
from workbench.files import lock

LOOK_S = 0.5
TOPIC = "workbench"  # of what the workers tell


class Order(NamedTuple):
    """What a worker is told: a run, and where.

    grid: which call of `runs` wants it, the name of a file in the root as well.  threads: torch's, or 0 for as many as
    the worker was started with; gpus: how many the workers of this machine share, or 0 where each sees its own.
    """

    experiment: Experiment
    key: str
    root: Path
    data: Path
    device: str
    workers: int
    grid: str
    threads: int
    gpus: int


def unfit(root: str, grid: str, dask_worker: Any) -> str:
    """Why this worker cannot take runs of this grid, or nothing."""
    if not Path(root, grid).is_file():
        return (
            f"Worker {dask_worker.address} does not see the runs folder {root} of the machine that asks. All workers"
            f" must reach the same folder under this path: on one machine, or by NFS or the like. Without a shared"
            f" file system a cluster is not supported; then run each machine on its own and copy the runs together."
        )
    threads = dask_worker.state.nthreads
    if threads > 1:
        return (
            f"Worker {dask_worker.address} takes {threads} tasks at a time, but a run needs a process of its own."
            f" Start it with --nthreads 1, and several with --nworkers."
        )
    return ""


def train(order: Order, worker: Any) -> bool:
    """The run from its newest checkpoint to its end, True; or, when it is not wanted any more, saved, False."""
    if complaint := unfit(str(order.root), order.grid, worker):
        raise WorkbenchError(complaint)
    if order.experiment.key() != order.key:  # its code takes the same settings for another run
        raise WorkbenchError(f"Worker {worker.address} has another version of the workbench; install the same.")

    def tell(what: str, text: str = "", level: int = logging.INFO) -> None:
        told = {"grid": order.grid, "key": order.key, "worker": worker.address}
        worker.log_event(TOPIC, told | {"what": what, "text": text, "level": level})

    tell("started")
    forward, done, outcome = _Forward(tell), False, "failed"
    logging.getLogger("workbench").addHandler(forward)
    try:
        _settle(worker, order)
        done = _turns(order, _wanted(worker), tell)
        outcome = "finished" if done else "stopped"
    finally:
        logging.getLogger("workbench").removeHandler(forward)
        tell(outcome)
    return done


def _turns(order: Order, wanted: Callable[[], bool], tell: Callable[..., None]) -> bool:
    """Train until done, True, or not wanted any more, False."""
    store = Store(order.root, order.data)
    while wanted():
        turns = store.turns(order.experiment, order.device, workers=order.workers)
        try:
            for _ in turns:
                if not wanted():
                    turns.close()  # the run saves itself
                    return False
            return True
        except Busy as busy:  # such as a worker that the scheduler does not hear any more
            tell("waits for", f" ({busy})")
            while wanted() and _held(store.root / order.key / "run.lock"):
                time.sleep(LOOK_S)
    return False


def _held(path: Path) -> bool:
    with contextlib.suppress(Busy), lock(path):
        return False
    return True


def _wanted(worker: Any) -> Callable[[], bool]:
    """Whether this task is: it is not when its caller cancelled it or is gone, or when the worker is to end."""
    key = worker.get_current_task()

    def wanted() -> bool:
        task = worker.state.tasks.get(key)
        return worker.status.name in ("running", "paused") and task is not None and task.state == "executing"

    return wanted


def _settle(worker: Any, order: Order) -> None:
    """Ready this process for a run: memory, threads, GPU, and, in a cluster of the caller's own machine, signals."""
    if order.threads:  # Ctrl-C goes to all processes of a terminal; it is the caller who has the runs save themselves
        worker.loop.add_callback(signal.signal, signal.SIGINT, signal.SIG_IGN)
    _keep_memory()
    import torch

    torch.set_num_threads(order.threads or _threads())
    if order.gpus:
        torch.cuda.set_device(int(worker.name) % order.gpus)


def _keep_memory() -> None:
    """Undo what Dask's nanny sets, MALLOC_TRIM_THRESHOLD_: every tensor's memory would be given back at once.

    Training on a CPU takes several times as long with it.  The values are those that glibc itself would come to.
    """
    M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
    with contextlib.suppress(AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 32 << 20)
        ctypes.CDLL(None).mallopt(M_TRIM_THRESHOLD, 64 << 20)


@cache
def _threads() -> int:
    """Torch's threads as this worker was started; a run that is continued brings its own."""
    import torch

    return torch.get_num_threads()


class _Forward(logging.Handler):
    """Warnings of the library on a worker, told to who wants the run."""

    def __init__(self, tell: Callable[..., None]):
        super().__init__(logging.WARNING)
        self.tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        self.tell("says of", f": {record.getMessage()}", record.levelno)
