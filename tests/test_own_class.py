"""A class of one's own is a name like any other: built, counted, connected, trained, and its source is in the key."""

import importlib
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from workbench.attach import attach
from workbench.backbones import circular, resnet
from workbench.build import build, canonical, resolved
from workbench.errors import DataMissing, OutOfRange, UnknownName
from workbench.experiments.experiment import Experiment
from workbench.experiments.grid import Resources, run_all
from workbench.experiments.store import Store
from workbench.explain.complexity import count
from workbench.training.recipe import Recipe

ROOT = Path(__file__).resolve().parents[1]
RECIPE = Recipe(batch=64, epochs=1, lr=0.1, schedule="constant")
NUMBERS = itertools.count()
ECA = '''
from torch import nn
from workbench.attention import Attention, GlobalPool, Site

class ECA(Attention):
    """Wang et al., CVPR 2020: T = sigmoid(a 1-D convolution of GAP(X) over neighbouring channels)."""
    def __init__(self, site: Site, kernel: int = 3):
        super().__init__(site)
        conv = nn.Conv1d(1, 1, kernel, padding=kernel // 2, bias=False)
        self.extract = GlobalPool()
        self.transform = nn.Sequential(nn.Unflatten(1, (1, -1)), conv, nn.Flatten(), nn.Sigmoid())
'''


class Module:
    """A file of the user's in a folder that Python looks into; every test has a new one."""

    def __init__(self, folder, name):
        self.name, self.path = name, folder / f"{name}.py"

    def write(self, source):
        self.path.write_text(source)
        if self.name in sys.modules:
            importlib.reload(sys.modules[self.name])
        return self

    def __str__(self):
        return f"{self.name}:ECA"


@pytest.fixture
def module(tmp_path, monkeypatch):
    """module(source): a Module of this source."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # its time stamps are too coarse for a test's edits
    made = []

    def make(source=ECA):
        importlib.invalidate_caches()
        made.append(Module(tmp_path, f"my_eca_{next(NUMBERS)}").write(source))
        return made[-1]

    yield make
    for one in made:
        sys.modules.pop(one.name, None)


def key(model):
    return Experiment(model=f"{model}-circularnet", dataset="layouts", recipe=RECIPE, seed=0).key()


def params(name):
    with torch.device("meta"):
        return sum(p.numel() for p in build(name, 10).parameters())


def test_it_is_built_traced_and_counted(module):
    eca, picture = module(), torch.randn(2, 3, 32, 32)
    network = build(f"{eca}-resnet20", 10).eval()
    logits, trail = network.trace(picture)
    assert torch.equal(logits, network(picture)) and len(trail.steps) == 9
    first = trail.steps[0]
    weight = next(network.attentions()).transform[1].weight[0, 0]
    neighbours = torch.nn.functional.pad(first.extracted, (1, 1)).unfold(1, 3, 1)
    assert torch.allclose(first.attention, (neighbours * weight).sum(-1).sigmoid(), atol=1e-6)
    assert not torch.allclose(first.attention, (neighbours * weight.flip(0)).sum(-1).sigmoid(), atol=1e-6)  # witness
    for kernel in (3, 5):
        name = f"{eca}[kernel={kernel}]-resnet20"
        assert params(name) - params("resnet20") == count(name).params - count("resnet20").params == 9 * kernel


OTHERS = """
from torch import nn
from workbench.attention import Attention, ConvSpec, GlobalPool, Site

class Squashed(Attention):
    def __init__(self, site: Site):
        super().__init__(site)
        self.extract, self.transform = GlobalPool(), nn.Sigmoid()

    def fuse(self, T, x):
        return super().fuse(T, x).sigmoid()

class Itself(Attention):
    def __init__(self, site: Site):
        super().__init__(site)
        self.extract, self.transform = nn.Identity(), nn.Sigmoid()

    def fuse(self, T, x):
        return T

class Rectified(nn.Module):
    socket, normalised = "conv", True

    def __init__(self, site: Site, spec: ConvSpec):
        super().__init__()
        self.conv = nn.Conv2d(spec.inputs, spec.outputs, 3, spec.stride, 1)

    def forward(self, x):
        return self.conv(x).relu()

class Added(nn.Module):
    socket = "attention"

    def __init__(self, site: Site):
        super().__init__()
        self.conv = nn.Conv2d(site.channels, site.channels, 1)
        nn.init.zeros_(self.conv.weight)

    def forward(self, x, trail=None):
        return x + self.conv(x)
"""


@pytest.mark.parametrize("backbone", ["resnet8", "circularnet"])
def test_its_map_is_not_written_into(module, backbone):
    """Its last operation may need the map for its gradient, and its step may hold it."""
    own, x = module(OTHERS).name, torch.randn(2, 3, 16, 16)
    for name in ("Squashed", "Itself", "Rectified")[: 2 if backbone == "circularnet" else 3]:
        build(f"{own}:{name}-{backbone}", 10)(x).sum().backward()
    steps = build(f"{own}:Itself-{backbone}", 10).trace(x)[1].steps
    assert all(step.attention.min() >= 0 and step.attention.max() <= 1 for step in steps)
    with pytest.MonkeyPatch.context() as patch:  # witness
        for place in (circular, resnet):
            patch.setattr(place, "known", lambda module: True)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            build(f"{own}:Squashed-{backbone}", 10)(x).sum().backward()


def test_it_keeps_its_own_initialisation(module):
    own = module(OTHERS).name
    blocks = [block.attention.conv for block in build(f"{own}:Added-resnet8", 10).layer1]
    assert not any(conv.weight.any() for conv in blocks)
    (block,) = build(f"{own}:Rectified-resnet8", 10).layer1
    assert block.conv2.conv.weight.std().item() == pytest.approx((2 / (16 * 9)) ** 0.5, rel=0.1)  # witness: He's


def test_it_is_connected_and_attached(module):
    eca = module()
    assert params(f"dca-{eca}-resnet20") - params(f"{eca}-resnet20") == params("dca-se-resnet20") - params(
        "se-resnet20"
    )
    steps = build(f"dca[form=text]-{eca}-resnet20").trace(torch.randn(2, 3, 16, 16))[1].steps
    assert all(step.memory is not None for step in steps[:-1])
    plain = build("resnet20", 10)
    assert len(attach(plain, f"dca-{eca}", "layer*.*.bn2", 32).attention_blocks) == 9
    assert sum(p.numel() for p in plain.parameters()) == params(f"dca-{eca}-resnet20")


def test_its_name_is_canonical(module):
    eca = module()
    names = {"": "", "[kernel=3]": "", "[kernel=05]": "[kernel=5]"}
    for written, short in names.items():
        assert str(canonical(f"dca[form=official]-{eca}{written}-resnet20")) == f"dca-{eca}{short}-resnet20"
    assert resolved(f"{eca}-resnet20")["attention"].keys() == {"word", "kernel", "source"}


def test_its_option_size_stays_an_option(module):
    """`cra3` is CRA of size 3, but `my_module:Gate3` is another class than `my_module:Gate`."""
    eca = module(ECA.replace("kernel", "size"))
    for size in (3, 5):
        short = str(canonical(f"{eca}[size={size}]-resnet20"))
        assert str(canonical(short)) == short and params(short) == params(f"{eca}[size={size}]-resnet20")


def test_its_source_is_in_the_key(module):
    eca = module()
    first = key(eca)
    assert key(eca) == first
    changed = ECA.replace("nn.Sigmoid", "nn.Tanh")
    sources = [changed, changed + "# a note\n", ECA + "SCALE = 2\n"]
    keys = [key(eca.write(source)) for source in sources]
    assert len({first, *keys}) == 4
    assert key(eca.write(ECA)) == first
    assert Experiment(model="se-circularnet", dataset="layouts", recipe=RECIPE, seed=0).key() == key("se")  # witness
    assert "source" not in resolved("se-resnet20")["attention"]


def test_the_key_is_of_what_was_imported(module):
    """Python does not read a file again that changes while it runs; the key says what trains."""
    eca = module()
    first = key(eca)
    eca.path.write_text(ECA.replace("nn.Sigmoid", "nn.Tanh"))
    assert key(eca) == first
    assert key(eca.write(eca.path.read_text())) != first  # witness


def test_the_key_knows_the_files_of_its_bases(module):
    base = module()
    derived = module(f"from {base.name} import ECA as Base\n\nclass ECA(Base):\n    pass\n")
    listed = module(f"from {derived.name} import ECA\n")
    first = {str(one): key(one) for one in (derived, listed)}
    assert (
        resolved(f"{listed}-resnet20")["attention"]["source"] == resolved(f"{derived}-resnet20")["attention"]["source"]
    )
    base.write(ECA + "# a note\n")
    for one in (derived, listed):
        importlib.reload(sys.modules[one.name])
        assert key(one) != first[str(one)]


@pytest.mark.parametrize(("place", "line"), [("beside", "from {0} import SCALE"), ("below", "import {0}.deeper")])
def test_the_key_knows_the_files_that_it_imports(module, tmp_path, place, line):
    """A helper beside it or in a package below, through another one, whose first file may be empty."""
    name = f"my_helper_{next(NUMBERS)}"
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("from .deeper import SCALE\n" if place == "beside" else "")
    (tmp_path / name / "values.py").write_text("SCALE = 1.0\n")
    (tmp_path / name / "deeper.py").write_text(f"import json\nimport numpy\nfrom {name}.values import SCALE\n")
    eca = module(f"{line.format(name)}\n{ECA}")

    def after(text, file="values"):
        (tmp_path / name / f"{file}.py").write_text(text)
        for one in [one for one in sys.modules if one.split(".")[0] == name]:
            del sys.modules[one]
        return key(eca.write(eca.path.read_text()))

    first = key(eca)
    assert after("SCALE = 8.0\n") != first == after("SCALE = 1.0\n")
    assert after("SCALE = 3.0\n", "unused") == first  # witness: what is not imported


def test_a_run_trains_it(module, tmp_path, tiny_layouts):
    eca = module()
    store = Store(tmp_path / "runs", published=tmp_path / "published")
    experiment = Experiment(model=f"{eca}-circularnet", dataset="layouts", recipe=RECIPE, seed=0)
    record = store.run(experiment, device="cpu")
    assert record.status == "done" and store.get(experiment) == record
    assert record.spec["model"]["attention"]["source"] == resolved(experiment.model)["attention"]["source"]
    assert record.spec["model"]["name"] == f"{eca}-circularnet"
    eca.write(ECA + "# a note\n")
    assert store.get(experiment) is None  # witness: another source, another run


def test_processes_of_the_grid_find_it(module, tmp_path, monkeypatch):
    """A process asks for the source of its network first, and for the data set, which is not here, after that."""
    experiment = Experiment(model=f"{module()}-resnet20", dataset="cifar10", recipe=RECIPE, seed=0)
    store = Store(tmp_path / "runs", tmp_path / "data", tmp_path / "published")
    with pytest.raises(DataMissing, match="cifar10"):
        run_all([experiment], store, Resources(device="cpu", jobs=1))
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry != str(tmp_path)])
    with pytest.raises(OutOfRange, match="no module"):  # witness: it is the process that looks
        run_all([experiment], store, Resources(device="cpu", jobs=1))


@pytest.mark.parametrize(
    ("place", "error", "sentence"),
    [
        ("{name}:EAC", UnknownName, "Unknown class in '{name}': 'EAC'. Did you mean 'ECA'"),
        (
            "no_{name}:ECA",
            OutOfRange,
            "no module 'no_{name}' here. Run from its folder, or put that folder on PYTHONPATH",
        ),
        ("{name}.part:ECA", OutOfRange, "no module '{name}.part' here"),
        ("{name}:nn", OutOfRange, "'{name}:nn' is not an attention block"),
        ("{name}:GlobalPool", OutOfRange, "make it a subclass of workbench.attention.Attention"),
        ("{name}:Bare", OutOfRange, r"with a constructor (self, site, ...)"),
        ("{name}:Untyped", OutOfRange, "its option kernel needs a type and a default"),
        ("{name}:Listed", OutOfRange, "its option kernels needs a type and a default"),
        ("{name}:Needing", OutOfRange, "its option kernel needs a type and a default"),
        ("{name}:Open", OutOfRange, "its option options needs a type and a default"),
        ("{name}:ECA[kernal=3]", UnknownName, "Unknown option of '{name}:ECA': 'kernal'. Did you mean 'kernel'"),
        ("{name}:ECA[kernel=three]", OutOfRange, "{name}:ECA option kernel: 'three' must be a whole number"),
    ],
)
def test_a_mistake_is_one_sentence(module, place, error, sentence):
    constructors = {
        "Bare": "self",
        "Untyped": "self, site, kernel=3",
        "Listed": "self, site, kernels: list[int] = ()",
        "Needing": "self, site, kernel: int",
        "Open": "self, site, **options",
    }
    classes = [f"class {one}(ECA):\n    def __init__({takes}): pass\n" for one, takes in constructors.items()]
    eca = module(ECA + "".join(classes))
    with pytest.raises(error) as told:
        build(f"{place.format(name=eca.name)}-resnet20")
    assert sentence.format(name=eca.name) in str(told.value)


def test_the_command_finds_it_in_its_folder(tmp_path):
    """-P: like the installed command, whose own folder is not the caller's."""
    (tmp_path / "my_eca.py").write_text(ECA)

    def command(*words):
        arguments = [sys.executable, "-P", "-m", "workbench", *words]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        return subprocess.run(arguments, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)

    answer = command("count", "my_eca:ECA-resnet20", "resnet20", "--json")
    own, plain = (line["params"] for line in json.loads(answer.stdout))
    assert (answer.returncode, own - plain) == (0, 27)
    answer = command("count", "my_eac:ECA-resnet20")
    assert answer.returncode == 2 and "no module 'my_eac' here" in answer.stderr and "Traceback" not in answer.stderr
