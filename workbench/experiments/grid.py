"""Many experiments on one machine: a few processes at a time, each with its share of the cores."""

import contextlib
import multiprocessing
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from workbench.errors import WorkbenchError
from workbench.experiments.experiment import Experiment, Record
from workbench.experiments.store import Store
from workbench.files import ensure_writable

POLL_S = 0.2
PRELOAD = ["workbench.training.loop", "torch.fx.experimental.symbolic_shapes"]  # the second serves the meta device


@dataclass(frozen=True, kw_only=True)
class Resources:
    """Where runs are trained and with how much; nothing here changes a number.

    engine: "local", processes of this machine; device: "auto", "cpu" or "cuda".  jobs: runs at a time.  On a CPU each
    is a process, by default one per core, with one thread each; on a GPU they share one process and take turns, by
    default one at a time.  workers: processes of each run that decode pictures.
    """

    engine: str = "local"
    device: str = "auto"
    jobs: int = 0
    workers: int = 0
    scheduler: str = ""


DEFAULT = Resources()


def run_all(
    experiments: list[Experiment],
    store: Store,
    resources: Resources = DEFAULT,
    on_progress: Callable[[int, int], None] = lambda epochs, total: None,
) -> list[Record]:
    """The records of all `experiments`, in their order; what is done is not done again.

    on_progress gets the epochs finished so far and the epochs in all.  When one run fails, or this call is interrupted,
    the others save and stop; the next call continues.
    """
    total = sum(experiment.recipe.epochs for experiment in experiments)
    waiting = [experiment for experiment in experiments if store.get(experiment) is None]
    done = total - sum(experiment.recipe.epochs for experiment in waiting)
    if waiting:
        ensure_writable(store.root)
        journals = [store.root / experiment.key() / "log.jsonl" for experiment in waiting]
        for _ in _processes(waiting, store, resources):
            on_progress(done + sum(_lines(journal) for journal in journals), total)
    on_progress(total, total)
    return [record for experiment in experiments if (record := store.get(experiment))]


def _processes(waiting: list[Experiment], store: Store, resources: Resources):
    """Run `waiting` in child processes; yields now and then; raises the first error of a child."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    gpu = _on_gpu(resources.device)
    jobs = min(resources.jobs or (1 if gpu else cores), len(waiting))
    threads = cores if gpu else max(1, cores // jobs)
    context = multiprocessing.get_context("forkserver")  # imports once, and forks before there are threads
    context.set_forkserver_preload(PRELOAD)
    queue = [waiting] if gpu else [[experiment] for experiment in waiting]
    running: dict[BaseProcess, Connection] = {}
    try:
        while queue or running:
            while queue and len(running) < jobs:
                experiments = queue.pop(0)
                mine, theirs = context.Pipe(duplex=False)
                arguments = (store.root, store.data, experiments, resources, jobs if gpu else 1, threads, theirs)
                process = context.Process(target=_work, args=arguments, name=experiments[0].key())
                process.start()
                theirs.close()
                running[process] = mine
            time.sleep(POLL_S)
            yield
            for ended in [one for one in running if not one.is_alive()]:
                answer = running.pop(ended)
                with contextlib.suppress(EOFError):  # it ended without a word
                    raise answer.recv()
                if ended.exitcode:
                    raise WorkbenchError(f"The process of {ended.name} was killed; start again to continue the run.")
    finally:
        for left in running:
            left.terminate()  # the run saves itself
        for left in running:
            left.join()


def _work(
    root: Path,
    data: Path,
    experiments: list[Experiment],
    resources: Resources,
    width: int,
    threads: int,
    answer: Connection,
) -> None:
    import torch

    from workbench.training.together import together

    torch.set_num_threads(threads)
    store = Store(root, data)
    try:
        given = resources.device, resources.workers
        for _ in together((store.turns(one, given[0], workers=given[1]) for one in experiments), width):
            pass
    except WorkbenchError as error:
        answer.send(error)


def _on_gpu(device: str) -> bool:
    if device == "cpu":
        return False
    import torch

    return torch.cuda.is_available()


def _lines(journal: Path) -> int:
    return journal.read_bytes().count(b"\n") if journal.exists() else 0
