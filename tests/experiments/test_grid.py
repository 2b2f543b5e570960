"""Many runs in processes of their own are the same runs, and a process that dies costs only itself."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch

from workbench.errors import CannotWrite, DataMissing, OutOfRange, UnknownName, WorkbenchError
from workbench.experiments import grid
from workbench.experiments.experiment import Experiment
from workbench.experiments.grid import Resources
from workbench.experiments.store import Store
from workbench.training.recipe import Recipe

ROOT = Path(__file__).resolve().parents[2]
CPU, ONE, TWO = (Resources(device="cpu", jobs=jobs) for jobs in (0, 1, 2))
RECIPE = Recipe(batch=512, epochs=1, lr=0.1, schedule="constant")


def experiment(model="circularnet", seed=0, **changes):
    return Experiment(**{"model": model, "dataset": "layouts", "recipe": RECIPE, "seed": seed} | changes)


THREE = [experiment(), experiment("cra7-circularnet"), experiment(seed=1)]


def folder(tmp_path, name):
    return Store(tmp_path / name, tmp_path / "data", tmp_path / "published")


def plain(record):
    """What a record says, but for the time it took."""
    return record._replace(duration_s=0.0)


@pytest.fixture(scope="module")
def oracle(tmp_path_factory):
    """oracle(experiment): its record from this very process, with the threads that a process of the grid would have."""
    root = tmp_path_factory.mktemp("oracle")

    def run(experiment, jobs):
        before = torch.get_num_threads()
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // jobs))
        try:
            return Store(root / "runs", root / "data", root / "published").run(experiment, "cpu")
        finally:
            torch.set_num_threads(before)

    return run


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Three runs, two at a time: the folder, the records and the progress."""
    root, seen = tmp_path_factory.mktemp("grid"), []
    records = grid.run_all(THREE, folder(root, "runs"), TWO, lambda *progress: seen.append(progress))
    return root, records, seen


def test_records_are_those_of_one_process_in_the_order_asked_for(ran, oracle):
    _, records, _ = ran
    assert [record.key for record in records] == [one.key() for one in THREE]
    assert [plain(record) for record in records] == [plain(oracle(one, 2)) for one in THREE]
    assert len({json.dumps(record.metrics) for record in records}) == 3  # witness: they differ among themselves


def test_progress_counts_epochs_and_ends_at_all_of_them(ran):
    _, _, seen = ran
    epochs = [done for done, _ in seen]
    assert epochs == sorted(epochs)
    assert {total for _, total in seen} == {3}
    assert epochs[0] < 3 and seen[-1] == (3, 3)


def test_what_is_asked_for_twice_is_run_once(ran):
    root, records, _ = ran
    seen = []
    again = [*THREE, THREE[0], experiment(seed=3), experiment(seed=3)]
    found = grid.run_all(again, folder(root, "runs"), TWO, lambda *progress: seen.append(progress))
    assert found[:4] == [*records, records[0]] and found[4] == found[5] and seen[-1] == (4, 4)


def test_a_scheduler_that_nothing_would_ask_is_refused():
    with pytest.raises(OutOfRange, match=r"tcp://here:8786: only engine dask has one"):
        Resources(scheduler="tcp://here:8786")
    assert Resources(engine="dask", scheduler="tcp://here:8786").scheduler  # witness


@pytest.mark.parametrize("name", ["jobs", "workers"])
def test_fewer_processes_than_none_are_refused(name):
    with pytest.raises(OutOfRange, match=f"{name.capitalize()} -1: .*0 or more"):
        Resources(**{name: -1})
    assert Resources(**{name: 0}) == Resources()  # witness


def test_an_unknown_engine_is_named_before_anything_starts(tmp_path):
    with pytest.raises(UnknownName, match=r"engine 'dusk'. Did you mean 'dask'"):
        grid.run_all(THREE, folder(tmp_path, "runs"), Resources(engine="dusk"))
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("jobs", "gpus", "expected"),
    [
        (0, 0, [("abcde"[i], None, 1) for i in range(5)]),
        (0, 1, [("abcde", 0, 1)]),
        (3, 1, [("abcde", 0, 3)]),
        (0, 2, [("ace", 0, 1), ("bd", 1, 1)]),
        (3, 2, [("ace", 0, 2), ("bd", 1, 1)]),
        (1, 4, [("abcde", 0, 1)]),
        (0, 8, [("abcde"[i], i, 1) for i in range(5)]),
        (99, 2, [("ace", 0, 3), ("bd", 1, 2)]),
    ],
)
def test_every_gpu_has_a_process_and_together_they_take_as_many_runs_as_there_are_jobs(jobs, gpus, expected):
    assert [("".join(share.experiments), *share[1:]) for share in grid.shares([*"abcde"], jobs, gpus)] == expected


def test_a_process_of_a_gpu_trains_on_it_with_its_share_of_the_cores(tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(torch.cuda, "set_device", lambda number: given.append(number))
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: given.append(threads))
    monkeypatch.setattr(signal, "pthread_sigmask", lambda *_: None)  # of this very process
    grid._work(tmp_path, tmp_path, grid.Share([], 3, 1), CPU, 2, None)
    grid._work(tmp_path, tmp_path, grid.Share([], None, 1), CPU, 4, None)
    assert given == [2, 3, 4]


def test_a_second_call_trains_nothing(ran, monkeypatch):
    root, records, _ = ran
    monkeypatch.setattr(grid, "_processes", lambda *_: pytest.fail("started a process"))
    seen = []
    again = grid.run_all(THREE, folder(root, "runs"), TWO, lambda *progress: seen.append(progress))
    assert (again, seen) == (records, [(3, 3)])
    with pytest.raises(pytest.fail.Exception):  # witness: what is not done would have been
        grid.run_all([*THREE, experiment(seed=2)], folder(root, "runs"), CPU)


def test_an_error_of_a_child_arrives_as_itself(tmp_path):
    missing = experiment("resnet20", dataset="cifar10")
    with pytest.raises(DataMissing, match=r"cifar10 is not in .*workbench data fetch cifar10") as told:
        grid.run_all([missing], folder(tmp_path, "runs"), CPU)
    assert told.value.exit_code == 3
    assert not multiprocessing.active_children()
    with pytest.raises(DataMissing) as here:  # the same sentence as in this process
        folder(tmp_path, "runs").run(missing, "cpu")
    assert str(here.value) == str(told.value)


def test_a_folder_that_cannot_be_written_stops_it_before_any_process(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(grid, "_processes", lambda *_: pytest.fail("started a process"))
    with pytest.raises(CannotWrite, match="file"):
        grid.run_all(THREE, folder(tmp_path / "file", "runs"), CPU)


def test_a_killed_process_is_named_and_the_next_call_finishes_its_run(tmp_path, oracle):
    two = experiment(recipe=Recipe(batch=512, epochs=3, lr=0.1, schedule="constant"))
    store = folder(tmp_path, "runs")

    def kill(done, total):
        if 1 <= done < total:
            for child in multiprocessing.active_children():
                if child.name == two.key():
                    os.kill(child.pid, signal.SIGKILL)

    with pytest.raises(WorkbenchError, match=two.key()):
        grid.run_all([two], store, ONE, kill)
    assert store.get(two) is None
    assert [key for key, _, _ in store.unfinished()] == [two.key()]
    (record,) = grid.run_all([two], store, ONE)
    assert plain(record) == plain(oracle(two, 1))
    assert not [*store.unfinished()]


def test_one_failure_stops_the_others_without_losing_them(tmp_path):
    """The other run has saved itself and continues with the next call; nothing is left running."""
    long = experiment(recipe=Recipe(batch=64, epochs=10_000, lr=0.1, schedule="constant"))
    store = folder(tmp_path, "runs")
    with pytest.raises(DataMissing):
        grid.run_all([long, experiment("resnet20", dataset="cifar10")], store, TWO)
    assert not multiprocessing.active_children()
    assert store.get(long) is None


@pytest.mark.parametrize(("jobs", "threads"), [(1, 4), (2, 2), (4, 1), (9, 1), (0, 1)])
def test_the_cores_are_shared_among_the_jobs(tmp_path, monkeypatch, jobs, threads):
    started = []

    class Process:
        exitcode, name = 0, "run"

        def __init__(self, target, args, name):
            started.append(args[4])

        def start(self):
            pass

        def is_alive(self):
            return False

    class Context:
        def Pipe(self, duplex):
            mine, theirs = multiprocessing.Pipe(duplex)
            return mine, theirs

        def set_forkserver_preload(self, names):
            pass

    Context.Process = Process
    monkeypatch.setattr(grid, "POLL_S", 0)
    monkeypatch.setattr(grid.os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    monkeypatch.setattr(grid.multiprocessing, "get_context", lambda _: Context())
    grid.run_all(
        [experiment(seed=seed) for seed in range(9)], folder(tmp_path, "runs"), Resources(device="cpu", jobs=jobs)
    )
    assert started == [threads] * 9


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"])
def test_a_signal_to_the_whole_group_has_every_run_saved(tmp_path, number, code):
    """As a terminal sends it, and `timeout`; then the parent ends its children, who have got it already."""
    words = ["ablate", "cra-pool", "resnet56", "--sizes", "1", "--no-baseline", "--recipe", "cra-cifar"]  # slow epochs
    words += ["--seeds", "1", "--device", "cpu", "--runs", str(tmp_path / "runs")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "workbench", *words]
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell's `pytest &` would have it ignored
    settings = {"env": environment, "start_new_session": True, "preexec_fn": heard}
    with subprocess.Popen(command, **settings, stderr=subprocess.PIPE) as parent:
        end = time.monotonic() + 120
        while not (journals := [*tmp_path.glob("runs/*/log.jsonl")]) and time.monotonic() < end:
            time.sleep(0.05)
        time.sleep(1)  # into the first step, or the second
        os.killpg(parent.pid, number)
        _, said = parent.communicate(timeout=120)
    assert parent.returncode == code and b"Traceback" not in said
    [journal] = journals
    assert not journal.read_text()  # no epoch was closed: what is saved, the signal has had saved
    [saved] = journal.parent.glob("ckpt/step-*")
    assert (journal.parent / "ckpt" / "latest").read_text() == saved.name


SCRIPT = """
import sys
from workbench.errors import WorkbenchError
from workbench.experiments.ablations import ablate
from workbench.experiments.grid import Resources
from workbench.experiments.store import Store
from workbench.training.recipe import Recipe

def main():
    recipe = Recipe(batch=512, epochs=1, lr=0.1, schedule="constant")
    try:
        ablate({"a": "circularnet"}, {}, "layouts", recipe, 1, Store(sys.argv[1]), Resources(device="cpu", jobs=1))
    except WorkbenchError as error:
        sys.exit(f"told: {error}")

"""


@pytest.mark.parametrize(("call", "right"), [("main()", False), ('if __name__ == "__main__":\n    main()', True)])
def test_a_script_that_trains_when_it_is_imported_is_told_what_to_do(tmp_path, call, right):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT + call)
    command = [sys.executable, str(script), str(tmp_path / "runs")]
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=300
    )
    assert (done.returncode == 0) == right
    told = [line for line in done.stderr.splitlines() if line.startswith("told: ")]
    assert right or ("could not begin" in told[-1] and 'if __name__ == "__main__":' in told[-1])
