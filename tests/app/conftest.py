"""Fixtures for the tests of the explorer: a page as AppTest sees it, a server, and a browser."""

import sys

import pytest
from views import ROOT, chromium, rendering, save, save_models, serving

FAILED = ROOT / "build" / "failed"  # git ignores it; a picture of every page that failed a test


@pytest.fixture(autouse=True)
def own_main(monkeypatch):
    """AppTest puts the page in the place of __main__, which processes started later would then import."""
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])


@pytest.fixture
def page(tmp_path, monkeypatch):
    """page(name, **query): the page as a browser would get it with this query, run once."""
    with rendering(tmp_path, monkeypatch) as render:
        yield render


@pytest.fixture
def runs(tmp_path):
    save(tmp_path / "runs")
    return tmp_path / "runs"


@pytest.fixture
def models(tmp_path):
    """Untrained weights of small networks, as if they came with the project."""
    save_models(tmp_path / "share" / "models")


@pytest.fixture(scope="session")
def served(tmp_path_factory):
    """The address of `workbench app` on hand-made records, its port, and its folder; one server a process of tests."""
    root = tmp_path_factory.mktemp("served")
    save(root / "runs")
    with serving(root) as (address, port, _):
        yield address, port, root


@pytest.fixture(scope="module")  # not longer: while Playwright runs, no notebook can be run in this thread, and a
def program():  # process forked meanwhile would hold its pipes open
    """One Chromium for the tests of a page."""
    sync_api = pytest.importorskip("playwright.sync_api")
    if chromium() is None:
        pytest.skip("no Chromium here")
    switches = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium(), args=switches, timeout=120_000)
        yield started
        started.close()


@pytest.fixture
def browser(served, program, request):
    """A page in a Chromium that knows nothing, with what it asked the network for and what it complained about."""
    with program.new_context(viewport={"width": 1400, "height": 1000}) as context:
        view = context.new_page()
        view.set_default_timeout(90_000)
        view.requested, view.complaints = [], []
        view.on("request", lambda one: view.requested.append(one.url))
        view.on("websocket", lambda one: view.requested.append(one.url))
        view.on("console", lambda one: view.complaints.append(one) if one.type == "error" else None)
        view.on("pageerror", lambda one: view.complaints.append(one))
        yield view


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """A test that fails says what the server logged, and leaves a picture of the page as it was last."""
    report = yield
    given = getattr(item, "funcargs", {})
    if report.failed and "served" in given:
        report.sections.append(("log of the explorer", (given["served"][2] / "log").read_text(errors="replace")))
    if report.failed and call.when == "call" and "browser" in given:
        path = FAILED / f"{item.path.stem}-{item.name[:100].replace('/', '-')}.png"
        given["browser"].screenshot(path=path)
        report.sections.append(("the page as it was last", str(path)))
    return report
