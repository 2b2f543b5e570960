"""Many experiments at a time, by processes of this machine or by a Dask cluster; each run is the run it would be alone.

engine "local": a process per device slot; "dask": see experiments/cluster.py.
"""

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

from workbench.errors import OutOfRange, UnknownName, WorkbenchError
from workbench.experiments import begin
from workbench.experiments.experiment import Experiment, Record
from workbench.experiments.store import Store
from workbench.files import ensure_writable

POLL_S = 0.2
PRELOAD = ["workbench.training.loop", "torch.fx.experimental.symbolic_shapes"]  # the second serves the meta device
ENGINES = ("local", "dask")


@dataclass(frozen=True, kw_only=True)
class Resources:
    """Where runs are trained and with how much; nothing here changes a number.

    engine: "local", processes of this machine, or "dask", workers of a cluster.  device: "auto", "cpu" or "cuda".
    jobs: runs at a time.  On a CPU each is a process, by default one per core, with its share of the cores as threads,
    however few runs there are; on GPUs there is a process for each, in which runs take turns, by default one at a time.
    workers: processes of each run that decode pictures.  scheduler: of the Dask cluster, an address or a scheduler
    file; by default a cluster of this machine, for as long as it is needed.
    """

    engine: str = "local"
    device: str = "auto"
    jobs: int = 0
    workers: int = 0
    scheduler: str = ""

    def __post_init__(self) -> None:
        """Raises UnknownName for another engine, OutOfRange for a scheduler that nothing would ask, or no count."""
        if self.engine not in ENGINES:
            raise UnknownName("engine", self.engine, ENGINES)
        if self.scheduler and self.engine != "dask":
            raise OutOfRange(f"Scheduler {self.scheduler}: only engine dask has one; ask for that, or for none.")
        for name in ("jobs", "workers"):
            if (count := getattr(self, name)) < 0:
                raise OutOfRange(f"{name.capitalize()} {count}: it is a count; give 0 or more.")


DEFAULT = Resources()


class Share(NamedTuple):
    """What one process trains: `width` of its experiments at a time, on the GPU of this number, or on the CPU."""

    experiments: list[Experiment]
    gpu: int | None
    width: int


def run_all(
    experiments: list[Experiment],
    store: Store,
    resources: Resources = DEFAULT,
    on_progress: Callable[[int, int], None] = lambda epochs, total: None,
) -> list[Record]:
    """The records of all `experiments`, in their order; what is done, or asked for twice, is done once.

    on_progress gets the epochs finished so far and the epochs in all.  When one run fails, or this call is interrupted,
    the others save and stop; the next call continues.
    """
    different = {experiment.key(): experiment for experiment in experiments}
    total = sum(experiment.recipe.epochs for experiment in different.values())
    waiting = {key: experiment for key, experiment in different.items() if store.get(experiment) is None}
    done = total - sum(experiment.recipe.epochs for experiment in waiting.values())
    if waiting:
        for experiment in waiting.values():
            begin.check_backbone(experiment, store)
        ensure_writable(store.root)
        journals = [store.root / key / "log.jsonl" for key in waiting]
        with contextlib.closing(_engine(resources)([*waiting.values()], store, resources)) as turns:
            for _ in turns:
                on_progress(done + sum(_lines(journal) for journal in journals), total)
    on_progress(total, total)
    return [record for experiment in experiments if (record := store.get(experiment))]


@contextlib.contextmanager
def bar(text: str) -> Iterator[Callable[[int, int], None]]:
    """An on_progress that draws a bar over the epochs, as long as there is something to train."""
    from tqdm.auto import tqdm

    with contextlib.ExitStack() as shown:
        bars: list[Any] = []

        def progress(epochs: int, total: int) -> None:
            if not bars and epochs < total:
                bars.append(shown.enter_context(tqdm(unit="epoch", desc=text, leave=False, total=total)))
            for one in bars:
                if epochs != one.n:  # a bar draws itself at every update
                    one.update(epochs - one.n)

        yield progress


def _engine(resources: Resources) -> Callable[..., Generator[None]]:
    if resources.engine == "local":
        return _processes
    from workbench.experiments.cluster import runs

    return runs


def _processes(waiting: list[Experiment], store: Store, resources: Resources) -> Generator[None]:
    """Run `waiting` in child processes; yields now and then; raises the first error of a child."""
    queue = shares(waiting, resources.jobs, gpus(resources.device))
    jobs = len(queue) if queue[0].gpu is not None else resources.jobs or cores()
    threads = max(1, cores() // jobs)  # not more when few runs are left: a row's runs must be alike to be averaged
    context = multiprocessing.get_context("forkserver")  # imports once, and forks before there are threads
    context.set_forkserver_preload(PRELOAD)
    running: dict[BaseProcess, Connection] = {}
    try:
        while queue or running:
            while queue and len(running) < jobs:
                share = queue.pop(0)
                mine, theirs = context.Pipe(duplex=False)
                arguments = (store.root, store.data, share, resources, threads, theirs)
                process = context.Process(target=_work, args=arguments, name=share.experiments[0].key())
                process.start()
                theirs.close()
                running[process] = mine
            time.sleep(POLL_S)
            yield
            for ended in [one for one in running if not one.is_alive()]:
                answer = running.pop(ended)
                with contextlib.suppress(EOFError):  # it ended without a word
                    raise answer.recv()
                if ended.exitcode and ended.exitcode > 0:  # Python itself gave up, before our part began
                    raise WorkbenchError(
                        f"The process of {ended.name} could not begin; its error stands above. In a script, put the "
                        'call that trains under `if __name__ == "__main__":`, as processes read the script again.'
                    )
                if ended.exitcode:
                    raise WorkbenchError(f"The process of {ended.name} was killed; start again to continue the run.")
    finally:
        for left in running:
            left.terminate()  # the run saves itself
        for left in running:
            left.join()


def shares(waiting: list[Experiment], jobs: int, gpus: int) -> list[Share]:
    """One process for each GPU with every `gpus`-th experiment, or, without a GPU, for each experiment.

    jobs: runs at a time on all GPUs together, by default one on each.
    """
    if not gpus:
        return [Share([experiment], None, 1) for experiment in waiting]
    jobs = min(jobs or gpus, len(waiting))
    count = min(gpus, jobs)
    return [Share(waiting[gpu::count], gpu, len(range(gpu, jobs, count))) for gpu in range(count)]


def gpus(device: str) -> int:
    """How many GPUs there are to train on."""
    if device == "cpu":
        return 0
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _work(root: Path, data: Path, share: Share, resources: Resources, threads: int, answer: Connection) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])  # a terminal's is the parent's, who then ends this
    import torch

    from workbench.training.together import together

    torch.set_num_threads(threads)
    if share.gpu is not None:
        torch.cuda.set_device(share.gpu)
    store = Store(root, data)
    try:
        given = resources.device, resources.workers
        for _ in together((store.turns(one, given[0], workers=given[1]) for one in share.experiments), share.width):
            pass
    except WorkbenchError as error:
        with contextlib.suppress(BrokenPipeError):  # the parent is gone
            answer.send(error)


def _lines(journal: Path) -> int:
    return journal.read_bytes().count(b"\n") if journal.exists() else 0
