"""The explorer against links, uploads and sessions that mean it no good; its pages are found, so new ones count too."""

import io
import os
import pickle
import shutil
import subprocess
import sys
import threading
import time
import uuid
import weakref
from pathlib import Path

import numpy as np
import pytest
import requests
import streamlit
import torch
from PIL import Image
from views import (
    APP,
    DETECTORS,
    HOSTILE,
    ROOT,
    Visit,
    charts,
    notices,
    rendering,
    save,
    save_models,
    serving,
    text,
    tree,
)

from workbench.experiments import zoo
from workbench.experiments.store import Store

PAGES = sorted(path.stem for path in (APP / "views").glob("*.py"))
OPENED: list[tuple[str, str]] | None = None  # what was opened, and how, while a test looks
PAGE = """
import streamlit as st
from state import choose_pictures
if "fail" in st.query_params:
    raise RuntimeError("a secret in " + __file__)
for one in choose_pictures("picture", [], 1):
    st.text(f"{one.name} {one.pixels.shape} {one.pixels.mean():.1f}")
"""


def heard(event, arguments):
    if event == "open" and OPENED is not None and isinstance(arguments[0], str | bytes):
        OPENED.append((os.fsdecode(arguments[0]), str(arguments[1])))


sys.addaudithook(heard)


@pytest.fixture
def page(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])  # AppTest puts the page in its place
    with rendering(tmp_path, monkeypatch) as render:
        yield render


@pytest.fixture
def opened():
    """The files that were opened since, as (path, mode)."""
    global OPENED
    OPENED = []
    yield OPENED
    OPENED = None


def seen(test):
    """What a page shows."""
    boxes = [(box.label, box.value) for kind in (test.selectbox, test.multiselect, test.slider) for box in kind]
    return boxes, [frame.value.to_csv() for frame in test.dataframe], charts(test)


@pytest.mark.parametrize("name", PAGES)
def test_a_hostile_link_shows_the_default_and_touches_nothing(page, tmp_path, opened, name):
    save(tmp_path / "runs")
    save_models(tmp_path / "share" / "models", ("se-resnet8", "cra4-resnet8", "dca-se-resnet8", DETECTORS[0]))
    plain = page(name)
    assert not plain.exception, plain.exception
    before, keys = tree(tmp_path), [*plain.query_params]
    bad = [value for value in HOSTILE if value]
    strange = {"model": "../../etc/passwd", "stage": "99", "network": "abc", "a" * 300: "b"}
    links = [strange | {key: bad[i % len(bad)] for i, key in enumerate(keys)}]
    links += [{key: value} for key, value in zip(keys[:2], bad[:2], strict=False)]
    opened.clear()
    for link in links:
        test = page(name, **link)
        assert not test.exception, test.exception
        known = [key for key in keys if key in link]
        assert len({*notices(test)}) <= len(link) and bool(notices(test)) >= bool(known)
        assert all(len(notice) < 140 and "\n" not in notice for notice in notices(test))
        assert "root:" not in text(test) and seen(test) == seen(plain)
    assert not [path for path, _ in opened if "passwd" in path]
    assert not [path for path, mode in opened if str(tmp_path) in path and mode not in ("r", "rb", "None")]
    assert tree(tmp_path) == before


def test_the_files_that_a_page_opens_are_seen(opened, tmp_path):
    """The witness of the test above."""
    Path("/etc/passwd").read_text()
    (tmp_path / "a").write_text("a")
    assert any(path == "/etc/passwd" for path, _ in opened) and (str(tmp_path / "a"), "w") in opened


@pytest.mark.parametrize("name", PAGES)
def test_an_empty_or_half_written_folder_is_said_and_left_alone(page, tmp_path, name):
    """A run that waits for its record is shown as not finished; one whose weights are damaged stops nothing."""
    assert not page(name).exception
    assert not (tmp_path / "runs").exists()
    save(tmp_path / "runs")
    done = sorted((tmp_path / "runs").glob("*/record.json"))
    done[0].write_bytes(done[0].read_bytes()[:100])
    done[1].write_bytes(b"")
    for record in done[2:]:
        (record.parent / "ckpt").mkdir()
        (record.parent / "ckpt" / "latest").write_text("step-00000001-00001")  # which is not there
    (tmp_path / "runs" / "half").mkdir()
    (tmp_path / "runs" / "half" / "spec.json").write_text('{"format": 1, "mod')
    (tmp_path / "runs" / "file").write_text("x")
    before = tree(tmp_path)
    test = page(name)
    assert not test.exception, test.exception
    assert tree(tmp_path) == before
    if name == "curves":
        assert "Not finished" in [item.value for item in test.subheader]


def test_a_read_only_folder_is_shown(page, on_own_disk, tmp_path, monkeypatch):
    save(tmp_path / "template")
    assert not page("tables").exception and not page("curves").exception  # what they import is there before the fork

    def look(disk):
        shutil.copytree(tmp_path / "template", disk.folder / "runs")
        disk.read_only(disk.folder)
        with pytest.raises(OSError, match="Read-only"):
            (disk.folder / "runs" / "witness").touch()
        monkeypatch.setenv("WORKBENCH_RUNS", str(disk.folder / "runs"))
        streamlit.cache_resource.clear()
        for name in ("tables", "curves"):
            test = page(name)
            assert not test.exception and charts(test), text(test)

    assert on_own_disk(look) == 0


@pytest.fixture
def networks(page, tmp_path):
    """state.network as all sessions share it, and the keys of five untrained networks."""
    models = ("se-resnet8", "cra4-resnet8", "cbam-resnet8", "aw-resnet8", "dca-se-resnet8")
    save_models(tmp_path / "share" / "models", models)
    import state

    return state, [*zoo.known(state.store())]


def at_once(*actions):
    """What each action returned, all started together."""
    found, start = [None] * len(actions), threading.Barrier(len(actions))

    def act(number):
        start.wait()
        found[number] = actions[number]()

    threads = [threading.Thread(target=act, args=(number,)) for number in range(len(actions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_sessions_at_once_get_their_own_maps_bit_for_bit(networks):
    """Eight threads on one network, every second with Grad-CAM, against one after the other."""
    from workbench.explain.cam import grad_cam
    from workbench.explain.maps import channel_attention

    state, keys = networks
    network, reads = state.network(next(key for key in keys if key.startswith("dca-se")))
    random = np.random.default_rng(0)
    pictures = [reads.normalised(random.integers(0, 256, (16, 16, 3), dtype=np.uint8)) for _ in range(8)]

    def look(number):
        if number % 2:
            return [heat for heat in grad_cam(network, pictures[number], [number]).values()]
        return [T for _, T in channel_attention(network, pictures[number])]

    serial = [look(number) for number in range(8)]
    for _ in range(5):
        together = at_once(*(lambda number=number: look(number) for number in range(8)))
        for one, other in zip(serial, together, strict=True):
            assert other is not None and len(one) == len(other)
            assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    assert not any(np.array_equal(serial[0][-1], other[-1]) for other in serial[2::2])  # witness: pictures differ
    assert not any(p.requires_grad or p.grad is not None for p in network.parameters()) and not network.training
    assert not any(module._forward_hooks or module._backward_hooks for module in network.modules())


def test_a_stampede_builds_each_network_once(networks, monkeypatch):
    state, keys = networks
    built, load = [], zoo.load

    def slow(key, store):
        built.append(key)
        time.sleep(0.2)
        return load(key, store)

    monkeypatch.setattr(zoo, "load", slow)
    found = at_once(*(lambda: state.network(keys[0])[0] for _ in range(8)))
    assert len({id(one) for one in found}) == 1 and built == keys[:1]
    at_once(*(lambda: zoo.load(keys[1], state.store()) for _ in range(4)))
    assert built.count(keys[1]) == 4  # witness: without the cache each builds its own


def test_fifty_switches_keep_two_networks(networks, monkeypatch):
    state, keys = networks
    monkeypatch.setattr(zoo, "load", lambda key, store: (torch.nn.Identity(), key))  # quicker to build

    def kept_most(function):
        alive, most = weakref.WeakSet(), 0
        for turn in range(50):
            alive.add(function(keys[turn % len(keys)])[0])
            most = max(most, len(alive))
        return most

    assert kept_most(state.network) == 2
    unlimited = streamlit.cache_resource(show_spinner=False)(lambda key: zoo.load(key, state.store()))
    assert kept_most(unlimited) == len(keys)  # witness


BAD = {
    "a pickle": pickle.dumps(os.getcwd),
    "an SVG": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><script>alert(1)</script></svg>',
    "a page": b"<!doctype html><script>alert(1)</script>",
    "nothing": b"",
    "100 megapixels": (10_000, 10_000),
    "12 megapixels and more": (30_000, 401),
}


def png(width, height):
    """A black picture of one bit a pixel: 100 megapixels are 12 kB."""
    out = io.BytesIO()
    Image.new("1", (width, height)).save(out, "PNG")
    return out.getvalue()


@pytest.fixture(scope="module")
def visited(tmp_path_factory):
    """A page of uploads beside a copy of the explorer's state and settings, started by a bare `streamlit run`."""
    root = tmp_path_factory.mktemp("visited")
    shutil.copytree(APP, root / "copy")
    (root / "copy" / "page.py").write_text(PAGE)
    (root / "tmp").mkdir()
    (root / "elsewhere").mkdir()
    command = [sys.executable, "-m", "streamlit", "run", str(root / "copy" / "page.py"), "--server.port", "PORT"]
    folders = {"TMPDIR": str(root / "tmp"), "WORKBENCH_RUNS": str(root / "runs"), "WORKBENCH_DATA": str(root / "sets")}
    with serving(root, *command, cwd=root / "elsewhere", **folders) as (address, _, server):
        yield address, server, root


def shown(visit):
    return [one.body for one in visit.elements("text")]


def test_bad_uploads_are_refused_in_one_sentence(visited):
    address, _, root = visited
    visit, before = Visit(address), tree(root / "tmp")
    for what, content in BAD.items():
        data, upload = png(*content) if isinstance(content, tuple) else content, str(uuid.uuid4())
        assert visit.put("picture.png", data, upload) == 204
        visit.run(files=[(upload, "picture.png")])
        (alert,) = visit.elements("alert")
        assert alert.body.startswith("This picture") and alert.body.count(". ") <= 1 and "\n" not in alert.body, what
        assert shown(visit) == ["pattern:grey (64, 64, 3) 128.0"] and not visit.elements("exception")
    for name in ("../../x.png", "x" * 4000 + ".png"):
        upload = str(uuid.uuid4())
        assert visit.put(name, png(30_000, 1), upload) == 204  # witness: it is shown; its name is not looked at
        visit.run(files=[(upload, name)])
        assert shown(visit) == ["uploaded (1, 448, 3) 0.0"] and not visit.elements("alert")
    assert tree(root / "tmp") == before and not [*root.rglob("x.png")]


def test_fifty_megabytes_and_requests_without_the_token_are_refused(visited):
    visit = Visit(visited[0])
    upload = str(uuid.uuid4())
    assert visit.put("a.png", bytes(50 * 2**20), upload) == 413
    assert visit.put("a.png", b"x", upload, token="") == visit.put("a.png", b"x", upload, token="abc") == 403
    assert visit.put("a.png", b"x", upload) == 204  # witness
    url = f"{visited[0]}/_stcore/upload_file/{visit.session}/{upload}"
    assert requests.put(url, files={"file": ("a.png", b"x")}, timeout=30).status_code == 403
    assert requests.delete(url, timeout=30).status_code == 403
    assert requests.post(url, timeout=30).status_code == 405
    assert requests.get(f"{visited[0]}/app/static/../main.py", timeout=30).text.startswith("<!")  # no file is served


def test_an_uncaught_error_shows_a_short_text_without_a_path(visited, tmp_path):
    address, _, root = visited
    visit = Visit(address, "fail=1")
    (error,) = visit.elements("exception")
    told = b"".join(one.SerializeToString() for one in visit.said if one.HasField("delta"))
    assert 0 < len(error.message) < 300 and not error.stack_trace
    assert b"secret" not in told and str(root).encode() not in told and b"page.py" not in told
    assert "a secret in" in (root / "log").read_text()  # who runs it finds it there
    command = [sys.executable, "-m", "streamlit", "run", str(root / "copy" / "page.py"), "--server.port", "PORT"]
    with serving(tmp_path, *command, "--client.showErrorDetails=full") as (other, _, _):
        (error,) = Visit(other, "fail=1").elements("exception")
        assert "secret" in error.message and error.stack_trace  # witness


def resident_mb(process):
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads memory where Linux tells it")
def test_two_hundred_uploads_cost_less_than_100_mb(visited):
    address, server, root = visited
    visit, random, started = Visit(address), np.random.default_rng(0), None
    before = tree(root / "tmp")
    for number in range(205):
        out, upload = io.BytesIO(), str(uuid.uuid4())
        Image.fromarray(random.integers(0, 256, (256, 256, 3), dtype=np.uint8)).save(out, "PNG")  # 200 kB
        assert visit.put("a.png", out.getvalue(), upload) == 204
        visit.run(files=[(upload, "a.png")])
        assert shown(visit)[0].startswith("uploaded (256, 256, 3)")
        if number == 4:
            started = resident_mb(server.pid)
    grown = resident_mb(server.pid) - started
    print(f"{started:.0f} MB and {grown:.0f} more after 200 uploads")
    assert grown < 100 and tree(root / "tmp") == before


SWITCHES = """
import gc, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024
import state
from workbench.experiments import zoo
keys = [*zoo.known(state.store())]
state.network(keys[0]), state.network(keys[1])
before = resident()
for turn in range(50):
    state.network(keys[turn % len(keys)])
gc.collect()
print(len(keys), before, resident())
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads memory where Linux tells it")
def test_fifty_switches_cost_less_than_50_mb(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", SWITCHES, str(APP)]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    count, before, after = map(float, done.stdout.split())
    print(f"{count:.0f} networks, {before:.0f} MB, after 50 switches {after:.0f} MB")
    assert count > 2 and after - before < 50


SETTINGS = """
import sys
from streamlit import config
config._main_script_path = sys.argv[1] or None
config.get_config_options(force_reparse=True)
names = ("server.address", "server.enableXsrfProtection", "server.enableCORS", "server.enableStaticServing",
         "server.maxUploadSize", "server.fileWatcherType", "server.headless", "client.showErrorDetails",
         "browser.gatherUsageStats")
print(*map(config.get_option, names))
"""


def test_the_settings_hold_wherever_it_is_started_from(tmp_path):
    def settings(script):
        environment = {name: value for name, value in os.environ.items() if not name.startswith("STREAMLIT_")}
        environment["HOME"] = str(tmp_path)
        command = [sys.executable, "-c", SETTINGS, str(script)]
        return subprocess.check_output(command, env=environment, cwd=tmp_path, text=True).split()

    (tmp_path / ".streamlit").mkdir()
    (tmp_path / ".streamlit" / "config.toml").write_text("[client]\nshowErrorDetails = 'full'\n")  # the user's own
    safe = ["127.0.0.1", "True", "True", "False", "8", "none", "True", "none", "False"]
    assert settings(APP / "main.py") == safe
    assert settings("") != safe  # witness


def test_pages_run_on_what_is_kept_here_alone(tmp_path):
    """No model is loaded from a path that a link could name: the key must be one of those known."""
    store = Store(tmp_path, published=tmp_path / "share" / "results")
    save_models(tmp_path / "share" / "models", ("resnet8",))
    (key,) = zoo.known(store)
    shutil.move(tmp_path / "share" / "models" / f"{key}.json", tmp_path / "moved.json")
    for name in (key, "../moved", "../../moved", str(tmp_path / "moved")):
        with pytest.raises(zoo.UnknownName):
            zoo.load(name, store)
    assert torch.is_grad_enabled()
