"""Frames and figures of a table: all rows, in order, of one machine, with what they were measured with."""

import pytest

from workbench.errors import UnknownName
from workbench.experiments import report, tables
from workbench.experiments.experiment import PROJECT, Experiment, Record
from workbench.experiments.grid import Resources
from workbench.experiments.store import Store
from workbench.explain.complexity import count
from workbench.files import write_json
from workbench.training.recipe import RECIPES

CRA, DCA = tables.load("cra-4"), tables.load("dca-2")
ROWS = ["<7,7>", "<5,5>", "<3,3>", "<1,1>", "w/o", "SE, long", "SE, long, zeros"]


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "runs", tmp_path / "data", tmp_path / "published")


@pytest.fixture
def save(store):
    """save(model, {seed: top-1 error}): a record each, its error falling to that over the recipe's epochs."""
    store.published.mkdir()

    def write(model, errors, dataset="layouts", recipe="smoke", device="CPU A", status="done", published=False):
        for seed, error in errors.items():
            experiment = Experiment(model=model, dataset=dataset, recipe=RECIPES[recipe], seed=seed)
            names = ("test_top1_error", "train_top1_error", "test_top5_error", "test_loss", "train_loss")
            curves = [
                {"epoch": epoch, "lr": 0.1, **{name: error + experiment.recipe.epochs - epoch for name in names}}
                for epoch in range(1, experiment.recipe.epochs + 1)
            ]
            metrics = {"top1_error": error, "top5_error": error / 4, "best_top1_error": error}
            where = {"device": device, "threads": 1, "compiled": False, "code": "1f3a9c2e"}
            record = Record(experiment.key(), experiment.spec(), status, metrics, curves, where, 1.0)
            path = store.published / f"{record.key}.json"
            if not published:
                path = store.root / record.key / "record.json"
                path.parent.mkdir(parents=True)
            write_json(path, {name: part for name, part in record._asdict().items() if name != "origin"})

    return write


@pytest.fixture
def measured(store, save):
    save("cra7-circularnet", {0: 3.0, 1: 4.0, 2: 8.0})
    save("circularnet", {0: 94.0, 1: 95.0})
    save("se[reduction=4]-circularnet", {0: 94.0}, recipe="smoke-long")
    return store


@pytest.mark.parametrize("key", tables.known())
def test_a_frame_has_every_row_and_every_print(key, store):
    table = tables.load(key)
    frame = report.frame(table, report.compare(table, store))
    assert list(frame.index) == [row.label for row in (*table.rows, *table.controls)]
    assert frame.columns.nlevels == 2 and frame.columns.is_unique
    for metric in table.metrics:
        column = frame[report.label(metric), "published"]
        assert list(column[: len(table.rows)]) == [row.published.get(metric.key, "-") for row in table.rows]


def test_a_frame_grows_by_what_is_measured(store, save):
    before = report.frame(CRA, report.compare(CRA, store))
    save("circularnet", {0: 94.0})
    save("resnet20", {0: 12.0}, "cifar10", "cifar-short")
    frame = report.frame(CRA, report.compare(CRA, store))
    new = {source for _, source in set(frame.columns) - set(before.columns)}
    assert new == {"measured here, smoke", "measured here, cifar"}
    assert frame.loc["w/o", ("top-1 error (%)", "measured here, smoke")] == "94.00 (one seed)"
    assert frame.loc["<7,7>", ("top-1 error (%)", "measured here, smoke")] == "not measured"
    one = report.frame(CRA, report.compare(CRA, store, "cifar"))
    assert {source for _, source in one.columns} == {"published", "counted", "measured here, cifar", "status"}


def test_a_figure_has_both_panels_and_every_seed(measured):
    figure = report.figure(CRA, measured, "smoke")
    traces = {trace.name: trace for trace in figure.data}
    printed, seeds = traces["published, one run"], traces["one seed"]
    assert list(zip(printed.y, printed.x, strict=True)) == [
        (row.label, float(row.published["top1_error"])) for row in CRA.rows
    ]
    assert list(zip(seeds.y, seeds.x, strict=True)) == [
        ("<7,7>", 3.0), ("<7,7>", 4.0), ("<7,7>", 8.0), ("w/o", 94.0), ("w/o", 95.0), ("SE, long", 94.0)
    ]  # fmt: skip
    assert [text.split(",")[1] for text in seeds.text] == [" 3 epochs"] * 5 + [" 6 epochs"]
    assert list(figure.layout.yaxis.categoryarray) == ROWS[::-1]
    assert figure.layout.xaxis2.title.text == "top-1 error (%)"


def test_a_figure_of_accuracies_shows_accuracies(store, save):
    save("se-resnet20", {0: 20.0})
    traces = {trace.name: trace for trace in report.figure(DCA, store, "smoke").data}
    assert list(traces["one seed"].x) == [80.0]
    assert traces["published, one run"].x[0] == 77.2877


def test_curves_are_of_the_measured_rows(measured):
    traces = {trace.name: trace for trace in report.training_curves(CRA, measured, "smoke").data if trace.name}
    assert [*traces] == ["<7,7> (n = 3)", "w/o (n = 2)", "SE, long (one seed)"]
    assert list(traces["<7,7> (n = 3)"].y) == [7.0, 6.0, 5.0]
    assert len(traces["SE, long (one seed)"].y) == 6


@pytest.mark.parametrize(
    ("metric", "title"),
    [
        ("test_top1_error", "test top-1 error (%)"),
        ("test_top5_error", "test top-5 error (%)"),
        ("train_loss", "train loss"),
    ],
)
def test_curves_are_named_with_their_unit(measured, metric, title):
    assert report.training_curves(CRA, measured, "smoke", metric).layout.yaxis.title.text == title


def test_the_curve_frame_is_tidy(measured):
    frame = report.curve_frame(CRA, measured, "smoke")
    assert len(frame) == 3 * 3 + 2 * 3 + 6
    assert not frame.duplicated(["row", "seed", "epoch"]).any()
    assert {"row", "model", "seed", "epoch", "lr", "test_top1_error", "train_loss"} <= {*frame.columns}
    last = frame[(frame.row == "<7,7>") & (frame.epoch == 3)]
    assert dict(zip(last.seed, last.test_top1_error, strict=True)) == {0: 3.0, 1: 4.0, 2: 8.0}


def test_frames_and_figures_of_nothing_are_empty(store):
    assert report.curve_frame(CRA, store, "smoke").empty
    assert not report.training_curves(CRA, store, "smoke").data
    assert [len(trace.x) for trace in report.figure(CRA, store, "smoke").data] == [5, 0, 0]


def test_one_machine_is_chosen_where_there_are_two(measured, save):
    """The one with most runs; lines of two machines are never drawn as one."""
    before = report.of_budget(CRA, measured, "smoke")
    assert {label: len(records) for label, records in before.items() if records} == {
        "<7,7>": 3,
        "w/o": 2,
        "SE, long": 1,
    }
    save("cra5-circularnet", {seed: 5.0 for seed in range(5)}, device="CPU B")
    save("circularnet", {7: 90.0}, device="CPU B")
    assert report.of_budget(CRA, measured, "smoke") == before  # 6 runs there are not more than 6 here
    save("cra3-circularnet", {0: 5.0}, device="CPU B")
    found = report.of_budget(CRA, measured, "smoke")
    assert {record.environment["device"] for records in found.values() for record in records} == {"CPU B"}
    assert [len(found[label]) for label in ROWS] == [0, 5, 1, 0, 1, 0, 0]
    assert [*found] == ROWS


def test_runs_of_the_project_and_runs_here_are_never_drawn_as_one(measured, save):
    before = report.of_budget(CRA, measured, "smoke")
    save("cra7-circularnet", {seed: 5.0 for seed in range(9)}, published=True)
    assert report.of_budget(CRA, measured, "smoke") == before  # one's own first, however few
    for path in measured.root.glob("*/record.json"):
        path.unlink()
    found = report.of_budget(CRA, measured, "smoke")
    assert {record.origin for records in found.values() for record in records} == {PROJECT}
    assert [len(records) for records in found.values()] == [9, 0, 0, 0, 0, 0, 0]


def test_other_budgets_and_diverged_runs_are_left_out(store, save):
    save("cra7-circularnet", {0: 3.0}, recipe="smoke-long")
    save("circularnet", {0: 94.0}, status="diverged")
    save("resnet20", {0: 12.0}, "cifar10", "cifar-short")
    assert not any(report.of_budget(CRA, store, "smoke").values())
    assert [len(records) for records in report.of_budget(CRA, store, "cifar").values()] == [0, 0, 0, 0, 1]


def test_models_name_the_twin_and_what_it_costs():
    frame = report.models(CRA, "smoke")
    assert list(frame.index) == ROWS
    assert frame.loc["<7,7>", "twin"] == "cra7-circularnet"
    assert frame.loc["<7,7>", "twin's parameters"] == count("cra7-circularnet", 32).params
    assert frame.loc["SE, long", "paper's model"] == "-"
    cifar = report.models(CRA, "cifar")
    assert cifar.loc["SE, long", "twin"] == "-" and cifar["twin's parameters"].isna().sum() == 2
    assert cifar.loc["w/o", "twin's parameters"] == count("resnet20", 10).params
    assert report.models(CRA, "count")["twin's parameters"].isna().all()


def test_a_heading_says_what_is_measured():
    assert "`layouts`" in report.heading(CRA, "smoke") and "93.75" in report.heading(CRA, "smoke")
    assert "224" in report.heading(tables.load("cra-1"), "count")
    with pytest.raises(UnknownName, match="Did you mean 'smoke'"):
        report.heading(CRA, "smke")


def test_run_does_what_is_missing_and_nothing_at_budget_count(store, monkeypatch):
    asked = []
    monkeypatch.setattr(report, "run_all", lambda experiments, *rest: asked.append((experiments, rest[1])))
    report.run(CRA, "count", store)
    assert not asked
    report.run(CRA, "smoke", store, seeds=1, resources=Resources(device="cpu", jobs=2))
    assert asked == [(CRA.experiments("smoke", 1), Resources(device="cpu", jobs=2))]
