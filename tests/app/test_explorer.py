"""The explorer shows what there is and says what there is not; its links are checked, and it writes nothing."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import streamlit
from streamlit.testing.v1 import AppTest

from workbench import files
from workbench.experiments import tables
from workbench.experiments.experiment import Experiment, Record
from workbench.training.recipe import RECIPES

ROOT = Path(__file__).resolve().parents[2]
APP = ROOT / "app"
NOT_HERE = re.compile(r"^The link asks for (\w+) '.*', which is not here; showing ")
HOSTILE = ["../../etc/passwd", "/etc/passwd", "x" * 4000, "<script>alert(1)</script>", "cra-4\0", "", "99", "cra-4 "]


@pytest.fixture(autouse=True)
def own_main(monkeypatch):
    """AppTest puts the page in the place of __main__, which processes started later would then import."""
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])


@pytest.fixture
def page(tmp_path, monkeypatch):
    """page(name, **query): the page as a browser would get it with this query, run once."""
    share, shared = files.share, tmp_path / "share"
    shared.mkdir()
    (shared / "tables").symlink_to(share("data") / "tables")
    monkeypatch.setattr(files, "share", lambda name: shared if name == "data" else share(name))
    monkeypatch.syspath_prepend(str(APP))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "state", raising=False)
    streamlit.cache_resource.clear()

    def render(name, **query):
        test = AppTest.from_file(str(APP / "pages" / f"{name}.py"), default_timeout=120)
        for key, value in query.items():
            test.query_params[key] = value
        return test.run()

    yield render
    streamlit.cache_resource.clear()
    sys.modules.pop("state", None)


@pytest.fixture
def runs(tmp_path):
    save(tmp_path / "runs")
    return tmp_path / "runs"


def save(root):
    """Hand-made records: two rows of cra-4 at budgets smoke and cifar, and a run that has not finished."""
    for model, dataset, recipe, errors in (
        ("cra7-circularnet", "layouts", "smoke", (3.0, 4.0)),
        ("circularnet", "layouts", "smoke", (94.0, 95.0)),
        ("resnet20", "cifar10", "cifar-short", (12.0,)),
    ):
        for seed, error in enumerate(errors):
            experiment = Experiment(model=model, dataset=dataset, recipe=RECIPES[recipe], seed=seed)
            names = ("test_top1_error", "train_top1_error", "test_top5_error", "test_loss", "train_loss")
            curves = [{"epoch": epoch, "lr": 0.1, **dict.fromkeys(names, error)} for epoch in (1, 2, 3)]
            metrics = {"top1_error": error, "top5_error": error / 4, "best_top1_error": error}
            where = {"device": "CPU A", "threads": 1, "compiled": False, "code": "1f3a9c2e"}
            record = Record(experiment.key(), experiment.spec(), "done", metrics, curves, where, 1.0)
            (root / record.key).mkdir(parents=True)
            files.write_json(root / record.key / "record.json", record._asdict())
    experiment = Experiment(model="cra5-circularnet", dataset="layouts", recipe=RECIPES["smoke"], seed=0)
    (root / experiment.key()).mkdir()
    files.write_json(root / experiment.key() / "spec.json", experiment.spec())
    (root / experiment.key() / "log.jsonl").write_text('{"epoch": 1}\n{"epoch": 2')  # written while we look


def save_folder(root, name, version, error):
    """A run of a row of cra-4 by the recipe of its budget smoke, on a folder that is not on this machine."""
    experiment = Experiment(model="circularnet", dataset="layouts", recipe=RECIPES["smoke"], seed=0)
    spec = experiment.spec() | {"dataset": {"name": f"folder:{name}", "version": version}}
    metrics = {"top1_error": error, "top5_error": error / 4, "best_top1_error": error}
    names = ("test_top1_error", "train_top1_error", "test_top5_error", "test_loss", "train_loss")
    curves = [{"epoch": 1, "lr": 0.1, **dict.fromkeys(names, error)}]
    where = {"device": "CPU A", "threads": 1, "compiled": False, "code": "1f3a9c2e"}
    record = Record(f"{name}-{version[:4]}", spec, "done", metrics, curves, where, 1.0)
    (root / record.key).mkdir(parents=True)
    files.write_json(root / record.key / "record.json", record._asdict())


def text(test):
    """Everything that a page says in words."""
    kinds = (test.title, test.subheader, test.markdown, test.caption, test.info, test.text, test.error, test.warning)
    return "\n".join(str(element.value) for kind in kinds for element in kind)


def charts(test):
    return [json.loads(element.proto.spec) for element in test.get("plotly_chart")]


def notices(test):
    return [caption.value for caption in test.caption if NOT_HERE.match(caption.value)]


def tree(root):
    return {path: path.lstat().st_mtime_ns for path in root.rglob("*")}


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


def chromium():
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def answers(url):
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The address of `workbench app` on hand-made records, its process, and its folder."""
    root = tmp_path_factory.mktemp("served")
    save(root / "runs")
    port = free_port()
    command = [sys.executable, "-m", "workbench", "app", "--port", str(port), "--runs", str(root / "runs")]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HOME": str(root)}
    with (
        open(root / "log", "wb") as log,
        subprocess.Popen(command, cwd=root, env=environment, stdout=log, stderr=subprocess.STDOUT) as server,
    ):
        try:
            deadline = time.monotonic() + 120
            while not answers(f"http://127.0.0.1:{port}/_stcore/health"):
                assert server.poll() is None and time.monotonic() < deadline, (root / "log").read_text()
                time.sleep(0.5)
            yield f"http://127.0.0.1:{port}", port, root
        finally:
            server.terminate()
            server.wait(30)


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


@pytest.fixture
def browser(served, tmp_path, request):
    """A page in Chromium, with what it asked the network for and what it complained about; a picture if it fails."""
    sync_api = pytest.importorskip("playwright.sync_api")
    if chromium() is None:
        pytest.skip("no Chromium here")
    switches = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_api.sync_playwright() as playwright:
        program = playwright.chromium.launch(executable_path=chromium(), args=switches, timeout=120_000)
        view = program.new_page(viewport={"width": 1400, "height": 1000})
        view.set_default_timeout(90_000)
        view.requested, view.complaints = [], []
        view.on("request", lambda one: view.requested.append(one.url))
        view.on("websocket", lambda one: view.requested.append(one.url))
        view.on("console", lambda one: view.complaints.append(one) if one.type == "error" else None)
        view.on("pageerror", lambda one: view.complaints.append(one))
        try:
            yield view
        finally:
            view.screenshot(path=tmp_path / "explorer.png")
            print("the page as it was last:", tmp_path / "explorer.png")
            program.close()


def outside(urls, address):
    host = address.removeprefix("http://")
    return [url for url in urls if not re.match(rf"((http|ws)://{host}/|data:|blob:)", url)]


def unexpected(complaints):
    """Streamlit looks for its server below the path of a deep link first; those answers are 404."""
    known = re.compile(r"/curves/_stcore/(health|host-config)$")
    return [str(one) for one in complaints if not known.search((getattr(one, "location", None) or {}).get("url", ""))]


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
