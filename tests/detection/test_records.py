"""A detector is an experiment like any other: a key, a run that is done once, a record, a place in its table."""

import json
import os
import shutil
import signal

import pytest
import torch
from scenes import photographs

from workbench import cli, datasets
from workbench.build import build
from workbench.datasets import shapes
from workbench.detection.start import start
from workbench.errors import Corrupt, DataMissing, Interrupted, OutOfRange
from workbench.experiments import begin, grid, report, tables, zoo
from workbench.experiments.compare import cells, compare
from workbench.experiments.experiment import Experiment, outdated
from workbench.experiments.store import Store
from workbench.training.recipe import Recipe, as_dict

TWIN = "retinanet[anchor=2,finest=4,image_size=32,width=8]-dca-se[reduction=4]-resnet8"
QUICK = Recipe(batch=4, epochs=2, lr=0.01)


def experiment(**changes):
    return Experiment(**{"model": TWIN, "dataset": "shapes", "recipe": QUICK, "seed": 0} | changes)


@pytest.fixture
def store(tmp_path, monkeypatch):
    """Of runs on 8 + 4 pictures."""
    splits = shapes.make(8, seed=0), shapes.make(4, seed=1)
    monkeypatch.setattr(shapes, "load", lambda: splits)
    return Store(tmp_path / "runs", published=tmp_path / "published")


def test_a_record_says_ap_and_what_the_data_left_out(store):
    record = store.run(experiment(), "cpu")
    last = record.curves[-1]
    assert record.status == "done" and len(record.curves) == 2 and record.spec == experiment().spec()
    assert record.metrics["ap"] == last["test_ap"] and {"ap50", "ap75"} <= set(record.metrics)
    assert record.metrics["skipped"] == {"train": {}, "test": {}} and len(record.metrics["contribution"]) == 2
    assert last["train_loss"] == pytest.approx(last["train_classification"] + last["train_bbox_regression"], rel=1e-5)
    assert json.loads((store.root / record.key / "record.json").read_text())["metrics"] == record.metrics
    assert store.run(experiment(), "cpu", on_step=pytest.fail) == record and list(store.records()) == [record]
    assert not outdated(record.spec)
    trained = store.trained(experiment())
    assert not trained.training and len(trained.detect([shapes.make(1, 2)[0].picture.permute(2, 0, 1) / 255])) == 1


def test_a_run_stopped_in_an_epoch_ends_as_the_one_in_one_piece(store, tmp_path):
    def stop(training):
        if training.position == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    begun = []
    whole = Store(tmp_path / "elsewhere", published=store.published).run(experiment(), "cpu")
    with pytest.raises(Interrupted, match="after step 3"):
        store.run(experiment(), "cpu", on_step=stop)
    again = store.run(experiment(), "cpu", on_step=lambda training: begun.append(training.position))
    assert begun == [4] and again._replace(duration_s=0) == whole._replace(duration_s=0)
    assert store.run(experiment(seed=1), "cpu").curves != whole.curves  # witness


def test_the_detector_and_its_options_are_in_the_key():
    models = [TWIN, TWIN.replace("width=8", "width=16"), TWIN.replace("retinanet", "fasterrcnn")]
    keys = {experiment(model=model).key() for model in models}
    assert len(keys) == 3 and experiment().spec()["model"]["detector"]["word"] == "retinanet"
    plain = TWIN.replace("anchor=2,", "")
    assert experiment(model=TWIN.replace("anchor=2", "anchor=4")).key() == experiment(model=plain).key()  # a default


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": "resnet8"}, "shapes has boxes and is for detectors, resnet8 is a classifier"),
        ({"dataset": "layouts"}, "is a detector and layouts has no boxes"),
        ({"model": "resnet8", "dataset": "coco2017"}, "retinanet-resnet8"),
        (
            {
                "model": "resnet8",
                "dataset": "layouts",
                "recipe": Recipe(**as_dict(QUICK) | {"backbone": "layouts:smoke"}),
            },
            "is for detectors",
        ),
    ],
)
def test_a_classifier_and_boxes_do_not_go_together(changes, said):
    with pytest.raises(OutOfRange, match=said) as caught:
        experiment(**changes)
    assert caught.value.exit_code == 2


def test_the_command_trains_a_detector_and_prints_its_ap(store, capsys):
    given = ["--data", "shapes", "--recipe", "shapes", "--epochs", "1", "--device", "cpu", "--runs", str(store.root)]
    assert cli.main(["train", TWIN, *given]) == 0
    said = capsys.readouterr().out
    assert "epoch   1/1  train loss" in said and "  AP " in said and "\nAP " in said
    assert cli.main(["runs", "--runs", str(store.root)]) == 0
    assert "% AP" in capsys.readouterr().out
    assert cli.main(["train", TWIN, *given, "--compile", "--seed", "1"]) == 2


STARTED = Recipe(batch=4, epochs=1, lr=0.01, backbone="layouts:smoke-brief")
BARE = "dca-se[reduction=4]-resnet8"


def test_a_backbone_comes_from_the_run_that_the_recipe_names(store, tiny_layouts):
    one = experiment(recipe=STARTED)
    assert begin.backbone(one).model == BARE and begin.backbone(experiment()) is None
    with pytest.raises(DataMissing, match=r"workbench train dca-se.*-resnet8 --data layouts --recipe smoke-brief"):
        store.run(one, "cpu")
    assert not (store.root / one.key()).exists()  # nothing is written before all is there
    store.run(begin.backbone(one), "cpu")
    weights = store.weights(begin.backbone(one).key())
    assert store.run(one, "cpu").status == "done"
    after = store.trained(one).network.state_dict()
    frozen = [name for name in after if name.startswith(("conv1.", "layer1.")) or "bn" in name]
    assert frozen and all((after[name] == weights[name]).all() for name in frozen)
    assert not (after["layer2.0.conv1.weight"] == weights["layer2.0.conv1.weight"]).all()  # witness: the rest learns


def test_weights_that_come_along_are_the_backbones_before_a_run_here(store, tiny_layouts):
    one = experiment(recipe=STARTED)
    bare = begin.backbone(one)
    store.run(bare, "cpu")
    begun = begin.trained(bare, store)["conv1.weight"]
    store.models.mkdir()
    zoo.export(bare.key(), store, store.models)
    stored = begin.trained(bare, store)["conv1.weight"]
    assert torch.equal(stored, begun.half().float()) and not torch.equal(stored, begun)  # witness: they are two
    shutil.rmtree(store.root / bare.key())
    assert store.run(one, "cpu").status == "done"
    assert torch.equal(store.trained(one).network.state_dict()["conv1.weight"], stored)


def test_a_grid_begins_when_the_backbones_of_all_its_runs_are_here(store, monkeypatch):
    begun = []

    def engine(waiting, *given):
        begun.extend(waiting)
        yield

    monkeypatch.setattr(grid, "_engine", lambda resources: engine)
    with pytest.raises(DataMissing, match="workbench train dca-se"):
        grid.run_all([experiment(), experiment(recipe=STARTED)], store)
    assert not begun
    grid.run_all([experiment()], store)
    assert begun == [experiment()]  # witness


def test_weights_of_another_backbone_are_refused():
    detector = build(TWIN, 6)
    weights = build(BARE, 6).state_dict()
    start(detector, weights)  # witness: with a classifier that the backbone has not
    del weights["layer2.0.conv1.weight"]
    with pytest.raises(Corrupt, match=r"layer2\.0\.conv1\.weight"):
        start(detector, weights)


def made_up(store, model, recipe, ap, seed=0, status="done", dataset="shapes"):
    """A record that nobody trained."""
    from workbench import files
    from workbench.experiments.experiment import Record

    one = experiment(model=model, recipe=recipe, seed=seed, dataset=dataset)
    where = {"device": "a CPU", "threads": 1, "compiled": False, "code": "00000000"}
    metrics = {"ap": ap, "ap50": ap + 10, "skipped": {}} if status == "done" else {}
    record = Record(one.key(), one.spec(), status, metrics, [], where, 1.0)
    (store.root / one.key()).mkdir(parents=True)
    files.write_json(store.root / one.key() / "record.json", record._asdict())


def test_measured_ap_stands_beside_the_print(store):
    table = tables.load("cra-6")
    first, second = (table.trained(row, "smoke") for row in table.rows[:2])
    for seed, gain in enumerate((1.0, 3.0)):
        made_up(store, first, table.recipe(table.rows[0], "smoke"), 20.0, seed)
        made_up(store, second, table.recipe(table.rows[1], "smoke"), 20.0 + gain, seed)
    plain, tenfold, _ = table.controls
    made_up(store, table.trained(plain, "smoke"), table.recipe(plain, "smoke"), 1.0)
    made_up(store, table.trained(tenfold, "smoke"), table.recipe(tenfold, "smoke"), 0, status="diverged")
    entries = {entry["row"]: entry for entry in compare(table, store)}
    heads, lines = cells(table, [*entries.values()])
    found = {line[0]: dict(zip(heads, line, strict=True)) for line in lines}
    assert found["ResNet-50"]["AP (%)", "published"] == "33.7"
    assert found["CRA-ResNet-50"]["AP (%)", "measured here, smoke"] == "22.00 +- 1.41 (n = 2)"
    assert found["CRA-ResNet-50"]["AP50 (%)", "measured here, smoke"] == "32.00 +- 1.41 (n = 2)"
    assert found["ResNet-101"]["AP (%)", "measured here, smoke"] == "not measured"
    assert {m["metric"] for m in entries["ResNet-50"]["measured"]} == {"ap", "ap50"}  # what the record holds
    states = {row: entries[row]["status"] for row in ("ResNet-50", plain.label, tenfold.label)}
    assert [*states.values()] == ["measured on twins", "measured on twins", "diverged"]  # one network, two recipes


def test_runs_on_photographs_of_ones_own_stand_in_a_table_of_their_own(store, tmp_path):
    table, name = tables.load("cra-6"), photographs(tmp_path / "coco")
    row = table.rows[0]
    assert report.folders(table, store) == []
    for dataset, ap in (("shapes", 60.0), (name, 20.0)):
        made_up(store, table.trained(row, "smoke"), table.recipe(row, "smoke"), ap, dataset=dataset)
    own = table.on(name)
    assert report.folders(table, store) == [own.data] == [datasets.label(datasets.identity(name))]
    for one, ap in ((table, 60.0), (own, 20.0)):
        measured = [m for m in compare(one, store)[0]["measured"] if m["metric"] == "ap"]
        assert [m["mean"] for m in measured] == [ap]


@pytest.mark.parametrize("key", ["cra-6", "aw-2", "dca-7"])
def test_every_budget_of_a_detectors_table_is_of_detectors_on_boxes(key):
    table = tables.load(key)
    assert {"smoke", "coco-mini", "paper"} <= set(table.budgets)
    for budget in table.budgets:
        found = table.experiments(budget)
        assert {one.model.split("[")[0].split("-")[0] for one in found} <= {"retinanet", "fasterrcnn", "cascadercnn"}
        assert all(datasets.detects(one.dataset) for one in found)
        rows = {row.label for row, _ in table.measured_rows(budget)}
        assert rows >= {row.label for row in table.rows if budget != "coco-mini" or budget in row.twin}
    own = {row.model for row in table.rows}
    assert {one.model for one in table.experiments("paper")} == own
    assert all(one.recipe.backbone and one.recipe.batch == 16 for one in table.experiments("paper"))


@pytest.mark.parametrize(
    ("key", "pairs"),
    [
        ("cra-6", {"CRA-ResNet-101": "ResNet-101", "CRA-ResNet-50": "ResNet-50", "ResNet-101": "ResNet-101"}),
        ("aw-2", {"ResNet101-AW-SE-FPN": "ResNet101-SE-FPN", "ResNet101-SE-FPN": "ResNet101-FPN"}),
        ("dca-7", {"DCA-GC-ResNet50, Cascade R-CNN": "GC-ResNet50, Cascade R-CNN"}),
        ("dca-7", {"GC-ResNet50, Cascade R-CNN": "ResNet50, Cascade R-CNN"}),
    ],
)
def test_a_row_is_measured_against_the_same_detector_without_its_outermost_part(key, pairs):
    table = tables.load(key)
    assert {row.label: table.base(row) for row in table.rows if row.label in pairs} == pairs


def test_cra_prints_ten_times_the_usual_rate():
    table = tables.load("cra-6")
    printed, usual = (table.recipe(table.rows[0], budget) for budget in ("paper", "usual"))
    assert printed.lr == pytest.approx(10 * usual.lr) and as_dict(printed) | {"lr": usual.lr} == as_dict(usual)
