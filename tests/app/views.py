"""What the tests of the explorer share: made-up runs and weights, and how to read a page."""

import json
import re
import shutil
import socket
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
NOT_HERE = re.compile(r"^The link asks for (\w+) '.*', which is not here; showing ")
HOSTILE = ["../../etc/passwd", "/etc/passwd", "x" * 4000, "<script>alert(1)</script>", "cra-4\0", "", "99", "cra-4 "]
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
    """Weights as they come with the project, of networks for `layouts` that were never trained."""
    import safetensors.torch

    from workbench.datasets import layouts

    split = layouts.make(1, seed=1)
    reads = {"side": split.side, "mean": split.mean, "std": split.std, "classes": split.classes}
    root.mkdir(parents=True)
    for model in models:
        experiment = Experiment(model=model, dataset="layouts", recipe=RECIPES["smoke"], seed=0)
        names = ("test_top1_error", "train_top1_error", "test_top5_error", "test_loss", "train_loss")
        curves = [{"epoch": 1, "lr": 0.1, **dict.fromkeys(names, 50.0)}]
        metrics = {"top1_error": 50.0, "top5_error": 20.0, "best_top1_error": 50.0}
        where = {"device": "CPU A", "threads": 1, "compiled": False, "code": "1f3a9c2e"}
        record = Record(experiment.key(), experiment.spec(), "done", metrics, curves, where, 1.0)._asdict()
        del record["origin"]
        torch.manual_seed(0)
        data = safetensors.torch.save(build(model, 32).state_dict())
        (root / f"{experiment.key()}.safetensors").write_bytes(data)
        kept = {"record": record, "reads": reads, "sha256": files.sha256(data), "top1_error": 50.0}
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
