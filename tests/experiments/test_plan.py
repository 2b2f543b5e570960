"""A plan's hours are those of its records, its bytes those that runs leave, and its differences those of the power."""

import math
import statistics
from dataclasses import replace

import pytest
import torch

from workbench.errors import OutOfRange, UnknownName
from workbench.experiments import grid, tables, throughput
from workbench.experiments.experiment import Experiment, Record
from workbench.experiments.grid import Resources
from workbench.experiments.paired import detectable
from workbench.experiments.plan import plan, run_bytes, text
from workbench.experiments.store import Store
from workbench.experiments.throughput import COUNTS, Data, Setting, makespan, setting
from workbench.explain.complexity import count
from workbench.files import write_json
from workbench.training.environment import device_name
from workbench.training.recipe import RECIPES, Recipe

CRA = tables.load("cra-4")
HERE = device_name(torch.device("cpu"))
CPU = Resources(device="cpu", jobs=2)
EPOCHS = RECIPES["smoke"].epochs


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "runs", tmp_path / "data", tmp_path / "published")


@pytest.fixture(autouse=True)
def probes(monkeypatch):
    """What was probed; a step takes a millisecond a picture."""
    found = []
    monkeypatch.setattr(throughput, "step_s", lambda model, *_: found.append(model) or 0.001)
    return found


@pytest.fixture
def save(store):
    """save(model, {seed: top-1 error}, seconds): a record each, published, so that its run is still to be done here."""
    store.published.mkdir()

    def write(model, errors, seconds=30.0, recipe=RECIPES["smoke"], dataset="layouts", here=False, **machine):
        for seed, error in errors.items():
            experiment = Experiment(model=model, dataset=dataset, recipe=recipe, seed=seed)
            metrics = {"top1_error": error, "top5_error": error / 4, "best_top1_error": error}
            where = {"device": HERE, "threads": 1, "compiled": False, "code": "1f3a9c2e"} | machine
            curves = [{"epoch": epoch + 1, "test_top1_error": error} for epoch in range(recipe.epochs)]
            record = Record(experiment.key(), experiment.spec(), "done", metrics, curves, where, seconds + seed)
            path = store.published / f"{record.key}.json"
            if here:
                path = store.root / record.key / "record.json"
                path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, {name: part for name, part in record._asdict().items() if name != "origin"})

    return write


def line(found, row):
    return next(line for line in found.lines if line.row == row)


def budget(table, dataset, recipe):
    """The table with its budget `smoke` on this data set."""
    changed = table.budgets["smoke"]._replace(dataset=dataset, recipe=recipe)
    return table._replace(budgets={"smoke": changed})


def test_a_classifier_is_not_estimated_from_detectors(store, save):
    """A step of a detector is as many multiply-adds in another time."""
    save("retinanet[anchor=2,finest=4,image_size=64,width=32]-resnet8", {0: 60.0}, dataset="shapes")
    size, shapes, recipe = Data(100, 100, 10, 64), COUNTS["shapes"], RECIPES["smoke"]
    work = [count("resnet18", 10, 64).macs, count("retinanet[anchor=2,finest=4,image_size=64,width=32]-resnet8").macs]
    assert 1 / throughput.REACH < work[0] / work[1] < throughput.REACH
    found = throughput.Throughput(store, Setting(HERE, 0, 1, 1))
    assert found._scaled("resnet18", size, recipe) is None
    near = "retinanet[anchor=2,finest=4,image_size=64,width=16]-resnet8"
    assert found._scaled(near, shapes, recipe).how == "estimated from 1 other run"  # witness


def test_hours_of_a_measured_model_are_its_seconds_an_epoch(store, save):
    save("cra7-circularnet", {0: 3.0, 1: 4.0}, seconds=30.0)  # 30 and 31 s for 3 epochs
    found = line(plan(CRA, "smoke", store, 4, CPU), "<7,7>")
    assert found.hours == pytest.approx(4 * (30 + 31) / 2 / 3600, rel=1e-12)
    assert found.hours != pytest.approx(4 * 30 / 3600, rel=1e-3)  # witness: one of both runs
    assert (found.how, found.runs, found.done, found.left) == ("measured in 2 runs", 4, 0, 4)


def test_another_number_of_epochs_is_scaled(store, save):
    save("cra7-circularnet", {0: 3.0}, recipe=replace(RECIPES["smoke"], epochs=12), seconds=60.0)
    assert line(plan(CRA, "smoke", store, 1, CPU), "<7,7>").hours == pytest.approx(EPOCHS * 5 / 3600, rel=1e-12)


def test_unmeasured_models_are_scaled_by_multiply_adds(store, save, probes):
    save("circularnet", {0: 94.0}, seconds=30.0)
    found = line(plan(CRA, "smoke", store, 1, CPU), "<7,7>")
    ratio = count("cra7-circularnet", 32, 16).macs / count("circularnet", 32, 16).macs
    assert ratio > 1
    assert found.hours == pytest.approx(30 * ratio / 3600, rel=1e-12)
    assert found.how == "estimated from 1 other run"
    assert not probes


@pytest.mark.parametrize(
    "other",
    [
        {"device": "NVIDIA H200"},
        {"compiled": True},
        {"processes": 2},
        {"recipe": replace(RECIPES["smoke"], precision="bf16")},
    ],
    ids=str,
)
def test_nothing_is_taken_from_another_machine_or_precision(store, save, probes, other):
    save("circularnet", {0: 94.0}, **other)
    found = line(plan(CRA, "smoke", store, 2, CPU), "w/o")
    assert found.how == "probed on this machine" and "circularnet" in probes
    pictures = 4096 + 2048 / 3  # a test picture is one of the three forwards of a training picture
    assert found.hours == pytest.approx(2 * EPOCHS * pictures * 0.001 / 3600, rel=1e-12)
    probes.clear()
    save("circularnet", {5: 94.0})  # witness
    assert line(plan(CRA, "smoke", store, 2, CPU), "w/o").how == "measured in 1 run"
    assert not probes


def test_records_of_as_many_threads_come_first(store, save):
    cores = setting(Resources(device="cpu", jobs=1), 9).threads
    save("circularnet", {0: 94.0}, threads=cores + 1)
    one = Resources(device="cpu", jobs=1)
    assert line(plan(CRA, "smoke", store, 1, one), "w/o").how == f"measured in 1 run with {cores + 1} thread(s)"
    save("circularnet", {5: 94.0}, threads=cores, seconds=10.0)  # 10 + 5 s
    found = line(plan(CRA, "smoke", store, 1, one), "w/o")
    assert found.how == "measured in 1 run"
    assert found.hours == pytest.approx(15 / 3600, rel=1e-12)


def test_probes_end_when_they_have_taken_long(store, probes, monkeypatch):
    monkeypatch.setattr(throughput, "PROBE_S", -1)
    found = plan(CRA, "smoke", store, 1, CPU)
    assert len(probes) == 1
    assert line(found, "<7,7>").how == "probed on this machine"
    assert line(found, "w/o").how == "estimated from another model, probed on this machine"
    ratio = count("circularnet", 32, 16).macs / count("cra7-circularnet", 32, 16).macs
    assert line(found, "w/o").hours == pytest.approx(line(found, "<7,7>").hours * ratio, rel=1e-12)


def test_what_is_done_or_begun_is_not_planned_again(store, save):
    save("cra7-circularnet", {0: 3.0}, seconds=30.0, here=True)
    begun = Experiment(model="cra7-circularnet", dataset="layouts", recipe=RECIPES["smoke"], seed=1)
    journal = store.root / begun.key() / "log.jsonl"
    journal.parent.mkdir(parents=True)
    journal.write_text('{"epoch": 1}\n{"epoch": 2}\n')
    found = line(plan(CRA, "smoke", store, 2, CPU), "<7,7>")
    assert (found.done, found.left) == (1, 1)
    assert found.hours == pytest.approx((EPOCHS - 2) / EPOCHS * 30 / 3600, rel=1e-12)
    save("cra7-circularnet", {1: 3.0}, here=True)
    found = line(plan(CRA, "smoke", store, 2, CPU), "<7,7>")
    assert (found.hours, found.size_bytes, found.how) == (0, 0, "done")


def test_two_rows_of_one_run_plan_it_once(store):
    twice = CRA._replace(rows=(*CRA.rows, CRA.rows[0]._replace(label="again")))
    found, once = (plan(table, "smoke", store, 2, CPU) for table in (twice, CRA))
    assert (line(found, "again").hours, line(found, "again").how) == (0, "in a row above")
    assert found.hours == once.hours > 0


def test_the_wall_time_is_the_grids(store, save):
    assert makespan([4, 3, 2, 2], 1) == 11
    assert makespan([4, 3, 2, 2], 2) == 6  # 4 + 2 beside 3 + 2
    assert makespan([1, 1, 8], 2) == 9  # the longest run comes last: no half of 10
    assert makespan([], 2) == 0
    save("circularnet", {0: 94.0}, seconds=30.0)
    one, two = (plan(CRA, "smoke", store, 1, Resources(device="cpu", jobs=jobs)) for jobs in (1, 2))
    assert one.wall_hours == pytest.approx(one.hours)
    assert one.hours / 2 <= two.wall_hours < one.hours
    assert "2 at a time" in text(two)


def test_a_data_set_that_is_not_here_is_planned(store, save):
    table = budget(CRA, "imagenet", "smoke")
    found = plan(table, "smoke", store, 1, CPU)
    size = COUNTS["imagenet"]
    assert (size.train, size.test) == (1_281_167, 50_000)
    assert found.missing_bytes == {"imagenet": size.size_bytes} and "imagenet is not here" in text(found)
    assert line(found, "w/o").hours == pytest.approx(EPOCHS * (1_281_167 + 50_000 / 3) * 0.001 / 3600, rel=1e-12)
    (store.data / "imagenet").mkdir(parents=True)
    assert not plan(table, "smoke", store, 1, CPU).missing_bytes  # witness
    with pytest.raises(UnknownName, match="imagenet-1k"):
        plan(budget(CRA, "imagenet-1k", "smoke"), "smoke", store, 1, CPU)


def test_the_smallest_difference_follows_from_the_spread(store, save):
    save("circularnet", {0: 90.0, 1: 91.0, 2: 89.0})
    save("cra7-circularnet", {0: 80.0, 1: 82.0, 2: 79.5})  # -10, -9, -9.5
    save("cra5-circularnet", {0: 80.0, 1: 85.0, 2: 90.0, 9: 0.0})  # -10, -6, 1
    found = plan(CRA, "smoke", store, 5, CPU)
    assert line(found, "<7,7>").smallest.points == pytest.approx(detectable(0.5, 5))
    assert line(found, "<7,7>").smallest.points != pytest.approx(detectable(0.5, 3))  # witness: of the seeds planned
    other = statistics.stdev([-10, -6, 1])
    assert line(found, "<5,5>").smallest.points == pytest.approx(detectable(other, 5))
    pooled = math.sqrt((0.25 + other**2) / 2)
    assert line(found, "<3,3>").smallest.points == pytest.approx(detectable(pooled, 5))
    assert line(found, "<3,3>").smallest.how == "spread of the other rows"
    assert line(found, "w/o").smallest is None
    assert line(found, "SE, long").smallest is None  # another recipe: never compared


def test_without_a_spread_the_unit_is_the_standard_deviation(store, save):
    save("circularnet", {0: 90.0})
    save("cra7-circularnet", {0: 80.0})  # one pair
    smallest = line(plan(CRA, "smoke", store, 3, CPU), "<7,7>").smallest
    assert smallest == (None, detectable(1, 3), "no spread is measured")
    assert "3.26 standard deviations (no spread is measured)" in text(plan(CRA, "smoke", store, 3, CPU))
    assert "none with one seed" in text(plan(CRA, "smoke", store, 1, CPU))


def test_a_gpu_that_is_not_here_is_not_planned_with(store, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(OutOfRange, match="no GPU here; use auto or cpu"):
        plan(CRA, "smoke", store, resources=Resources(device="cuda"))
    assert not plan(CRA, "smoke", store, resources=Resources(device="auto")).where.gpus  # witness


def test_a_plan_spreads_runs_as_the_grid_does(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr("workbench.training.environment.device_name", lambda device: "GPU")
    for jobs, left in ((0, 8), (0, 2), (8, 8), (3, 8)):
        planned = throughput.setting(Resources(jobs=jobs), left)
        assert planned.jobs == sum(share.width for share in grid.shares([None] * left, jobs, 4)), (jobs, left)
    assert throughput.setting(Resources(), 8) == ("GPU", 4, 4, grid.cores())


def test_nothing_to_train_at_count(store):
    assert text(plan(CRA, "count", store)) == "cra-4 at count: counted, nothing to train."
    with pytest.raises(UnknownName, match="smoke"):
        plan(CRA, "smok", store)
    with pytest.raises(OutOfRange, match="ask for at least 1"):
        plan(CRA, "smoke", store, -1)


def test_the_text_says_how_each_number_was_got(store, save):
    save("circularnet", {0: 94.0}, seconds=30.0)
    lines = text(plan(CRA, "smoke", store, 0, CPU)).splitlines()
    assert lines[0].split()[:2] == ["row", "model"] and len(lines) == 11
    assert lines[5].startswith("w/o ") and "0 of 3     3     90 s       measured in 1 run " in lines[5]
    assert "estimated from 1 other run" in lines[1]
    assert HERE in lines[9] and "noncentral t" in lines[10]


def test_the_bytes_are_those_that_runs_leave(store, tiny_layouts):
    recipe = Recipe(batch=64, epochs=2, lr=0.05, schedule="constant")
    for model in ("circularnet", "se-resnet20"):
        record = store.run(Experiment(model=model, dataset="layouts", recipe=recipe, seed=0), "cpu")
        left = sum(path.stat().st_size for path in (store.root / record.key).rglob("*") if path.is_file())
        assert run_bytes(model, 32, recipe) == pytest.approx(left, rel=0.02)
        assert run_bytes(model, 32, replace(recipe, momentum=0)) != pytest.approx(left, rel=0.1)  # witness


def test_a_probe_is_a_few_real_steps(monkeypatch):
    monkeypatch.undo()
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    seconds = throughput.step_s("circularnet", COUNTS["layouts"], RECIPES["smoke"], Setting("CPU", 0, 1, 1))
    large = throughput.step_s("resnet20", Data(100, 100, 10, 128), RECIPES["smoke"], Setting("CPU", 0, 1, 1))
    assert 0 < seconds < large < 5
    assert torch.equal(before, torch.get_rng_state()) and threads == torch.get_num_threads()


def test_hours_of_real_records(store, tiny_layouts):
    """Three epochs were trained here; the plan of another seed takes as long, to the last digit of the record."""
    record = store.run(Experiment(model="circularnet", dataset="layouts", recipe=RECIPES["smoke"], seed=0), "cpu")
    found = line(plan(CRA, "smoke", store, 2, CPU), "w/o")
    assert (found.done, found.left) == (1, 1)
    assert found.hours == pytest.approx(record.duration_s / 3600, rel=1e-12)
