"""Curves of many runs: few lines with what sets them apart, smoothed, live, and fluid with two hundred."""

import json
import re
import time

import pytest
from views import HOSTILE, charts, notices, outside, settled, text, tree, unexpected

from workbench import files
from workbench.experiments.experiment import Experiment, Record
from workbench.training.recipe import RECIPES

NAMES = ("test_top1_error", "train_top1_error", "test_top5_error", "test_loss", "train_loss")


def lines(test, chart=0):
    """Name -> values of the lines that have a name."""
    return {trace["name"]: trace["y"] for trace in charts(test)[chart]["data"] if trace.get("name")}


def test_all_runs_are_named_by_what_differs(page, runs):
    test = page("curves", of="all")
    assert not test.exception and not notices(test)
    names = [name.rpartition(" (")[0] for name in lines(test)]
    assert len(names) == 3 and all(re.match("(cra7-|)circularnet, layouts|resnet20, cifar10", name) for name in names)
    smoke = page("curves", of="all", recipe="smoke", dataset="layouts")
    assert sorted(lines(smoke)) == ["circularnet (n = 2)", "cra7-circularnet (n = 2)"]


@pytest.mark.parametrize(
    ("query", "left"),
    [
        ({"dataset": "cifar10"}, ["resnet20 (one seed)"]),
        ({"recipe": "cifar-short"}, ["resnet20 (one seed)"]),
        ({"model": "CRA"}, ["cra7-circularnet (n = 2)"]),
    ],
)
def test_runs_are_filtered_and_the_link_says_so(page, runs, query, left):
    test = page("curves", of="all", **query)
    assert not test.exception and not notices(test)
    assert list(lines(test)) == left and {key: test.query_params[key] for key in query} == query
    assert len(test.dataframe[0].value) == 1


def test_a_filter_that_leaves_nothing_says_what_to_do(page, runs):
    test = page("curves", of="all", model="no such model")
    assert not test.exception and not test.dataframe
    assert "Empty the box `Models that contain`" in text(test)


def test_without_runs_all_says_what_to_run(page):
    test = page("curves", of="all")
    assert not test.exception and "Run `workbench train" in text(test)


def test_last_and_best_epoch_are_both_in_the_frame(page, tmp_path):
    save(tmp_path / "runs", "circularnet", 0, [30.0, 10.0, 20.0])
    save(tmp_path / "runs", "circularnet", 1, [40.0, 50.0, 30.0])
    (frame,) = (found.value for found in page("curves", of="all").dataframe)
    assert frame.loc[0, ["last epoch", "best epoch"]].to_list() == [25.0, 20.0]
    assert frame.loc[0, "best at"] == "2, 3" and frame.loc[0, "seeds"] == 2


def test_smoothing_keeps_the_plain_mean_and_log_has_its_axis(page, tmp_path):
    save(tmp_path / "runs", "circularnet", 0, [40.0, 20.0, 30.0])
    plain, test = page("curves", of="all"), page("curves", of="all", smoothing="50", scale="log")
    assert not test.exception and not notices(test)
    faint, line = charts(test)[0]["data"]
    assert faint["y"] == [40.0, 20.0, 30.0] == lines(plain)["circularnet (one seed)"] and faint["opacity"] < 0.5
    assert line["y"] == pytest.approx([40.0, (20 * 0.5 + 40 * 0.25) / 0.75, (30 * 0.5 + 5 + 5) / 0.875 * 1.0], rel=0.2)
    assert line["y"][1] == pytest.approx(26.6667, abs=1e-3)
    assert charts(test)[0]["layout"]["yaxis"]["type"] == "log"
    assert "type" not in charts(plain)[0]["layout"]["yaxis"]  # witness
    assert "Smoothed: m = 0.5 m + 0.5 x" in text(test)


@pytest.mark.parametrize("key", ["of", "smoothing", "scale", "dataset", "recipe", "model"])
def test_hostile_links_show_the_default(page, runs, key):
    for hostile in HOSTILE:
        test = page("curves", **({"of": "all"} | {key: hostile}))
        assert not test.exception, hostile[:40]
        assert len(notices(test)) == (0 if key == "model" or (key, hostile) == ("smoothing", "0") else 1) or not hostile
        assert "root:" not in text(test)


def test_a_run_that_trains_is_shown_as_far_as_it_is(page, runs):
    (journal,) = runs.glob("*/log.jsonl")
    journal.write_text('{"epoch": 1, "test_top1_error": 90.0}\n{"epoch": 2, "test_top1_error": 80.0}\n{"epo')
    test = page("curves")
    assert not test.exception
    assert list(lines(test, chart=1).values()) == [[90.0, 80.0]]
    finish(journal.parent)
    done = page("curves")
    assert not done.exception and len(charts(done)) == 1 and "Not finished" not in text(done)  # nothing goes on


def test_two_hundred_runs_of_two_hundred_epochs_stay_fluid(page, tmp_path):
    for number in range(200):
        errors = [100 / (epoch + number % 7) + number % 5 for epoch in range(1, 201)]
        save(tmp_path / "runs", ("circularnet", "cra7-circularnet")[number % 2], number // 40, errors, number % 40)
    test = page("curves", of="all")
    assert not test.exception
    assert len(lines(test)) == 40 and sum(frame.value["seeds"].sum() for frame in test.dataframe) == 200
    assert len(json.dumps(charts(test))) < 5e6
    before = time.process_time()
    test.selectbox[1].select("train_top1_error").run()
    spent = time.process_time() - before
    assert not test.exception and spent < 2.5, spent


def save(root, model, seed, errors, number=0):
    """A record with these test errors; `number` makes recipes of different rates."""
    from dataclasses import replace

    recipe = replace(RECIPES["smoke"], epochs=len(errors), lr=0.1 + number / 100)
    experiment = Experiment(model=model, dataset="layouts", recipe=recipe, seed=seed)
    curves = [{"epoch": epoch, "lr": 0.1, **dict.fromkeys(NAMES, error)} for epoch, error in enumerate(errors, 1)]
    metrics = {"top1_error": errors[-1], "top5_error": 1.0, "best_top1_error": min(errors)}
    where = {"device": "CPU A", "threads": 1, "compiled": False, "code": "1f3a9c2e"}
    record = Record(experiment.key(), experiment.spec(), "done", metrics, curves, where, 1.0)
    (root / record.key).mkdir(parents=True)
    files.write_json(root / record.key / "record.json", record._asdict())


def finish(folder):
    spec = files.read_json(folder / "spec.json")
    curves = [{"epoch": 1, "lr": 0.1, **dict.fromkeys(NAMES, 80.0)}]
    metrics = {"top1_error": 80.0, "top5_error": 20.0, "best_top1_error": 80.0}
    where = {"device": "CPU A", "threads": 1, "compiled": False, "code": "1f3a9c2e"}
    files.write_json(folder / "record.json", Record(folder.name, spec, "done", metrics, curves, where, 1.0)._asdict())


@pytest.mark.browser
def test_a_journey_through_curves(served, browser, tmp_path):
    address, _, root = served
    before = tree(root / "runs")
    browser.goto(f"{address}/curves?of=all&dataset=layouts&recipe=smoke&model=circular")
    browser.get_by_role("heading", level=1, name="Curves").wait_for()
    browser.get_by_text(re.compile(r"cra7-circularnet.* measured here \(n = 2\)")).first.wait_for()
    browser.get_by_role("slider").focus()
    browser.keyboard.press("ArrowRight")
    browser.wait_for_url(re.compile(r"[?&]smoothing=1\b"))
    browser.get_by_text("Smoothed: m = 0.01 m").wait_for()
    with settled(browser).expect_download() as download:
        browser.get_by_role("button", name="Download CSV").click()
    download.value.save_as(tmp_path / "curves.csv")
    assert "cra7-circularnet" in (tmp_path / "curves.csv").read_text()
    assert not outside(browser.requested, address) and not unexpected(browser.complaints)
    assert tree(root / "runs") == before
