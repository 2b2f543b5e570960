"""The page Grad-CAM: networks side by side, one picture, one class; links are checked."""

import importlib.util
import json
import re
import shutil

import pytest
import streamlit
import torch
from views import HOSTILE, NOT_HERE, charts, notices, outside, settled, text, tree, unexpected

from workbench import files
from workbench.build import build
from workbench.datasets import layouts
from workbench.experiments.experiment import Experiment
from workbench.explain import cam
from workbench.training.recipe import RECIPES

PICTURE = "layouts:horizontal 1.2"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """No look through all that is installed for components, and no result of another test."""
    monkeypatch.setattr("streamlit.components.v2.manifest_scanner.scan_component_manifests", list)
    streamlit.cache_data.clear()


@pytest.fixture
def keys(models, tmp_path):
    """Model -> key of its weights."""
    found = [json.loads(path.read_text())["record"] for path in (tmp_path / "share" / "models").glob("*.json")]
    return {record["spec"]["model"]["name"]: record["key"] for record in found}


@pytest.fixture
def animals(models, tmp_path):
    """The key of a network for CIFAR-10, which was never trained."""
    import safetensors.torch

    experiment = Experiment(model="resnet14", dataset="cifar10", recipe=RECIPES["cifar-short"], seed=0)
    layout = next((tmp_path / "share" / "models").glob("*.json"))
    kept = json.loads(layout.read_text())
    kept["record"] |= {"key": experiment.key(), "spec": experiment.spec()}
    kept["reads"] = {"side": 32, "mean": [0.5] * 3, "std": [0.25] * 3, "classes": ["cat", "dog", *"abcdefgh"]}
    torch.manual_seed(0)
    data = safetensors.torch.save(build("resnet14", 10).state_dict())
    files.write_atomic(layout.with_name(f"{experiment.key()}.safetensors"), data)
    files.write_json(layout.with_name(f"{experiment.key()}.json"), kept | {"sha256": files.sha256(data)})
    return experiment.key()


@pytest.fixture
def longer(keys, tmp_path):
    """The key of a second aw-resnet8, by another recipe and with another error."""
    kept = json.loads((tmp_path / "share" / "models" / f"{keys['aw-resnet8']}.json").read_text())
    experiment = Experiment(model="aw-resnet8", dataset="layouts", recipe=RECIPES["smoke-long"], seed=0)
    kept["record"] |= {"key": experiment.key(), "spec": experiment.spec()}
    folder = tmp_path / "share" / "models"
    shutil.copy(folder / f"{keys['aw-resnet8']}.safetensors", folder / f"{experiment.key()}.safetensors")
    files.write_json(folder / f"{experiment.key()}.json", kept | {"top1_error": 8.25})
    return experiment.key()


def numbers(test):
    return test.dataframe[0].value


def box(test, label):
    return next(one for kind in (test.selectbox, test.multiselect) for one in kind if one.label == label)


def test_without_networks_it_says_what_to_run(page):
    test = page("gradcam")
    assert not test.exception and not charts(test)
    assert "Run `workbench train se-resnet20 --data layouts --recipe smoke`" in text(test)


def test_without_the_package_it_says_what_to_install(page, models, monkeypatch):
    find = importlib.util.find_spec
    absent = lambda name, *more: None if name == "pytorch_grad_cam" else find(name, *more)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", absent)
    test = page("gradcam")
    assert not test.exception and not charts(test)
    assert "pip install -e '.[explain]'" in text(test)


def test_a_row_a_network_and_a_column_a_stage(page, keys):
    pytest.importorskip("pytorch_grad_cam")
    chosen = [keys["se-resnet8"], keys["dca-se-resnet8"]]
    test = page("gradcam", network=chosen, picture=PICTURE)
    assert not test.exception and not notices(test) and not test.warning
    (chart,) = charts(test)
    titles = [note["text"] for note in chart["layout"]["annotations"]]
    assert titles == ["picture", "stage 1", "stage 2", "stage 3"]
    assert len([trace for trace in chart["data"] if trace["type"] == "image"]) == 8
    frame = numbers(test)
    assert list(frame.index) == ["se-resnet8", "dca-se-resnet8"]
    assert (frame["predicted class"] == frame["class shown"]).all()
    assert frame["its probability"].between(1 / 32, 1).all()
    assert frame.filter(like="quarter").stack().dropna().between(0.25, 1).all()
    assert [*test.query_params["network"]] == chosen and test.query_params["class"] == "predicted"
    assert sorted(box(test, "Method").options) == sorted(box(page("gradcam", method="layercam"), "Method").options)


def test_the_methods_are_those_of_the_library(page, keys):
    pytest.importorskip("pytorch_grad_cam")
    frames = []
    for method in cam.METHODS:
        test = page("gradcam", network=keys["se-resnet8"], picture=PICTURE, method=method)
        assert not test.exception and not notices(test) and test.query_params["method"] == method
        frames.append(numbers(test).to_csv())
    assert len(box(test, "Method").options) == len(cam.METHODS)
    assert len(set(frames)) > 1  # witness: the method is used


def test_the_class_is_the_true_one_or_any_by_name(page, keys):
    pytest.importorskip("pytorch_grad_cam")
    classes = layouts.make(1, seed=1).classes
    found = {}
    for asked in ("predicted", "true", "vertical 0.1"):
        test = page("gradcam", network=keys["se-resnet8"], picture=PICTURE, **{"class": asked})
        assert not test.exception and not notices(test)
        found[asked] = numbers(test).iloc[0]["class shown"]
        assert len(box(test, "Class").options) == 2 + len(classes)
    assert found["true"] == "horizontal 1.2" and found["vertical 0.1"] == "vertical 0.1"
    assert found["predicted"] == numbers(test).iloc[0]["predicted class"]
    test = page("gradcam", picture="pattern:stripes", **{"class": "true"})  # of no data set
    assert len(box(test, "Class").options) == 1 + len(classes) and len(notices(test)) == 1


def test_by_default_all_were_trained_alike(page, keys, longer):
    """Else a longer training would look like a better module."""
    pytest.importorskip("pytorch_grad_cam")
    asked = page("gradcam", picture=PICTURE).query_params["network"]
    assert len(asked) > 1 and longer not in asked and keys["aw-resnet8"] in asked
    test = page("gradcam", network=[keys["aw-resnet8"], longer], picture=PICTURE)
    names = ["aw-resnet8, layouts, 50.00 % error", "aw-resnet8, layouts, 8.25 % error"]
    assert not test.exception and list(numbers(test).index) == names


def test_networks_of_different_data_sets_are_told_apart(page, keys, animals):
    pytest.importorskip("pytorch_grad_cam")
    chosen = [keys["se-resnet8"], animals]
    test = page("gradcam", network=chosen, picture=PICTURE, **{"class": "dog"})
    assert not test.exception and not notices(test)
    assert "different data sets (layouts, cifar10)" in text(test)
    assert "se-resnet8 has no class 'dog'; shown is the one it predicts" in text(test)
    frame = numbers(test)
    assert frame.loc["resnet14", "class shown"] == "dog"
    assert frame.loc["se-resnet8", "class shown"] == frame.loc["se-resnet8", "predicted class"]
    alone = page("gradcam", network=keys["se-resnet8"], picture=PICTURE)
    assert "different data sets" not in text(alone) and "has no class" not in text(alone)


def test_damaged_weights_leave_the_others(page, keys, tmp_path):
    pytest.importorskip("pytorch_grad_cam")
    (tmp_path / "share" / "models" / f"{keys['resnet8']}.safetensors").write_bytes(b"damaged")
    test = page("gradcam", network=[keys["resnet8"], keys["se-resnet8"]], picture=PICTURE)
    assert not test.exception and list(numbers(test).index) == ["se-resnet8"]
    assert "sha256" in text(test)


@pytest.mark.parametrize("key", ["network", "picture", "class", "method", "stage"])
def test_a_hostile_link_shows_the_default_and_says_so(page, keys, key, tmp_path):
    pytest.importorskip("pytorch_grad_cam")
    plain, before = page("gradcam"), tree(tmp_path)
    for hostile in (*HOSTILE[:4], "99", "abc", "0", "-1", "1.0"):
        test = page("gradcam", **{key: hostile})
        assert not test.exception
        (notice,) = notices(test)
        assert NOT_HERE.match(notice)[1] == key and len(notice) < 160
        assert numbers(test).to_csv() == numbers(plain).to_csv() and "root:" not in text(test)
    assert not notices(plain) and tree(tmp_path) == before


@pytest.mark.browser
def test_a_visit_in_a_browser(served, browser):
    pytest.importorskip("pytorch_grad_cam")
    address, _, root = served
    before = tree(root / "runs")
    browser.goto(f"{address}/gradcam?method=layercam&stage=1")
    browser.get_by_role("heading", level=1, name="Grad-CAM").wait_for()
    browser.locator(".js-plotly-plot .main-svg").first.wait_for()
    browser.wait_for_url(re.compile(r"[?&]method=layercam"))
    assert "The link asks for" not in browser.inner_text("body") and "stage=2" not in browser.url

    browser.get_by_role("combobox", name="Class").click()
    browser.get_by_role("option").nth(3).click()
    browser.wait_for_url(re.compile(r"[?&]class=(?!predicted)"))
    browser.locator(".js-plotly-plot .main-svg").first.wait_for()
    with settled(browser).expect_download() as waiting:
        browser.get_by_role("button", name="Download CSV").click()
    assert waiting.value.suggested_filename == "gradcam.csv"
    assert waiting.value.path().read_text().startswith("network,predicted class,its probability,class shown")
    assert len(browser.requested) > 10 and not outside(browser.requested, address)
    assert not unexpected(browser.complaints)
    assert tree(root / "runs") == before
