"""The explorer shows what there is and says what there is not; its links are checked, and it writes nothing."""

import re
from pathlib import Path

import pytest
from streamlit.dataframe_util import convert_arrow_bytes_to_pandas_df
from views import HOSTILE, NOT_HERE, charts, notices, outside, save_folder, text, tree, unexpected

from workbench import files
from workbench.experiments import tables
from workbench.experiments.experiment import Experiment, Record
from workbench.explain import complexity
from workbench.training.recipe import RECIPES


def cells(test):
    """The texts of the first sheet, cell by cell as they are shown."""
    return convert_arrow_bytes_to_pandas_df(test.dataframe[0].proto.arrow_data.styler.display_values)


def save_run(root, model, error):
    """A run of this model on `layouts` by the recipe of the budgets smoke."""
    experiment = Experiment(model=model, dataset="layouts", recipe=RECIPES["smoke"], seed=0)
    metrics = {"top1_error": error, "top5_error": error / 4, "best_top1_error": error}
    where = {"device": "CPU A", "threads": 1, "compiled": False, "code": "1f3a9c2e"}
    curves = [{"epoch": 1, "lr": 0.1, "test_top1_error": error}]
    record = Record(experiment.key(), experiment.spec(), "done", metrics, curves, where, 1.0)
    (root / record.key).mkdir(parents=True)
    files.write_json(root / record.key / "record.json", record._asdict())


def sheet(test):
    """The numbers of the first sheet, by which it is sorted."""
    return test.dataframe[0].value


def test_tables_without_runs_say_what_to_run(page):
    test = page("tables")
    assert not test.exception
    assert test.title[0].value == "Published beside measured"
    assert "Run `workbench reproduce cra-4 --budget smoke`" in text(test)
    assert list(sheet(test)["row"])[:5] == ["<7,7>", "<5,5>", "<3,3>", "<1,1>", "w/o"]
    assert list(cells(test)["published"])[4] == "24.20" and list(sheet(test)["published"])[4] == 24.2
    assert sheet(test)["measured"].isna().all() and set(sheet(test)["status"]) == {"not measured"}
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
    lines = sheet(test).set_index("row")
    assert lines.loc["<7,7>", "measured":"protocol"].to_list() == [3.5, pytest.approx(0.7071, abs=1e-4), 2, 1]
    assert sorted(lines.loc["w/o", "measured"]) == [12.0, 94.5]  # two protocols, a line each
    assert cells(test)["spread"].to_list().count("0.71") == 2 and "not measured" in set(lines["status"])
    assert "1. measured here, smoke: layouts, 3 epochs" in text(test)
    assert "CPU A, 1 thread" in text(test)
    assert "<7,7>: -91.00 points (n = 2" in text(test)
    chart, over = charts(test)
    assert {trace["name"] for trace in chart["data"]} == {"published, one run", "one seed", "mean"}
    assert "over parameters of" in over["layout"]["meta"]
    assert "Run `workbench" not in text(test)


def test_curves_show_what_is_measured_and_what_is_not_finished(page, runs):
    test = page("curves", metric="train_loss")
    assert not test.exception
    (chart,) = charts(test)
    assert [trace["name"] for trace in chart["data"] if trace.get("name")] == ["<7,7> (n = 2)", "w/o (n = 2)"]
    assert chart["layout"]["yaxis"]["title"]["text"] == "train loss"
    assert [item.value for item in test.subheader] == ["Not finished"]


@pytest.mark.parametrize("key", tables.known())
def test_every_table_has_its_page(page, runs, key, monkeypatch):
    """Counting the papers' networks takes seconds each, and test_tables.py does it."""
    monkeypatch.setattr(complexity, "count", lambda *given, **named: complexity.Complexity(1, 1, 224))
    test = page("tables", table=key)
    assert not test.exception
    assert not notices(test)
    assert test.selectbox[0].value == key
    assert tables.load(key).caption in text(test)
    labels = [row.label for row in (*tables.load(key).rows, *tables.load(key).controls)]
    assert list(dict.fromkeys(sheet(test)["row"])) == labels
    assert all(f"†{number} " in text(test) for number in range(1, 1 + len(tables.load(key).errata)))


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


@pytest.mark.parametrize(
    ("name", "key"), [("tables", "table"), ("tables", "column"), ("tables", "status"), ("curves", "metric")]
)
def test_a_hostile_link_shows_the_default_and_says_so_in_one_line(page, runs, name, key):
    before = tree(runs)
    plain = page(name)
    assert not notices(plain)  # witness
    for hostile in HOSTILE:
        test = page(name, **{key: hostile})
        assert not test.exception, hostile[:40]
        (notice,) = notices(test)
        assert NOT_HERE.match(notice)[1] == key and len(notice) < 120 and "\n" not in notice
        assert "root:" not in text(test)
        assert [box.value for box in test.selectbox] == [box.value for box in plain.selectbox]
        assert [frame.value.to_csv() for frame in test.dataframe] == [frame.value.to_csv() for frame in plain.dataframe]
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
    assert 61.0 in set(sheet(test)["measured"]) and not {94.5, 62.0} & set(sheet(test)["measured"])
    assert "measured here, smoke, folder:pets@12345678" in text(test) and len(charts(test)) == 1
    assert 94.5 in set(sheet(plain)["measured"]) and 61.0 not in set(sheet(plain)["measured"])
    curves = page("curves", data="folder:pets@abcdef01", metric="train_loss")
    assert not curves.exception and not notices(curves)
    (chart,) = charts(curves)
    assert [trace["name"] for trace in chart["data"] if trace.get("name")] == ["w/o (one seed)"]


def test_without_runs_on_a_folder_there_is_nothing_to_choose(page, runs):
    for name in ("tables", "curves"):
        assert "Data" not in [box.label for box in page(name).selectbox]


@pytest.mark.parametrize("name", ["tables", "curves"])
def test_a_hostile_folder_in_the_link_shows_the_budgets_own(page, runs, name):
    plain = page(name)
    for hostile in [*HOSTILE, "folder:/etc", "folder:pets@00000000"]:
        test = page(name, data=hostile)
        assert not test.exception, hostile[:40]
        (notice,) = notices(test)
        assert NOT_HERE.match(notice)[1] == "data" and len(notice) < 120
        assert [frame.value.to_csv() for frame in test.dataframe] == [frame.value.to_csv() for frame in plain.dataframe]
        assert charts(test) == charts(plain)


def test_every_column_sorts_by_numbers_and_shows_the_print(page):
    """A printed count that nothing reproduces has its mark in its cell, and is a number for all that."""
    key, erratum, number = next(
        (key, one, number) for key in tables.known() for number, one in enumerate(tables.load(key).errata, 1) if one.row
    )
    test = page("tables", table=key, column=erratum.metric[0])
    assert not test.exception and not notices(test)
    place = list(sheet(test)["row"]).index(erratum.row[0])
    printed = next(row for row in tables.load(key).rows if row.label == erratum.row[0]).published[erratum.metric[0]]
    assert list(cells(test)["published"])[place] == f"{printed} †{number}"
    assert sheet(test)["published"].dtype == sheet(test)["measured"].dtype == float
    assert f"†{number} **{erratum.where}**" in text(test)
    wide = page("tables", table=key, column="all")
    assert not wide.exception and any(f"{printed} †{number}" in set(cells(wide)[name]) for name in cells(wide))


def test_rows_are_filtered_by_text_and_status_and_the_link_says_so(page, runs):
    test = page("tables", rows="W/O")
    assert set(sheet(test)["row"]) == {"w/o"} and len(sheet(test)) == 2
    test.text_input[0].input("7,7").run()
    assert set(sheet(test)["row"]) == {"<7,7>"} and test.query_params["rows"] == "7,7"
    test = page("tables", status="not measured")
    assert set(sheet(test)["row"]) == {"<5,5>", "<3,3>", "<1,1>", "SE, long", "SE, long, zeros"}
    empty = page("tables", rows="no such row")
    assert not empty.exception and "No row is left" in text(empty)


def test_a_column_of_another_table_is_not_carried_along(page, runs):
    test = page("tables", table="dca-2", column="top1_error")
    assert not test.exception and not notices(test)
    assert test.query_params["column"] == "top1_accuracy"


def test_accuracy_stands_over_parameters_where_both_are_printed(page, tmp_path):
    save_run(tmp_path / "runs", "se-resnet20", 20.0)
    test = page("tables", table="dca-2")
    assert not test.exception
    over = charts(test)[1]
    assert over["layout"]["xaxis2"]["title"]["text"] == "parameters (millions)"
    assert {*(tuple(trace["y"]) for trace in over["data"] if trace["xaxis"] == "x2")} == {(80.0,)}
    assert "Over the parameters" in [item.value for item in test.subheader]
    save_run(tmp_path / "runs", "bridge-resnet20", 20.0)
    without = page("tables", table="bridge-1")  # prints no parameters
    assert not without.exception and len(charts(without)) == 1


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
    assert 95.0 in set(sheet(page("tables"))["measured"]) and 94.5 not in set(sheet(page("tables"))["measured"])
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
