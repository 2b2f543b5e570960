"""A Dask cluster of real processes trains the same runs, each once, also when a worker is killed in the middle."""

import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from workbench.errors import Busy, DataMissing, WorkbenchError
from workbench.experiments import cluster, remote
from workbench.experiments.experiment import Experiment
from workbench.experiments.grid import Resources, run_all
from workbench.experiments.store import Store
from workbench.files import lock
from workbench.training.recipe import Recipe

distributed = pytest.importorskip("distributed")

RECIPE = Recipe(batch=64, epochs=2, lr=0.1, schedule="constant")  # 5 steps an epoch
PRELOAD = """
import os, time
from pathlib import Path
from workbench.datasets import layouts
from workbench.experiments import store
from workbench.training.loop import Training

here = Path("HERE")  # Dask runs a copy of this file
splits = layouts.make(320, seed=0), layouts.make(64, seed=1)
layouts.load = lambda: splits

def note(text):
    with open(here / "notes", "a") as notes:
        notes.write(text + "\\n")

def write_json(path, value, write=store.write_json):
    if path.name == "record.json":
        note(f"finished {path.parent.name}")
    write(path, value)

def held_step(self, step=Training.step):
    while self.position == 7 and (here / "hold").exists():
        time.sleep(0.02)
    step(self)

def load_state(self, *found, load=Training.load_state):
    load(self, *found)
    note(f"continued {self.position}")

if not hasattr(Training, "noted"):  # Dask imports a preload twice
    store.write_json, Training.step, Training.load_state, Training.noted = write_json, held_step, load_state, True
"""


def experiment(model="circularnet", seed=0, **changes):
    return Experiment(**{"model": model, "dataset": "layouts", "recipe": RECIPE, "seed": seed} | changes)


SIX = [experiment(seed=seed) for seed in range(5)] + [experiment("cra7-circularnet")]
LONG = experiment(recipe=Recipe(batch=64, epochs=10_000, lr=0.1, schedule="constant"))


class Cluster:
    """A scheduler and its workers on this machine, in processes that can be killed; notes: what runs did there."""

    def __init__(self, root):
        self.root, self.file, self.started = root, root / "scheduler.json", []
        (root / "preload.py").write_text(PRELOAD.replace("HERE", str(root)))
        self.start("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", self.file)
        self.resources = Resources(engine="dask", device="cpu", scheduler=str(self.file))

    def start(self, *words):
        command = [sys.executable, "-m", "dask", *map(str, words)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "DASK_DISTRIBUTED__SCHEDULER__DASHBOARD__ADDRESS": ":0"}
        with open(self.root / "log", "a") as log:
            self.started.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=self.root))

    def add_workers(self, count):
        preload = self.root / "preload.py"
        for _ in range(count):
            self.start(
                *("worker", "--scheduler-file", self.file, "--host", "127.0.0.1", "--nthreads", 1),
                *("--no-nanny", "--no-dashboard", "--preload", preload, "--local-directory", self.root),
            )

    def pids(self, count):
        """The process of each worker by address, when there are `count`."""
        with distributed.Client(scheduler_file=str(self.file), timeout=60, set_as_default=False) as client:
            client.wait_for_workers(count, timeout=120)
            return client.run(os.getpid)

    def notes(self):
        return (self.root / "notes").read_text().splitlines() if (self.root / "notes").exists() else []

    def close(self):
        for process in self.started:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory):
    opened = Cluster(tmp_path_factory.mktemp("cluster"))
    opened.add_workers(2)
    try:
        opened.pids(2)
        yield opened
    finally:
        opened.close()


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "runs", tmp_path / "data", tmp_path / "published")


@pytest.fixture
def oracle(tmp_path, tiny_layouts):
    """oracle(experiment, threads): what the record of a run in this very process says of its numbers."""

    def run(experiment, threads):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            return numbers(Store(tmp_path / "oracle", tmp_path / "data", tmp_path / "none").run(experiment, "cpu"))
        finally:
            torch.set_num_threads(before)

    return run


def numbers(record):
    return record.key, record.status, record.metrics, record.curves


def messages(caplog, pattern):
    found = (re.search(pattern, one.getMessage()) for one in caplog.records if one.name == cluster.__name__)
    return [match.groups() for match in found if match]


def test_a_killed_worker_costs_its_run_no_epoch_and_every_run_is_finished_once(two_workers, store, oracle, caplog):
    caplog.set_level(logging.INFO, cluster.__name__)
    pids, hold, killed, seen = two_workers.pids(2), two_workers.root / "hold", [], []
    hold.touch()

    def kill_one(done, total):
        seen.append(done)
        begun = dict(messages(caplog, r"worker (\S+): started (\S+)"))
        if not killed and done == 2:  # both are in their second epoch, and held there
            address, key = next(iter(begun.items()))
            assert (store.root / key / "ckpt" / "latest").exists() and not (store.root / key / "record.json").exists()
            os.kill(pids[address], signal.SIGKILL)
            killed.extend([address, key])
            hold.unlink()
            two_workers.add_workers(1)

    records = run_all([*SIX, SIX[0]], store, two_workers.resources, kill_one)
    assert [numbers(record) for record in records[:6]] == [oracle(one, 1) for one in SIX]
    assert len({str(record.curves) for record in records}) == 6  # witness: they differ among themselves
    assert records[6] == records[0] and seen == sorted(seen) and seen[-1] == 12

    address, key = killed
    finished = Counter(note.split()[1] for note in two_workers.notes() if note.startswith("finished"))
    assert finished == {one.key(): 1 for one in SIX}
    assert [note for note in two_workers.notes() if note.startswith("continued")] == ["continued 5"]
    assert messages(caplog, r"worker (\S+): lost with (\S+), run again") == [(address, key)]
    begun = messages(caplog, r"worker (\S+): started (\S+)")
    assert Counter(key for _, key in begun) == {one.key(): 1 for one in SIX} | {key: 2}
    for one in SIX:
        lines = (store.root / one.key() / "log.jsonl").read_text().splitlines()
        assert [re.match(r'{"epoch": (\d+)', line).group(1) for line in lines] == ["1", "2"]
    assert not [*store.root.glob(".grid-*")]
    assert run_all(SIX, store, two_workers.resources) == records[:6]
    assert len(messages(caplog, "started")) == len(begun)  # what is done is asked of nobody


def test_an_interrupted_call_leaves_its_run_saved_where_it_was_and_its_lock_free(two_workers, store):
    def interrupt(done, total):
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_all([LONG], store, two_workers.resources, interrupt)
    folder = store.root / LONG.key()
    latest = (folder / "ckpt" / "latest").read_text()
    with lock(folder / "run.lock"):  # nobody trains any more
        time.sleep(0.5)
        assert (folder / "ckpt" / "latest").read_text() == latest
    assert store.get(LONG) is None


def test_an_error_of_a_run_arrives_as_itself_and_stops_the_others(two_workers, store):
    two_workers.pids(2)
    missing = experiment("resnet20", dataset="cifar10")
    with pytest.raises(DataMissing) as there:
        run_all([LONG, missing], store, two_workers.resources)
    with pytest.raises(DataMissing) as here:
        store.run(missing, "cpu")
    assert str(there.value) == str(here.value) and there.value.exit_code == 3
    held = store.root / LONG.key() / "run.lock"
    if held.exists():  # the other one had begun
        with lock(held):
            assert store.get(LONG) is None


def test_a_run_that_another_process_holds_is_waited_for(two_workers, store, caplog):
    caplog.set_level(logging.INFO, cluster.__name__)
    one = experiment(seed=9)
    (store.root / one.key()).mkdir(parents=True)
    held = lock(store.root / one.key() / "run.lock")
    held.__enter__()

    def let_go(done, total):
        if messages(caplog, "waits for"):
            held.__exit__(None, None, None)

    with pytest.raises(Busy):  # witness: it is held
        store.run(one, "cpu")
    (record,) = run_all([one], store, two_workers.resources, let_go)
    assert record.status == "done" and messages(caplog, "waits for (.*) ")[0][0].startswith(one.key())


def test_workers_without_the_runs_folder_are_refused_before_any_run(two_workers, store, monkeypatch):
    monkeypatch.setattr(cluster, "_marked", lambda root: nullcontext("absent"))
    with pytest.raises(WorkbenchError, match=r"does not see the runs folder .*not supported"):
        run_all(SIX, store, two_workers.resources)
    assert not [*store.root.iterdir()]


def test_what_a_worker_must_be_is_asked_again_when_it_takes_a_run(tmp_path):
    """One that came later has not been asked before."""
    worker = SimpleNamespace(address="tcp://w:1", state=SimpleNamespace(nthreads=1))
    (tmp_path / "mark").touch()
    assert remote.unfit(str(tmp_path), "mark", worker) == ""
    order = remote.Order(SIX[0], "key", tmp_path, tmp_path, "cpu", 0, "other", 0, 0)
    with pytest.raises(WorkbenchError, match="tcp://w:1 does not see"):
        remote.train(order, worker)
    with pytest.raises(WorkbenchError, match="another version"):
        remote.train(order._replace(grid="mark"), worker)
    worker.state.nthreads = 4
    assert "takes 4 tasks at a time" in remote.unfit(str(tmp_path), "mark", worker)


@pytest.mark.parametrize("scheduler", ["tcp://127.0.0.1:9", "127.0.0.1:9", "absent.json", "host", "nonsense://x"])
def test_no_scheduler_is_said_soon_with_what_to_start(store, monkeypatch, scheduler):
    monkeypatch.setattr(cluster, "CONNECT_S", 0.5)
    with pytest.raises(WorkbenchError, match=rf"No Dask scheduler at {scheduler} .*`dask scheduler.*`dask worker"):
        run_all(SIX, store, Resources(engine="dask", scheduler=scheduler))


def test_a_run_that_kills_its_workers_without_progress_is_given_up(tmp_path):
    from distributed.scheduler import KilledWorker

    watch, error = cluster.Watch("grid"), KilledWorker("task", None, 3)
    (tmp_path / "run" / "ckpt").mkdir(parents=True)
    latest = tmp_path / "run" / "ckpt" / "latest"

    def begin(count):
        for _ in range(count):
            told = {"grid": "grid", "key": "run", "worker": "w", "what": "started", "text": "", "level": 20}
            watch.hear((0.0, told))

    begin(3)
    assert cluster._again(watch, "run", tmp_path, error)
    latest.write_text("step-1")
    begin(9)
    assert cluster._again(watch, "run", tmp_path, error)  # it came further
    begin(4)
    with pytest.raises(WorkbenchError, match="run was lost with its worker again and again"):
        cluster._again(watch, "run", tmp_path, error)
    with pytest.raises(ZeroDivisionError):  # any other error is the run's own
        cluster._again(watch, "run", tmp_path, ZeroDivisionError())


def test_a_record_that_does_not_arrive_is_an_error(monkeypatch):
    watch = cluster.Watch("grid")
    assert watch.seen("run", object()) and not watch.seen("run", None)
    monkeypatch.setattr(cluster, "SEEN_S", -1)
    with pytest.raises(WorkbenchError, match="finished run, but its record is not in the runs folder"):
        watch.seen("run", None)


def test_a_cluster_of_this_machine_gives_the_numbers_of_the_local_engine(tmp_path, store, oracle):
    import dask

    (tmp_path / "preload.py").write_text(PRELOAD.replace("HERE", str(tmp_path)))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with dask.config.set({"distributed.worker.preload": [str(tmp_path / "preload.py")]}):
        records = run_all(SIX[4:], store, Resources(engine="dask", device="cpu", jobs=2))
    assert [numbers(record) for record in records] == [oracle(one, max(1, cores // 2)) for one in SIX[4:]]
    assert (tmp_path / "notes").read_text().count("finished") == 2  # witness: its workers did it, with this data
