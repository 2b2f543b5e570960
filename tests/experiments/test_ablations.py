"""Ablations: names are checked before anything starts, differences are paired, and what diverged is named."""

import math
import statistics

import pytest

from workbench.errors import OutOfRange, UnknownName
from workbench.experiments import ablations, grid
from workbench.experiments.ablations import cra_pool_size, dca_connection
from workbench.experiments.experiment import Experiment, Record
from workbench.experiments.grid import Resources
from workbench.experiments.paired import holm, p_value
from workbench.experiments.store import Store
from workbench.explain.complexity import count
from workbench.files import write_json
from workbench.training.recipe import RECIPES, Recipe

QUICK = Recipe(batch=64, epochs=1, lr=0.1, schedule="constant")


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "runs", tmp_path / "data", tmp_path / "published")


@pytest.fixture
def save(store):
    """save(model, {seed: top-1 error}): a record each."""

    def write(model, errors, status="done", device="CPU A", threads=1):
        for seed, error in errors.items():
            experiment = Experiment(model=model, dataset="layouts", recipe=RECIPES["smoke"], seed=seed)
            metrics = {"top1_error": error, "top5_error": error / 4, "best_top1_error": error}
            where = {"device": device, "threads": threads, "compiled": False, "code": "1f3a9c2e"}
            metrics = metrics if status == "done" else {}
            record = Record(experiment.key(), experiment.spec(), status, metrics, [], where, 1.0, "Loss nan")
            path = store.root / record.key / "record.json"
            path.parent.mkdir(parents=True)
            write_json(path, {name: part for name, part in record._asdict().items() if name != "origin"})

    return write


@pytest.fixture
def asked(monkeypatch):
    """The experiments that would be run; none is."""
    found = []
    monkeypatch.setattr(ablations, "run_all", lambda experiments, *_: found.extend(experiments) or [])
    return found


def models(experiments):
    return list(dict.fromkeys(experiment.model for experiment in experiments))


def test_table_four_of_cra(asked):
    found = cra_pool_size("circularnet", seeds=2)
    grids = ["cra1-circularnet", "cra3-circularnet", "cra5-circularnet", "cra7-circularnet"]
    assert models(asked) == ["circularnet", *grids]
    assert [experiment.seed for experiment in asked] == [0] * 5 + [1] * 5  # all variants of one seed before the next
    assert [*found.runs] == ["w/o", "<1,1>", "<3,3>", "<5,5>", "<7,7>"]
    assert found.sizes["<7,7>"] == count("cra7-circularnet", 32, 16)[:2]
    asked.clear()
    cra_pool_size("circularnet", baseline=False)
    assert models(asked) == grids


def test_tables_two_and_four_to_six_of_dca(asked):
    direct = ["se-resnet20", "dca-se-resnet20"]
    others = ["dca[schema=softmax]-se-resnet20", "dca[schema=weighted]-se-resnet20"]
    assert [*dca_connection("resnet20").runs] == ["unconnected", "direct", "softmax", "weighted"]
    assert models(asked) == [*direct, *others]
    asked.clear()
    found = dca_connection("resnet20", schemas=["direct"], matching=["fc1", "fc2", "fc2:8"])
    assert models(asked)[1:] == [
        "dca-se-resnet20",
        "dca[match=fc2]-se-resnet20",
        "dca[match=fc2,reduction=8]-se-resnet20",
    ]
    assert [*found.runs] == ["unconnected", "fc1", "fc2", "fc2:8"]
    asked.clear()
    dims = ["channel", "spatial", "all"]
    found = dca_connection("resnet20", "cbam", ["direct"], pooling=["avg", "max"], dims=dims, dataset="cifar10")
    assert len(models(asked)) == 7 and len(found.runs) == 7
    assert {"dca-cbam-resnet20", "dca[dims=spatial,pool=max]-cbam-resnet20"} < {*models(asked)}
    assert "max, spatial" in found.runs


def test_two_labels_of_one_network_are_one_variant(asked):
    found = dca_connection("resnet20", matching=["fc2", "fc2:16"], schemas=["direct", "direct"])
    assert models(asked) == ["se-resnet20", "dca[match=fc2]-se-resnet20"]
    assert len(found.runs) == 2
    asked.clear()
    dca_connection("resnet20", matching=["fc2", "fc2:8"])
    assert len(models(asked)) == 7  # witness: another reduction is another network


@pytest.mark.parametrize(
    ("given", "kind", "word"),
    [
        (lambda: cra_pool_size("resnet20", (1, 5)), OutOfRange, "4x4"),  # 16 px: the last map is 4x4
        (lambda: cra_pool_size("resnet2o"), UnknownName, "resnet20"),
        (lambda: cra_pool_size("circularnet", recipe="smok"), UnknownName, "smoke"),
        (lambda: cra_pool_size("circularnet", dataset="layout"), UnknownName, "layouts"),
        (lambda: cra_pool_size("circularnet", ()), OutOfRange, "0 variants"),
        (lambda: cra_pool_size("circularnet", seeds=0), OutOfRange, "0 seeds"),
        (lambda: dca_connection("resnet20", schemas=["direct", "sum"]), OutOfRange, "softmax"),
        (lambda: dca_connection("resnet20", dims=["spatial"]), OutOfRange, "channel"),
        (lambda: dca_connection("resnet20", matching=["fc2:many"]), OutOfRange, "many"),
    ],
)
def test_nothing_starts_unless_every_name_is_sound(asked, given, kind, word):
    with pytest.raises(kind, match=word):
        given()
    assert not asked
    cra_pool_size("resnet20", (1, 4))  # witness: the largest grid that fits
    assert asked


@pytest.fixture
def measured(store, save):
    save("circularnet", {0: 90.0, 1: 91.0, 2: 89.0})
    save("cra7-circularnet", {0: 80.0, 1: 82.0, 2: 79.5})
    save("cra5-circularnet", {0: 80.0, 1: 95.0, 2: 90.0})
    save("cra3-circularnet", {0: 89.0})
    save("cra3-circularnet", {1: 0, 2: 0}, status="diverged")
    return cra_pool_size("circularnet", (3, 5, 7), store=store, resources=Resources(device="cpu"))


def test_the_frame_has_one_line_a_run(measured):
    pytest.importorskip("pandas")
    frame = measured.frame
    assert len(frame) == 12 and frame["key"].is_unique
    assert [*frame["variant"].unique()] == ["w/o", "<3,3>", "<5,5>", "<7,7>"]
    lost = frame[frame["status"] == "diverged"]
    assert [*lost["seed"]] == [1, 2] and lost["top1_error"].isna().all()  # not 90 %, not 0
    (line,) = frame[(frame["variant"] == "<7,7>") & (frame["seed"] == 2)].to_dict("records")
    assert (line["top1_error"], line["top5_error"], line["model"]) == (79.5, 79.5 / 4, "cra7-circularnet")
    assert line["params"] == count("cra7-circularnet", 32, 16).params


def test_the_summary_pairs_over_seeds(measured):
    pytest.importorskip("pandas")
    table = measured.summary()
    deltas = [-10.0, -9.0, -9.5]
    best = table.loc["<7,7>"]
    assert best["difference"] == pytest.approx(-9.5)
    assert best["difference_high"] - best["difference"] == pytest.approx(4.302653 * 0.5 / math.sqrt(3), rel=1e-6)
    p = p_value(-9.5 / 0.5 * math.sqrt(3), 2)
    assert best["p"] == pytest.approx(p)
    spread = math.sqrt(statistics.variance([80.0, 82.0, 79.5]) + statistics.variance([90.0, 91.0, 89.0]))
    assert best["p"] != pytest.approx(p_value(9.5 / spread * math.sqrt(3), 4), rel=0.1)  # witness: not paired
    assert statistics.stdev(deltas) == 0.5
    assert [best["p_holm"], table.loc["<5,5>", "p_holm"]] == pytest.approx(holm([p, table.loc["<5,5>", "p"]]))
    assert (best["n"], best["std"]) == (3, pytest.approx(statistics.stdev([80.0, 82.0, 79.5])))
    assert (table["test"] == "paired t over common seeds, two-sided, Holm").all()
    one = table.loc["<3,3>"]
    assert (one["n"], one["diverged"], one["mean"], one["pairs"]) == (1, 2, 89.0, 1)
    assert math.isnan(one["p"]) and math.isnan(one["std"]) and math.isnan(one["mean_low"])
    assert math.isnan(table.loc["w/o", "difference"])


def test_the_sentence_says_what_follows(measured):
    pytest.importorskip("pandas")
    lines = measured.sentence().splitlines()
    assert lines[0] == "<3,3>: -1.00 points (n = 1); one seed says nothing about the noise."
    assert lines[1].startswith("<5,5>: -1.67 points (n = 3, 95 % interval -19.98 to +16.64, p = 0.73, Holm 0.73)")
    assert lines[1].endswith(": within the seed noise.")
    assert lines[2].endswith(": larger than the seed noise.") and "Holm 0.0018" in lines[2]
    assert lines[3].startswith(
        "In all: 1 of 2 tested variants differ from 'w/o' (points of top-1 error, plus is worse; paired t"
    )
    assert lines[4:] == [f"Diverged, in no mean: cra3-circularnet, seed {seed}." for seed in (1, 2)]


def test_among_many_variants_one_small_p_is_not_enough(store, save):
    pytest.importorskip("pandas")
    save("circularnet", {0: 90.0, 1: 90.0, 2: 90.0})
    save("cra7-circularnet", {0: 88.0, 1: 89.0, 2: 88.4})
    save("cra5-circularnet", {0: 91.0, 1: 90.0, 2: 89.5})
    two, alone = (cra_pool_size("circularnet", sizes, store=store) for sizes in ((5, 7), (7,)))
    assert "larger than the seed noise by itself, but not among so many variants" in two.sentence()
    assert "In all: 0 of 2" in two.sentence()
    assert "In all: 1 of 1" in alone.sentence()  # witness


def test_runs_of_two_machines_are_never_paired(store, save):
    pytest.importorskip("pandas")
    save("circularnet", {0: 90.0, 1: 91.0})
    save("cra7-circularnet", {0: 80.0, 1: 82.0}, device="CPU B")
    found = cra_pool_size("circularnet", (7,), seeds=2, store=store)
    assert found.summary().loc["<7,7>", "pairs"] == 0
    assert "no pair of runs" in found.sentence() and "Runs of 2 machines" in found.sentence()


def test_equal_differences_measure_no_noise(store, save):
    pytest.importorskip("pandas")
    save("circularnet", {0: 90.0, 1: 91.0})
    save("cra7-circularnet", {0: 80.0, 1: 81.0})
    found = cra_pool_size("circularnet", (7,), seeds=2, store=store)
    assert "every seed gives the same difference" in found.sentence()
    assert "In all: 0 of 0" in found.sentence()


def test_the_figure_shows_every_seed_and_the_interval(measured):
    pytest.importorskip("plotly")
    points, means = measured.figure().data
    assert len(points.x) == 10  # two diverged
    assert [*means.y] == ["w/o", "<3,3>", "<5,5>", "<7,7>"]
    assert means.x[3] == pytest.approx(80.5)
    assert means.error_x.array[1] == 0 and means.error_x.array[2] > 10


def test_a_second_call_trains_nothing(store, monkeypatch, tiny_layouts):
    """Three real runs of one epoch; their records are found again by their keys."""
    pytest.importorskip("pandas")
    given = {"recipe": QUICK, "seeds": 1, "store": store, "resources": Resources(device="cpu", jobs=1)}
    monkeypatch.setattr(ablations, "run_all", lambda experiments, store, *_: [store.run(e, "cpu") for e in experiments])
    first = cra_pool_size("circularnet", (1, 3), **given)
    assert [*first.frame["status"]] == ["done"] * 3
    assert "one seed says nothing about the noise" in first.sentence()
    monkeypatch.setattr(ablations, "run_all", grid.run_all)
    monkeypatch.setattr("workbench.experiments.grid._processes", lambda *_: pytest.fail("started a process"))
    again = cra_pool_size("circularnet", (1, 3), **given)
    assert again.frame.equals(first.frame)
    with pytest.raises(pytest.fail.Exception):  # witness: another grid would be trained
        cra_pool_size("circularnet", (1, 5), **given)
