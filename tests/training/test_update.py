"""Precision and accumulation: what PyTorch's own tools compute; and several runs in turns: each as if alone."""

import contextlib
import gc
import random
import signal
import time
import weakref
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from workbench.build import build
from workbench.datasets import layouts
from workbench.datasets.memory import augmentation, order
from workbench.errors import CannotWrite, Interrupted, OutOfMemory, OutOfRange
from workbench.training import update
from workbench.training.loop import Training
from workbench.training.processes import Processes
from workbench.training.recipe import Recipe
from workbench.training.run import Run
from workbench.training.state import random_state, set_random_state
from workbench.training.together import together
from workbench.training.update import Recorded

MODEL = "cra3-circularnet"
SPLIT = layouts.make(64, seed=0)


def fresh(model=MODEL):
    torch.manual_seed(0)
    return build(model, 32, 16)


def training_of(recipe, network=None, seed=0):
    return Training(network or fresh(), SPLIT, SPLIT, recipe, seed, "cpu")


def weights(network):
    return torch.cat([value.detach().flatten() for value in network.parameters()])


def batches(recipe, seed, steps):
    """What the engine sees, one batch after the other, in its memory format."""
    ours = SPLIT.batches(torch.device("cpu"), recipe.batch)
    per_epoch = len(SPLIT) // recipe.batch
    for step in range(steps):
        epoch, number = divmod(step, per_epoch)
        index = order(seed, epoch, len(SPLIT))[number * recipe.batch : (number + 1) * recipe.batch]
        yield ours(index, augmentation(seed, epoch, SPLIT)[index])


def with_grad_scaler(recipe, steps, growth):
    """Weights and scales of a plain fp16 loop with PyTorch's GradScaler.

    Not with the fused SGD: torch 2.15's leaves the momentum unset when the first step is skipped.
    """
    network = fresh().to(memory_format=torch.channels_last).train()
    settings = {"momentum": recipe.momentum, "weight_decay": recipe.weight_decay}
    optimizer = torch.optim.SGD(network.parameters(), lr=recipe.lr, **settings)
    scaler = torch.amp.GradScaler("cpu", init_scale=update.SCALE, growth_interval=growth)
    scales = []
    for x, labels in batches(recipe, 0, steps):
        with torch.autocast("cpu", torch.float16):
            logits = network(x).float()
        optimizer.zero_grad()
        scaler.scale(F.cross_entropy(logits, labels)).backward()
        scaler.step(optimizer)
        scaler.update()
        scales.append(scaler.get_scale())
    return weights(network), scales


@pytest.mark.parametrize("first", [2.0**16, 2.0**40], ids=["sound", "overflowing"])
def test_fp16_is_that_of_grad_scaler(monkeypatch, first):
    """Weights bit for bit, the scale at every step: halved on overflow, doubled after a streak."""
    monkeypatch.setattr(update, "SCALE", first)
    monkeypatch.setattr(update, "PATIENCE", 3)
    recipe, steps = Recipe(batch=8, epochs=20, lr=0.05, precision="fp16", schedule="constant"), 40
    training, scales = training_of(recipe), []
    for _ in range(steps):
        training.step()
        scales.append(float(training.update.scale[0]))
    expected, theirs = with_grad_scaler(recipe, steps, growth=3)
    assert scales == theirs
    if first > 2.0**16:
        assert min(scales) < first  # witness: it did overflow
    torch.testing.assert_close(weights(training.plain), expected, rtol=0, atol=1e-6)
    single = training_of(Recipe(batch=8, epochs=20, lr=0.05, schedule="constant"))
    for _ in range(steps):
        single.step()
    assert not torch.allclose(weights(single.plain), expected, rtol=0, atol=1e-6)  # witness: the precision is taken


def test_an_overflow_changes_no_weight_and_is_continued_as_if_never_stopped(monkeypatch):
    monkeypatch.setattr(update, "SCALE", 2.0**22)
    recipe = Recipe(batch=8, epochs=20, lr=0.05, precision="fp16")
    whole, stopped = training_of(recipe), training_of(recipe)
    start = weights(whole.plain).clone()
    whole.step(), stopped.step()
    assert torch.equal(weights(whole.plain), start) and whole.position == 1  # skipped, and counted
    for _ in range(7):
        whole.step(), stopped.step()
    tensors, scalars = stopped.state()
    saved = {group: {name: value.clone() for name, value in part.items()} for group, part in tensors.items()}
    assert saved["progress"]["scale"][0] < 2.0**22 and saved["progress"]["scale"][1] > 0
    continued = training_of(recipe)
    continued.load_state(saved, scalars)
    forgetful = training_of(recipe)
    forgetful.load_state(saved | {"progress": saved["progress"] | {"scale": torch.tensor([2.0**22, 0.0])}}, scalars)
    for _ in range(6):
        whole.step(), continued.step(), forgetful.step()
    assert torch.equal(weights(whole.plain), weights(continued.plain))
    assert torch.equal(whole.update.scale, continued.update.scale)
    assert not torch.equal(weights(whole.plain), weights(forgetful.plain))  # witness: the scale is part of the state


def test_a_batch_in_parts_is_the_mean_of_their_gradients():
    """BN sees each part on its own, as two batches of half the size would be seen."""
    recipe = Recipe(batch=16, epochs=1, lr=0.1, weight_decay=0, momentum=0, accumulate=2)
    training = training_of(recipe)
    network = fresh().to(memory_format=torch.channels_last).train()
    [(x, labels)] = batches(recipe, 0, 1)
    losses = [F.cross_entropy(network(part), wanted) for part, wanted in zip(x.chunk(2), labels.chunk(2), strict=True)]
    (sum(losses) / 2).backward()
    expected = torch.cat([(p.detach() - 0.1 * p.grad).flatten() for p in network.parameters()])
    training.step()
    torch.testing.assert_close(weights(training.plain), expected, rtol=0, atol=1e-7)
    assert training.look() == pytest.approx(sum(loss.item() for loss in losses) / 2, rel=1e-6)
    whole = training_of(Recipe(batch=16, epochs=1, lr=0.1, weight_decay=0, momentum=0))
    whole.step()
    assert not torch.allclose(weights(whole.plain), expected, rtol=0, atol=1e-7)  # witness


class Noisy(torch.nn.Module):
    """A layer that draws from torch's and from Python's generator."""

    def forward(self, x):
        return x + torch.randn_like(x) * random.random() if self.training else x


def turns(seed, results):
    """A run with noise, which returns its weights."""
    torch.manual_seed(seed), random.seed(seed)
    network = fresh()
    network.relu = Noisy()
    training = training_of(Recipe(batch=16, epochs=2, lr=0.05), network, seed)
    torch.manual_seed(seed)
    yield from training.turns(save_every_s=1e9)
    results[seed] = weights(training.plain)
    return seed


@pytest.mark.parametrize("width", [2, 3, 9])
def test_runs_in_turns_are_the_runs_alone(width):
    alone: dict = {}
    for seed in range(4):
        list(together([turns(seed, alone)], 1))
    shared: dict = {}
    assert sorted(together((turns(seed, shared) for seed in range(4)), width)) == [0, 1, 2, 3]
    assert all(torch.equal(alone[seed], shared[seed]) for seed in range(4))
    assert not torch.equal(alone[0], alone[1])  # witness


def test_without_generators_of_their_own_they_would_be_others(monkeypatch):
    """Witness of the test above."""
    alone: dict = {}
    list(together([turns(0, alone)], 1))
    monkeypatch.setattr("workbench.training.together.set_random_state", lambda *given: None)
    shared: dict = {}
    list(together([turns(0, shared), turns(1, shared)], 2))
    assert not torch.equal(alone[0], shared[0])


def test_when_one_fails_the_others_are_closed():
    closed = []

    def waiting(name):
        try:
            while True:
                yield
        finally:
            closed.append(name)

    def failing():
        yield
        raise Interrupted("stopped", 15)

    with pytest.raises(Interrupted):
        list(together([waiting("one"), failing(), waiting("two"), waiting("never begun")], 3))
    assert sorted(closed) == ["one", "two"]


def test_the_first_error_is_told_when_closing_fails_as_well():
    def unsaved():
        try:
            while True:
                yield
        finally:
            raise CannotWrite("no room")

    with pytest.raises(Interrupted, match="first"):
        list(together([unsaved(), iter_error(Interrupted("first", 15))], 2))


@pytest.mark.parametrize("stopped", [True, False])
def test_a_signal_in_the_last_evaluation_of_a_run_is_heeded_before_the_next(stopped):
    begun, before = [], signal.getsignal(signal.SIGTERM)

    def run(seed):
        begun.append(seed)
        training = training_of(Recipe(batch=16, epochs=1, lr=0.05), seed=seed)

        def stop(training):
            if stopped and seed == 1:
                signal.raise_signal(signal.SIGTERM)

        yield from training.turns(on_epoch=stop)
        return seed

    runs, done = together(map(run, range(3)), 1), []
    if stopped:
        with pytest.raises(Interrupted, match=r"SIGTERM between two runs; all is saved") as caught:
            done.extend(runs)
        assert caught.value.exit_code == 143 and (begun, done) == ([0, 1], [0])
    else:
        assert [*runs] == begun == [0, 1, 2]  # witness
    assert signal.getsignal(signal.SIGTERM) == before


def iter_error(error):
    yield
    raise error


def test_out_of_memory_is_one_sentence_with_what_to_do(monkeypatch):
    training = training_of(Recipe(batch=16, epochs=1, lr=0.1))
    training.step()
    before = weights(training.plain).clone()

    def full(*given):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(training.plain.fc, "forward", full)
    with pytest.raises(OutOfMemory, match=r"batch 16.*accumulate") as caught:
        training.step()
    assert caught.value.exit_code == 4 and caught.value.__context__.__traceback__ is None  # no frame holds a tensor
    assert training.position == 1 and torch.equal(before, weights(training.plain))
    monkeypatch.undo()
    training.step()  # the same object goes on
    assert not torch.equal(before, weights(training.plain))  # witness


def test_out_of_memory_lets_the_run_go(monkeypatch):
    """At once, not when Python next looks for cycles: the run that tries again needs the memory."""
    training = training_of(Recipe(batch=16, epochs=1, lr=0.1))
    alive = weakref.ref(training.plain)

    def full(*given):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(type(training.plain.fc), "forward", full)
    gc.collect()
    gc.disable()
    try:
        with contextlib.suppress(OutOfMemory):
            training.step()
        assert alive() is not None  # witness
        del training
        assert alive() is None
    finally:
        gc.enable()


def test_the_time_of_a_run_is_its_own():
    """Not that of the others whose turn it was."""
    training = training_of(Recipe(batch=16, epochs=2, lr=0.05))
    waited, start = 0.0, time.monotonic()
    for _ in training.turns():
        time.sleep(0.1)
        waited += 0.1
    assert waited >= 0.8 and 0 < training.elapsed_s <= time.monotonic() - start - waited


def test_every_process_draws_for_itself_and_continues_to_the_same():
    def masks(rank, steps=2, start=0):
        network = fresh("circularnet")
        network.fc = nn.Sequential(nn.Dropout(), network.fc)
        seen = []
        network.fc[0].register_forward_hook(lambda layer, given, out: seen.append(out == 0))
        processes = Processes("cpu")
        processes.rank = rank
        training = Training(network, SPLIT, SPLIT, Recipe(batch=16, epochs=2, lr=1e-12), 0, processes)
        training.position = start
        for _ in range(steps):
            training.step()
        return seen

    first, second = masks(0), masks(1)
    assert not torch.equal(first[0], second[0]) and not torch.equal(second[0], second[1])
    assert torch.equal(masks(1)[0], second[0]) and torch.equal(masks(1, 1, 1)[0], second[1])


def test_float32_is_float32_on_a_gpu_whatever_trains(monkeypatch):
    """Detectors, too: else what ran before them in the process would decide."""

    class Bare(Run):
        open = advance = measure = close = lambda self, *given: None

    cudnn, before = torch.backends.cudnn, torch.are_deterministic_algorithms_enabled()
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "GPU")
    monkeypatch.setattr(cudnn, "allow_tf32", True)
    try:
        recipe = Recipe(batch=16, epochs=1, lr=0.1)
        Bare(nn.Linear(1, 1), recipe, 0, SimpleNamespace(device=torch.device("cpu")), 64)
        assert cudnn.allow_tf32  # witness
        Bare(nn.Linear(1, 1), recipe, 0, SimpleNamespace(device=torch.device("cuda")), 64)
        assert not cudnn.allow_tf32 and torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(before)


def test_a_run_on_the_cpu_asks_no_gpu(monkeypatch):
    """One that is busy would refuse, and one that is not would lose memory to it."""
    asked = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: asked.append("available") or True)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda: asked.append("state") or torch.zeros(16))
    tensors, scalars = random_state()
    set_random_state(tensors | {"cuda": torch.zeros(16)}, scalars)
    assert "cuda" not in tensors and "state" not in asked
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    assert "cuda" in random_state()[0] and asked == ["state"]  # witness


def test_an_op_that_cannot_be_repeated_is_refused_by_name():
    """In deterministic mode, which the engine sets on a GPU."""
    training = training_of(Recipe(batch=16, epochs=1, lr=0.1))
    training.plain.fc.register_forward_hook(lambda layer, given, out: out.put(torch.tensor([0]), out.view(-1)[:1]))
    training.step()  # witness: it is the mode
    try:
        torch.use_deterministic_algorithms(True)
        with pytest.raises(OutOfRange, match="put_"):
            training.step()
    finally:
        torch.use_deterministic_algorithms(False)


class Graph:
    """Stands in for a CUDA graph: what was called while it recorded is called by `replay`."""

    def __init__(self, log):
        self.log = log

    def replay(self):
        self.log.append("replay")


def test_a_step_is_recorded_once_and_replayed(monkeypatch):
    log: list = []
    recorded = Recorded()
    monkeypatch.setattr(recorded, "_record", lambda function: log.append("record") or Graph(log))
    for _ in range(6):
        recorded(lambda: log.append("call"))
    assert log == ["call"] * 3 + ["record"] + ["replay"] * 3


@pytest.mark.parametrize(
    ("version", "module", "replays"),
    [
        ("2.11.0", nn.Dropout2d(), False),
        ("2.11.0", nn.AlphaDropout(), False),
        ("2.11.0", nn.RReLU(), False),
        ("2.11.0", nn.ReLU(), True),
        ("2.15.0", nn.Dropout2d(), True),
    ],
)
def test_what_draws_is_not_replayed_where_all_graphs_share_a_seed(monkeypatch, version, module, replays):
    monkeypatch.setattr(torch, "__version__", version)
    assert update._replays(nn.Sequential(module)) == replays


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["float32", "bf16", "fp16"])
def test_a_recorded_step_has_the_bits_of_one_that_is_not(precision):
    recipe = Recipe(batch=16, epochs=3, lr=0.05, precision=precision)
    found = []
    for record in (True, False):
        training = Training(fresh(), SPLIT, SPLIT, recipe, 0, "cuda", recorded=record)
        training.run()
        assert bool(training.update.recorder and training.update.recorder.graph) == record
        found.append((weights(training.plain), training.history))
    assert torch.equal(found[0][0], found[1][0]) and found[0][1] == found[1][1]
