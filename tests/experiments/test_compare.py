"""Published beside measured: each number keeps its protocol, and nothing is averaged or subtracted across two."""

import json
import math
import statistics
from dataclasses import replace

import pytest

from workbench.errors import UnknownName
from workbench.experiments import compare as comparing
from workbench.experiments import tables
from workbench.experiments.compare import cells, compare, protocols, show
from workbench.experiments.experiment import HERE, PROJECT, Experiment, Record
from workbench.experiments.reading import differences, reading
from workbench.experiments.report import of_budget
from workbench.experiments.store import Store
from workbench.files import write_json
from workbench.training.recipe import RECIPES

CRA, DCA = tables.load("cra-4"), tables.load("dca-2")
SMOKE = RECIPES["smoke"]
T95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 8: 2.365, 10: 2.262, 11: 2.228}  # by n, from any t table


@pytest.fixture
def store(tmp_path):
    """A store without runs; `save` writes some."""
    return Store(tmp_path / "runs", tmp_path / "data", tmp_path / "published")


@pytest.fixture
def save(store):
    """save(model, {seed: top-1 error}): a record each."""
    store.published.mkdir()

    def write(
        model,
        errors,
        dataset="layouts",
        recipe=SMOKE,
        device="CPU A",
        threads=1,
        status="done",
        code="1f3a9c2e",
        by=HERE,
        machines=(),
    ):
        for seed, error in errors.items():
            experiment = Experiment(model=model, dataset=dataset, recipe=recipe, seed=seed)
            metrics = {"top1_error": error, "top5_error": error / 4, "best_top1_error": error}
            where = {"device": device, "threads": threads, "compiled": False, "code": code, "machines": list(machines)}
            done = status == "done"
            record = Record(
                experiment.key(),
                experiment.spec(),
                status,
                metrics if done else {},
                [{"test_top1_error": error}],
                where,
                1.0,
            )
            path = store.published / f"{record.key}.json"
            if by == HERE:
                path = store.root / record.key / "record.json"
                path.parent.mkdir(parents=True)
            write_json(path, {name: part for name, part in record._asdict().items() if name != "origin"})

    return write


def row(entries, label):
    return next(entry for entry in entries if entry["row"] == label)


def trained(entry, metric="top1_error"):
    return [m for m in entry["measured"] if m["metric"] == metric and m["dataset"]]


def test_mean_spread_and_values_of_all_seeds(store, save):
    save("cra7-circularnet", {2: 7.0, 0: 4.0, 1: 4.0})
    (found,) = trained(row(compare(CRA, store), "<7,7>"))
    assert (found["mean"], found["n"]) == (5.0, 3)
    assert found["std"] == pytest.approx(math.sqrt(3))  # n - 1 in the denominator
    assert found["std"] != pytest.approx(math.sqrt(2))  # witness: n
    assert found["values"] == {"0": 4.0, "1": 4.0, "2": 7.0}
    assert [*found["values"]] == ["0", "1", "2"]
    assert (
        found["protocol"]
        == "layouts, 3 epochs, batch 64, one-cycle lr 0.15, momentum 0.9, weight decay 0.0005, float32"
    )
    assert (found["budget"], found["dataset"], found["model"]) == ("smoke", "layouts", "cra7-circularnet")
    assert (found["hardware"], found["code"]) == ("CPU A, 1 thread", ["1f3a9c2e"])
    (top5,) = trained(row(compare(CRA, store), "<7,7>"), "top5_error")
    assert top5["mean"] == 1.25


def test_one_seed_has_no_spread(store, save):
    save("circularnet", {0: 94.0})
    (found,) = trained(row(compare(CRA, store), "w/o"))
    assert (found["mean"], found["std"], found["n"]) == (94.0, None, 1)
    assert show(tables.METRICS["top1_error"], found) == "94.00 (one seed)"


def test_accuracy_is_what_the_error_leaves(store, save):
    save("se-resnet20", {0: 20.0, 1: 30.0})
    found = row(compare(DCA, store), "SE-ResNet50")
    assert [m["mean"] for m in trained(found, "top1_accuracy")] == [75.0]
    assert [m["mean"] for m in trained(found, "top5_accuracy")] == [93.75]
    assert not trained(found, "top1_error")


@pytest.mark.parametrize(
    "other",
    [
        {"device": "CPU B"},
        {"threads": 2},
        {"recipe": replace(SMOKE, epochs=4)},
        {"recipe": replace(SMOKE, weight_decay=1e-4)},
        {"by": PROJECT},
    ],
    ids=str,
)
def test_nothing_is_averaged_over_two_machines_or_protocols(store, save, other):
    save("circularnet", {0: 94.0, 1: 94.0})
    save("circularnet", {2: 90.0, 3: 90.0}, **other)
    entries = compare(CRA, store)
    found = trained(row(entries, "w/o"))
    assert sorted(m["mean"] for m in found) == [90.0, 94.0]
    assert [m["n"] for m in found] == [2, 2]
    _, lines = cells(CRA, entries)  # none may hide the other where both are shown
    shown = " ".join(next(line for line in lines if line[0] == "w/o"))
    assert "90.00" in shown and "94.00" in shown


def test_seeds_of_one_machine_and_protocol_are_averaged(store, save):
    save("circularnet", {0: 94.0, 1: 94.0})
    save("circularnet", {2: 90.0, 3: 90.0}, code="00000000")  # witness; the code's versions are all named
    (found,) = trained(row(compare(CRA, store), "w/o"))
    assert (found["mean"], found["n"], found["code"]) == (92.0, 4, ["00000000", "1f3a9c2e"])


def test_a_diverged_run_is_a_status_and_never_a_number(store, save):
    save("circularnet", {0: 90.0}, status="diverged")
    entries = compare(CRA, store)
    assert row(entries, "w/o")["status"] == "diverged"
    assert not trained(row(entries, "w/o"))
    assert "90" not in " ".join(map(" ".join, cells(CRA, entries)[1]))
    assert not differences(CRA, entries, "top1_error")
    assert "Nothing is measured yet" in "\n".join(reading(CRA, entries))


def test_a_diverged_seed_is_not_dropped_in_silence(store, save):
    """A mean over the seeds that happened to survive must not look like a mean over all."""
    save("circularnet", {0: 94.0, 1: 94.0})
    save("circularnet", {2: 90.0}, status="diverged")
    entry = row(compare(CRA, store), "w/o")
    assert trained(entry)[0]["n"] == 2
    assert "diverged" in entry["status"]


def test_what_the_status_says(store, save):
    def status(table, label):
        return row(compare(table, store), label)["status"]

    assert status(CRA, "w/o") == "not measured"
    assert status(tables.load("cra-1"), "ResNet-50") == "counted"
    save("circularnet", {0: 94.0})
    assert status(CRA, "w/o") == "measured on twins"
    save("resnet50", {0: 24.0}, dataset="cifar10")
    assert status(CRA, "w/o") == "measured"
    assert status(CRA, "<7,7>") == "not measured"


@pytest.mark.parametrize("key", tables.known())
def test_entries_are_strict_json(key, store, save):
    save("circularnet", {0: 94.0, 1: 93.0})
    save("se-resnet20", {0: 94.0}, device="NVIDIA H200")
    entries = compare(tables.load(key), store)
    assert json.loads(json.dumps(entries, allow_nan=False)) == entries
    for entry in entries:
        assert entry.keys() == {"row", "model", "base", "published", "printed", "measured", "status", "note"}


def test_counted_cells_carry_their_verdict(store):
    (found,) = row(compare(CRA, store), "w/o")["measured"]
    assert (found["metric"], found["budget"], found["dataset"], found["n"]) == ("params", "count", None, 1)
    assert found["agrees"] is True
    assert found["mean"] == pytest.approx(25.557032)
    lying = CRA._replace(rows=(CRA.rows[-1]._replace(published={**CRA.rows[-1].published, "params": "25.57"}),))
    (found,) = compare(lying._replace(controls=()), store)[0]["measured"]
    assert found["agrees"] is False  # witness
    assert show(tables.METRICS["params"], found) == "25.56 differs"


def test_the_budget_of_a_record(store, save):
    save("se[reduction=4]-circularnet", {0: 94.0})  # the control's twin, but not by the control's recipe
    save("se[reduction=4]-circularnet", {0: 93.0}, recipe=RECIPES["smoke-long"])
    save("cra8-resnet20", {0: 10.0}, dataset="cifar10", recipe=RECIPES["cifar-short"])
    entries = compare(CRA, store)
    assert {m["mean"]: m["budget"] for m in trained(row(entries, "SE, long"))} == {94.0: None, 93.0: "smoke"}
    assert {m["mean"]: m["budget"] for m in trained(row(entries, "<7,7>"))} == {10.0: "cifar"}


def difference(store, label="<7,7>"):
    return [d for d in differences(CRA, compare(CRA, store), "top1_error") if d["row"] == label]


def test_differences_are_paired_over_common_seeds(store, save):
    save("circularnet", {0: 90.0, 1: 80.0, 2: 70.0, 5: 1.0})
    save("cra7-circularnet", {0: 89.0, 1: 78.0, 2: 67.0, 6: 99.0})
    (found,) = difference(store)
    assert (found["n"], found["mean"]) == (3, -2.0)  # -1, -2, -3: seeds 5 and 6 have no partner
    assert found["half_width"] == pytest.approx(T95[3] * 1.0 / math.sqrt(3), rel=1e-4)
    assert not difference(store, "w/o")  # never against itself


@pytest.mark.parametrize("n", T95)
def test_the_interval_is_students(store, save, n):
    deltas = [((seed * 37) % 11) / 4 - 1 for seed in range(n)]
    save("circularnet", {seed: 50.0 for seed in range(n)})
    save("cra7-circularnet", {seed: 50.0 + delta for seed, delta in enumerate(deltas)})
    (found,) = difference(store)
    assert found["mean"] == pytest.approx(statistics.mean(deltas))
    assert found["half_width"] == pytest.approx(T95[n] * statistics.stdev(deltas) / n**0.5, rel=3e-4)
    assert found["half_width"] != pytest.approx(1.96 * statistics.stdev(deltas) / n**0.5, rel=0.05)  # witness: normal


@pytest.mark.parametrize(("n", "t"), [(12, 2.201), (16, 2.131), (21, 2.086), (31, 2.042)])
def test_the_interval_of_many_seeds_is_students_to_two_digits(store, save, n, t):
    deltas = [float(seed % 2) for seed in range(n)]
    save("circularnet", {seed: 50.0 for seed in range(n)})
    save("cra7-circularnet", {seed: 50.0 + delta for seed, delta in enumerate(deltas)})
    (found,) = difference(store)
    assert found["half_width"] == pytest.approx(t * statistics.stdev(deltas) / n**0.5, rel=0.005)


@pytest.mark.parametrize(
    "other",
    [
        {"device": "CPU B"},
        {"threads": 2},
        {"recipe": replace(SMOKE, lr=0.1)},
        {"recipe": replace(SMOKE, weight_decay=1e-4)},
        {"by": PROJECT},
    ],
    ids=str,
)
def test_differences_never_cross_machines_or_protocols(store, save, other):
    save("circularnet", {0: 90.0, 1: 80.0})
    save("cra7-circularnet", {0: 89.0, 1: 78.0}, **other)
    assert not difference(store)
    save("circularnet", {2: 90.0, 3: 80.0}, **other)
    save("cra7-circularnet", {2: 89.0, 3: 78.0}, **other)
    (found,) = difference(store)  # witness: with a baseline of its own there is one
    assert (found["n"], found["mean"]) == (2, -1.5)


def test_differences_never_cross_backbones(store, save):
    """Both are twins of the table, but of different budgets: their difference is not the attention's."""
    save("resnet20", {0: 50.0, 1: 50.0})
    save("cra7-circularnet", {0: 89.0, 1: 78.0})
    assert not difference(store)


def test_the_verdict_follows_from_the_interval(store, save):
    save("circularnet", {0: 90.0, 1: 90.0, 2: 90.0})
    save("cra7-circularnet", {0: 80.0, 1: 81.0, 2: 80.5})
    save("cra5-circularnet", {0: 80.0, 1: 95.0, 2: 90.0})
    save("cra3-circularnet", {1: 89.0})
    text = "\n".join(reading(CRA, compare(CRA, store)))
    assert "<7,7>: -9.50 points (n = 3, 95 % interval +- 1.24): larger than the seed noise." in text
    assert "<5,5>: -1.67 points (n = 3, 95 % interval +- 18.97): within the seed noise." in text
    assert "<3,3>: -1.00 points (n = 1); one seed says nothing about the noise." in text
    assert "5 of 5 counted cells agree to the printed digit." in text
    assert "never its numbers" in text
    assert "Nothing is measured" not in text


def test_a_difference_is_judged_among_all_of_its_table(store, save):
    """Holm's correction, as in an ablation: with many rows one small p is to be expected."""
    save("circularnet", {0: 90.0, 1: 90.0, 2: 90.0})
    save("cra7-circularnet", {0: 88.0, 1: 89.0, 2: 88.4})
    alone = "\n".join(reading(CRA, compare(CRA, store)))
    assert "<7,7>: -1.53 points (n = 3, 95 % interval +- 1.25): larger than the seed noise." in alone  # witness
    save("cra5-circularnet", {0: 91.0, 1: 90.0, 2: 89.5})
    save("cra3-circularnet", {0: 89.0, 1: 89.0, 2: 89.0})
    among = "\n".join(reading(CRA, compare(CRA, store)))
    assert "+- 1.25): larger than the seed noise by itself, but not among so many rows." in among
    assert "<3,3>: -1.00 points (n = 3, 95 % interval +- 0.00): every seed gives the same difference" in among


def test_a_reading_of_nothing_says_so(store):
    lines = reading(CRA, compare(CRA, store))
    assert lines[0] == "5 of 5 counted cells agree to the printed digit."
    assert lines[1] == "Nothing is measured yet; nothing follows about the claim."
    counted = tables.load("cra-1")
    assert reading(counted, compare(counted, store)) == ["6 of 6 counted cells agree to the printed digit."]


@pytest.mark.parametrize(
    ("metric", "measured", "text"),
    [
        ("top1_error", {"mean": 5.619, "std": 0.114, "n": 3}, "5.62 +- 0.11 (n = 3)"),
        ("top1_error", {"mean": 5.619, "std": 0.0, "n": 2}, "5.62 +- 0.00 (n = 2)"),
        ("top1_error", {"mean": 5.619, "std": None, "n": 1}, "5.62 (one seed)"),
        ("params", {"mean": 25.557032, "std": None, "agrees": True}, "25.56 ="),
        ("macs", {"mean": 4.1333, "std": None, "agrees": True}, "4.133 ="),
        ("macs", {"mean": 4.1333, "std": None, "agrees": False}, "4.133 differs"),
        ("params", {"mean": 0.853018, "std": None, "agrees": True, "unit": "K"}, "853.02K ="),
        ("macs", {"mean": 0.126555, "std": None, "agrees": True, "unit": "M"}, "126.555M ="),
        ("accuracy", {"mean": 0.75081, "std": None, "n": 1}, "0.7508 (one seed)"),
        ("accuracy", {"mean": 0.75, "std": 0.01, "n": 2}, "0.7500 +- 0.0100 (n = 2)"),
    ],
)
def test_how_a_number_is_shown(metric, measured, text):
    assert show(tables.METRICS[metric], measured) == text


def test_cells_without_measurements(store):
    heads, lines = cells(CRA, compare(CRA, store))
    published = [(title, "published") for title in ("top-1 error (%)", "top-5 error (%)", "parameters (M)")]
    assert heads == [("", "row"), *published, ("parameters (M)", "counted"), ("", "status")]
    assert lines[4] == ["w/o", "24.20", "7.15", "25.56", "25.56 =", "not measured"]  # 24.20 keeps its nought
    assert lines[5] == ["SE, long", "-", "-", "-", "-", "not measured"]


def test_cells_of_all_budgets_and_of_one(store, save):
    save("circularnet", {0: 94.0, 1: 94.0})
    save("resnet20", {0: 12.0}, dataset="cifar10", recipe=RECIPES["cifar-short"])
    longer = replace(RECIPES["cifar-short"], epochs=6)
    save("resnet20", {0: 60.0}, dataset="cifar10", recipe=longer)  # a run of no budget
    heads, lines = cells(CRA, compare(CRA, store))
    error = "top-1 error (%)"
    other = "measured here, cifar10, 6 epochs"
    sources = {source: cell for (title, source), cell in zip(heads, lines[4], strict=True) if title == error}
    assert sources == {
        "published": "24.20",
        "measured here, cifar": "12.00 (one seed)",
        "measured here, smoke": "94.00 +- 0.00 (n = 2)",
        other: "60.00 (one seed)",
    }
    assert dict(zip(heads, lines[0], strict=True))[error, "measured here, smoke"] == "not measured"
    one, lines = cells(CRA, compare(CRA, store, "smoke"))
    assert [source for title, source in one if title == error] == ["published", "measured here, smoke"]
    assert "12.00" not in str(lines) and "60.00" not in str(lines)
    assert all(len(line) == len(one) for line in lines)
    shown = {key: compare(CRA, store, key) for key in ("smoke", "cifar", "cifar100", "count")}
    assert [len(entries) for entries in shown.values()] == [7, 5, 5, 5]  # the two controls are of smoke
    states = [row(entries, "w/o")["status"] for entries in shown.values()]
    assert states == ["measured on twins", "measured on twins", "not measured", "not measured"]
    with pytest.raises(UnknownName, match=r"budget of cra-4 'cifar9'\. Did you mean 'cifar'"):
        compare(CRA, store, "cifar9")


def test_two_protocols_of_one_length_have_headings_of_their_own(store, save):
    for seed, precision in enumerate(("bf16", "float32")):
        recipe = replace(RECIPES["cifar-short"], epochs=6, precision=precision)
        save("resnet20", {seed: 60.0}, dataset="cifar10", recipe=recipe)
    whole = "measured here, cifar10, 6 epochs, batch 128, one-cycle lr 0.4, momentum 0.9, weight decay 0.0005"
    heads, _ = cells(CRA, compare(CRA, store))
    assert {source for _, source in heads if "6 epochs" in source} == {f"{whole}, bf16", f"{whole}, float32"}


def test_protocols_say_what_stands_behind_each_heading(store, save):
    save("circularnet", {0: 94.0})
    save("cra7-circularnet", {0: 3.0})
    save("se[reduction=4]-circularnet", {0: 94.0}, recipe=RECIPES["smoke-long"])
    notes = protocols(compare(CRA, store))
    sgd = "momentum 0.9, weight decay 0.0005, float32, CPU A, 1 thread"
    smoke = f"measured here, smoke: layouts, 3 epochs, batch 64, one-cycle lr 0.15, {sgd} (<7,7>; w/o)"
    long = f"measured here, smoke: layouts, 6 epochs, batch 32, one-cycle lr 0.2, {sgd} (SE, long)"
    assert {smoke, long} < {*notes}
    assert "counted: cra convention, 224 px, 1000 classes" in notes  # one heading, one protocol: no rows named
    assert len(notes) == 3


def test_what_was_measured_here_and_by_the_project_stand_apart(store, save):
    """Also where both have the same seed of the same experiment: neither hides the other."""
    save("circularnet", {0: 94.0})
    save("circularnet", {0: 93.0, 1: 95.0}, by=PROJECT)
    entries = compare(CRA, store)
    assert {m["origin"]: m["n"] for m in trained(row(entries, "w/o"))} == {HERE: 1, PROJECT: 2}
    heads, lines = cells(CRA, compare(CRA, store, "smoke"))
    shown = dict(zip(heads, lines[4], strict=True))
    assert shown["top-1 error (%)", "measured here, smoke"] == "94.00 (one seed)"
    assert shown["top-1 error (%)", "measured by the project, smoke"] == "94.00 +- 1.41 (n = 2)"


def test_runs_that_moved_otherwise_stand_apart(store, save):
    """By every machine that they were on, the first as well."""
    save("circularnet", {0: 90.0, 1: 92.0}, machines=["C", "A"])
    save("circularnet", {2: 60.0}, machines=["B", "A"])
    save("circularnet", {3: 70.0}, machines=["C", "D", "A"])
    save("circularnet", {4: 50.0, 5: 50.0}, machines=["A"])
    found = trained(row(compare(CRA, store), "w/o"))
    assert sorted(one["n"] for one in found) == [1, 1, 2, 2]
    assert len({one["column"] for one in found}) == 4
    assert "CPU A, 1 thread, moved between machines: B, then A" in {one["hardware"] for one in found}
    heads, lines = cells(CRA, compare(CRA, store))
    shown = [cell for (title, _), cell in zip(heads, lines[4], strict=True) if title == "top-1 error (%)"]
    assert sorted(cell.split()[0] for cell in shown) == ["24.20", "50.00", "60.00", "70.00", "91.00"]
    assert len(of_budget(CRA, store, "smoke")["w/o"]) == 2


def test_two_networks_by_one_protocol_stand_apart_in_a_row(store, save):
    save("resnet50", {0: 5.0}, dataset="cifar10", recipe=RECIPES["resnet-cifar"])
    one = trained(row(compare(CRA, store), "w/o"))[0]["column"]
    save("resnet20", {0: 8.0}, dataset="cifar10", recipe=RECIPES["resnet-cifar"])
    heads, lines = cells(CRA, compare(CRA, store))
    shown = dict(zip(heads, lines[4], strict=True))
    found = {source.removeprefix(one): cell for (title, source), cell in shown.items() if title == "top-1 error (%)"}
    assert found == {"published": "24.20", ", resnet50": "5.00 (one seed)", ", resnet20": "8.00 (one seed)"}


def test_a_reading_may_be_of_one_budget(store, save):
    for model, error in (("circularnet", 94.0), ("cra7-circularnet", 3.0)):
        save(model, {0: error})
    for model, error in (("resnet20", 12.0), ("cra8-resnet20", 11.0)):
        save(model, {0: error}, dataset="cifar10", recipe=RECIPES["cifar-short"])
    both, one, none = ("\n".join(reading(CRA, compare(CRA, store, key))) for key in ("", "smoke", "count"))
    assert "-91.00" in both and "-1.00" in both
    assert "-91.00" in one and "-1.00" not in one
    assert "Nothing is measured yet" in none


def test_a_reading_says_when_the_protocol_is_not_the_papers(store, save):
    for model, error in (("resnet50", 24.0), ("cra7-resnet50", 23.0)):
        save(model, {0: error}, dataset="imagenet", recipe=RECIPES["cra-imagenet"])
    twins = "Protocol, networks or data are not the paper's"
    assert twins not in "\n".join(reading(CRA, compare(CRA, store)))
    for model, error in (("circularnet", 94.0), ("cra7-circularnet", 3.0)):
        save(model, {0: error})
    assert twins in "\n".join(reading(CRA, compare(CRA, store)))
    assert twins not in "\n".join(reading(CRA, compare(CRA, store, "paper")))


def test_no_measured_number_is_subtracted_from_a_printed_one(store, save):
    save("circularnet", {0: 94.0})
    entries = compare(CRA, store)
    text = json.dumps(entries) + "\n".join(reading(CRA, entries))
    assert "69.8" not in text  # 94.00 - 24.20
    assert comparing.value(tables.METRICS["top1_error"], next(store.records())) == 94.0


MACHINE = {"device": "a CPU", "threads": 1, "compiled": False, "code": "0" * 8}


def test_runs_of_another_task_are_not_this_rows():
    """ResNet-56 on CIFAR-100 stands in the CIFAR-100 row of CRA Table V, not in that of CIFAR-10."""
    table, recipe = tables.load("cra-5"), RECIPES["cifar-short"]
    found = [Experiment(model="resnet56", dataset=name, recipe=recipe, seed=0) for name in ("cifar100", "layouts")]
    metrics = {"top1_error": 1.0, "top5_error": 0.0}
    records = [Record(one.key(), one.spec(), "done", metrics, [], MACHINE, 1.0) for one in found]

    def measured(label):
        (row,) = [row for row in table.rows if row.label == label]
        entry = comparing._entry(table, row, {"resnet56": records}, "")
        return {m["dataset"] for m in entry["measured"] if m["dataset"]}

    assert measured("ResNet-56, CIFAR-100") == {"cifar100", "layouts"}  # the paper's own model, on any budget's data
    assert measured("ResNet-56, CIFAR-10") == {"layouts"}


def test_a_twin_stands_in_its_row_on_its_own_data_alone():
    """ResNet-20 is cra-4's twin on CIFAR-10; on the procedural pictures it is another table's."""
    recipe = RECIPES["smoke"]
    found = [Experiment(model="resnet20", dataset=name, recipe=recipe, seed=0) for name in ("cifar10", "layouts")]
    metrics = {"top1_error": 1.0, "top5_error": 0.0}
    records = [Record(one.key(), one.spec(), "done", metrics, [], MACHINE, 1.0) for one in found]
    (row,) = [row for row in CRA.rows if row.label == "w/o"]
    entry = comparing._entry(CRA, row, {"resnet20": records}, "")
    assert {m["dataset"] for m in entry["measured"] if m["dataset"]} == {"cifar10"}
