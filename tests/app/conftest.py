"""Fixtures for the tests of the explorer: a page as AppTest sees it, a server, and a browser."""

import os
import subprocess
import sys
import time

import pytest
import streamlit
from streamlit.testing.v1 import AppTest
from views import APP, ROOT, answers, chromium, free_port, save, save_models

from workbench import files


@pytest.fixture(autouse=True)
def own_main(monkeypatch):
    """AppTest puts the page in the place of __main__, which processes started later would then import."""
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])


@pytest.fixture
def page(tmp_path, monkeypatch):
    """page(name, **query): the page as a browser would get it with this query, run once."""
    share, shared = files.share, tmp_path / "share"
    shared.mkdir(exist_ok=True)
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


@pytest.fixture
def models(tmp_path):
    """Untrained weights of small networks, as if they came with the project."""
    save_models(tmp_path / "share" / "models")


@pytest.fixture(scope="session")
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
