"""Every claim with its verdict, and its evidence one click away."""

import re

import pytest
import streamlit
from views import HOSTILE, NOT_HERE, ROOT, notices, outside, settled, text, tree, unexpected

from workbench.experiments import claims
from workbench.experiments.evidence import VERDICTS
from workbench.experiments.store import Store

CHEAP = ("training", "arithmetic")


@pytest.fixture
def few(monkeypatch):
    """The claims without those that count large networks, in place of all."""
    every = claims.read(ROOT / "data" / "claims.toml")
    law = next(claim for claim in every if claim.law == "dca_zero_is_vanilla")
    asked = [*(claim for claim in every if claim.kind in CHEAP), law]
    monkeypatch.setattr(claims, "known", lambda: asked)
    yield asked
    streamlit.cache_data.clear()


def shown(test):
    """The titles of the claims on the page."""
    return [box.label for box in test.expander]


def counts(test):
    return {metric.label: int(metric.value) for metric in test.metric}


def test_every_claim_has_a_verdict_and_its_evidence(page, few):
    test = page("claims")
    assert not test.exception and not notices(test)
    assert len(shown(test)) == len(few) == sum(counts(test).values())
    assert [*counts(test)] == [verdict.capitalize() for verdict in VERDICTS]
    assert not any(label.startswith("**Counting**") for label in shown(test))
    said = text(test)
    assert "No runs yet at a protocol that counts." in said and "Distance of f(G, 0) from G" in said
    for claim in few:
        assert f"(/?table={claim.table}) · `{claim.id}`" in said
    better = next(claim for claim in few if claim.test == "better")
    assert f"minimal effect {better.effect:g} points" in said and "the first row of every pair is better" in said


def test_the_verdicts_are_those_of_the_command(page, few, runs):
    test = page("claims")
    lines = claims.report(Store(runs))
    assert [label.split("**")[1].lower() for label in shown(test)] == [line["verdict"] for line in lines]
    assert len({line["verdict"] for line in lines}) > 1  # witness


def test_filters_are_in_the_link_and_count(page, few):
    test = page("claims", paper="AW", verdict="not measured")
    assert not test.exception and not notices(test)
    assert shown(test) and all(label.startswith("**Not measured** · AW ") for label in shown(test))
    assert counts(test)["Not measured"] == len(shown(test)) < len(few)
    test.selectbox[0].select("DCA").run()
    assert test.query_params["paper"] == "DCA"
    assert all(label.startswith("**Not measured** · DCA ") for label in shown(test))


def test_a_filter_that_leaves_nothing_says_what_to_do(page, few, monkeypatch):
    kept = [claim for claim in few if claim.kind == "arithmetic"]
    monkeypatch.setattr(claims, "known", lambda: kept)
    test = page("claims", verdict="not measured")
    assert not test.exception and not shown(test)
    assert "No claim is left. Choose all papers or all verdicts." in text(test)


@pytest.mark.parametrize("key", ["paper", "verdict"])
def test_a_hostile_link_shows_all_and_says_so(page, few, key):
    plain = page("claims")
    for hostile in HOSTILE:
        test = page("claims", **{key: hostile})
        assert not test.exception, hostile[:40]
        (notice,) = notices(test)
        assert NOT_HERE.match(notice)[1] == key and shown(test) == shown(plain)


def test_verdicts_are_made_again_when_a_record_changes(page, few, runs, monkeypatch):
    page("claims")
    judged = []
    judge = claims.judge
    monkeypatch.setattr(claims, "judge", lambda claim, store: judged.append(claim.id) or judge(claim, store))
    page("claims")
    assert not judged
    next(runs.glob("*/record.json")).unlink()
    page("claims")
    assert {*judged} == {claim.id for claim in few if claim.kind in CHEAP}  # no run can change a law


@pytest.mark.browser
def test_a_journey_through_claims(served, browser, tmp_path):
    address, _, root = served
    before = tree(root / "runs")
    browser.goto(f"{address}/claims?paper=AW")
    browser.get_by_role("heading", level=1, name="Claims").wait_for()
    browser.get_by_role("button", name="Download CSV").wait_for()
    browser.get_by_role("combobox", name="Verdict").click()
    browser.get_by_role("option", name="supported").first.click()
    browser.wait_for_url(re.compile(r"[?&]verdict=supported"))
    browser.reload()  # what is chosen survives it, and no button is of the run before
    browser.get_by_role("button", name="Download CSV").wait_for()
    assert browser.get_by_text("Not measured · AW").count() == 0
    browser.locator("details summary").first.click()
    browser.get_by_role("link", name=re.compile("^Table aw-")).first.wait_for()
    with settled(browser).expect_download() as download:
        browser.get_by_role("button", name="Download CSV").click()
    download.value.save_as(tmp_path / "claims.csv")
    assert "verdict" in (tmp_path / "claims.csv").read_text().partition("\n")[0]
    link = browser.locator("a[href*='/?table=']").first.get_attribute("href")
    browser.goto(f"{address}{link}" if link.startswith("/") else link)
    browser.get_by_role("heading", level=1, name="Published beside measured").wait_for()
    browser.wait_for_url(re.compile(r"[?&]table=aw-"))
    assert browser.get_by_role("dialog").count() == 0  # Streamlit's "Page not found": the first page has no name
    assert not outside(browser.requested, address) and not unexpected(browser.complaints)
    assert tree(root / "runs") == before
