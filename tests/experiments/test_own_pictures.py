"""Runs on a folder of pictures: named by what is in it, in tables of their own, never mixed with a budget's data."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from workbench import cli, datasets
from workbench.datasets import folders
from workbench.errors import DataMissing, OutOfRange
from workbench.experiments import report, tables
from workbench.experiments.compare import cells, compare, protocols
from workbench.experiments.experiment import Experiment, Record
from workbench.experiments.reading import differences
from workbench.experiments.store import Store
from workbench.explain.complexity import count
from workbench.files import write_json
from workbench.training.recipe import RECIPES, Recipe

CRA = tables.load("cra-4")
SMALL = Recipe(batch=8, epochs=2, lr=0.05, schedule="constant")


def paint(root, offset=0):
    """Two classes, red and blue: 8 training and 3 test pictures of each."""
    for part, number in (("train", 8), ("val", 3)):
        for name, channel in (("red", 0), ("blue", 2)):
            (root / part / name).mkdir(parents=True)
            for seed in range(number):
                pixels = np.random.default_rng(seed + offset).integers(0, 100, (20, 24, 3), dtype=np.uint8)
                pixels[:, :, channel] += 150
                Image.fromarray(pixels).save(root / part / name / f"{seed}.png")
    return root


@pytest.fixture
def pets(tmp_path):
    return paint(tmp_path / "here" / "My Pets")


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "runs", tmp_path / "data", tmp_path / "published")


@pytest.fixture
def save(store):
    """save(model, {seed: top-1 error}, data set): a record each, at budget smoke."""

    def write(model, errors, dataset, recipe="smoke"):
        for seed, error in errors.items():
            experiment = Experiment(model=model, dataset=str(dataset), recipe=RECIPES[recipe], seed=seed)
            metrics = {"top1_error": error, "top5_error": error / 4, "best_top1_error": error}
            curves = [{"epoch": 1, "lr": 0.1, "test_top1_error": error, "train_loss": 1.0}]
            where = {"device": "CPU A", "threads": 1, "compiled": False, "code": "1f3a9c2e"}
            record = Record(experiment.key(), experiment.spec(), "done", metrics, curves, where, 1.0)
            (store.root / record.key).mkdir(parents=True)
            write_json(store.root / record.key / "record.json", record._asdict())

    return write


def experiment(dataset, **changes):
    given = {"model": "circularnet", "recipe": SMALL, "seed": 7}
    return Experiment(dataset=f"folder:{dataset}", **given | changes)


def test_the_key_names_the_folder_and_not_its_place(pets, tmp_path):
    one = experiment(pets)
    assert one.key().startswith("circularnet-folder-my-pets-7-")
    assert one.spec()["dataset"] == {"name": "folder:My Pets", "version": folders.version(pets)}
    assert str(tmp_path) not in json.dumps(one.spec()) and one.dataset == f"folder:{pets}"
    moved = shutil.copytree(pets, tmp_path / "there" / "My Pets")
    assert experiment(moved).key() == one.key()
    renamed = shutil.copytree(pets, tmp_path / "there" / "My Cats")
    other = paint(tmp_path / "elsewhere" / "My Pets", offset=1)
    assert len({one.key(), experiment(renamed).key(), experiment(other).key()}) == 3  # witness


def test_spellings_of_one_path_are_one_experiment(pets, monkeypatch):
    monkeypatch.chdir(pets.parent)
    assert experiment("My Pets") == experiment(pets) == experiment("../here/My Pets/")
    assert experiment("My Pets") != experiment(pets, seed=8)  # witness


@pytest.mark.parametrize(("dataset", "error"), [("folder:/no/such", DataMissing), ("folder:", OutOfRange)])
def test_a_folder_that_is_not_there_is_refused_when_the_experiment_is_made(dataset, error):
    with pytest.raises(error, match="folder"):
        Experiment(model="circularnet", dataset=dataset, recipe=SMALL, seed=0)


def test_who_decodes_changes_no_number_of_a_run(pets, tmp_path):
    found = [
        Store(tmp_path / f"runs {workers}", tmp_path).run(experiment(pets), "cpu", workers=workers)
        for workers in (0, 2)
    ]
    assert found[0].curves == found[1].curves and len(found[0].curves) == 2
    assert found[0].status == "done" and found[0].metrics["top1_error"] <= 100
    other = Store(tmp_path / "runs 0", tmp_path).run(experiment(pets, seed=8), "cpu")
    assert other.curves != found[0].curves  # witness


def test_a_table_on_a_folder_trains_the_twins_by_the_budgets_recipes(pets):
    mine, own = CRA.on(f"folder:{pets}").experiments("smoke", 1), CRA.experiments("smoke", 1)
    assert [(e.model, e.recipe, e.seed) for e in mine] == [(e.model, e.recipe, e.seed) for e in own]
    assert {e.dataset for e in mine} == {f"folder:{pets}"} and {e.dataset for e in own} == {"layouts"}
    assert CRA.on("") == CRA != CRA.on("", epochs=2)


def measured(table, store):
    return {m["column"]: m["mean"] for e in compare(table, store) for m in e["measured"] if m["metric"] == "top1_error"}


def test_runs_on_a_folder_stand_in_a_table_of_their_own(pets, store, save):
    save("circularnet", {0: 94.0}, "layouts")
    save("circularnet", {0: 50.0, 1: 40.0}, f"folder:{pets}")
    save("circularnet", {0: 30.0}, f"folder:{pets}", recipe="smoke-long")  # by no budget's recipe
    label = datasets.label(datasets.identity(f"folder:{pets}"))
    assert measured(CRA, store) == {"measured here, smoke": 94.0}
    found = measured(CRA.on(f"folder:{pets}"), store)
    assert found.pop(f"measured here, smoke, {label}") == 45.0
    ((other, mean),) = found.items()
    assert other.startswith(f"measured here, {label}, 6 epochs") and mean == 30.0
    assert measured(CRA.on(label, label=label), store).keys() >= {f"measured here, smoke, {label}"}  # without the path
    told = protocols(compare(CRA.on(f"folder:{pets}"), store))
    assert any(line.startswith(f"measured here, smoke, {label}: {label}, 3 epochs") for line in told)


def test_two_states_of_a_folder_are_two_data_sets(pets, store, save, tmp_path):
    other = paint(tmp_path / "elsewhere" / "My Pets", offset=1)
    for place, error in ((pets, 50.0), (other, 40.0)):
        save("circularnet", {0: error}, f"folder:{place}")
        save("cra7-circularnet", {0: error - 9}, f"folder:{place}")
    for place, error in ((pets, 50.0), (other, 40.0)):
        table = CRA.on(f"folder:{place}")
        entries = compare(table, store)
        (column,) = measured(table, store)
        assert column == f"measured here, smoke, {table.data}" and f"{error:.2f}" in str(cells(table, entries)[1])
        (delta,) = differences(table, entries, "top1_error")
        assert (delta["row"], delta["mean"], delta["n"]) == ("<7,7>", -9.0, 1)
    assert len(report.folders(CRA, store)) == 2


def test_reports_of_a_folder(pets, store, save):
    assert report.folders(CRA, store) == []
    save("cra7-circularnet", {0: 3.0}, f"folder:{pets}")
    save("resnet34", {0: 3.0}, f"folder:{pets}")  # of no row
    table = CRA.on(f"folder:{pets}")
    assert report.folders(CRA, store) == [table.data]
    assert report.folders(tables.load("dca-2"), store) == []
    assert f"data `{table.data}`" in report.heading(table, "smoke") and "layouts" in report.heading(table, "smoke")
    assert "93.75" in report.heading(CRA, "smoke") and "93.75" not in report.heading(table, "smoke")
    assert report.models(table, "smoke").loc["<7,7>", "twin's parameters"] == count("cra7-circularnet", 2).params
    assert [len(found) for found in report.of_budget(table, store, "smoke").values()] == [1, 0, 0, 0, 0, 0, 0]
    assert not any(report.of_budget(CRA, store, "smoke").values())
    assert set(report.curve_frame(table, store, "smoke").row) == {"<7,7>"}
    assert len(report.figure(table, store, "smoke").data) == 3


def test_the_notebook_is_told_the_folder(pets, store, monkeypatch):
    pytest.importorskip("papermill")
    from workbench.experiments import notebooks

    told = []

    def execute(source, target, parameters, *rest, **more):
        told.append(parameters["data"])
        open(target, "x").close()

    monkeypatch.setattr(notebooks, "execute", execute)
    monkeypatch.setattr(notebooks, "run", lambda *given: None)
    table = CRA.on(f"folder:{pets}")
    for one, budget in ((table, "smoke"), (CRA, "smoke"), (table, "count")):
        told.append(notebooks.reproduce(one, budget, store).name)
    words = table.data.replace("folder:My Pets@", "folder-my-pets-")
    assert told == [
        f"folder:{pets}", f"cra-4-smoke-{words}.ipynb", "", "cra-4-smoke.ipynb", "", f"cra-4-count-{words}.ipynb"
    ]  # fmt: skip


def test_the_command_knows_folders(pets, store, save, capsys):
    assert cli.main(["data", "list", f"folder:{pets}"]) == 0
    assert "16 + 6 pictures, 2 classes" in capsys.readouterr().out
    assert cli.main(["data", "verify", f"folder:{pets}"]) == 0
    assert capsys.readouterr().out == f"folder:{pets}: 16 + 6 pictures, 2 classes, verified\n"
    save("circularnet", {0: 12.5}, f"folder:{pets}")
    table = ["table", "cra-4", "--runs", str(store.root)]
    assert cli.main([*table, "--data", f"folder:{pets}"]) == 0
    said = capsys.readouterr().out
    assert "12.50 (one seed)" in said and "folder:My Pets@" in said
    assert cli.main(table) == 0
    assert "12.50" not in capsys.readouterr().out  # witness
    for arguments in (["table", "cra-4"], ["reproduce", "cra-4", "--budget", "smoke"]):
        assert cli.main([*arguments, "--data", "folder:/no/such"]) == 3
        assert "There is no folder /no/such" in capsys.readouterr().err
    train = ["train", "se-circularnet", "--recipe", "smoke", "--device", "cpu", "--runs", str(store.root)]
    assert cli.main([*train, "--data", f"folder:{pets}"]) == 2
    assert "Batch 64 exceeds the 16 training pictures" in capsys.readouterr().err
