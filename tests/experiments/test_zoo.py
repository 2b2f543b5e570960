"""Weights that come with the project load as they were measured, or not at all; a damaged file stops nothing else."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import safetensors.torch
import torch

from workbench import files
from workbench.build import build
from workbench.datasets import layouts, shapes
from workbench.detection.batches import as_input
from workbench.errors import Corrupt, DataMissing, OutOfRange, UnknownName
from workbench.experiments import weights, zoo
from workbench.experiments.experiment import HERE, PROJECT, Experiment
from workbench.experiments.store import Store
from workbench.training.checkpoint import Checkpoints
from workbench.training.evaluate import evaluate
from workbench.training.recipe import RECIPES

EXPERIMENT = Experiment(model="se-resnet8", dataset="layouts", recipe=replace(RECIPES["smoke"], epochs=1), seed=0)
KEY = EXPERIMENT.key()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of one finished run, with its checkpoint."""
    root = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layouts, "load", lambda: (layouts.make(320, seed=0), layouts.make(64, seed=1)))
        Store(root, published=root / "none").run(EXPERIMENT)
    return root


@pytest.fixture
def store(tmp_path, trained, tiny_layouts):
    """A copy of that run, and an empty folder of weights that come with the project."""
    shutil.copytree(trained, tmp_path / "runs")
    (tmp_path / "share" / "models").mkdir(parents=True)
    return Store(tmp_path / "runs", published=tmp_path / "share" / "results")


@pytest.fixture
def bundled(store):
    """The same weights, exported; the run itself is gone."""
    zoo.export(KEY, store, store.models)
    shutil.rmtree(store.root / KEY)
    return store.models / f"{KEY}.json"


def altered(path, *place, value):
    """The file with one value replaced, the weights as they are."""
    kept = inner = json.loads(path.read_text())
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    path.write_text(json.dumps(kept))


def put(path, data):
    """Other weights, with the sum that they have."""
    path.with_suffix(".safetensors").write_bytes(data)
    altered(path, "sha256", value=files.sha256(data))


def test_weights_exported_come_back_in_half_precision(store, tiny_layouts):
    here, reads = zoo.load(KEY, store)
    kept = zoo.export(KEY, store, store.models)
    shutil.rmtree(store.root / KEY)
    one = zoo.known(store)[KEY]
    assert (one.model, one.dataset, one.origin, one.measured) == ("se-resnet8", "layouts", PROJECT, kept["top1_error"])
    network, reads_again = zoo.load(KEY, store)
    assert reads == reads_again == zoo.Reads(16, (0.5,) * 3, (0.125,) * 3, tiny_layouts[1].classes)
    for (name, value), again in zip(here.state_dict().items(), network.state_dict().values(), strict=True):
        assert value.dtype == again.dtype
        assert torch.equal(value.half().to(value.dtype) if value.dim() > 1 else value, again), name
    weights, again = here.state_dict(), network.state_dict()
    assert any(not torch.equal(weights[name], again[name]) for name in weights)  # witness: something was rounded
    assert not network.training and not any(p.requires_grad for p in network.parameters())


def test_the_error_is_that_of_the_weights_as_stored(store, tiny_layouts):
    kept = zoo.export(KEY, store, store.models)
    shutil.rmtree(store.root / KEY)
    network, _ = zoo.load(KEY, store)
    measured = evaluate(network, tiny_layouts[1].batches(torch.device("cpu"), 500))
    assert {name: kept[name] for name in measured} == measured
    for parameter in network.parameters():
        parameter.mul_(-1.0)  # witness: other weights err otherwise
    assert evaluate(network, tiny_layouts[1].batches(torch.device("cpu"), 500)) != measured


def test_a_run_here_comes_before_the_same_weights_of_the_project(store):
    zoo.export(KEY, store, store.models)
    altered(store.models / f"{KEY}.json", "top1_error", value=1.5)
    assert zoo.known(store)[KEY].origin == HERE and zoo.known(store)[KEY].measured != 1.5
    kernel = next(name for name, value in store.weights(KEY).items() if value.dim() == 4)
    assert torch.equal(zoo.load(KEY, store)[0].state_dict()[kernel], store.weights(KEY)[kernel])
    (store.root / KEY / "ckpt" / "latest").unlink()  # its weights are not kept
    assert (zoo.known(store)[KEY].origin, zoo.known(store)[KEY].measured) == (PROJECT, 1.5)
    assert not torch.equal(zoo.load(KEY, store)[0].state_dict()[kernel], store.weights(KEY)[kernel])


def test_known_reads_again_only_what_has_changed(store, monkeypatch):
    read = []
    real = files.read_json
    monkeypatch.setattr(files, "read_json", lambda path: (read.append(path.name), real(path))[1])
    monkeypatch.setattr("workbench.experiments.store.read_json", files.read_json)
    zoo._known.cache_clear()
    first = zoo.known(store)
    assert read.count("record.json") == 1 and len(read) <= 2 and [*first] == [KEY]  # 2: and one of the project's
    read.clear()
    first.clear()  # the caller's own
    for _ in range(3):
        assert [*zoo.known(store)] == [KEY]
    assert not read
    zoo.export(KEY, store, store.models)
    read.clear()
    assert zoo.known(store)[KEY].origin == HERE and read[:2] == [f"{KEY}.json", "record.json"]
    (store.root / KEY / "record.json").unlink()
    assert zoo.known(store)[KEY].origin == PROJECT


def test_an_unknown_key_is_said(store):
    for name in ("nosuch", "../../etc/passwd", "a\0", ""):
        with pytest.raises(UnknownName, match="trained network"):
            zoo.load(name, store)
    with pytest.raises(UnknownName, match="run with weights"):
        zoo.export("nosuch", store, store.root)


def test_of_the_projects_weights_no_export_is_made(store, bundled, tmp_path):
    with pytest.raises(UnknownName, match="run with weights"):
        zoo.export(KEY, store, tmp_path)


DAMAGED = {
    "half": lambda path: path.write_bytes(path.read_bytes()[:200]),
    "empty": lambda path: path.write_bytes(b""),
    "a list": lambda path: path.write_text("[1]"),
    "a number": lambda path: path.write_text("1"),
    "no record": lambda path: altered(path, "record", value=None),
    "another record": lambda path: altered(path, "record", "key", value="other"),
    "no model": lambda path: altered(path, "record", "spec", "model", value={}),
    "an unknown model": lambda path: altered(path, "record", "spec", "model", "name", value="nosuch"),
    "a class of its own": lambda path: altered(path, "record", "spec", "model", "name", value="os:system"),
    "another recipe": lambda path: altered(path, "record", "spec", "recipe", "colour", value="red"),
    "no error": lambda path: altered(path, "top1_error", value="none"),
    "error beyond 100": lambda path: altered(path, "top1_error", value=1e9),
    "error that is no number": lambda path: altered(path, "top1_error", value=float("nan")),
    "no side": lambda path: altered(path, "reads", "side", value="16"),
    "a side without end": lambda path: altered(path, "reads", "side", value=10**9),
    "two channels": lambda path: altered(path, "reads", "mean", value=[0.5, 0.5]),
    "no deviation": lambda path: altered(path, "reads", "std", value=[0.0, 0.1, 0.1]),
    "classes of one name": lambda path: altered(path, "reads", "classes", value=["a"] * 32),
    "classes that are no names": lambda path: altered(path, "reads", "classes", value=[*range(32)]),
    "no list of classes": lambda path: altered(path, "reads", "classes", value=None),
    "no sum": lambda path: altered(path, "sha256", value=None),
    "no file": lambda path: (path.unlink(), path.symlink_to("gone")),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_description_is_left_out_and_stops_no_other(store, bundled, damage, caplog):
    other = bundled.with_name("other.json")
    shutil.copy(bundled, other)
    altered(other, "record", "key", value="other")
    assert {*zoo.known(store)} == {KEY, "other"}  # witness
    DAMAGED[damage](bundled)
    assert [*zoo.known(store)] == ["other"]
    assert str(bundled) in caplog.text
    with pytest.raises(UnknownName):
        zoo.load(KEY, store)


def test_weights_that_are_not_there_are_said(store, bundled):
    bundled.with_suffix(".safetensors").unlink()
    with pytest.raises(DataMissing, match=rf"{KEY}\.safetensors are not here"):
        zoo.load(KEY, store)


def test_a_flipped_byte_is_refused(store, bundled):
    file = bundled.with_suffix(".safetensors")
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(Corrupt, match="is not what was written"):
        zoo.load(KEY, store)
    altered(bundled, "sha256", value=files.sha256(bytes(data)))
    zoo.load(KEY, store)  # witness: the sum alone told


def test_weights_of_another_network_are_refused(store, bundled):
    for other in ("resnet8", "se-resnet14", "cbam-resnet8"):
        put(bundled, safetensors.torch.save(build(other, 32).state_dict()))
        with pytest.raises(Corrupt, match="not the weights of se-resnet8"):
            zoo.load(KEY, store)
    put(bundled, safetensors.torch.save(build("se-resnet8", 32).state_dict()))
    zoo.load(KEY, store)  # witness


def test_a_file_that_is_no_safetensors_is_refused_before_it_costs_memory(store, bundled, monkeypatch):
    for data in (b"", b"\x80\x04.", b"PK\x03\x04" * 100, (2**40).to_bytes(8, "little") + b"{}", b"\xff" * 64):
        put(bundled, data)
        with pytest.raises(Corrupt, match=r"(cannot be read|announces a header).* Fetch it again"):
            zoo.load(KEY, store)
    header = b'{"a":{"dtype":"F16","shape":[2],"data_offsets":[0,9]}}'
    put(bundled, len(header).to_bytes(8, "little") + header + bytes(9))
    with pytest.raises(Corrupt, match="cannot be read"):
        zoo.load(KEY, store)
    monkeypatch.setattr(weights, "LIMIT_BYTES", 50)
    with pytest.raises(Corrupt, match="has more than"):
        zoo.load(KEY, store)


def test_a_checkpoint_that_is_damaged_is_said_when_it_is_loaded(store):
    for file in (store.root / KEY / "ckpt").glob("*/model.safetensors"):
        file.write_bytes(file.read_bytes()[:-1])
    assert [*zoo.known(store)] == [KEY]
    with pytest.raises(Corrupt, match="No checkpoint in"):
        zoo.load(KEY, store)


def test_what_float16_cannot_hold_is_not_exported(store, monkeypatch, tmp_path):
    real = Checkpoints.load

    def large(*given, **named):
        tensors, scalars = real(*given, **named)
        next(value for value in tensors["model"].values() if value.dim() == 4)[0] = 7e4
        return tensors, scalars

    monkeypatch.setattr(Checkpoints, "load", large)
    with pytest.raises(OutOfRange, match=r"leaves float16, which ends at 65,504"):
        zoo.export(KEY, store, tmp_path / "share")
    assert not [*(tmp_path / "share").glob("*.safetensors")]


def test_what_a_network_reads_is_what_it_was_trained_on(tiny_layouts):
    split = tiny_layouts[1]
    reads = zoo.Reads(16, split.mean, split.std, split.classes)
    picture = split.pictures[0].numpy()
    x, _ = next(iter(split.batches(torch.device("cpu"), 1).ordered()))
    assert torch.allclose(reads.normalised(picture), x, atol=1e-6)
    assert not torch.allclose(reads.normalised(picture[::-1].copy()), x, atol=1e-6)  # witness
    for shape in ((1, 448, 3), (448, 1, 3), (1, 1, 3), (300, 448, 3)):
        found = reads.normalised(np.full(shape, 255, np.uint8))
        assert found.shape == (1, 3, 16, 16) and torch.allclose(found, torch.tensor(4.0))


def test_a_detector_is_exported_and_is_no_classifier(tmp_path, monkeypatch, store):
    splits = shapes.make(8, seed=0), shapes.make(4, seed=1)
    monkeypatch.setattr(shapes, "load", lambda: splits)
    recipe = replace(RECIPES["shapes"], epochs=1)
    model = "retinanet[anchor=2,finest=4,image_size=64,norm=group,width=32]-resnet8"
    experiment = Experiment(model=model, dataset="shapes", recipe=recipe, seed=0)
    record = store.run(experiment, "cpu")
    kept = zoo.export(record.key, store, store.models)
    assert [*zoo.known(store)] == [KEY] and [*zoo.detectors(store)] == [record.key]
    here, _ = zoo.load_detector(record.key, store)
    shutil.rmtree(store.root / record.key)
    one = zoo.detectors(store)[record.key]
    assert (one.dataset, one.measured, one.origin) == ("shapes", kept["ap"], PROJECT)
    assert str(one) == f"{experiment.model}, shapes, AP {kept['ap']:.2f} %"
    detector, reads = zoo.load_detector(record.key, store)
    assert reads == zoo.Whole(shapes.CLASSES) and not detector.training
    for (name, value), again in zip(here.state_dict().items(), detector.state_dict().values(), strict=True):
        assert torch.equal(value.half().to(value.dtype) if value.dim() > 1 else value, again), name
    assert torch.equal(reads.scaled(splits[1].pictures[0].numpy()), as_input(splits[1].pictures[0]))
    with pytest.raises(UnknownName, match="trained network"):
        zoo.load(record.key, store)
    with pytest.raises(UnknownName, match="trained network"):
        zoo.load_detector(KEY, store)
    file = store.models / f"{record.key}.json"
    for place, value in ((("ap",), 101.0), (("reads", "classes"), ["a"] * 6), (("reads",), {})):
        before = file.read_bytes()
        altered(file, *place, value=value)
        assert not zoo.detectors(store)
        file.write_bytes(before)
    assert zoo.detectors(store)  # witness


def test_what_comes_with_the_project_is_whole(tmp_path):
    store = Store(tmp_path)
    described = {path.stem for path in store.models.glob("*.json")}
    assert described == {path.stem for path in store.models.glob("*.safetensors")}
    assert described == {*zoo.known(store), *zoo.detectors(store)}
    for key in zoo.detectors(store):
        detector, reads = zoo.load_detector(key, store)
        (found,) = detector.detect([reads.scaled(np.full((40, 60, 3), 127, np.uint8))])
        assert found.boxes.isfinite().all() and found.scores.isfinite().all()
    for key in zoo.known(store):
        network, reads = zoo.load(key, store)
        with torch.no_grad():
            logits = network(reads.normalised(np.full((9, 9, 3), 127, np.uint8)))
        assert logits.shape == (1, len(reads.classes)) and logits.isfinite().all()
