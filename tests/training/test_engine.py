"""The engine equals a plain PyTorch loop, bit for bit; and a run continued equals a run in one piece."""

import os
import random
import runpy
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from workbench import datasets
from workbench.build import build
from workbench.datasets import layouts
from workbench.errors import Corrupt, Interrupted, OutOfRange
from workbench.training import loop
from workbench.training.checkpoint import Checkpoints
from workbench.training.loop import Training
from workbench.training.recipe import Recipe
from workbench.training.state import pack, unpack

train_plainly = runpy.run_path(str(Path(__file__).with_name("plain_loop.py")))["train"]
SMALL = Recipe(batch=16, epochs=2, lr=0.1)
STEPS = Recipe(batch=16, epochs=10, lr=0.1, milestones=(2, 4), nesterov=True)
ONE_CYCLE = Recipe(batch=16, epochs=8, lr=0.2, schedule="onecycle", weight_decay=5e-4)


def weights(network):
    return [value.clone() for value in network.state_dict().values()]


def equal(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def fresh(model, split, seed=0):
    torch.manual_seed(seed)
    return build(model, len(split.classes), split.pictures.shape[1])


def trained(network, split, recipe, seed, steps):
    """The engine's weights after `steps` updates, and the learning rate that the optimizer had in each."""
    training = Training(network, split, split, recipe, seed, "cpu")
    rates = []
    for _ in range(steps):
        training.step()
        rates.append(training.update.optimizer.param_groups[0]["lr"])
    return weights(network), rates


@pytest.mark.parametrize(
    ("model", "dataset", "recipe"),
    [("resnet20", "cifar10", STEPS), ("cra3-circularnet", "layouts", ONE_CYCLE)],
    ids=["resnet20", "cra3-circularnet"],
)
def test_50_steps_are_those_of_a_plain_loop(tiny_cifar, model, dataset, recipe):
    split = datasets.load("cifar10", tiny_cifar)[0] if dataset == "cifar10" else layouts.make(112, seed=0)
    plain = fresh(model, split)
    start = weights(plain)
    theirs = train_plainly(plain, split, recipe, seed=5, steps=50)
    found, rates = trained(fresh(model, split), split, recipe, 5, 50)
    assert equal(found, weights(plain))
    assert rates == pytest.approx(theirs, rel=1e-12, abs=0) and len(set(rates)) > 1
    assert not equal(found, start)  # witness: 50 steps change the weights
    other, _ = trained(fresh(model, split), split, recipe, 6, 3)
    same, _ = trained(fresh(model, split), split, recipe, 5, 3)
    assert not equal(other, same)  # witness: another seed sees other batches


def test_bf16_is_autocast_and_is_not_float32():
    split = layouts.make(64, seed=0)
    half = Recipe(batch=16, epochs=4, lr=0.1, precision="bf16")
    plain = fresh("cra3-circularnet", split)
    train_plainly(plain, split, half, seed=0, steps=6)
    found, _ = trained(fresh("cra3-circularnet", split), split, half, 0, 6)
    full, _ = trained(fresh("cra3-circularnet", split), split, Recipe(batch=16, epochs=4, lr=0.1), 0, 6)
    assert equal(found, weights(plain))
    assert not equal(found, full)  # witness: the precision is taken
    assert all(value.dtype in (torch.float32, torch.int64) for value in found)


def test_history_has_one_line_per_epoch_with_the_last_rate():
    split = layouts.make(70, seed=0)
    recipe = Recipe(batch=32, epochs=3, lr=0.1, milestones=(1, 2))
    training = Training(fresh("circularnet", split), split, layouts.make(20, seed=1), recipe, 0, "cpu")
    seen = []
    history = training.run(on_epoch=lambda training: seen.append(training.position))
    assert seen == [2, 4, 6] and training.done  # 70 // 32 steps; the last incomplete batch is dropped
    assert [line["epoch"] for line in history] == [1, 2, 3]
    assert [line["lr"] for line in history] == pytest.approx([0.1, 0.01, 0.001], rel=1e-12)
    assert all(0 <= line[key] <= 100 for line in history for key in line if key.endswith("error"))
    assert training.run() is history and len(history) == 3  # nothing is left to do


def test_train_loss_is_the_mean_of_the_steps():
    split = layouts.make(64, seed=0)
    training = Training(fresh("circularnet", split), split, split, Recipe(batch=16, epochs=1, lr=0.1), 0, "cpu")
    losses = [(training.step(), training.look())[1] for _ in range(4)]
    assert training.close_epoch()["train_loss"] == pytest.approx(np.mean(losses), rel=1e-12)
    assert len(set(losses)) == 4  # witness


def test_a_batch_larger_than_the_split_is_refused():
    split = layouts.make(20, seed=0)
    with pytest.raises(OutOfRange, match=r"21.*20"):
        Training(fresh("circularnet", split), split, split, Recipe(batch=21, epochs=1, lr=0.1), 0, "cpu")
    Training(fresh("circularnet", split), split, split, Recipe(batch=20, epochs=1, lr=0.1), 0, "cpu")  # witness


def test_a_run_works_outside_the_main_thread():
    """Where no signal handler can be set; the explorer and notebooks may do so."""
    split = layouts.make(32, seed=0)
    training = Training(fresh("circularnet", split), split, split, Recipe(batch=16, epochs=1, lr=0.1), 0, "cpu")
    thread = threading.Thread(target=training.run)
    thread.start()
    thread.join()
    assert training.done


@pytest.mark.parametrize("kept", [True, False], ids=["saved", "not saved"])
def test_a_stopped_run_says_where_it_stands(tmp_path, kept):
    split = layouts.make(64, seed=0)
    training = Training(build("circularnet", 32), split, split, Recipe(batch=16, epochs=2, lr=0.1), 0, "cpu")
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    def stop_in_the_third_step(network, x):
        if network.training and training.position == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    training.plain.register_forward_pre_hook(stop_in_the_third_step)
    with pytest.raises(Interrupted) as caught:
        training.run(Checkpoints(tmp_path / "ckpt", "key") if kept else None)
    assert "SIGTERM after step 3" in str(caught.value) and caught.value.exit_code == 143
    assert ("saved" in str(caught.value)) == kept == (tmp_path / "ckpt").exists()
    assert handlers == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


class Noisy(nn.Module):
    """A network that draws from every generator in each training step."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5))
        self.fc = nn.Linear(8, 32)

    def forward(self, x):
        if self.training:
            x = x * (1 + random.random() + np.random.rand())
        return self.fc(self.body(x).mean((2, 3)))


def noisy_training():
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    return Training(Noisy(), layouts.make(64, seed=0), layouts.make(16, seed=1), SMALL, 0, "cpu")


class Tied(nn.Module):
    """One layer under two names."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.second, self.fc = self.first, nn.Linear(3, 32)

    def forward(self, x):
        return self.fc(self.second(self.first(x.mean((2, 3))).relu()))


def test_a_layer_of_two_names_is_saved_and_continued(tmp_path):
    split = layouts.make(64, seed=0)

    def begun():
        torch.manual_seed(0)
        return Training(Tied(), split, split, SMALL, 0, "cpu")

    whole, continued = begun(), begun()
    whole.step()
    with pytest.raises(RuntimeError, match="share memory"):
        safetensors.torch.save(whole.state()[0]["model"])  # witness
    Checkpoints(tmp_path / "ckpt", "key").save(1, *whole.state())
    continued.load_state(*Checkpoints(tmp_path / "ckpt", "key").load())
    whole.step(), continued.step()
    assert equal(weights(whole.plain), weights(continued.plain))
    assert continued.plain.first is continued.plain.second


def test_what_processes_tell_each_other_comes_whole():
    """Without momentum a run has a group of no tensors, and misses it."""
    split, recipe = layouts.make(64, seed=0), Recipe(batch=16, epochs=1, lr=0.1, momentum=0)
    training = Training(fresh("circularnet", split), split, split, recipe, 0, "cpu")
    tensors, scalars = unpack(pack(*training.state()))
    assert tensors["optimizer"] == {}
    training.load_state(tensors, scalars)
    del tensors["optimizer"]
    with pytest.raises(Corrupt, match="optimizer"):
        training.load_state(tensors, scalars)  # witness


DAMAGE = {
    "nothing": lambda training, tensors: None,
    "python's generator": lambda training, tensors: random.seed(9),
    "numpy's generator": lambda training, tensors: np.random.seed(9),
    "torch's generator": lambda training, tensors: torch.manual_seed(9),
    "the momentum": lambda training, tensors: [
        slot["momentum_buffer"].zero_() for slot in training.update.optimizer.state.values()
    ],
    "the mean loss": lambda training, tensors: training.update.progress.zero_(),
    "a running mean": lambda training, tensors: training.plain.body[1].running_mean.zero_(),
    "the seed": lambda training, tensors: setattr(training, "seed", 1),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_continuing_restores_everything(tmp_path, damage):
    """With nothing damaged the continuation is exact; each other case is a witness that its part is needed."""
    whole = noisy_training()
    for _ in range(3):
        whole.step()
    checkpoints = Checkpoints(tmp_path / "ckpt", "key")
    checkpoints.save(whole.position, *whole.state())
    whole.step(), whole.close_epoch(), whole.step()

    continued = noisy_training()
    found = checkpoints.load()
    continued.load_state(*found)
    DAMAGE[damage](continued, found[0])
    continued.step(), continued.close_epoch(), continued.step()
    exact = equal(weights(whole.plain), weights(continued.plain)) and whole.history == continued.history
    assert exact == (damage == "nothing")


def test_continuing_restores_the_number_of_threads(tmp_path):
    """Sums in another order are other numbers."""
    training, before = noisy_training(), torch.get_num_threads()
    tensors, scalars = training.state()
    try:
        torch.set_num_threads(before + 1)
        training.load_state(tensors, scalars)
        assert torch.get_num_threads() == before
        training.load_state(tensors, scalars | {"threads": before + 1})
        assert torch.get_num_threads() == before + 1  # witness
    finally:
        torch.set_num_threads(before)


def edit(tensors, group, name, value):
    group = tensors[group]
    name = name or next(iter(group))
    group.pop(name, None)
    if value is not None:
        group[name] = value


def test_compilation_and_threads_are_those_that_the_run_was_begun_with(monkeypatch, caplog):
    """They change the last bits; on a continuation the checkpoint decides, and says so."""
    compiled = []
    monkeypatch.setattr(loop, "through_compiler", lambda network: compiled.append(network) or network)
    split = layouts.make(64, seed=0)

    def begun(**settings):
        return Training(fresh("circularnet", split), split, split, SMALL, 0, "cpu", **settings)

    first, threads = begun(compiled=True), torch.get_num_threads()
    tensors, scalars = first.state()
    assert len(compiled) == 1 and scalars["compiled"] and scalars["threads"] == threads
    second = begun()
    second.load_state(tensors, scalars | {"threads": threads + 1})
    try:
        assert len(compiled) == 2 and second.compiled and torch.get_num_threads() == threads + 1
    finally:
        torch.set_num_threads(threads)
    assert "begun compiled" in caplog.text
    begun(compiled=True).load_state(*begun().state())
    assert "begun uncompiled" in caplog.text
    caplog.clear()
    begun().load_state(*begun().state())
    assert not caplog.text  # witness


def test_a_run_on_another_machine_is_recorded_as_moved(monkeypatch, caplog):
    split = layouts.make(64, seed=0)
    training = Training(fresh("circularnet", split), split, split, SMALL, 0, "cpu")
    tensors, scalars = training.state()
    [here], moved = training.machines, scalars | {"machines": ["another, torch 2.11.0"]}
    training.load_state(tensors, moved)
    assert training.machines[0] == "another, torch 2.11.0" and len(training.machines) == 2
    assert f"continues on {here}; partly made on another, torch 2.11.0, its bits are no promise" in caplog.text
    caplog.clear()
    training.load_state(tensors, scalars | {"machines": [here, "another, torch 2.11.0"]})  # and back
    assert f"continues on {here}; partly made on another, torch 2.11.0" in caplog.text
    caplog.clear()
    training.load_state(tensors, scalars)
    assert len(training.machines) == 1 and not caplog.text  # witness


FOREIGN = {
    "missing weight": ("model", "fc.weight", None),
    "extra weight": ("model", "fc.scale", torch.ones(1)),
    "weight of another shape": ("model", "fc.weight", torch.ones(32, 9)),
    "weight of another type": ("model", "fc.weight", torch.ones(32, 8, dtype=torch.float16)),
    "missing momentum": ("optimizer", None, None),
    "extra momentum": ("optimizer", "another", torch.ones(1)),
    "momentum of another shape": ("optimizer", "conv1.weight", torch.ones(1, 2)),
    "missing generator": ("generators", "torch", None),
    "generator of another size": ("generators", "torch", torch.zeros(3, dtype=torch.uint8)),
    "missing mean loss": ("progress", "progress", None),
    "mean loss of another shape": ("progress", "progress", torch.zeros(3, dtype=torch.float64)),
}


@pytest.mark.parametrize("fault", FOREIGN)
def test_a_state_that_does_not_fit_is_refused(tmp_path, fault):
    training = noisy_training()
    training.step()
    Checkpoints(tmp_path / "ckpt", "key").save(1, *training.state())
    tensors, scalars = Checkpoints(tmp_path / "ckpt", "key").load()
    noisy_training().load_state(tensors, scalars)  # witness: fits before
    edit(tensors, *FOREIGN[fault])
    with pytest.raises(Corrupt):
        noisy_training().load_state(tensors, scalars)
