"""The key of an experiment is a function of what changes the numbers, and of nothing else."""

import dataclasses
import json
import re

import pytest

from workbench.errors import OutOfRange, UnknownName
from workbench.experiments.experiment import Experiment
from workbench.training.recipe import Recipe

RECIPE = {"batch": 32, "epochs": 3, "lr": 0.1, "milestones": (1, 2)}
CHANGED = {
    "batch": 33,
    "epochs": 4,
    "lr": 0.2,
    "schedule": "constant",
    "milestones": (1,),
    "gamma": 0.2,
    "momentum": 0.8,
    "nesterov": True,
    "weight_decay": 5e-4,
    "precision": "bf16",
    "accumulate": 2,
    "warmup": 5,
    "updates": 20,
    "backbone": "imagenet:cra-imagenet",
}
DETECTOR = {"model": "retinanet-circularnet", "dataset": "shapes"}
OTHERS = {
    "model": {"model": "se-circularnet"},
    "size": {"model": "cra3-circularnet"},
    "backbone's option": {"model": "cra7-circularnet[padding=zeros]"},
    "attention's option": {"model": "cra7[small=repeat]-circularnet"},
    "connection": {"model": "dca-cra7-circularnet"},
    "data set": {"dataset": "cifar10"},
    "other data set": {"dataset": "cifar100"},
    "seed": {"seed": 8},
    "last seed": {"seed": 2**63 - 1},
    **{field: {"recipe": Recipe(**RECIPE | {field: value})} for field, value in CHANGED.items()},
    "detector": DETECTOR,
}
OTHERS["backbone"] |= DETECTOR  # which alone can start from one
SAME_NUMBERS = {"lr": (1.0, 1), "weight_decay": (0.0, 0), "momentum": (0.0, 0), "gamma": (1.0, 1)}


def experiment(**changes):
    given = {"model": "cra7-circularnet", "dataset": "layouts", "recipe": Recipe(**RECIPE), "seed": 7}
    return Experiment(**given | changes)


def test_golden_key():
    """Hard-wired: a change of it makes every record on every machine an orphan, so raise FORMAT or do not."""
    assert experiment().key() == "cra7-circularnet-layouts-7-47606ecdbfb4"


def test_every_setting_changes_the_key():
    assert set(CHANGED) == {field.name for field in dataclasses.fields(Recipe)}
    keys = {name: experiment(**changes).key() for name, changes in OTHERS.items()} | {"itself": experiment().key()}
    assert len(set(keys.values())) == len(OTHERS) + 1
    assert experiment().key() == experiment().key()  # witness: no key is random


@pytest.mark.parametrize(
    ("spelling", "canonical"),
    [
        ("cra-circularnet", "cra7-circularnet"),
        ("cra7[small=refuse]-circularnet", "cra7-circularnet"),
        ("cra7-circularnet[padding=circular]", "cra7-circularnet"),
        ("se[reduction=16]-resnet20", "se-resnet20"),
        ("se[reduction_first=0,reduction=8]-resnet20", "se[reduction=8]-resnet20"),
    ],
)
def test_the_spelling_of_defaults_does_not(spelling, canonical):
    assert experiment(model=spelling) == experiment(model=canonical)
    assert experiment(model=spelling).key() == experiment(model=canonical).key()
    assert experiment(model=spelling).model == canonical


@pytest.mark.parametrize("field", SAME_NUMBERS)
def test_equal_experiments_have_equal_keys(field):
    """1 and 1.0 are one learning rate."""
    one, other = (experiment(recipe=Recipe(**RECIPE | {field: value})) for value in SAME_NUMBERS[field])
    assert one == other
    assert one.key() == other.key()


def test_the_key_is_a_folder_name():
    for one in (experiment(), experiment(model="se[reduction=8,reduction_first=4]-resnet110")):
        assert re.fullmatch(r"[a-z0-9-]{13,93}", one.key())
        assert str(one.seed) in one.key() and one.dataset in one.key()


def test_the_spec_is_plain_json_with_every_default_written():
    spec = experiment().spec()
    assert json.loads(json.dumps(spec, allow_nan=False)) == spec
    assert spec["recipe"]["momentum"] == 0.9 and spec["model"]["attention"]["small"] == "refuse"
    assert spec["dataset"] == {"name": "layouts", "version": "layouts-1"}


@pytest.mark.parametrize("seed", [-1, 2**63, 2**64, True, False, 1.5, 1.0, "0", None, float("nan")], ids=repr)
def test_a_seed_that_is_none_is_refused(seed):
    with pytest.raises(OutOfRange, match="Seed") as caught:
        experiment(seed=seed)
    assert repr(seed) in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "error", "hint"),
    [
        ({"model": "cbma-resnet20"}, UnknownName, "cbam"),
        ({"model": "se-resnet21"}, UnknownName, "resnet20"),
        ({"dataset": "cifar1O"}, UnknownName, "cifar10"),
        ({"model": "dca-resnet20"}, OutOfRange, "nothing to connect"),
        ({"model": "se[reduction=none]-resnet20"}, OutOfRange, "whole number"),
    ],
)
def test_what_cannot_be_is_refused_when_made(changes, error, hint):
    with pytest.raises(error, match=hint) as caught:
        experiment(**changes)
    assert caught.value.exit_code == 2


def test_an_experiment_is_a_value():
    with pytest.raises(dataclasses.FrozenInstanceError):
        experiment().seed = 1
    assert hash(experiment()) == hash(experiment(model="cra-circularnet"))
    assert experiment() != experiment(seed=8)  # witness
