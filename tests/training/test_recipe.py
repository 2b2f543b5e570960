"""A recipe's learning rate is torch's; what a recipe cannot mean is refused when it is made."""

import dataclasses
import itertools
import warnings

import pytest
import torch

from workbench.errors import OutOfRange, UnknownName
from workbench.training.recipe import RECIPES, Recipe, as_dict, recipe

GIVEN = {"batch": 32, "epochs": 3, "lr": 0.1}
NOT_NUMBERS = [float("inf"), float("-inf"), float("nan"), "0,1", "0.1", None, True, [0.1], 1j]
REFUSED = [("lr", value) for value in (-1, 0, 1e4, *NOT_NUMBERS)]
REFUSED += [(key, value) for key in ("epochs", "batch") for value in (0, -1, 2.5, 3.0, 10**6, *NOT_NUMBERS)]
REFUSED += [("gamma", value) for value in (0, -0.1, 1.1, *NOT_NUMBERS)]
REFUSED += [("momentum", value) for value in (-0.1, 1, *NOT_NUMBERS)]
REFUSED += [("weight_decay", value) for value in (-1e-4, 11, *NOT_NUMBERS)]
REFUSED += [("accumulate", value) for value in (0, -1, 1.5, 3, 65537)]  # 3 does not divide the batch
REFUSED += [("schedule", value) for value in ("sine", "", None, 1)]
REFUSED += [("precision", value) for value in ("tf32", "float64", None)]
REFUSED += [(key, value) for key in ("warmup", "updates") for value in (-1, 0.5, 10**9, *NOT_NUMBERS)]
REFUSED += [("backbone", value) for value in ("imagenet", ":cra-imagenet", "imagenet:", None, 1, True)]
REFUSED += [("nesterov", value) for value in ("true", None, 2)]
REFUSED += [("milestones", value) for value in ((-1,), ("150",), "12", 5, (1.5,), (True,), (float("nan"),))]


def rates(scheduler_of, lr, steps):
    """The learning rate of each step under a scheduler of torch."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the scheduler is stepped without the optimizer, and once too often
        scheduler = scheduler_of(optimizer)
        seen = []
        for _ in range(steps):
            seen.append(optimizer.param_groups[0]["lr"])
            if len(seen) < steps:
                scheduler.step()
    return seen


def ours(given, steps_per_epoch):
    return [given.lr_at(step, steps_per_epoch) for step in range(given.epochs * steps_per_epoch)]


@pytest.mark.parametrize("milestones", [(), (1,), (2, 5), (5, 2), (3, 3), (7,), (0, 4)], ids=str)
@pytest.mark.parametrize("gamma", [0.1, 0.5])
def test_steps_are_those_of_multisteplr(milestones, gamma):
    given = Recipe(batch=32, epochs=8, lr=0.1, milestones=milestones, gamma=gamma)

    def theirs(gamma):
        epochs = [m * 7 for m in milestones]
        return rates(lambda o: torch.optim.lr_scheduler.MultiStepLR(o, epochs, gamma), 0.1, 56)

    assert ours(given, 7) == pytest.approx(theirs(gamma), rel=1e-12, abs=0)
    if milestones:
        assert ours(given, 7) != pytest.approx(theirs(0.3), rel=1e-12, abs=0)  # witness


@pytest.mark.parametrize(("epochs", "steps_per_epoch"), [(1, 1), (1, 2), (1, 3), (1, 4), (5, 1), (3, 13), (30, 17)])
def test_onecycle_is_that_of_torch_at_its_defaults(epochs, steps_per_epoch):
    given = Recipe(batch=32, epochs=epochs, lr=0.4, schedule="onecycle")
    total = epochs * steps_per_epoch

    def theirs(**settings):
        schedule = lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.4, total_steps=total, **settings)  # noqa: E731
        return rates(schedule, 0.4, total)

    assert ours(given, steps_per_epoch) == pytest.approx(theirs(), rel=1e-12, abs=0)
    if total > 1:
        assert ours(given, steps_per_epoch) != pytest.approx(theirs(div_factor=24), rel=1e-12, abs=0)  # witness


@pytest.mark.parametrize(("epochs", "steps_per_epoch"), [(1, 1), (2, 3), (30, 17)])
def test_cosine_is_cosineannealinglr(epochs, steps_per_epoch):
    given, total = Recipe(batch=32, epochs=epochs, lr=0.4, schedule="cosine"), epochs * steps_per_epoch

    def theirs(steps):
        return rates(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, steps), 0.4, total)

    assert ours(given, steps_per_epoch) == pytest.approx(theirs(total), rel=1e-10, abs=1e-15)
    if total > 1:
        assert ours(given, steps_per_epoch) != pytest.approx(theirs(total + 1), rel=1e-10, abs=1e-15)  # witness


def test_constant_is_constant():
    assert set(ours(Recipe(batch=1, epochs=4, lr=0.3, schedule="constant", milestones=(1,)), 5)) == {0.3}


def test_the_rate_is_a_function_of_the_step_alone():
    given = Recipe(batch=32, epochs=3, lr=0.1, schedule="onecycle")
    forward = [given.lr_at(step, 10) for step in range(30)]
    assert [given.lr_at(step, 10) for step in reversed(range(30))] == forward[::-1]
    assert len(set(forward)) > 20  # witness


@pytest.mark.parametrize(("key", "value"), REFUSED, ids=str)
def test_a_recipe_that_means_nothing_is_refused_when_made(key, value):
    with pytest.raises(OutOfRange) as caught:
        Recipe(**GIVEN | {key: value})
    assert key in str(caught.value) and caught.value.exit_code == 2


def test_nesterov_without_momentum_is_refused():
    with pytest.raises(OutOfRange):
        Recipe(**GIVEN, nesterov=True, momentum=0.0)


def test_the_refusals_do_not_refuse_everything():
    """The witness of the refusals: the ends of every range are allowed."""
    for lr, gamma, momentum, decay in itertools.product((1e-12, 1e3), (1e-12, 1), (0, 0.9999), (0, 10)):
        Recipe(batch=1, epochs=1, lr=lr, gamma=gamma, momentum=momentum, weight_decay=decay, milestones=(1, 10))


def test_a_recipe_is_a_value():
    given = Recipe(**GIVEN, milestones=[1, 2])
    with pytest.raises(dataclasses.FrozenInstanceError):
        given.lr = 1.0
    with pytest.raises(TypeError):
        Recipe(32, 3, 0.1)  # keyword-only
    assert given == Recipe(**GIVEN, milestones=(1, 2)) and hash(given) == hash(Recipe(**GIVEN, milestones=(1, 2)))
    assert given != Recipe(**GIVEN, milestones=(1, 3))  # witness


def test_as_dict_holds_every_field_that_says_something():
    """Runs made before a field existed keep their keys."""
    later = {"accumulate", "warmup", "updates", "backbone"}
    assert set(as_dict(Recipe(**GIVEN))) == {field.name for field in dataclasses.fields(Recipe)} - later
    more = {"accumulate": 2, "warmup": 5, "updates": 20, "backbone": "imagenet:cra-imagenet"}
    given = Recipe(**GIVEN, milestones=(1, 2), nesterov=True, **more)
    assert set(as_dict(given)) == {field.name for field in dataclasses.fields(Recipe)}
    assert Recipe(**as_dict(given)) == given


def test_recipes_by_name():
    assert recipe("cra-cifar") is RECIPES["cra-cifar"]
    assert all(str(given.epochs) in given.describe() for given in RECIPES.values())
    with pytest.raises(UnknownName, match="'smoke'"):
        recipe("smoek")


def test_the_published_recipe_divides_by_ten_at_150_and_225():
    """CRA III-B."""
    given = recipe("cra-cifar")
    at = {epoch: given.lr_at(epoch * 781, 781) for epoch in (0, 149, 150, 224, 225, 299)}
    assert list(at.values()) == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001], rel=1e-12)


@pytest.mark.parametrize("warmup", [1, 2, 5, 30])
def test_warmup_is_linearlr_up_to_the_schedule(warmup):
    """From lr / warmup on, lr in the update of that number; what comes after is the schedule's."""
    given = Recipe(batch=32, epochs=4, lr=0.1, milestones=(2,), warmup=warmup)
    steps = Recipe(batch=32, epochs=4, lr=0.1, milestones=(2,))
    linear = lambda o: torch.optim.lr_scheduler.LinearLR(o, 1 / warmup, total_iters=warmup - 1)  # noqa: E731
    theirs = rates(linear, 1.0, 40) if warmup > 1 else [1.0] * 40
    plain = ours(steps, 10)
    assert ours(given, 10) == pytest.approx([a * b for a, b in zip(theirs, plain, strict=True)], rel=1e-12, abs=0)
    assert ours(given, 10)[warmup:] == plain[warmup:]
    if warmup > 1:
        assert ours(given, 10)[0] != plain[0]  # witness


def test_a_length_in_updates_counts_everything_in_updates():
    given = Recipe(batch=16, epochs=3, lr=0.1, updates=25, milestones=(5, 20))
    assert given.length(10) == 25 and Recipe(**GIVEN).length(10) == 30
    assert [given.lr_at(step, 10) for step in (0, 4, 5, 19, 20, 24)] == pytest.approx(
        [0.1, 0.1, 0.01, 0.01, 0.001, 0.001], rel=1e-12
    )
    for steps in (8, 13):  # 25 updates are 4 and 2 epochs of them
        with pytest.raises(OutOfRange, match="another data set"):
            given.length(steps)
    given.length(9), given.length(12)  # witness: 3 epochs
    total = Recipe(batch=16, epochs=3, lr=0.1, updates=25, schedule="cosine")
    assert total.lr_at(25, 10) == pytest.approx(0, abs=1e-15) and total.lr_at(24, 10) > 0


def test_other_epochs_move_milestones_and_updates_in_proportion():
    assert recipe("cra-cifar").lasting(30) == Recipe(batch=64, epochs=30, lr=0.1, milestones=(15, 22))
    half = Recipe(batch=16, epochs=4, lr=0.1, updates=40, milestones=(10, 30)).lasting(2)
    assert (half.epochs, half.updates, half.milestones) == (2, 20, (5, 15))


@pytest.mark.parametrize("epochs", [1, 2, 12, 13, 14, 18, 19, 26, 100])
def test_a_recipe_in_updates_lasts_as_many_epochs_as_it_is_asked_for(epochs):
    """More than its own could end in the epoch before: their updates in proportion are told by the data set alone."""
    given, own = recipe("cra-coco").lasting(epochs), recipe("cra-coco")
    assert (epochs - 1) * COCO < given.length(COCO) <= epochs * COCO
    assert bool(given.updates) == (epochs <= 13)
    drops = [step for step in range(1, given.length(COCO)) if given.lr_at(step, COCO) < given.lr_at(step - 1, COCO)]
    expected = [mark / own.updates * given.length(COCO) for mark in own.milestones]
    assert drops == pytest.approx(expected, abs=COCO / 2 + 1)  # to the next whole epoch
    if epochs == 26:
        with pytest.raises(OutOfRange, match="take 25 epochs"):  # witness
            dataclasses.replace(own, epochs=26, updates=180_000).length(COCO)


COCO = 117_266 // 16  # batches of the pictures with boxes


@pytest.mark.parametrize(
    ("name", "rate", "drops", "length"),
    [
        ("cra-coco", 0.1, (60_000, 80_000), 90_000),
        ("cra-coco-usual", 0.01, (60_000, 80_000), 90_000),
        ("dca-coco-retinanet", 0.01, (18 * COCO, 22 * COCO), 24 * COCO),
        ("dca-coco-cascade", 0.02, (18 * COCO, 22 * COCO), 24 * COCO),
        ("aw-coco", 0.02, (60_000, 80_000), 90_000),
    ],
)
def test_the_recipes_for_coco_are_the_published_ones(name, rate, drops, length):
    """CRA III-C, DCA 4.3; AW states none."""
    given = recipe(name)
    assert given.length(COCO) == length and (given.batch, given.momentum, given.weight_decay) == (16, 0.9, 1e-4)
    assert given.lr_at(499, COCO) == pytest.approx(rate) and given.lr_at(249, COCO) == pytest.approx(rate / 2)
    for number, drop in enumerate(drops):
        assert given.lr_at(drop - 1, COCO) == pytest.approx(rate / 10**number, rel=1e-12)
        assert given.lr_at(drop, COCO) == pytest.approx(rate / 10 ** (number + 1), rel=1e-12)


def test_a_backbone_comes_from_a_run_that_there_is():
    named = [given.backbone for given in RECIPES.values() if given.backbone]
    assert named and all(recipe(name.rpartition(":")[2]) for name in named)
