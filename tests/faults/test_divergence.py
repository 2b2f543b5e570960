"""A loss or gradient that is not finite stops the run before the update; nothing poisoned is kept."""

import itertools
import json
import math
from types import SimpleNamespace

import pytest
import torch

from workbench.build import build
from workbench.datasets import layouts
from workbench.errors import Diverged
from workbench.experiments.experiment import Experiment
from workbench.experiments.store import Store
from workbench.training import run
from workbench.training.checkpoint import Checkpoints
from workbench.training.loop import Training
from workbench.training.recipe import Recipe


def experiment(**settings):
    recipe = Recipe(**{"batch": 32, "epochs": 3, "lr": 0.1} | settings)
    return Experiment(model="cra3-circularnet", dataset="layouts", recipe=recipe, seed=0)


def training_of(recipe):
    split = layouts.make(64, seed=0)
    torch.manual_seed(0)
    return Training(build("cra3-circularnet", 32), split, split, recipe, 0, "cpu")


def nan_gradient(training):
    training.plain.conv1.weight.register_hook(lambda gradient: gradient * math.nan)


def inf_gradient(training):
    def poison(gradient):
        gradient = gradient.clone()
        gradient.view(-1)[0] = math.inf
        return gradient

    training.plain.fc.weight.register_hook(poison)


def inf_loss(training):
    training.plain.fc.register_forward_hook(lambda layer, inputs, output: output * math.inf)


POISONS = {"NaN gradient": nan_gradient, "one infinite gradient": inf_gradient, "infinite loss": inf_loss}


def parameters(training):
    slots = [slot["momentum_buffer"] for slot in training.update.optimizer.state.values()]
    return [value.detach().clone() for value in [*training.plain.parameters(), *slots]]


def statistics(training):
    return [value.clone() for value in training.plain.buffers()]


def equal(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.fixture
def every_step(monkeypatch):
    """A clock that makes the engine save after every step."""
    clock = itertools.count(step=100)
    monkeypatch.setattr(run, "time", SimpleNamespace(monotonic=lambda: next(clock)))


@pytest.mark.parametrize("poison", POISONS)
def test_the_refused_step_changes_no_weight(poison):
    training = training_of(experiment().recipe)
    training.step(), training.step()
    POISONS[poison](training)
    before = parameters(training)
    with pytest.raises(Diverged) as caught:
        training.step()
    assert equal(before, parameters(training)) and training.position == 2
    assert "step 2" in str(caught.value) and "lr 0.1" in str(caught.value) and caught.value.exit_code == 5


def test_a_finite_step_changes_them_all():
    """Witness of the test above; BN statistics are counted in the forward pass, before the loss is known."""
    training = training_of(experiment().recipe)
    training.step()
    before = parameters(training)
    running = statistics(training)
    training.step()
    assert not any(torch.equal(a, b) for a, b in zip(before, parameters(training), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(running, statistics(training), strict=True))


@pytest.mark.parametrize("poison", POISONS)
def test_without_the_guard_the_weights_would_be_poisoned(monkeypatch, poison):
    """Witness of the guard."""
    monkeypatch.setattr(torch.Tensor, "isfinite", lambda value: torch.ones_like(value, dtype=torch.bool))
    training = training_of(experiment().recipe)
    POISONS[poison](training)
    training.step()
    assert not all(bool((value.abs() < math.inf).all()) for value in parameters(training))


@pytest.mark.parametrize("poison", POISONS)
def test_a_diverged_run_is_recorded_as_such(tmp_path, tiny_layouts, every_step, poison):
    store, diverging = Store(tmp_path / "runs"), experiment()

    def at_step_13(training):
        if training.position == 13:
            POISONS[poison](training)

    record = store.run(diverging, device="cpu", on_step=at_step_13)
    assert (record.status, record.metrics, len(record.curves)) == ("diverged", {}, 1)
    assert "step 13" in record.note
    json.loads((store.root / diverging.key() / "record.json").read_text(), parse_constant=pytest.fail)  # no NaN in it
    tensors, scalars = Checkpoints(store.root / diverging.key() / "ckpt", diverging.key()).load()
    assert scalars["position"] == 13  # the last state before
    assert all(bool(value.isfinite().all()) for group in tensors.values() for value in group.values())
    assert store.get(diverging) == record == next(store.records())
    assert not list(store.unfinished())
    assert store.run(diverging, device="cpu", on_step=lambda training: pytest.fail("trained again")) == record


def test_the_same_run_without_poison_is_done(tmp_path, tiny_layouts):
    """Witness of the test above."""
    record = Store(tmp_path / "runs").run(experiment(), device="cpu")
    assert record.status == "done" and record.note == "" and len(record.curves) == 3
    assert set(record.metrics) >= {"top1_error", "top5_error", "best_top1_error"}


def test_a_huge_learning_rate_diverges_by_itself(tmp_path, tiny_layouts, every_step):
    store, diverging = Store(tmp_path / "runs"), experiment(lr=1e3, weight_decay=10)
    assert store.run(diverging, device="cpu").status == "diverged"
    tensors, _ = Checkpoints(store.root / diverging.key() / "ckpt", diverging.key()).load()
    assert all(bool(value.isfinite().all()) for value in tensors["model"].values())


def test_an_evaluation_that_is_not_finite_is_a_divergence(tmp_path, tiny_layouts):
    """Running statistics take no part in the training loss: they can overflow while every step looks well."""
    store, diverging = Store(tmp_path / "runs"), experiment()

    def overflow(training):
        if training.position == 19:
            training.plain.bn1.running_mean.fill_(math.nan)

    record = store.run(diverging, device="cpu", on_step=overflow)
    assert (record.status, record.metrics, len(record.curves)) == ("diverged", {}, 1)
