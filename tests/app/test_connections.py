"""The page Connections: shares from records and from weights, and the chain; links are checked."""

import re

import pytest
import streamlit
from views import HOSTILE, NOT_HERE, charts, notices, outside, settled, text, tree, unexpected

from workbench import files
from workbench.experiments.experiment import Experiment, Record
from workbench.training.recipe import RECIPES

SE = {0: [0.1, 0.2], 1: [0.3, 0.4]}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """No look through all that is installed for components, and no result of another test."""
    monkeypatch.setattr("streamlit.components.v2.manifest_scanner.scan_component_manifests", list)
    streamlit.cache_data.clear()


def save_run(root, model, seed, **learned):
    """A record without weights; returns its key."""
    experiment = Experiment(model=model, dataset="layouts", recipe=RECIPES["smoke"], seed=seed)
    metrics = {"top1_error": 5.0, "top5_error": 1.0, "best_top1_error": 5.0, **learned}
    where = {"device": "CPU A", "threads": 1, "compiled": False, "code": "1f3a9c2e"}
    curves = [{"epoch": 1, "lr": 0.1, "test_top1_error": 5.0}]
    record = Record(experiment.key(), experiment.spec(), "done", metrics, curves, where, 1.0)
    (root / record.key).mkdir(parents=True)
    files.write_json(root / record.key / "record.json", record._asdict())
    return record.key


@pytest.fixture
def measured(tmp_path):
    """Two seeds of SE, and CBAM with both dimensions."""
    root = tmp_path / "runs"
    keys = [save_run(root, "dca-se-resnet8", seed, contribution=shares) for seed, shares in SE.items()]
    return [keys[0], save_run(root, "dca-cbam-resnet8", 0, contribution=[0.5, 0.6], contribution_spatial=[0.7, 0.8])]


def test_without_connected_networks_it_says_what_to_run(page, runs):
    test = page("connections")
    assert not test.exception and not charts(test)
    assert "Run `workbench train dca-se-resnet20 --data layouts --recipe smoke`" in text(test)


def test_records_without_weights_show_every_seed(page, measured):
    test = page("connections", network=measured)
    assert not test.exception and not notices(test)
    (chart,) = charts(test)
    names = [trace["name"] for trace in chart["data"] if trace.get("name")]
    assert names == [
        "dca-se-resnet8, layouts (n = 2)",
        "dca-cbam-resnet8, layouts, channel (one seed)",
        "dca-cbam-resnet8, layouts, spatial (one seed)",
    ]
    frame = test.dataframe[0].value
    assert list(frame.index) == ["2.1", "3.1"]
    assert frame["dca-se-resnet8, layouts, seed 1"].to_list() == [0.3, 0.4]
    assert frame["dca-cbam-resnet8, layouts, spatial, seed 0"].to_list() == [0.7, 0.8]
    assert "none of a connected resnet8 are here. Run `workbench train 'dca-se-resnet8'" in text(test)
    assert "|w_earlier| / (|w_earlier| + |w_current|)" in text(test)


def test_weights_show_the_chain(page, models):
    test = page("connections", picture="layouts:horizontal 1.2")
    assert not test.exception and not notices(test)
    ratios, chain = charts(test)
    assert [trace["name"] for trace in ratios["data"] if trace.get("name")] == ["dca-se-resnet8, layouts (one seed)"]
    discs = next(trace for trace in chain["data"] if trace["mode"] == "markers+text")
    assert discs["text"] == ["1.1", "2.1", "3.1"]
    shares, links = (frame.value for frame in test.dataframe)
    assert list(links.index) == list(shares.index) == ["2.1", "3.1"]
    assert links["share"].to_list() == pytest.approx(shares.iloc[:, 0].to_list()) and 0 < links["share"].max() < 1
    assert links["matched by"].str.contains("fc1").all() and list(links["from block"]) == ["1.1", "2.1"]
    assert "mean |T - T_0|" in links and "T_0 is T when all that" in text(test)


def test_a_record_that_is_not_whole_is_said_and_the_others_shown(page, measured, tmp_path):
    broken = save_run(tmp_path / "runs", "dca-ge8-resnet8", 0, contribution=[0.5])
    test = page("connections", network=[broken, *measured])
    assert not test.exception and len(charts(test)) == 1
    assert "1 numbers of 'contribution' for 2 connections" in text(test)
    assert len(test.dataframe[0].value.columns) == 4


def test_backbones_are_apart(page, measured, tmp_path):
    save_run(tmp_path / "runs", "dca-se-resnet14", 0, contribution=[0.1] * 5)
    test = page("connections", backbone="resnet14")
    assert not test.exception and not notices(test)
    assert list(test.dataframe[0].value.index) == ["1.2", "2.1", "2.2", "3.1", "3.2"]
    assert test.query_params["backbone"] == "resnet14"
    other = page("connections", backbone="resnet8")
    assert list(other.dataframe[0].value.index) == ["2.1", "3.1"]


@pytest.mark.parametrize("key", ["backbone", "network", "chain", "picture"])
def test_a_hostile_link_shows_the_default_and_says_so(page, models, measured, key, tmp_path):
    plain, before = page("connections"), tree(tmp_path)
    for hostile in (*HOSTILE[:4], "99", measured[0][:-1]):
        test = page("connections", **{key: hostile})
        assert not test.exception
        (notice,) = notices(test)
        assert NOT_HERE.match(notice)[1] == key and len(notice) < 160
        assert [one.value.to_csv() for one in test.dataframe] == [one.value.to_csv() for one in plain.dataframe]
    assert not notices(plain) and tree(tmp_path) == before and len(charts(plain)) == 2


@pytest.mark.browser
def test_a_visit_in_a_browser(served, browser):
    address, _, root = served
    before = tree(root / "runs")
    browser.goto(f"{address}/connections?backbone=resnet20")
    browser.get_by_role("heading", level=1, name="Connections").wait_for()
    browser.locator(".js-plotly-plot .main-svg").first.wait_for()
    browser.get_by_role("heading", name="The chain").wait_for()
    browser.wait_for_url(re.compile(r"[?&]network=dca"))
    assert "The link asks for" not in browser.inner_text("body")
    with settled(browser).expect_download() as waiting:
        browser.get_by_role("button", name="Download CSV").first.click()
    assert waiting.value.suggested_filename == "connections.csv"
    assert waiting.value.path().read_text().startswith("block that hears,")

    box = browser.get_by_role("combobox", name="Backbone")
    box.scroll_into_view_if_needed()  # a list that is open while the page scrolls is closed
    settled(browser)
    box.click()
    browser.get_by_role("option", name=re.compile("^resnet8,")).click()
    browser.wait_for_url(re.compile(r"[?&]backbone=resnet8"))
    browser.wait_for_url(re.compile(r"[?&]network=dca-se-resnet8-"))
    assert len(browser.requested) > 10 and not outside(browser.requested, address)
    assert not unexpected(browser.complaints)
    assert tree(root / "runs") == before
