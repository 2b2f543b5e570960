"""The explorer shows what there is and says what there is not; its links are checked, and it writes nothing."""

import re
from pathlib import Path

import pytest
from views import HOSTILE, NOT_HERE, charts, notices, outside, save_folder, text, tree, unexpected

from workbench.experiments import tables


def test_tables_without_runs_say_what_to_run(page):
    test = page("tables")
    assert not test.exception
    assert test.title[0].value == "Published beside measured"
    assert "Run `workbench reproduce cra-4 --budget smoke`" in text(test)
    frame = test.dataframe[0].value
    assert list(frame.index)[:5] == ["<7,7>", "<5,5>", "<3,3>", "<1,1>", "w/o"]
    assert "24.20" in frame.to_csv() and "25.56 =" in frame.to_csv()
    assert not charts(test)
    assert "Nothing is measured yet" in text(test)


def test_curves_without_runs_say_what_to_run(page):
    test = page("curves")
    assert not test.exception
    assert "Run `workbench reproduce cra-4 --budget smoke`" in text(test)
    assert not charts(test)


def test_tables_show_what_is_measured(page, runs):
    test = page("tables")
    assert not test.exception
    frame = test.dataframe[0].value.to_csv()
    assert "3.50 +- 0.71 (n = 2)" in frame and "12.00 (one seed)" in frame and "not measured" in frame
    assert "CPU A, 1 thread" in text(test)
    assert "<7,7>: -91.00 points (n = 2" in text(test)
    (chart,) = charts(test)
    assert {trace["name"] for trace in chart["data"]} == {"published, one run", "one seed", "mean"}
    assert "Run `workbench" not in text(test)


def test_curves_show_what_is_measured_and_what_is_not_finished(page, runs):
    test = page("curves", metric="train_loss")
    assert not test.exception
    (chart,) = charts(test)
    assert [trace["name"] for trace in chart["data"] if trace.get("name")] == ["<7,7> (n = 2)", "w/o (n = 2)"]
    assert chart["layout"]["yaxis"]["title"]["text"] == "train loss"
    assert [item.value for item in test.subheader] == ["Not finished"]


@pytest.mark.parametrize("key", tables.known())
def test_every_table_has_its_page(page, runs, key):
    test = page("tables", table=key)
    assert not test.exception
    assert not notices(test)
    assert test.selectbox[0].value == key
    assert tables.load(key).caption in text(test)
    assert len(test.dataframe[0].value) == len((*tables.load(key).rows, *tables.load(key).controls))


@pytest.mark.parametrize(
    ("name", "query"),
    [
        ("tables", {"table": "dca-4"}),
        ("tables", {"table": "cra-4", "budget": "cifar"}),
        ("curves", {"table": "dca-2", "budget": "cifar", "metric": "test_loss"}),
    ],
)
def test_choices_of_the_link_are_respected_and_kept(page, runs, name, query):
    test = page(name, **query)
    assert not test.exception and not notices(test)
    assert {box.value for box in test.selectbox} >= {*query.values()}
    assert {key: test.query_params[key] for key in query} == query


def test_a_choice_changes_the_page_and_the_link(page, runs):
    test = page("tables", table="cra-4")
    test.selectbox[0].select("cra-1").run()
    assert not test.exception
    assert test.query_params["table"] == "cra-1"
    assert tables.load("cra-1").caption in text(test) and tables.load("cra-4").caption not in text(test)


@pytest.mark.parametrize("hostile", HOSTILE, ids=[repr(value[:20]) for value in HOSTILE])
@pytest.mark.parametrize(("name", "key"), [("tables", "table"), ("curves", "budget"), ("curves", "metric")])
def test_a_hostile_link_shows_the_default_and_says_so_in_one_line(page, runs, name, key, hostile):
    before = tree(runs)
    plain = page(name)
    test = page(name, **{key: hostile})
    assert not test.exception
    (notice,) = notices(test)
    assert NOT_HERE.match(notice)[1] == key and len(notice) < 120 and "\n" not in notice
    assert "root:" not in text(test)
    assert [box.value for box in test.selectbox] == [box.value for box in plain.selectbox]
    assert [frame.value.to_csv() for frame in test.dataframe] == [frame.value.to_csv() for frame in plain.dataframe]
    assert not notices(plain)  # witness
    assert tree(runs) == before


def test_a_budget_that_the_table_lacks_is_not_carried_along(page, runs):
    """A link made on one table, opened on another."""
    test = page("tables", table="dca-2", budget="cifar")  # nothing of dca-2 is measured here
    assert not test.exception
    assert "Run `workbench reproduce dca-2 --budget smoke`" in text(test)


def test_runs_on_a_folder_are_shown_by_themselves(page, runs):
    """Chosen by what records call them; no path is typed, and the folder need not be here."""
    save_folder(runs, "pets", "12345678" * 8, 61.0)
    save_folder(runs, "pets", "abcdef01" * 8, 62.0)
    plain, test = page("tables"), page("tables", data="folder:pets@12345678")
    assert not plain.exception and not test.exception and not notices(test)
    (box,) = [box for box in test.selectbox if box.label == "Data"]
    assert box.value == "folder:pets@12345678" and len(box.options) == 3
    assert "61.00" in test.dataframe[0].value.to_csv() and "94.50" not in test.dataframe[0].value.to_csv()
    assert "62.00" not in test.dataframe[0].value.to_csv()
    assert "measured here, smoke, folder:pets@12345678" in text(test) and len(charts(test)) == 1
    assert "94.50" in plain.dataframe[0].value.to_csv() and "61.00" not in plain.dataframe[0].value.to_csv()
    curves = page("curves", data="folder:pets@abcdef01", metric="train_loss")
    assert not curves.exception and not notices(curves)
    (chart,) = charts(curves)
    assert [trace["name"] for trace in chart["data"] if trace.get("name")] == ["w/o (one seed)"]


def test_without_runs_on_a_folder_there_is_nothing_to_choose(page, runs):
    for name in ("tables", "curves"):
        assert "Data" not in [box.label for box in page(name).selectbox]


@pytest.mark.parametrize("hostile", [*HOSTILE, "folder:/etc", "folder:pets@00000000"])
@pytest.mark.parametrize("name", ["tables", "curves"])
def test_a_hostile_folder_in_the_link_shows_the_budgets_own(page, runs, name, hostile):
    plain, test = page(name), page(name, data=hostile)
    assert not test.exception
    (notice,) = notices(test)
    assert NOT_HERE.match(notice)[1] == "data" and len(notice) < 120
    assert [frame.value.to_csv() for frame in test.dataframe] == [frame.value.to_csv() for frame in plain.dataframe]
    assert charts(test) == charts(plain)


def test_nothing_is_written(page, runs, tmp_path):
    before = tree(tmp_path)
    for name in ("tables", "curves"):
        assert not page(name).exception
    assert tree(tmp_path) == before


def test_an_empty_folder_is_not_made(page, tmp_path):
    for name in ("tables", "curves"):
        assert not page(name).exception
    assert not (tmp_path / "runs").exists()


def test_a_damaged_record_neither_stops_a_page_nor_is_touched(page, runs):
    damaged = next(runs.glob("circularnet-*/record.json"))
    damaged.write_bytes(damaged.read_bytes()[:100])
    before = tree(runs)
    for name in ("tables", "curves"):
        assert not page(name).exception
    assert "94.00" not in page("tables").dataframe[0].value.to_csv()
    assert tree(runs) == before  # the explorer only looks


def test_a_run_without_a_whole_spec_does_not_stop_a_page(page, runs):
    (runs / "half").mkdir()
    (runs / "half" / "spec.json").write_text('{"format": 1, "mod')
    for name in ("tables", "curves"):
        assert not page(name).exception


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="the kernel's list of sockets is Linux's")
def test_it_listens_to_this_machine_alone(served):
    listening = []
    for name in ("tcp", "tcp6"):
        for line in Path("/proc/net", name).read_text().splitlines()[1:] if Path("/proc/net", name).exists() else ():
            address, state = line.split()[1], line.split()[3]
            host, port = address.rsplit(":", 1)
            if state == "0A" and int(port, 16) == served[1]:
                listening.append(host)
    assert listening == ["0100007F"]  # 127.0.0.1, in the kernel's order of bytes


@pytest.mark.browser
def test_a_visit_in_a_browser(served, browser):
    address, _, root = served
    before = tree(root / "runs")
    browser.goto(address)
    browser.get_by_role("heading", level=1, name="Published beside measured").wait_for()
    browser.get_by_test_id("stDataFrame").first.wait_for()
    browser.locator(".js-plotly-plot .main-svg").first.wait_for()
    browser.wait_for_url(re.compile(r"[?&]table=cra-4"))
    assert tables.load("cra-4").caption in browser.inner_text("body")

    box = browser.get_by_role("combobox", name="Table")
    box.click()
    browser.get_by_role("option", name=re.compile("^dca-4")).click()
    browser.wait_for_url(re.compile(r"[?&]table=dca-4"))
    browser.get_by_text("Two lightweight fully-connected layers").wait_for()
    assert not outside(browser.requested, address)
    assert not unexpected(browser.complaints)

    browser.goto(f"{address}/curves?table=cra-4&budget=smoke&metric=test_loss")
    browser.get_by_role("heading", level=1, name="Curves").wait_for()
    browser.locator(".js-plotly-plot .main-svg").first.wait_for()
    browser.get_by_text("w/o (n = 2)").first.wait_for()
    assert all(f"{key}=" in browser.url for key in ("table", "budget", "metric"))
    assert "test_loss" in browser.url
    assert "The link asks for" not in browser.inner_text("body")

    browser.goto(f"{address}/?table=../../etc/passwd")
    browser.get_by_text("which is not here; showing cra-4").wait_for()
    browser.wait_for_url(re.compile(r"[?&]table=cra-4"))
    assert "root:" not in browser.inner_text("body")

    assert len(browser.requested) > 10  # witness: the requests were seen
    assert not outside(browser.requested, address)
    assert outside(["https://data.streamlit.io/x", address + ".example.org/"], address)  # witness
    assert not unexpected(browser.complaints)
    assert tree(root / "runs") == before
