"""A changed recipe, data set or engine is another run: nothing is continued, averaged or shown across the change."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from workbench import cli, datasets, files
from workbench.errors import Corrupt
from workbench.experiments import experiment as experiments
from workbench.experiments import tables, text
from workbench.experiments.compare import compare
from workbench.experiments.experiment import Experiment, Record, outdated
from workbench.experiments.store import Store
from workbench.training.recipe import RECIPES, Recipe

SMALL = Experiment(model="circularnet", dataset="layouts", recipe=Recipe(batch=64, epochs=1, lr=0.1), seed=0)
CRA = tables.load("cra-4")
CHANGES = {
    "the engine": ("format", lambda patch: patch.setattr(experiments, "FORMAT", experiments.FORMAT + 1)),
    "the data": ("dataset", lambda patch: patch.setattr(datasets, "version", lambda name: "another checksum")),
    "a default of the model": ("model", lambda patch: patch.setattr("workbench.build._text", lambda value: "another")),
    "a field of recipes": ("spec", lambda patch: patch.setattr(experiments, "as_dict", lambda recipe: {"new": 1})),
}


@pytest.fixture
def store(tmp_path, tiny_layouts):
    return Store(tmp_path / "runs", published=tmp_path / "none")


def measured(model, seed, top1_error):
    """A record of budget smoke that nobody trained."""
    one = Experiment(model=model, dataset="layouts", recipe=RECIPES["smoke"], seed=seed)
    metrics = {"top1_error": top1_error, "top5_error": 1.0, "best_top1_error": top1_error}
    where = {"device": "CPU", "threads": 1, "compiled": False, "code": "1f3a9c2e"}
    return Record(one.key(), one.spec(), "done", metrics, [], where, 1.0)


def keep(store, record):
    (store.root / record.key).mkdir(parents=True)
    fields = {name: part for name, part in record._asdict().items() if name != "origin"}
    files.write_json(store.root / record.key / "record.json", fields)
    return record


def shown(store, row="w/o"):
    """Mean, n and budget of what stands in a row."""
    entries = compare(CRA, store)
    found = next(entry for entry in entries if entry["row"] == row)
    return [(m["mean"], m["n"], m["budget"]) for m in found["measured"] if m["metric"] == "top1_error" and m["dataset"]]


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_experiment_is_another_run(store, monkeypatch, change):
    first = store.run(SMALL, "cpu")
    with monkeypatch.context() as patch:
        CHANGES[change][1](patch)
        steps = []
        assert store.get(SMALL) is None and SMALL.key() != first.key
        second = store.run(SMALL, "cpu", on_step=lambda training: steps.append(training.position))
        assert second.key == SMALL.key() and steps == [1, 2, 3, 4, 5]  # from the start
    assert store.run(SMALL, "cpu", on_step=lambda training: pytest.fail("trained again")) == first  # witness


def test_another_recipe_or_seed_is_another_run():
    fields = {"lr": 0.2, "batch": 32, "weight_decay": 0.0, "epochs": 2, "precision": "bf16"}
    recipes = [dataclasses.replace(SMALL.recipe, **{name: value}) for name, value in fields.items()]
    others = [dataclasses.replace(SMALL, recipe=recipe) for recipe in recipes] + [dataclasses.replace(SMALL, seed=1)]
    assert len({one.key() for one in [SMALL, *others]}) == 1 + len(others)
    assert SMALL.key() == dataclasses.replace(SMALL).key()  # witness


@pytest.mark.parametrize("change", CHANGES)
def test_checkpoints_carried_over_a_change_are_refused(store, monkeypatch, change):
    """Someone copies the folder of the old run to the name of the new one, record and all."""
    old = store.root / store.run(SMALL, "cpu").key
    CHANGES[change][1](monkeypatch)
    shutil.copytree(old, store.root / SMALL.key())
    with pytest.raises(Corrupt, match="is whole"):
        store.run(SMALL, "cpu", on_step=lambda training: pytest.fail("trained"))
    assert store.get(SMALL) is None


@pytest.mark.parametrize("change", CHANGES)
def test_a_table_mixes_nothing_over_a_change(store, monkeypatch, change):
    part, make = CHANGES[change]
    with monkeypatch.context() as patch:
        make(patch)
        old = [keep(store, measured("circularnet", seed, 90.0)) for seed in (0, 1, 2)]
    assert shown(store) == [] and "90.00" not in text.plain(CRA, compare(CRA, store))
    new = [keep(store, measured("circularnet", seed, 10.0)) for seed in (0, 1)]
    assert shown(store) == [(10.0, 2, "smoke")]
    assert {record.key for record in store.records()} == {record.key for record in new}
    stale = {record.key: parts for record, parts in store.stale()}
    assert stale == {record.key: [part] for record in old}


def test_without_the_check_they_would_be_mixed(store, monkeypatch):
    """Witness: the old record stands in the same row and column."""
    with monkeypatch.context() as patch:
        patch.setattr(experiments, "FORMAT", experiments.FORMAT + 1)
        keep(store, measured("circularnet", 0, 90.0))
    keep(store, measured("circularnet", 0, 10.0))
    monkeypatch.setattr("workbench.experiments.store.outdated", lambda spec: [])
    assert sorted(shown(store)) == [(10.0, 1, "smoke"), (90.0, 1, "smoke")]


def test_stale_records_are_listed(store, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(experiments, "FORMAT", experiments.FORMAT + 1)
        old = keep(store, measured("circularnet", 0, 90.0))
    new = keep(store, measured("circularnet", 0, 10.0))
    assert cli.main(["runs", "--runs", str(store.root)]) == 0
    [line] = [line for line in capsys.readouterr().out.splitlines() if old.key in line]
    assert line.startswith("stale") and line.endswith("made with another format") and "90.00" not in line
    assert cli.main(["runs", "--json", "--runs", str(store.root)]) == 0
    lines = {line["key"]: line for line in json.loads(capsys.readouterr().out)}
    assert lines[old.key]["differs"] == ["format"] and lines[new.key]["status"] == "done"


@pytest.mark.parametrize("spec", [{}, {"model": {"name": "resnet21"}}, {"model": None, "dataset": None}], ids=str)
def test_a_spec_of_no_meaning_is_stale(spec):
    assert outdated(spec) == ["spec"]
    assert outdated(SMALL.spec()) == []  # witness


def test_what_comes_with_the_project_is_of_today():
    """Raise FORMAT, and the published records have to be measured again."""
    assert [record.key for record, _ in Store("none").stale()] == []
    assert len(list(Path(Store("none").published).glob("*.json"))) == len(list(Store("none").records()))
