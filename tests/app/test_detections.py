"""The page Detections: detectors side by side on the same pictures; links are checked."""

import re

import pytest
import streamlit
from PIL import Image
from views import DETECTORS, HOSTILE, NOT_HERE, charts, notices, outside, save_models, settled, text, tree, unexpected

from workbench.datasets import shapes
from workbench.experiments import zoo
from workbench.experiments.store import Store


@pytest.fixture(autouse=True)
def fresh():
    """No result of another test."""
    streamlit.cache_data.clear()


@pytest.fixture
def keys(tmp_path):
    """Of a plain and a CRA detector that were never trained, beside a classifier."""
    save_models(tmp_path / "share" / "models", (*DETECTORS, "se-resnet8"))
    store = Store(tmp_path / "runs", published=tmp_path / "share" / "results")
    found = {one.model: key for key, one in zoo.detectors(store).items()}
    return [found[model] for model in DETECTORS]


def test_without_detectors_it_says_what_to_run(page, models):
    test = page("detections")
    assert not test.exception and not charts(test)
    assert "--data shapes --recipe shapes`" in text(test)


def test_a_column_a_network_and_a_row_a_picture(page, keys):
    test = page("detections", network=keys, picture=["shapes:1", "photo:china"], least="5")
    assert not test.exception and not notices(test) and not test.warning
    shown = charts(test)
    titles = [chart["layout"]["annotations"][0]["text"] for chart in shown]
    assert titles == ["retinanet-resnet8", "retinanet-cra4-resnet8"]
    for chart in shown:
        assert len([trace for trace in chart["data"] if trace["type"] == "image"]) == 2
        assert [chart["layout"][axis]["title"]["text"] for axis in ("yaxis", "yaxis2")] == ["shapes:1", "photo:china"]
    colours = [{one["name"]: one["line"]["color"] for one in chart["data"] if one.get("name")} for chart in shown]
    assert {*colours[0].items()} & {*colours[1].items()} and len({*colours[0].values()}) == len(colours[0])
    assert all(colours[0].get(name, colour) == colour for name, colour in colours[1].items())
    rows = test.dataframe[0].value
    assert list(rows.columns)[-2:] == ["IoU", "true class"] and {*rows["class"]} <= {*shapes.CLASSES}
    assert len(rows) > 10 and (rows["score"] >= 0.05).all()
    assert rows["IoU"].notna().eq(rows["picture"] == "shapes:1").all()
    assert "not from there: photo:china" in text(test) and "AP 1.50 %" in text(test)
    assert [*test.query_params["network"]] == keys and test.query_params["least"] == "5"


def test_it_begins_with_pictures_of_the_data_the_detector_knows(page, keys):
    test = page("detections")
    assert not test.exception and not notices(test)
    assert [one.partition(":")[0] for one in test.query_params["picture"]] == ["shapes"] * 2
    assert [*test.query_params["network"]] == keys and "not from there" not in text(test)
    networks = next(box for box in test.multiselect if box.label == "Detectors")
    assert len(networks.options) == 2  # the classifier is none of them
    for name in ("attention", "gradcam"):
        other = page(name)
        assert "shapes" not in "".join(other.query_params["picture"]) and keys[0] not in other.query_params["network"]


def test_the_least_score_is_that_of_the_slider(page, keys):
    few, many = (page("detections", least=least) for least in ("95", "5"))
    assert few.dataframe[0].value.empty and "lower the least score" in text(few)
    assert len(many.dataframe[0].value) > 10
    assert few.slider[0].value == 95 and "of at least 95 %" in charts(few)[0]["layout"]["meta"]
    assert "of at least 5 %" in charts(many)[0]["layout"]["meta"]  # witness


def test_damaged_weights_leave_the_other(page, keys, tmp_path):
    (tmp_path / "share" / "models" / f"{keys[0]}.safetensors").write_bytes(b"damaged")
    test = page("detections", network=keys)
    assert not test.exception and "sha256" in text(test)
    (chart,) = charts(test)
    assert chart["layout"]["annotations"][0]["text"] == "retinanet-cra4-resnet8"


@pytest.mark.parametrize("key", ["network", "picture", "least"])
def test_a_hostile_link_shows_the_default_and_says_so(page, keys, key, tmp_path):
    plain, before = page("detections"), tree(tmp_path)
    for hostile in (HOSTILE[0], "1.0", "96"):  # tests/faults/test_app.py has more of them
        test = page("detections", **{key: hostile})
        assert not test.exception
        (notice,) = notices(test)
        assert NOT_HERE.match(notice)[1] == key and len(notice) < 160
        assert charts(test) == charts(plain) and "root:" not in text(test)
    assert not notices(plain) and tree(tmp_path) == before


@pytest.mark.browser
def test_a_visit_in_a_browser(served, browser):
    """With the detectors that come along."""
    address, _, root = served
    before = tree(root / "runs")
    browser.goto(f"{address}/detections?least=20&picture=shapes:2")
    browser.get_by_role("heading", level=1, name="Detections").wait_for()
    browser.locator(".js-plotly-plot .main-svg").first.wait_for()
    browser.wait_for_url(re.compile(r"[?&]least=20"))
    assert "The link asks for" not in browser.inner_text("body")
    settled(browser).get_by_role("slider").press("ArrowRight")
    browser.wait_for_url(re.compile(r"[?&]least=21"))
    browser.locator(".js-plotly-plot .main-svg").first.wait_for()
    with settled(browser).expect_download() as waiting:
        browser.get_by_role("button", name="Download CSV").click()
    assert waiting.value.suggested_filename == "detections.csv"
    assert waiting.value.path().read_text().startswith("box,network,picture,class,score,left,top,right,bottom,IoU")
    Image.fromarray(shapes.make(1, seed=9)[0].picture.numpy()).save(root / "mine.png")
    settled(browser).locator("input[type=file]").set_input_files(root / "mine.png")
    browser.get_by_text("not from there: uploaded").first.wait_for()
    with settled(browser).expect_download() as waiting:
        browser.get_by_role("button", name="Download CSV").click()
    assert ",uploaded," in waiting.value.path().read_text() and "mine" not in browser.url
    assert len(browser.requested) > 10 and not outside(browser.requested, address)
    assert not unexpected(browser.complaints)
    assert tree(root / "runs") == before
