"""The page Attention shows what the chosen networks have, says what they have not, and survives every link."""

import re

import pytest
from views import HOSTILE, NOT_HERE, charts, notices, outside, save_models, settled, text, tree, unexpected

from workbench.explain.kinds import KINDS

PAIR = ["layouts:horizontal 0.0", "layouts:vertical 3.2"]


@pytest.fixture
def key(models, tmp_path):
    """key(model): the key of an untrained network."""
    found = {}
    for path in (tmp_path / "share" / "models").glob("*.json"):
        found[path.stem.split("-layouts")[0]] = path.stem
    return found.__getitem__


def attention(page, key, *networks, **query):
    return page("attention", network=[key(one) for one in networks], picture=query.pop("picture", PAIR), **query)


def test_without_networks_the_page_says_what_to_run(page):
    test = page("attention")
    assert not test.exception and not charts(test)
    assert "Run `workbench train" in text(test)


def test_by_default_the_first_network_shows_what_it_has(page, models):
    test = page("attention")
    assert not test.exception and not notices(test) and not test.warning
    assert test.query_params["view"] == "taps"  # what aw-resnet8, the first, has
    assert re.search(r"\*\*(horizontal|vertical) \d\.\d\*\*, \d+\.\d %", text(test))  # the class and its probability


@pytest.mark.parametrize(
    ("view", "model", "figures"),
    [
        ("curves", "se-resnet8", 1),
        ("heat", "cra4-resnet8", 1),
        ("difference", "dca-se-resnet8", 1),
        ("spatial", "cbam-resnet8", 1),
        ("templates", "cra4-resnet8", 2),
        ("branches", "sk-resnet8", 2),
        ("taps", "aw-resnet8", 2),
    ],
)
def test_each_view_shows_what_its_networks_have(page, key, view, model, figures):
    test = attention(page, key, model, view=view)
    assert not test.exception and not notices(test) and not test.warning and not test.info
    assert len(charts(test)) == figures and len(test.dataframe) == 1
    assert KINDS[view].words in text(test)
    lacking = attention(page, key, "resnet8", view=view)
    assert not lacking.exception and not charts(lacking)
    (sentence,) = [info.value for info in lacking.info]
    assert re.fullmatch(rf"resnet8 has no {KINDS[view].what}; choose \S+ instead\.", sentence)


def test_two_networks_stand_beside_each_other_on_one_scale(page, key):
    test = attention(page, key, "se-resnet8", "cra4-resnet8")
    first, second = charts(test)
    assert first["layout"]["yaxis"]["range"] == second["layout"]["yaxis"]["range"]
    assert [item.value.split(",")[0] for item in test.subheader] == ["se-resnet8", "cra4-resnet8"]
    shown = charts(attention(page, key, "se-resnet8", "cra4-resnet8", view="heat"))
    shown += [charts(attention(page, key, one, view="heat"))[0] for one in ("se-resnet8", "cra4-resnet8")]
    one, other, *alone = [(chart["data"][0]["zmin"], chart["data"][0]["zmax"]) for chart in shown]
    assert one == other == (min(low for low, _ in alone), max(high for _, high in alone))
    assert alone[0] != alone[1]  # witness
    half = attention(page, key, "se-resnet8", "sk-resnet8", view="branches")
    assert len(charts(half)) == 2 and "se-resnet8 has no selective kernel" in half.info[0].value


def test_block_and_channel_are_in_the_link(page, key):
    test = attention(page, key, "cra4-resnet8", view="templates", block="2.1", channel="7")
    assert not test.exception and not notices(test)
    assert (test.query_params["block"], test.query_params["channel"]) == ("2.1", "7")
    assert test.dataframe[0].value["channel"].tolist() == [7, 7]
    assert "the sum of E · X is" in text(test)
    test.slider[0].set_value(9).run()
    assert test.query_params["channel"] == "9" and test.dataframe[0].value["channel"].tolist() == [9, 9]


def test_a_picture_of_another_kind_is_said_to_be_one(page, key):
    test = attention(page, key, "se-resnet8", picture=[PAIR[0], "pattern:stripes"])
    (warning,) = [item.value for item in test.warning]
    assert "se-resnet8 was trained on layouts, and this is not from there: pattern:stripes." in warning
    assert not attention(page, key, "se-resnet8").warning  # witness


def test_a_difference_needs_two_pictures(page, key):
    test = attention(page, key, "se-resnet8", view="difference", picture=PAIR[:1])
    assert not test.exception and not charts(test)
    assert "choose a second one" in test.info[0].value


def test_a_view_is_chosen_by_its_button(page, key):
    test = attention(page, key, "cra4-resnet8")
    test.segmented_control[0].set_value("templates").run()
    assert not test.exception and test.query_params["view"] == "templates" and len(charts(test)) == 2


def test_what_is_no_gate_is_said(page, tmp_path):
    save_models(tmp_path / "share" / "models", ("gc[reduction=4]-resnet8",))
    test = page("attention")
    assert "GC's T is an added term, no gate" in text(test) and charts(test)


@pytest.mark.parametrize("hostile", HOSTILE[:5], ids=[repr(value[:20]) for value in HOSTILE[:5]])
def test_a_hostile_link_shows_the_default_and_says_so(page, key, tmp_path, hostile):
    before = tree(tmp_path / "share")
    wrong = dict.fromkeys(("view", "block", "channel", "order", "scale"), hostile)
    test = attention(page, key, "cra4-resnet8", **wrong)
    assert not test.exception and len(charts(test)) == 1
    assert {NOT_HERE.match(notice)[1] for notice in notices(test)} == {"view", "order"}
    deeper = attention(page, key, "cra4-resnet8", **(wrong | {"view": "templates"}))
    assert not deeper.exception and len(charts(deeper)) == 2
    assert {NOT_HERE.match(notice)[1] for notice in notices(deeper)} == {"block", "channel"}
    nobody = page("attention", network=hostile, picture=hostile)
    assert not nobody.exception and {NOT_HERE.match(notice)[1] for notice in notices(nobody)} == {"network", "picture"}
    assert tree(tmp_path / "share") == before


def test_weights_that_are_damaged_are_said_to_be(page, key, tmp_path):
    path = tmp_path / "share" / "models" / f"{key('cra4-resnet8')}.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    test = attention(page, key, "cra4-resnet8", "se-resnet8")
    assert not test.exception and len(charts(test)) == 1
    assert "is not what was written" in test.warning[0].value


@pytest.mark.browser
def test_a_visit_in_a_browser(served, browser):
    """The server of the tests reads the project's own weights."""
    address, _, root = served
    before = tree(root / "runs")
    model, picture = "cra7-circularnet-layouts-0-847df4e19228", "layouts:horizontal+0.0"
    browser.set_default_timeout(240_000)  # the first visit imports torch
    browser.goto(f"{address}/attention?network={model}&picture={picture}&view=templates&block=1.2&channel=3")
    browser.get_by_role("heading", level=1, name="Attention").wait_for()
    browser.get_by_text("the sum of E · X is").first.wait_for()
    browser.locator(".js-plotly-plot .main-svg").first.wait_for()
    assert "The link asks for" not in browser.inner_text("body")
    browser.get_by_role("slider", name="Channel").press("ArrowRight")
    browser.wait_for_url(re.compile(r"[?&]channel=4"))
    with settled(browser).expect_download() as download:
        browser.get_by_role("button", name="Download CSV").click()
    assert download.value.suggested_filename == f"attention-templates-{model}.csv"
    browser.get_by_role("radio", name="Two pictures apart").or_(
        browser.get_by_role("button", name="Two pictures apart")
    ).click()
    browser.wait_for_url(re.compile(r"[?&]view=difference"))
    browser.get_by_text("choose a second one").wait_for()
    browser.reload()
    browser.get_by_text("choose a second one").wait_for()
    assert not outside(browser.requested, address) and not unexpected(browser.complaints)
    assert tree(root / "runs") == before
