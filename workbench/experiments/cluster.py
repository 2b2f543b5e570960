"""Many experiments on a Dask cluster, one run at a time on each worker, in a runs folder that all of them share.

The folder is the truth, as on one machine: a run continues from its newest checkpoint on whichever worker takes it, its
lock keeps two from training it at once, and its record says that it is done.  Dask only says who trains what.  A run
whose worker is lost is given to another.  Workers without the folder are refused; nothing is copied between machines.
"""

import contextlib
import json
import logging
import re
import time
from collections import Counter
from collections.abc import Generator, Iterator
from itertools import count
from pathlib import Path
from typing import Any
from uuid import uuid4

from workbench.errors import WorkbenchError
from workbench.experiments import remote
from workbench.experiments.experiment import Experiment
from workbench.experiments.grid import Resources, cores, gpus
from workbench.experiments.remote import Order
from workbench.experiments.store import Store

log = logging.getLogger(__name__)

POLL_S = 0.5
CONNECT_S = 8  # until a scheduler that does not answer is given up
SEEN_S = 90  # until a file that a worker wrote is seen here; network file systems remember for a while what was absent
SAVE_S = 60  # until runs that are asked to stop have saved themselves
LOSSES = 3  # workers that a run may cost, one after the other, without getting any further


def runs(waiting: list[Experiment], store: Store, resources: Resources) -> Generator[None]:
    """Run `waiting` on the cluster; yields now and then; raises the first error of a run, when the others have saved.

    Also when this generator is closed, the runs save and stop.
    """
    with contextlib.ExitStack() as opened:
        client, threads, shared = opened.enter_context(_cluster(resources, len(waiting)))
        root, data = store.root.resolve(), store.data.resolve()
        grid = opened.enter_context(_marked(root))
        _refuse_unfit(client, root, grid)
        watch = opened.enter_context(_watched(client, grid))
        attempts, futures, wanted = count(), {}, {one.key(): one for one in waiting}
        kept = resources.device, resources.workers, grid, threads, shared

        def submit(key: str) -> None:
            order = Order(wanted[key], key, root, data, *kept)
            futures[key] = client.submit(_train, order, key=f"{key}-{grid}-{next(attempts)}", pure=False)

        try:
            for key in wanted:
                submit(key)
            while futures:
                time.sleep(POLL_S)
                yield
                for key, future in list(futures.items()):
                    if future.status == "error" and _again(watch, key, root, future.exception()):
                        submit(key)
                    elif future.status in ("cancelled", "lost"):
                        raise WorkbenchError("The scheduler of the Dask cluster was lost; start again to continue.")
                    elif future.done() and watch.seen(key, store.get(wanted[key])):
                        del futures[key]
        finally:
            if client.status == "running":
                client.cancel(list(futures.values()), force=True)
                watch.wait()


@contextlib.contextmanager
def _cluster(resources: Resources, wanted: int) -> Iterator[tuple[Any, int, int]]:
    """A client, the threads of each worker (0: its own), and the GPUs that the workers share out (0: none)."""
    import distributed

    if resources.scheduler:
        with _client(resources.scheduler) as client:
            yield client, 0, 0
        return
    shared = gpus(resources.device)
    jobs = resources.jobs or shared or cores()
    here: dict[str, Any] = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0", "processes": True}
    here |= {"threads_per_worker": 1, "memory_limit": 0}  # a worker above a limit would be killed, again and again
    with (
        distributed.LocalCluster(n_workers=min(jobs, wanted), **here) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        yield client, max(1, cores() // jobs), shared


def _client(scheduler: str) -> Any:
    """A client of the scheduler at an address, or of the one that a scheduler file names."""
    import distributed

    address = scheduler
    try:
        if not re.fullmatch(r"\w+://.*|[\w.-]+:\d+", scheduler):
            address = json.loads(Path(scheduler).read_bytes())["address"]
        return distributed.Client(address, timeout=CONNECT_S, set_as_default=False)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise WorkbenchError(
            f"No Dask scheduler at {scheduler} ({' '.join(str(error).split()) or type(error).__name__}). Start one with"
            f" `dask scheduler --host 127.0.0.1` and workers with `dask worker ADDRESS --nthreads 1`,"
            f" or give no address to use this machine alone."
        ) from error


@contextlib.contextmanager
def _marked(root: Path) -> Iterator[str]:
    """The name of this grid, and as long as it is wanted a file of that name in `root`, for workers to find."""
    grid = f".grid-{uuid4().hex[:12]}"
    (root / grid).touch()
    try:
        yield grid
    finally:
        (root / grid).unlink(missing_ok=True)


def _refuse_unfit(client: Any, root: Path, grid: str) -> None:
    """Ask every worker that is there; those who come later ask themselves."""
    answers = client.run(remote.unfit, str(root), grid, on_error="return")
    for address, answer in answers.items():
        if isinstance(answer, OSError):  # a worker that has just gone
            continue
        if isinstance(answer, Exception):
            answer = f"Worker {address} cannot run this workbench ({answer}); install the same version there."
        if answer:
            raise WorkbenchError(answer)
    log.info("%d workers", len(answers)) if answers else log.warning("No worker yet; the runs wait for the first.")


def _again(watch: "Watch", key: str, root: Path, error: BaseException) -> bool:
    """Is this run to be given to another worker?  Raises its own error otherwise."""
    from distributed.scheduler import KilledWorker

    if not isinstance(error, KilledWorker):
        raise error
    latest = root / key / "ckpt" / "latest"
    if watch.losses(key, latest.read_text() if latest.is_file() else "") > LOSSES:
        raise WorkbenchError(
            f"{key} was lost with its worker again and again and came no further; the worker's log may say why"
            f" (often too little memory). What it has is saved; start again to continue."
        )
    return True


class Watch:
    """What the workers of one grid tell: where its runs are, for the log of this process.

    It is told in the thread of the client and asked in another.
    """

    def __init__(self, grid: str):
        self.grid = grid
        self.at: dict[str, str] = {}  # the worker of each run under way
        self.starts: Counter[str] = Counter()
        self.step: dict[str, str] = {}
        self.finished: dict[str, float] = {}

    def hear(self, event: tuple[float, dict[str, Any]]) -> None:
        """One message of a worker, as remote.py sends it."""
        told = event[1]
        if told["grid"] != self.grid:
            return
        key, worker = told["key"], told["worker"]
        if told["what"] == "started":
            self.at[key] = worker
            self.starts[key] += 1
        elif told["what"] in ("finished", "stopped", "failed"):
            self.at.pop(key, None)
        log.log(told["level"], "worker %s: %s %s%s", worker, told["what"], key, told["text"])

    def lose(self, event: tuple[float, dict[str, Any]]) -> None:
        """One message of the scheduler about all its workers."""
        told = event[1]
        if isinstance(told, dict) and told.get("action") == "remove-worker":
            for key in [key for key, worker in self.at.items() if worker == told["worker"]]:
                del self.at[key]
                log.warning("worker %s: lost with %s, run again by another", told["worker"], key)

    def losses(self, key: str, step: str) -> int:
        """How often this run was begun since it was last lost with its checkpoint at another step."""
        if self.step.get(key, "") != step:
            self.step[key], self.starts[key] = step, 0
        return self.starts[key]

    def seen(self, key: str, record: Any) -> bool:
        """Is the record of a run that a worker finished here?  Raises when it does not come."""
        first = self.finished.setdefault(key, time.monotonic())
        if record is None and time.monotonic() - first > SEEN_S:
            raise WorkbenchError(f"A worker finished {key}, but its record is not in the runs folder of this machine.")
        return record is not None

    def wait(self) -> None:
        """Until the runs under way have stopped."""
        end = time.monotonic() + SAVE_S
        while self.at and time.monotonic() < end:
            time.sleep(POLL_S / 5)
        if self.at:
            log.warning("Not known to have stopped: %s", ", ".join(self.at))


@contextlib.contextmanager
def _watched(client: Any, grid: str) -> Iterator[Watch]:
    watch = Watch(grid)
    client.subscribe_topic(remote.TOPIC, watch.hear)
    client.subscribe_topic("all", watch.lose)
    yield watch
    client.unsubscribe_topic(remote.TOPIC)
    client.unsubscribe_topic("all")


def _train(order: Order) -> None:
    """On a worker: one run."""
    from distributed import Reschedule, get_worker

    if not remote.train(order, get_worker()):
        raise Reschedule  # to another worker, if it is this one that ends
