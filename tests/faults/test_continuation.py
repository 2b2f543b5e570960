"""A run killed anywhere and continued is the run in one piece: same weights, history and record, bit for bit.

The oracle is one uninterrupted run.  Every run here is a child process; a clock that ticks 10 s a look makes the engine
save every third step or so, so that a continuation has steps to repeat.
"""

import itertools
import json
import os
import random
import shutil
import signal
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch

from workbench.build import build
from workbench.datasets import layouts, shapes
from workbench.detection import training as detection
from workbench.experiments.experiment import Experiment
from workbench.experiments.store import Store
from workbench.training import loop, update
from workbench.training import run as every_run
from workbench.training.checkpoint import Checkpoints
from workbench.training.environment import code_version
from workbench.training.recipe import Recipe

LAYOUTS = Experiment(
    model="cra3-circularnet",
    dataset="layouts",
    recipe=Recipe(batch=32, epochs=3, lr=0.1, schedule="onecycle"),  # 3 epochs of 10 steps
    seed=4,
)
CIFAR = Experiment(
    model="dca-se-resnet20",
    dataset="cifar10",
    recipe=Recipe(batch=16, epochs=2, lr=0.1, milestones=(1,), precision="bf16"),  # 2 epochs of 5 steps
    seed=0,
)
HALF = Experiment(  # its first steps overflow, and the scale of the loss is still moving in the last
    model="se[reduction=4]-circularnet",
    dataset="layouts",
    recipe=Recipe(batch=8, epochs=2, lr=0.1, precision="fp16"),  # 2 epochs of 10 steps, each slow on a CPU
    seed=2,
)
DETECTOR = Experiment(
    model="retinanet[anchor=2,finest=4,image_size=32,width=8]-dca-se[reduction=4]-resnet8",
    dataset="shapes",
    recipe=Recipe(batch=4, epochs=2, lr=0.01, warmup=3),  # 2 epochs of 4 steps
    seed=1,
)
STEPS = {LAYOUTS: 30, CIFAR: 10, HALF: 20, DETECTOR: 8}
MOMENTS = ("before the update", "after the step", "in the evaluation", "after the epoch")


def points(experiment, number, epochs):
    """`number` different (moment, count) chosen at random, the first step and every evaluation."""
    steps = STEPS[experiment]
    everything = [(moment, count) for moment in MOMENTS[:2] for count in range(2, steps + 1)]
    chosen = random.Random(0).sample(everything, number)
    ends = itertools.product(MOMENTS[2:], range(1, epochs + 1))
    return [(experiment, *point) for point in [(MOMENTS[0], 1), (MOMENTS[1], 1), *ends, *chosen]]


KILLS = points(LAYOUTS, 20, 3) + points(CIFAR, 4, 2) + points(HALF, 4, 2) + points(DETECTOR, 2, 2)


@pytest.fixture(scope="module")
def train(tmp_path_factory, fake_cifar, forked):
    """train(root, experiment, at): run the experiment in a child; `at` maps (moment, count) to what happens then."""
    for experiment in STEPS:
        side = {CIFAR: 32, DETECTOR: None}.get(experiment, 16)
        build(experiment.model, 10, side), code_version()  # once, not in every child
    scenes = shapes.make(16, seed=0), shapes.make(8, seed=1)

    def run(root, experiment, at, compiled=False):
        train, test = (80, 16) if experiment is HALF else (320, 64)
        layouts.load = lambda: (layouts.make(train, seed=0), layouts.make(test, seed=1))
        shapes.load = lambda: scenes
        if experiment is CIFAR and not (root / "data").exists():
            fake_cifar(root / "data", setattr)
        elif experiment is CIFAR:
            fake_cifar(tmp_path_factory.mktemp("checksums"), setattr)
        update.SCALE, update.PATIENCE = 2.0**24, 5
        clock = itertools.count(step=10)
        every_run.time = SimpleNamespace(monotonic=lambda: next(clock))
        os.fsync = lambda handle: None  # a killed process loses nothing that was written
        moments(at)
        random.seed(0)  # every process starts alike; what was drawn since must come from the checkpoint
        Store(root / "runs", root / "data").run(experiment, device="cpu", compiled=compiled)

    def train(root, experiment=LAYOUTS, at=None, compiled=False, **limits):
        return forked(lambda: run(root, experiment, at or {}, compiled), **limits)

    return train


def moments(at):
    """Wrap the engine so that at[moment, count]() happens there."""
    counts = dict.fromkeys(MOMENTS, 0)

    def reach(moment):
        counts[moment] += 1
        at.get((moment, counts[moment]), lambda: None)()

    def before(function, moment):
        return lambda *given, **named: (reach(moment), function(*given, **named))[1]

    for engine, kind in ((loop, update.Update), (detection, detection.DetectionUpdate)):
        kind._apply = before(kind._apply, MOMENTS[0])
        engine.evaluate = before(engine.evaluate, MOMENTS[2])
    run = Store.run
    hooks = {"on_step": lambda training: reach(MOMENTS[1]), "on_epoch": lambda training: reach(MOMENTS[3])}
    Store.run = lambda store, experiment, **settings: run(store, experiment, **settings, **hooks)


def send(number):
    return lambda: os.kill(os.getpid(), number)


def outcome(root, experiment=LAYOUTS):
    """What must be equal: the record and the last checkpoint but for times, the journal, and the tensors' bytes."""
    key = experiment.key()
    folder = root / "runs" / key
    record = json.loads((folder / "record.json").read_text())
    newest = folder / "ckpt" / (folder / "ckpt" / "latest").read_text()
    files = {path.name: path.read_bytes() for path in newest.glob("*.safetensors")}
    _, scalars = Checkpoints(folder / "ckpt", key).load()
    del record["duration_s"], scalars["elapsed_s"]
    assert set(files) == {f"{name}.safetensors" for name in ("model", "optimizer", "generators", "progress")}
    return {"record": record, "journal": (folder / "log.jsonl").read_text(), "files": files, "scalars": scalars}


@pytest.fixture(scope="module")
def oracle(tmp_path_factory, train):
    """The outcome of each experiment run in one piece."""
    found = {}
    for experiment in STEPS:
        root = tmp_path_factory.mktemp("oracle")
        assert train(root, experiment) == 0
        found[experiment] = outcome(root, experiment)
        assert found[experiment]["scalars"]["position"] == STEPS[experiment]
    scales = [found[HALF]["files"]["progress.safetensors"], found[LAYOUTS]["files"]["progress.safetensors"]]
    half, full = (safetensors.torch.load(data)["scale"][0] for data in scales)
    assert 1 < half < 2.0**24 and full == 1  # it did overflow
    return found


def saved(root, experiment=LAYOUTS):
    """Updates made and epochs closed of the state that a continuation starts from."""
    found = Checkpoints(root / "runs" / experiment.key() / "ckpt", experiment.key()).load()
    return (found[1]["position"], len(found[1]["history"])) if found else (0, 0)


def name(value):
    return value.model if isinstance(value, Experiment) else str(value).replace(" ", "-")


def test_the_kill_points_are_as_many_as_the_contract_asks():
    assert len(set(KILLS)) == len(KILLS) == 28 + 10 + 10 + 8


@pytest.mark.parametrize(("experiment", "moment", "count"), KILLS, ids=name)
def test_killed_at_a_step_and_continued(tmp_path, train, oracle, experiment, moment, count):
    assert train(tmp_path, experiment, {(moment, count): send(signal.SIGKILL)}) == -signal.SIGKILL
    assert not (tmp_path / "runs" / experiment.key() / "record.json").exists()
    assert saved(tmp_path, experiment) <= (STEPS[experiment], experiment.recipe.epochs)
    assert train(tmp_path, experiment) == 0
    assert outcome(tmp_path, experiment) == oracle[experiment]


def test_killed_five_times_in_one_epoch(tmp_path, train, oracle):
    reached = []
    for _ in range(5):
        assert train(tmp_path, at={(MOMENTS[0], 4): send(signal.SIGKILL)}) == -signal.SIGKILL
        reached.append(saved(tmp_path))
    assert sorted(set(reached)) == reached and reached[-1][0] > 6  # every continuation got on
    assert train(tmp_path) == 0
    assert outcome(tmp_path) == oracle[LAYOUTS]


def test_the_comparison_can_fail(tmp_path, train, oracle):
    """Witness: a continuation that forgets one thing has another outcome."""

    def forgetting(change):
        load = loop.Training.load_state

        def forgetful(training, tensors, scalars):
            load(training, tensors, scalars)
            change(training)

        loop.Training.load_state = forgetful

    forgotten = {
        "momentum": (
            lambda training: [slot["momentum_buffer"].zero_() for slot in training.update.optimizer.state.values()],
            "files",
        ),
        "generator": (lambda training: torch.manual_seed(99), "files"),
        "python's generator": (lambda training: random.seed(99), "scalars"),
        "seed": (lambda training: setattr(training, "seed", 5), "journal"),
        "mean loss": (lambda training: training.update.progress.zero_(), "journal"),
    }
    for what, (change, part) in forgotten.items():
        root = tmp_path / what
        assert train(root, at={(MOMENTS[0], 9): send(signal.SIGKILL)}) == -signal.SIGKILL
        assert saved(root)[0] > 0
        load = loop.Training.load_state
        try:
            forgetting(change)  # the child inherits it
            assert train(root) == 0
        finally:
            loop.Training.load_state = load
        assert outcome(root)[part] != oracle[LAYOUTS][part], what


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
@pytest.mark.parametrize(
    ("moment", "count"), [*itertools.product(MOMENTS[:2], (13, 14)), *((m, 2) for m in MOMENTS[2:])]
)
def test_stopped_by_a_signal_and_continued(tmp_path, train, oracle, moment, count, number):
    assert train(tmp_path, at={(moment, count): send(number)}) == {signal.SIGTERM: 143, signal.SIGINT: 130}[number]
    expected = (count, 1) if moment in MOMENTS[:2] else (20, 2)
    assert saved(tmp_path) == expected  # the step or epoch was finished, and saved
    assert train(tmp_path) == 0
    assert outcome(tmp_path) == oracle[LAYOUTS]


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_second_interrupt_ends_the_process_at_once(tmp_path, train, oracle, first):
    def twice():
        send(first)()
        send(signal.SIGINT)()
        os._exit(55)  # not reached

    assert train(tmp_path, at={(MOMENTS[0], 8): twice}) == 130
    assert saved(tmp_path)[0] < 8  # nothing more was saved
    assert train(tmp_path) == 0
    assert outcome(tmp_path) == oracle[LAYOUTS]


def test_a_second_end_does_not_cut_short_the_first(tmp_path, train, oracle):
    """A group of processes gets one, and each of them another from its parent; the test above is the witness."""
    assert train(tmp_path, at={(MOMENTS[0], 8): lambda: [send(signal.SIGTERM)() for _ in range(2)]}) == 143
    assert saved(tmp_path) == (8, 0)
    assert train(tmp_path) == 0
    assert outcome(tmp_path) == oracle[LAYOUTS]


def test_a_finished_run_is_not_trained_again(tmp_path, train, oracle):
    assert train(tmp_path) == 0
    record = (tmp_path / "runs" / LAYOUTS.key() / "record.json").read_bytes()
    fail = {(moment, 1): send(signal.SIGKILL) for moment in MOMENTS}
    assert train(tmp_path, at=fail) == 0
    assert (tmp_path / "runs" / LAYOUTS.key() / "record.json").read_bytes() == record
    (tmp_path / "runs" / LAYOUTS.key() / "record.json").unlink()
    assert train(tmp_path, at=fail) == 0  # killed after the last checkpoint: only the record is written again
    assert outcome(tmp_path) == oracle[LAYOUTS]
    shutil.rmtree(tmp_path / "runs")
    assert train(tmp_path, at=fail) == -signal.SIGKILL  # witness: training would have been noticed


def test_a_journal_longer_than_the_checkpoint_is_cut_back(tmp_path, train, oracle):
    assert train(tmp_path, at={(MOMENTS[1], 15): send(signal.SIGKILL)}) == -signal.SIGKILL
    journal = tmp_path / "runs" / LAYOUTS.key() / "log.jsonl"
    line = journal.read_text()
    assert line.count("\n") == 1
    journal.write_text(line + line.replace('"epoch": 1', '"epoch": 2') + '{"epoch": 3, "tr')
    assert train(tmp_path) == 0
    assert outcome(tmp_path) == oracle[LAYOUTS]
    assert journal.read_text().count("\n") == 3


def test_a_damaged_checkpoint_costs_steps_and_nothing_else(tmp_path, train, oracle):
    assert train(tmp_path, at={(MOMENTS[1], 16): send(signal.SIGKILL)}) == -signal.SIGKILL
    newest = saved(tmp_path)
    folder = tmp_path / "runs" / LAYOUTS.key() / "ckpt"
    weights = folder / (folder / "latest").read_text() / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert (0, 0) < saved(tmp_path) < newest
    assert train(tmp_path) == 0
    assert outcome(tmp_path) == oracle[LAYOUTS]


@pytest.mark.slow
def test_a_compiled_run_continues_compiled(tmp_path, train, oracle, monkeypatch):
    """The last bits are of the compiler, so a run begun with it goes on with it, whatever the second start asks for."""
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "1")  # the child forks no processes of its own
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert train(whole, compiled=True, limit_s=600) == 0
    kill = {(MOMENTS[0], 14): send(signal.SIGKILL)}
    assert train(stopped, at=kill, compiled=True, limit_s=600) == -signal.SIGKILL
    assert train(stopped, compiled=False, limit_s=600) == 0
    assert outcome(stopped) == outcome(whole)
    assert outcome(whole)["record"]["environment"]["compiled"]
    assert outcome(whole)["files"] != oracle[LAYOUTS]["files"]  # witness: it was compiled


@pytest.mark.soak
def test_soak(tmp_path, train, oracle, capsys):
    """$KILLS (200) times SIGKILL from outside at a random moment; every run that got to its end is the oracle's."""
    rng, kills, finished, whole_s = random.Random(), 0, 0, 3.0
    target = int(os.environ.get("KILLS", "200"))
    while kills < target:
        experiment, root = rng.choice(list(STEPS)), tmp_path / str(finished)
        root.mkdir()
        while train(root, experiment, kill_after_s=rng.uniform(0.1, whole_s)) == -signal.SIGKILL:
            kills += 1
        assert outcome(root, experiment) == oracle[experiment], f"after {kills} kills"
        finished += 1
        shutil.rmtree(root)
    with capsys.disabled():
        print(f"\n{kills} kills, {finished} runs finished, all equal to the run in one piece, bit for bit")
