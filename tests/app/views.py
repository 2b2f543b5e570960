"""What the tests of the explorer share: made-up runs and weights, and how to read a page."""

import contextlib
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

import torch

from workbench import files
from workbench.build import build
from workbench.experiments.experiment import Experiment, Record
from workbench.training.recipe import RECIPES

ROOT = Path(__file__).resolve().parents[2]
APP = ROOT / "app"
NOT_HERE = re.compile(r"^The link asks for (\w+) [`'].*[`'], which is not here; showing ")
HOSTILE = ["../../etc/passwd", "/etc/passwd", "x" * 4000, "<script>alert(1)</script>", "cra-4\0", "", "99", "cra-4 "]
RETINANET = "retinanet[anchor=2,finest=4,image_size=64,norm=group,width=32]"
DETECTORS = (f"{RETINANET}-resnet8", f"{RETINANET}-cra4-resnet8")
MODELS = ("resnet8", "se-resnet8", "cra4-resnet8", "cbam-resnet8", "sk-resnet8", "aw-resnet8", "dca-se-resnet8")


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


@contextlib.contextmanager
def rendering(root, monkeypatch):
    """render(name, **query): a page run once by AppTest, on the runs in `root` and the models in `root`/share."""
    import streamlit
    from streamlit.testing.v1 import AppTest

    share, shared = files.share, root / "share"
    shared.mkdir(exist_ok=True)
    for name in ("tables", "claims.toml"):
        (shared / name).symlink_to(share("data") / name)
    monkeypatch.setattr(files, "share", lambda name: shared if name == "data" else share(name))
    monkeypatch.syspath_prepend(str(APP))
    monkeypatch.chdir(root)
    monkeypatch.delitem(sys.modules, "state", raising=False)
    streamlit.cache_resource.clear()
    # AppTest looks through everything that is installed for components before each run, which takes seconds
    monkeypatch.setattr("streamlit.components.v2.manifest_scanner.scan_component_manifests", list)

    def render(name, **query):
        test = AppTest.from_file(str(APP / "views" / f"{name}.py"), default_timeout=120)
        for key, value in query.items():
            test.query_params[key] = value
        return test.run()

    yield render
    streamlit.cache_resource.clear()
    sys.modules.pop("state", None)


@contextlib.contextmanager
def serving(root, *command, cwd=None, **environment):
    """Address, port and process of an explorer, by default `workbench app`, on the runs in `root`; it logs there."""
    for _ in range(3):  # another process may have been quicker to take the port
        port = free_port()
        address = f"http://127.0.0.1:{port}"
        given = command or (sys.executable, "-m", "workbench", "app", "--port", "PORT", "--runs", str(root / "runs"))
        given = [str(port) if part == "PORT" else part for part in given]
        where = os.environ | {"PYTHONPATH": str(ROOT), "HOME": str(root)} | environment
        with (
            open(root / "log", "wb") as log,
            subprocess.Popen(given, cwd=cwd or root, env=where, stdout=log, stderr=subprocess.STDOUT) as server,
        ):
            try:
                if _answers_in_time(server, f"{address}/_stcore/health"):
                    yield address, port, server
                    return
            finally:
                server.terminate()
                try:
                    server.wait(30)
                except subprocess.TimeoutExpired:
                    server.kill()
                    raise
    raise AssertionError((root / "log").read_text())


def _answers_in_time(server, url, limit_s=120):
    deadline = time.monotonic() + limit_s
    while server.poll() is None and time.monotonic() < deadline:
        if answers(url):
            return server.poll() is None
        time.sleep(0.2)
    return False


def settled(browser):
    """The browser, once its page has run to the end."""
    browser.wait_for_timeout(300)  # until what was typed or clicked has reached the server
    browser.locator("[data-testid=stApp][data-test-script-state=notRunning]").wait_for()
    return browser


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


def save_models(root, models=MODELS):
    """Weights as they come with the project, of networks for `layouts`, or `shapes`, that were never trained."""
    import safetensors.torch

    from workbench.datasets import layouts, shapes

    split = layouts.make(1, seed=1)
    seen = {"side": split.side, "mean": split.mean, "std": split.std, "classes": split.classes}
    root.mkdir(parents=True, exist_ok=True)
    for model in models:
        detects = model.startswith("retinanet")
        dataset, reads = ("shapes", {"classes": shapes.CLASSES}) if detects else ("layouts", seen)
        experiment = Experiment(model=model, dataset=dataset, recipe=RECIPES["smoke"], seed=0)
        names = ("test_top1_error", "train_top1_error", "test_top5_error", "test_loss", "train_loss")
        curves = [{"epoch": 1, "lr": 0.1, **dict.fromkeys(names, 50.0)}]
        metrics = {"top1_error": 50.0, "top5_error": 20.0, "best_top1_error": 50.0}
        if detects:
            curves, metrics = [{"epoch": 1, "lr": 0.1, "train_loss": 2.0, "test_ap": 1.5}], {"ap": 1.5}
        where = {"device": "CPU A", "threads": 1, "compiled": False, "code": "1f3a9c2e"}
        record = Record(experiment.key(), experiment.spec(), "done", metrics, curves, where, 1.0)._asdict()
        del record["origin"]
        torch.manual_seed(0)
        built = build(model, len(reads["classes"]))
        if detects:
            built.head.classification_head.cls_logits.bias.data.zero_()  # so that scores lie around a half
        data = safetensors.torch.save(built.state_dict())
        (root / f"{experiment.key()}.safetensors").write_bytes(data)
        kept = {"record": record, "reads": reads, "sha256": files.sha256(data), **metrics}
        files.write_json(root / f"{experiment.key()}.json", kept)


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


def outside(urls, address):
    host = address.removeprefix("http://")
    return [url for url in urls if not re.match(rf"((http|ws)://{host}/|data:|blob:)", url)]


def unexpected(complaints):
    """Streamlit looks for its server below the path of a deep link first; those answers are 404."""
    known = re.compile(r"/[a-z]+/_stcore/(health|host-config)$")
    return [str(one) for one in complaints if not known.search((getattr(one, "location", None) or {}).get("url", ""))]


class Visit:
    """A session of the explorer as a browser has it, without the browser.  said: what the server sent, decoded."""

    def __init__(self, address, query=""):
        import requests
        from websockets.sync.client import connect

        self.address, self.http, self.said = address, requests.Session(), []
        self.http.get(f"{address}/_stcore/health", timeout=30)
        self.token = next((value for name, value in self.http.cookies.items() if "xsrf" in name), "")
        cookies = "; ".join(f"{name}={value}" for name, value in self.http.cookies.items())
        socket = f"ws{address.removeprefix('http')}/_stcore/stream"
        protocols = ["streamlit", self.token]
        headers = {"Cookie": cookies, "Origin": address}
        self.socket = connect(socket, additional_headers=headers, subprotocols=protocols, max_size=None)
        self.run(query)

    def run(self, query="", files=()):
        """Run the page, with these (upload id, name) in its box for a file; its messages replace those before."""
        from streamlit.proto.BackMsg_pb2 import BackMsg
        from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

        back, self.said = BackMsg(), [one for one in self.said if one.HasField("new_session")]
        back.rerun_script.query_string = query
        for upload, name in files:
            state = back.rerun_script.widget_states.widgets.add(id=self.box)
            info = state.file_uploader_state_value.uploaded_file_info.add(file_id=upload, name=name, size=1)
            info.file_urls.file_id = upload
        self.socket.send(back.SerializeToString())
        while not (self.said and self.said[-1].WhichOneof("type") == "script_finished"):
            message = ForwardMsg()
            message.ParseFromString(self.socket.recv(timeout=120))
            if message.HasField("delta") and message.delta.new_element.HasField("file_uploader"):
                self.box = message.delta.new_element.file_uploader.id
            self.said.append(message)

    @property
    def session(self):
        return next(one.new_session.initialize.session_id for one in self.said if one.HasField("new_session"))

    def elements(self, kind):
        found = [one.delta.new_element for one in self.said if one.HasField("delta")]
        return [getattr(one, kind) for one in found if one.HasField(kind)]

    def put(self, name, data, upload, token=None):
        """Send a file as the browser does; the answer's status."""
        url = f"{self.address}/_stcore/upload_file/{self.session}/{upload}"
        headers = {"X-Xsrftoken": self.token if token is None else token}
        return self.http.put(url, files={"file": (name, data)}, headers=headers, timeout=60).status_code
