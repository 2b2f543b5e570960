"""The page of one block in numbers and of the family: its choices are its link, whatever the link says."""

import re

import pytest
from views import HOSTILE, MODELS, NOT_HERE, charts, notices, outside, save_models, settled, text, tree, unexpected

from workbench.explain import anatomy
from workbench.explain.family import LAWS

ATTENDED = [model for model in MODELS if model != "resnet8"]
CHOICES = {"view": "steps", "network": "", "block": "", "channel": "0", "picture": "", "size": ""}


def link(test):
    return dict(test.query_params)


def metrics(test):
    return {metric.label.split(":")[0]: float(metric.value) for metric in test.metric}


def test_without_trained_networks_modules_stand_in_and_say_so(page):
    test = page("anatomy")
    assert not test.exception and not notices(test)
    assert "`workbench train" in test.info[0].value
    network = test.selectbox[0]
    assert network.value == "cra" and len(network.options) == len(anatomy.UNTRAINED)
    assert all("untrained weights, seed 0" in option for option in network.options)
    assert {*metrics(test)} == {"Extract", "Transform", "Fuse"} and charts(test)
    assert {*link(test)} == {*CHOICES}


def test_every_trained_network_with_attention_is_a_choice(page, models):
    test = page("anatomy")
    names = test.selectbox[0].options
    assert not test.info
    for model in ATTENDED:
        assert any(name.startswith(f"{model}, layouts") for name in names)
    assert not any(name.startswith("resnet8,") for name in names)  # nothing to look into


@pytest.mark.parametrize("word", [*anatomy.UNTRAINED])
def test_every_module_has_its_anatomy(page, word):
    test = page("anatomy", network=word)
    assert not test.exception and not notices(test) and not test.warning
    steps = {"Extract", "Transform", "Fuse"} | ({"Connect"} if word.startswith("dca") else set())
    assert {*metrics(test)} == steps
    assert len(test.get("latex") or re.findall("begin{aligned}", text(test))) >= len(steps)
    assert ("size" in link(test)) == (word in ("se", "cra", "dca-se", "dca-cra"))


def test_choices_of_the_link_are_respected_and_kept(page, models):
    query = {"view": "steps", "network": "dca-se", "block": "3.1", "channel": "17", "picture": "pattern:stripes"}
    test = page("anatomy", **query, size="8")
    assert not test.exception and not notices(test)
    assert link(test) == query | {"size": "8"}
    assert "r = 8, hidden width 8" in test.dataframe[-1].value.to_csv()
    other = page("anatomy", **(query | {"channel": "18"}), size="8")
    assert metrics(test)["Transform"] != metrics(other)["Transform"]  # witness


def test_a_reduction_beyond_the_slider_of_others_is_a_choice(page, tmp_path):
    wide = "se[reduction=80]-shufflenet0_5"
    save_models(tmp_path / "share" / "models", [wide])
    test = page("anatomy", network=wide)
    assert not test.exception and link(test)["network"].startswith("se")
    assert test.slider[-1].max == test.slider[-1].value == 80


def test_sliders_change_the_page_and_the_link(page):
    test = page("anatomy", network="cra")
    before = metrics(test)
    test.slider[0].set_value(3).run()
    assert not test.exception and link(test)["channel"] == "3" and metrics(test) != before
    assert "4x4 grid" in text(test)
    test.slider[1].set_value(2).run()
    assert link(test)["size"] == "2" and "2x2 grid" in text(test) and link(test)["channel"] == "3"


def test_the_family_lists_every_law_with_its_test(page):
    test = page("anatomy", view="family")
    assert not test.exception and not notices(test)
    (chart,) = charts(test)
    for law in LAWS:
        assert law.text in text(test) and law.test.split("::")[1] in text(test)
        assert law.text in chart["layout"]["meta"]
    assert link(test) == {"view": "family"}


CASES = [("network", value) for value in HOSTILE]
CASES += [(key, HOSTILE[i]) for i, key in enumerate(["view", "block", "channel", "picture", "size", "block"])]
CASES += [("channel", "99"), ("channel", "-1"), ("size", "0"), ("size", "99"), ("block", "9.9")]


@pytest.mark.parametrize(("key", "hostile"), CASES, ids=[f"{key}-{value[:12]!r}" for key, value in CASES])
def test_a_hostile_link_shows_the_default_and_says_so_in_one_line(page, key, hostile):
    test = page("anatomy", **{key: hostile})
    assert not test.exception
    (notice,) = notices(test)
    assert NOT_HERE.match(notice)[1] == key and len(notice) < 120 and "\n" not in notice
    assert "root:" not in text(test)
    assert link(test)["network"] == "cra" and link(test)["channel"] == "0"


def test_weights_that_are_damaged_are_said(page, models, tmp_path):
    damaged = next((tmp_path / "share" / "models").glob("se-resnet8*.safetensors"))
    damaged.write_bytes(damaged.read_bytes()[:100])
    test = page("anatomy", network=damaged.stem)
    assert not test.exception
    assert "sha256" in test.warning[0].value and not charts(test)


def test_nothing_is_written(page, models, tmp_path):
    before = tree(tmp_path)
    for view in ("steps", "family"):
        assert not page("anatomy", view=view).exception
    assert tree(tmp_path) == before
    save_models(tmp_path / "more", MODELS[:1])
    assert tree(tmp_path) != before  # witness


@pytest.mark.browser
def test_a_visit_in_a_browser(served, browser):
    address, _, root = served
    before = tree(root / "runs")
    browser.goto(f"{address}/anatomy?network=cra&block=2.1&channel=3&picture=pattern:stripes")
    browser.get_by_role("heading", level=1, name="Module anatomy").wait_for()
    browser.get_by_role("button", name="Download figure").wait_for()
    browser.locator(".js-plotly-plot .main-svg").first.wait_for()
    assert "The link asks for" not in browser.inner_text("body")

    slider = browser.get_by_role("slider", name="Channel c")
    slider.focus()
    slider.press("ArrowRight")
    browser.wait_for_url(re.compile(r"[?&]channel=4"))
    browser.get_by_text("channel 4", exact=False).first.wait_for()

    with settled(browser).expect_download() as saved:
        browser.get_by_role("button", name="Download CSV").click()
    csv = saved.value.path().read_text()
    assert csv.startswith("step,line,term,value,weight,product,rule,result") and "T_{4}" in csv

    browser.get_by_role("radio", name="Family").or_(browser.get_by_role("button", name="Family")).first.click()
    browser.wait_for_url(re.compile(r"[?&]view=family"))
    browser.get_by_text(LAWS[0].text).first.wait_for()
    assert len(browser.requested) > 10  # witness: the requests were seen
    assert not outside(browser.requested, address)
    assert not unexpected(browser.complaints)
    assert tree(root / "runs") == before
