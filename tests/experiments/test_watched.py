"""Runs are read once while their files stay; many runs are few lines, named by what sets them apart."""

import os
from dataclasses import replace

import pytest

from workbench.experiments import watched
from workbench.experiments.experiment import Experiment, Record
from workbench.experiments.store import Store
from workbench.experiments.watched import Watched
from workbench.files import write_json
from workbench.training.recipe import RECIPES

RECIPE = replace(RECIPES["smoke"], epochs=3)


def save(root, model="circularnet", seed=0, errors=(3.0, 1.0, 2.0), device="CPU A", **changed):
    experiment = Experiment(model=model, dataset="layouts", recipe=replace(RECIPE, **changed), seed=seed)
    curves = [{"epoch": epoch, "test_top1_error": error} for epoch, error in enumerate(errors, 1)]
    where = {"device": device, "threads": 1, "compiled": False, "code": "1f3a9c2e"}
    metrics = {"top1_error": errors[-1], "top5_error": 0.0, "best_top1_error": min(errors)}
    record = Record(experiment.key(), experiment.spec(), "done", metrics, curves, where, 1.0)
    path = root / record.key / "record.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {name: part for name, part in record._asdict().items() if name != "origin"})
    return path


@pytest.fixture
def store(tmp_path):
    return Watched(tmp_path / "runs", tmp_path / "data", tmp_path / "published")


def labels(store):
    return [group.label for group in watched.grouped(store.records())]


def test_a_file_is_read_again_when_it_changes_and_only_then(store, monkeypatch):
    path = save(store.root)
    read, plain = [], Store._read
    monkeypatch.setattr(Store, "_read", staticmethod(lambda path, aside: read.append(path) or plain(path, aside)))
    assert [*store.records()] == [*store.records()] == [*Store(store.root, published=store.published).records()]
    assert read == [path, path]  # once by each store
    before = store.state()
    save(store.root, errors=(3.0, 1.0, 9.0, 8.0))
    assert [record.metrics["top1_error"] for record in store.records()] == [8.0]
    assert store.state() != before
    path.unlink()
    assert not [*store.records()] and not store.state()


def test_the_same_size_at_another_time_is_another_file(store):
    path = save(store.root)
    assert next(store.records()).metrics["top1_error"] == 2.0
    stamp = path.stat().st_mtime_ns
    path.write_text(path.read_text().replace("2.0", "5.0"))
    os.utime(path, ns=(stamp + 1, stamp + 1))
    assert next(store.records()).metrics["top1_error"] == 5.0


def test_stale_records_are_left_out(store):
    path = save(store.root)
    path.write_text(path.read_text().replace('"format": 1', '"format": 0').replace('"format":1', '"format":0'))
    assert not [*store.records()] and len([*store.stale()]) == 1


def test_only_what_differs_is_in_a_name(store):
    for seed in (0, 1):
        save(store.root, seed=seed)
    assert labels(store) == ["circularnet"]
    save(store.root, lr=0.3)
    assert sorted(labels(store)) == ["lr 0.15", "lr 0.3"]
    save(store.root, "cra7-circularnet", lr=0.3)
    assert sorted(labels(store)) == ["circularnet, lr 0.15", "circularnet, lr 0.3", "cra7-circularnet, lr 0.3"]


def test_machines_are_never_one_line_and_names_are_never_shared(store):
    save(store.root, seed=0)
    save(store.root, seed=1, device="CPU B")
    assert sorted(labels(store)) == ["machine CPU A, 1 thread", "machine CPU B, 1 thread"]
    record = next(store.records())
    moved = record._replace(environment=record.environment | {"machines": ["a", "b"]})
    other = record._replace(environment=record.environment | {"machines": ["a", "c"]})
    assert len({group.label for group in watched.grouped([moved, other])}) == 2


def test_ends_are_means_over_the_seeds(store):
    save(store.root, seed=0)
    save(store.root, seed=1, errors=(9.0, 8.0, 6.0))
    frame = watched.ends(watched.grouped(store.records()), "test_top1_error")
    assert frame.loc[0, ["seeds", "epochs", "last epoch", "best epoch", "best at"]].to_list() == [
        2,
        3,
        4.0,
        3.5,
        "2, 3",
    ]
    assert watched.ends(watched.grouped(store.records()), "train_loss").empty  # none has recorded it


def test_a_run_that_has_not_begun_has_no_curve():
    assert watched.so_far({"a": [], "b": [{"epoch": 1}]}, "test_loss") is None
    figure = watched.so_far({"a": [], "b": [{"epoch": 1, "test_loss": 2.0}]}, "test_loss")
    assert [list(trace.y) for trace in figure.data] == [[2.0]]


def test_a_recipe_has_its_name_or_its_settings(store):
    save(store.root, lr=0.3)
    save(store.root, "resnet20", epochs=RECIPES["smoke"].epochs)
    names = {record.spec["model"]["name"]: watched.recipe_name(record) for record in store.records()}
    assert names["resnet20"] == "smoke" and "lr 0.3" in names["circularnet"]
