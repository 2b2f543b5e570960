"""Imagenette and ImageNet through torchvision's readers, on small trees and archives that lie as the published ones."""

import dataclasses
import hashlib
import os
import pickle
import shutil
import tarfile
import urllib.error

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torchvision.datasets import imagenet as published

from workbench import cli, datasets
from workbench.build import image_size
from workbench.datasets import folders, imagenet
from workbench.errors import Corrupt, DataMissing
from workbench.experiments import tables
from workbench.experiments.compare import compare
from workbench.experiments.experiment import Experiment
from workbench.experiments.store import Store
from workbench.training.recipe import RECIPES, Recipe

CPU = torch.device("cpu")
TEN = sorted(torchvision.datasets.Imagenette._WNID_TO_CLASS)
THREE = {"n01440764": ("tench", "Tinca tinca"), "n01443537": ("goldfish", "Carassius auratus"), "n02012849": ("crane",)}
SMALL = Recipe(batch=5, epochs=1, lr=0.05, schedule="constant")
PLACE = {"imagenette": "imagenette2-320", "imagenet": "imagenet"}


def save(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, "JPEG")


def plant(folder, classes, train=3, val=2):
    """Pictures of each class, named as ImageNet names them."""
    for part, count in (("train", train), ("val", val)):
        for label, wnid in enumerate(classes):
            for number in range(count):
                save(folder / part / wnid / f"{wnid}_{number}.JPEG", 1000 * len(part) + 10 * label + number)


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """Both trees, never changed: ten classes, and three with the file that torchvision makes of the devkit."""
    root = tmp_path_factory.mktemp("planted")
    plant(root / PLACE["imagenette"], TEN)
    plant(root / PLACE["imagenet"], THREE)
    torch.save((THREE, [wnid for wnid in THREE for _ in range(2)]), root / PLACE["imagenet"] / "meta.bin")
    return root


@pytest.fixture
def counts(monkeypatch):
    monkeypatch.setitem(imagenet.COUNTS, "imagenette", (30, 20))
    monkeypatch.setitem(imagenet.COUNTS, "imagenet", (9, 6))
    monkeypatch.setitem(datasets.CLASSES, "imagenet", 3)


@pytest.fixture
def root(planted, tmp_path, counts):
    """A copy to spoil."""
    shutil.copytree(planted, tmp_path / "data")
    return tmp_path / "data"


def names(split):
    return [os.fsdecode(path) for path in split.files]


def first_batch(split, seed):
    batches = split.batches(CPU, 4)
    batches.open(seed, 0)
    batches.advance()
    return batches.batch(torch.tensor(0))


@pytest.mark.parametrize("name", PLACE)
def test_the_splits_are_what_the_reader_lists_and_the_folder_holds(planted, counts, name):
    tree = planted / PLACE[name]
    own = datasets.load(f"folder:{tree}", None, 16)
    for split, plain, part in zip(datasets.load(name, planted, 16), own, ("train", "val"), strict=True):
        assert names(split) == names(plain) == sorted(str(path.relative_to(tree)) for path in tree.glob(f"{part}/*/*"))
        assert torch.equal(split.labels, plain.labels) and split.labels.dtype == torch.int64
        assert [plain.classes[label] for label in split.labels] == [path.split("/")[1] for path in names(split)]
        assert (split.side, split.augment, len(split)) == (16, part == "train", len(plain))
        pictures, labels = first_batch(split, seed=7)
        assert torch.equal(pictures, first_batch(plain, seed=7)[0]) and labels.shape == (4,)
        assert not torch.equal(pictures, first_batch(split, seed=8)[0])  # witness


def test_classes_have_the_words_of_wordnet(planted, counts):
    train, val = datasets.load("imagenette", planted, 16)
    assert train.classes == val.classes and len(train.classes) == datasets.classes("imagenette") == 10
    assert train.classes[:2] == ("tench, Tinca tinca", "English springer, English springer spaniel")
    expected = ("tench, Tinca tinca", "goldfish, Carassius auratus", "crane")
    assert datasets.load("imagenet", planted, 16)[0].classes == expected


def test_a_version_is_the_checksum_of_the_published_archives_and_needs_no_data(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "tree", None)  # nothing is listed
    _, md5 = torchvision.datasets.Imagenette._ARCHIVES["320px"]
    assert datasets.version("imagenette") == md5 != torchvision.datasets.Imagenette._ARCHIVES["full"][1]
    assert dict(published.ARCHIVE_META.values()) == imagenet.ARCHIVES["imagenet"]
    assert datasets.version("imagenet") == "-".join(imagenet.ARCHIVES["imagenet"].values())
    for name in PLACE:
        spec = Experiment(model="circularnet", dataset=name, recipe=SMALL, seed=0).spec()["dataset"]
        assert spec == {"name": name, "version": datasets.version(name)} and datasets.label(spec) == name
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "size"), [("imagenette", "340 MB"), ("imagenet", "155 GB")])
def test_a_missing_data_set_says_where_how_big_and_how_to_get_it(tmp_path, name, size):
    with pytest.raises(DataMissing) as caught:
        datasets.load(name, tmp_path, 16)
    said = str(caught.value)
    assert str(tmp_path / PLACE[name]) in said and size in said and "\n" not in said
    assert f"`workbench data fetch {name}`" in said and "WORKBENCH_DATA" in said
    assert all(archive in said for archive in imagenet.ARCHIVES["imagenet"]) == (name == "imagenet")
    assert caught.value.exit_code == 3


def gone(path):
    return lambda tree: shutil.rmtree(tree / path) if (tree / path).is_dir() else (tree / path).unlink()


def emptied(tree):
    for path in (tree / "train" / TEN[0]).iterdir():
        path.unlink()


def unknown(tree):
    (tree / "train" / TEN[0]).rename(tree / "train" / "n99999999")


def more(tree):
    save(tree / "val" / TEN[0] / "more.JPEG", 0)


def meta(content):
    return lambda tree: torch.save(content, tree / "meta.bin")


def cut(path):
    return lambda tree: (tree / path).write_bytes((tree / path).read_bytes()[:90])


def other_classes(tree):
    (tree / "val" / "n02012849").rename(tree / "val" / "n03126707")
    torch.save(({**THREE, "n03126707": ("crane", "lifting device")}, []), tree / "meta.bin")


PICTURE = f"train/{TEN[0]}/{TEN[0]}_1.JPEG"
SPOILT = {
    "picture gone": ("imagenette", gone(PICTURE), Corrupt, "train has 29 pictures, imagenette 30"),
    "picture more": ("imagenette", more, Corrupt, "val has 21 pictures, imagenette 20"),
    "class gone": ("imagenette", gone(f"val/{TEN[3]}"), Corrupt, "val has 9 classes, imagenette 10"),
    "class unknown": ("imagenette", unknown, Corrupt, "n99999999"),
    "class empty": ("imagenette", emptied, Corrupt, f"no valid file for the classes {TEN[0]}"),
    "part gone": ("imagenette", gone("val"), Corrupt, "val is not imagenette (FileNotFoundError"),
    "imagenet, picture gone": ("imagenet", gone(PICTURE), Corrupt, "put ILSVRC2012_img_train.tar into"),
    "imagenet, picture more": ("imagenet", more, Corrupt, "val has 7 pictures, imagenet 6"),
    "imagenet, class gone": ("imagenet", gone("train/n02012849"), Corrupt, "train has 2 classes, imagenet 3"),
    "imagenet, class unknown": ("imagenet", unknown, Corrupt, "n99999999"),
    "imagenet, other classes": ("imagenet", other_classes, Corrupt, "the classes in train and val differ"),
    "meta.bin cut": ("imagenet", cut("meta.bin"), Corrupt, "meta.bin cannot be read"),
    "meta.bin of another": ("imagenet", meta("no tables"), Corrupt, "meta.bin cannot be read"),
    "meta.bin gone": (
        "imagenet",
        gone("meta.bin"),
        DataMissing,
        "meta.bin, 155 GB). Put ILSVRC2012_devkit_t12.tar.gz ",
    ),
    "imagenet, part gone": ("imagenet", gone("val"), DataMissing, "with val, 155 GB). Put ILSVRC2012_img_val.tar from"),
}


@pytest.mark.parametrize("fault", SPOILT)
def test_what_is_not_as_published_is_said_and_not_used(root, fault):
    name, spoil, error, sentence = SPOILT[fault]
    datasets.load(name, root, 16)  # witness: whole before
    spoil(root / PLACE[name])
    with pytest.raises(error) as caught:
        datasets.load(name, root, 16)
    said = str(caught.value)
    assert sentence in said and str(root / PLACE[name]) in said and f"`workbench data fetch {name}`" in said
    assert "\n" not in said


class Canary:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_pickle_in_the_place_of_meta_bin_runs_nothing(root, tmp_path):
    bomb = pickle.dumps(Canary(tmp_path / "canary"), protocol=2)
    for write in (lambda path: path.write_bytes(bomb), lambda path: torch.save(Canary(tmp_path / "canary"), path)):
        write(root / "imagenet" / "meta.bin")
        with pytest.raises(Corrupt, match=r"meta\.bin cannot be read"):
            datasets.load("imagenet", root, 16)
    assert not (tmp_path / "canary").exists()
    pickle.loads(bomb)
    assert (tmp_path / "canary").exists()  # witness


@pytest.mark.parametrize("name", PLACE)
def test_a_damaged_picture_is_named_and_what_is_advised_works(root, name, capsys):
    tree = root / PLACE[name]
    datasets.verify(name, root=root)  # witness: whole before
    (tree / PICTURE).write_bytes((tree / PICTURE).read_bytes()[:200])
    train, _ = datasets.load(name, root, 16)
    with pytest.raises(Corrupt) as caught:
        train.picture(1, None)
    advice = f"workbench data verify 'folder:{tree}' --skip-bad-images 1"
    assert str(caught.value).startswith(f"Picture 1 of {len(train)}: {tree / PICTURE} cannot be decoded")
    assert f"`{advice}`" in str(caught.value)
    with pytest.raises(Corrupt, match=rf"1 of {50 if name == 'imagenette' else 15} pictures of {name}") as caught:
        datasets.verify(name, root=root)
    assert f"`{advice}`" in str(caught.value)
    assert cli.main(["data", "verify", f"folder:{tree}", "--skip-bad-images", "1"]) == 0
    assert f"{len(train) - 1} + " in capsys.readouterr().out
    fewer, _ = datasets.load(f"folder:{tree}", None, 16)
    assert set(names(train)) - set(names(fewer)) == {PICTURE}
    assert len(datasets.load(name, root, 16)[0]) == len(train)  # under its own name it is whole or nothing


def test_imagenette_is_unpacked_from_its_archive(planted, counts, tmp_path, monkeypatch):
    archive = tmp_path / "imagenette2-320.tgz"
    with tarfile.open(archive, "w:gz") as packed:
        packed.add(planted / "imagenette2-320", "imagenette2-320")
    url = "https://nowhere.invalid/" + archive.name
    patched = {"320px": (url, hashlib.md5(archive.read_bytes()).hexdigest())}
    monkeypatch.setattr(torchvision.datasets.Imagenette, "_ARCHIVES", patched)
    datasets.fetch("imagenette", tmp_path)
    assert names(datasets.load("imagenette", tmp_path, 16)[0]) == names(datasets.load("imagenette", planted, 16)[0])

    def offline(*given, **options):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    datasets.fetch("imagenette", tmp_path)  # what is there stays
    shutil.rmtree(tmp_path / "imagenette2-320")
    archive.write_bytes(archive.read_bytes()[:-1])  # not the published one any more, so it is downloaded
    with pytest.raises(DataMissing, match=r"imagenette cannot be downloaded \(no network\)"):
        datasets.fetch("imagenette", tmp_path)


@pytest.fixture
def archives(planted, counts, tmp_path, monkeypatch):
    """The three archives of ImageNet in their folder, as image-net.org packs them; torchvision is told their MD5."""
    savemat = pytest.importorskip("scipy.io").savemat

    folder, made = tmp_path / "data" / "imagenet", tmp_path / "made"
    source = planted / "imagenet"
    (made / "ILSVRC2012_devkit_t12" / "data").mkdir(parents=True)
    folder.mkdir(parents=True)
    for wnid in THREE:
        with tarfile.open(made / f"{wnid}.tar", "w") as packed:
            for path in sorted((source / "train" / wnid).iterdir()):
                packed.add(path, path.name)
    with tarfile.open(folder / "ILSVRC2012_img_train.tar", "w") as packed:
        for wnid in THREE:
            packed.add(made / f"{wnid}.tar", f"{wnid}.tar")
    numbers = {wnid: 3 - row for row, wnid in enumerate(THREE)}  # not in the order of the wnids
    pictures = sorted((source / "val").glob("*/*"), key=lambda path: path.name[::-1])  # of all classes in turn
    with tarfile.open(folder / "ILSVRC2012_img_val.tar", "w") as packed:
        for number, path in enumerate(pictures):
            packed.add(path, f"ILSVRC2012_val_{number + 1:08}.JPEG")
    fields = [("id", "O"), ("WNID", "O"), ("words", "O"), ("gloss", "O"), ("num_children", "O")]
    synsets = np.array([(numbers[w], w, ", ".join(THREE[w]), "", 0) for w in THREE] + [(4, "n0", "x", "", 3)], fields)
    data = made / "ILSVRC2012_devkit_t12" / "data"
    savemat(data / "meta.mat", {"synsets": synsets})
    truth = "".join(f"{numbers[path.parent.name]}\n" for path in pictures)
    (data / "ILSVRC2012_validation_ground_truth.txt").write_text(truth)
    with tarfile.open(folder / "ILSVRC2012_devkit_t12.tar.gz", "w:gz") as packed:
        packed.add(data.parent, data.parent.name)
    for part, (name, _) in published.ARCHIVE_META.items():
        md5 = hashlib.md5((folder / name).read_bytes()).hexdigest()
        monkeypatch.setitem(published.ARCHIVE_META, part, (name, md5))
    return folder


def test_imagenet_is_unpacked_from_its_archives(planted, archives):
    with pytest.raises(DataMissing, match="Unpack what lies there with `workbench data fetch imagenet`"):
        datasets.load("imagenet", archives.parent, 16)
    datasets.fetch("imagenet", archives.parent)
    for split, original in zip(
        datasets.load("imagenet", archives.parent, 16), datasets.load("imagenet", planted, 16), strict=True
    ):
        assert split.classes == original.classes and torch.equal(split.labels, original.labels)
        contents = [{(split.path(i).read_bytes(), int(split.labels[i])) for i in range(len(split))}]
        contents.append({(original.path(i).read_bytes(), int(original.labels[i])) for i in range(len(original))})
        assert contents[0] == contents[1] and len(contents[0]) == len(split)
        assert {label for _, label in contents[0]} == {0, 1, 2}  # witness: a picture of each class, each its own


@pytest.mark.parametrize("name", imagenet.ARCHIVES["imagenet"])
def test_an_archive_that_is_not_there_or_damaged_is_named(archives, name):
    path = archives / name
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    with pytest.raises(Corrupt, match=name):
        datasets.fetch("imagenet", archives.parent)
    path.unlink()
    with pytest.raises(DataMissing, match=f"lacks {name}. Put {name} from image-net.org into {archives}") as caught:
        datasets.fetch("imagenet", archives.parent)
    assert not any(other in str(caught.value) for other in imagenet.ARCHIVES["imagenet"] if other != name)


@pytest.mark.parametrize(("name", "model", "side"), [("imagenette", "resnet20", 32), ("imagenet", "circularnet", 16)])
def test_a_network_is_trained_on_it_at_its_own_size(root, tmp_path, name, model, side):
    assert image_size(model) == side
    found = [
        Store(tmp_path / f"runs {seed} {workers}", root).run(
            Experiment(model=model, dataset=name, recipe=SMALL, seed=seed), "cpu", workers=workers
        )
        for seed, workers in ((1, 0), (1, 1), (2, 0))
    ]
    assert found[0].status == "done" and 0 <= found[0].metrics["top1_error"] <= 100
    assert found[0].curves == found[1].curves != found[2].curves  # who decodes changes nothing; witness: another seed
    assert found[0].spec["dataset"] == {"name": name, "version": datasets.version(name)}


def test_a_run_on_missing_data_is_refused_before_anything_is_written(tmp_path):
    experiment = Experiment(model="circularnet", dataset="imagenette", recipe=SMALL, seed=0)
    with pytest.raises(DataMissing, match="imagenette2-320"):
        Store(tmp_path / "runs", tmp_path).run(experiment, "cpu")
    assert not list((tmp_path / "runs").glob("*/*"))


@pytest.mark.parametrize(("budget", "recipe"), [("paper", "cra-imagenet"), ("imagenette", "pictures")])
def test_a_table_is_measured_at_the_budget_with_its_own_models(root, tmp_path, monkeypatch, budget, recipe):
    """CRA Table IV's ResNet-50 at 224 px, by the budget's recipe but for the size of a batch and one epoch."""
    short = dataclasses.replace(RECIPES[recipe], batch=3, epochs=1)
    monkeypatch.setitem(RECIPES, recipe, short)
    table = tables.load("cra-4")
    runs = {run.model: run for run in table.experiments(budget, 1)}
    assert list(runs) == ["cra7-resnet50", "cra5-resnet50", "cra3-resnet50", "cra1-resnet50", "resnet50"]
    store = Store(tmp_path / "runs", root, tmp_path / "published")
    assert store.run(runs["resnet50"], "cpu").status == "done"
    shown = {entry["row"]: entry for entry in compare(table, store)}
    (error, *_) = [m for m in shown["w/o"]["measured"] if m["metric"] == "top1_error"]
    assert (error["column"], error["n"], error["dataset"]) == (f"measured here, {budget}", 1, runs["resnet50"].dataset)
    assert shown["w/o"]["status"] == "measured" and shown["<7,7>"]["status"] == "not measured"


def test_a_table_whose_pictures_are_not_here_is_refused_with_what_to_do(tmp_path, capsys):
    at = ["--runs", str(tmp_path / "runs"), "--data-dir", str(tmp_path / "data")]
    for budget, name in (("paper", "imagenet"), ("imagenette", "imagenette2-320")):
        assert cli.main(["reproduce", "cra-4", "--budget", budget, "--device", "cpu", *at]) == 3
        said = capsys.readouterr().err
        assert name in said and "workbench data fetch" in said and "Traceback" not in said
    assert not list((tmp_path / "runs").glob("*/spec.json"))
