"""COCO's photographs and boxes: what is read, what is left out and counted, and what is said of a damaged tree."""

import json
import shutil
import sys
import urllib.error

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import CocoDetection

from workbench import cli, datasets, files
from workbench.build import build
from workbench.datasets import boxes, coco
from workbench.errors import Corrupt, DataMissing, OutOfRange
from workbench.experiments.experiment import Experiment
from workbench.experiments.store import Store
from workbench.training.recipe import Recipe

CATEGORIES = [{"id": 90, "name": "toothbrush"}, {"id": 1, "name": "person"}, {"id": 13, "name": "stop sign"}]
REMEDY = "Mend it."


def box(image_id, bbox, category=1, crowd=0):
    return {
        "image_id": image_id,
        "bbox": bbox,
        "category_id": category,
        "iscrowd": crowd,
        "area": bbox[2] * bbox[3] / 2,
    }


# Picture 7 has none, 9 one that is outside, 11 a crowd alone; a box without area, of no category and of no picture
BOXES = [
    box(5, [1.5, 2, 10, 12.25], 90),
    box(3, [30, 20, 10, 10], 13),  # to the very corner
    box(5, [0, 0, 40, 30], 1, crowd=1),
    box(5, [-4, -2, 8, 8], 13),  # over the edge
    box(3, [2, 3, 0, 5]),
    box(3, [2, 3, 5, -1]),
    box(9, [40, 0, 5, 5]),
    box(5, [1, 1, 5, 5], 12),
    box(77, [1, 1, 5, 5]),
    box(11, [1, 1, 5, 5], 1, crowd=1),
]
SKIPPED = {"unknown_picture": 1, "unknown_category": 1, "no_area": 2, "outside": 1}


def write(folder, content=None, part="train2017", numbers=(5, 3, 7, 9, 11)):
    """Pictures of 40 x 30 and their annotations, in COCO's layout."""
    (folder / part).mkdir(parents=True)
    (folder / "annotations").mkdir(exist_ok=True)
    listed = []
    for number in numbers:
        pixels = np.random.default_rng(number).integers(0, 256, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / part / f"{number:012}.jpg")
        listed.append({"id": number, "file_name": f"{number:012}.jpg", "width": 40, "height": 30})
    found = [{"id": row + 1, **item} for row, item in enumerate(BOXES)]
    content = {"images": listed, "annotations": found, "categories": CATEGORIES} | (content or {})
    (folder / "annotations" / f"instances_{part}.json").write_text(json.dumps(content))


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A COCO of five pictures in each part; what is published is told of it."""
    for part in coco.PARTS:
        write(tmp_path / "data" / "coco", part=part)
        monkeypatch.setitem(coco.COUNTS, part, 5)
    monkeypatch.setitem(datasets.CLASSES, "coco2017", 3)
    return tmp_path / "data"


@pytest.fixture
def folder(root):
    return root / "coco"


def test_boxes_are_corners_in_pixels_and_labels_have_no_gaps(folder):
    train, val = coco.read(folder)
    assert train.classes == val.classes == ("person", "stop sign", "toothbrush")
    assert train.categories == (1, 13, 90)
    item = train.item(1)
    assert (item.image_id, item.picture.shape, item.picture.dtype) == (5, (30, 40, 3), torch.uint8)
    assert item.boxes.tolist() == [[1.5, 2, 11.5, 14.25], [0, 0, 40, 30], [0, 0, 4, 6]]  # the last one cut at the edge
    assert item.boxes.dtype == torch.float32 and item.labels.dtype == torch.int64
    assert item.labels.tolist() == [2, 0, 1] and item.crowd.tolist() == [False, True, False]
    assert item.areas.tolist() == [61.25, 600, 32]
    corner = train.item(0)
    assert (corner.image_id, corner.boxes.tolist(), corner.labels.tolist()) == (3, [[30, 20, 40, 30]], [1])


def test_a_picture_and_its_boxes_are_what_torchvisions_reader_gives(tmp_path, capsys):
    sound = [{"id": row, **BOXES[row]} for row in (2, 1, 0)]
    for part in coco.PARTS:
        write(tmp_path, {"annotations": sound}, part)
    _, val = coco.read(tmp_path)
    assert not capsys.readouterr().out  # pycocotools is not heard
    reader = CocoDetection(val.root, val.annotations)
    assert val.ids.tolist() == reader.ids == [3, 5, 7, 9, 11]
    for ours, (picture, listed) in zip(val, reader, strict=True):
        assert np.array_equal(ours.picture.numpy(), np.asarray(picture))
        corners = [[x, y, x + w, y + h] for x, y, w, h in (found["bbox"] for found in listed)]
        assert ours.boxes.tolist() == corners
        assert [val.categories[label] for label in ours.labels] == [found["category_id"] for found in listed]
        assert ours.areas.tolist() == [found["area"] for found in listed]
    assert not torch.equal(val[0].picture, val[1].picture) and len(val[1].boxes) == 2  # witness


def test_what_cannot_be_learned_from_is_left_out_and_counted(folder):
    train, val = coco.read(folder)
    assert train.ids.tolist() == [3, 5] and train.skipped == SKIPPED | {"empty_pictures": 3}
    assert val.ids.tolist() == [3, 5, 7, 9, 11] and val.skipped == SKIPPED | {"empty_pictures": 0}
    assert [len(item.boxes) for item in val] == [1, 3, 0, 0, 1] and val.item(4).crowd.all()
    assert val.item(2).boxes.shape == (0, 4) and val.item(2).labels.shape == (0,)
    listed = len(BOXES) - sum(SKIPPED.values())
    assert (len(train.boxes.labels), len(val.boxes.labels)) == (listed - 1, listed)  # the crowd that is alone


def test_boxes_of_no_number_or_of_another_order_of_the_file(tmp_path):
    listed = [box(3, [float("nan"), 1, 5, 5]), box(3, [1, 1, float("nan"), 5]), box(3, [1, 1, float("inf"), 5])]
    write(tmp_path, {"annotations": [{"id": row, **item} for row, item in enumerate([*listed, *BOXES[:2]])]})
    train = boxes.split(tmp_path / "train2017", tmp_path / "annotations/instances_train2017.json", True, REMEDY)
    assert (train.skipped["no_area"], train.skipped["outside"]) == (2, 0)
    assert train.item(0).boxes.tolist() == [[1, 1, 40, 6], [30, 20, 40, 30]] and train.item(1).image_id == 5


def test_items_are_counted_from_both_ends(folder):
    train, _ = coco.read(folder)
    assert torch.equal(train[-1].picture, train[1].picture) and torch.equal(train[-1].boxes, train[1].boxes)
    assert not torch.equal(train[-1].picture, train[0].picture)  # witness
    for outside in (2, -3):
        with pytest.raises(IndexError):
            train.item(outside)


def test_a_network_learns_the_class_of_a_box(folder):
    torch.manual_seed(0)
    network = build("circularnet", 3)
    item = coco.read(folder)[0].item(1)
    left, top, right, bottom = item.boxes[0].round().int().tolist()
    cut = item.picture[top:bottom, left:right].permute(2, 0, 1)[None] / 255
    picture = torch.nn.functional.interpolate(cut, (16, 16))
    losses = []
    for _ in range(2):
        loss = torch.nn.functional.cross_entropy(network.eval()(picture), item.labels[:1])
        loss.backward()
        with torch.no_grad():
            for weight in network.parameters():
                weight -= 0.05 * weight.grad
                weight.grad = None
        losses.append(loss.item())
    assert losses[1] < losses[0]


def test_coco_whole_is_loaded_under_its_name(root, monkeypatch):
    train, val = coco.load(root)
    assert (len(train), len(val)) == (2, 5)
    coco.verify(train, val)
    datasets.verify("coco2017", root=root)
    monkeypatch.setitem(coco.COUNTS, "val2017", 5000)
    with pytest.raises(Corrupt, match=r"instances_val2017\.json lists 5 pictures and 3 classes, COCO 2017 5,000 and 3"):
        coco.load(root)
    monkeypatch.setitem(coco.COUNTS, "val2017", 5)
    monkeypatch.setitem(datasets.CLASSES, "coco2017", 80)
    with pytest.raises(Corrupt, match="lists 5 pictures and 3 classes, COCO 2017 5 and 80"):
        coco.load(root)
    assert len(coco.read(root / "coco")[1]) == 5  # witness: as a folder of one's own it is whole


@pytest.mark.parametrize("missing", ["train2017", "val2017", "annotations", ""])
def test_missing_parts_are_named_with_size_and_how_to_get_them(root, missing):
    shutil.rmtree(root / "coco" / missing)
    with pytest.raises(DataMissing) as caught:
        coco.load(root)
    said = str(caught.value)
    assert str(root / "coco") in said and "20 GB" in said and "`workbench data fetch coco2017`" in said
    assert (missing or "train2017 and val2017 and annotations") in said and caught.value.exit_code == 3


def rewrite(**changes):
    def spoil(folder):
        path = folder / "annotations" / "instances_val2017.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return spoil


def cut(folder):
    path = folder / "annotations" / "instances_val2017.json"
    path.write_text(path.read_text()[:-20])


def gone(name):
    return lambda folder: (folder / name).unlink()


def emptied(folder):
    path = folder / "annotations" / "instances_train2017.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"annotations": []}))


JUST = {"id": 1, "image_id": 3, "category_id": 1, "bbox": [1, 1, 5, 5], "area": 9, "iscrowd": 0}
SPOILT = {
    "annotations cut": (cut, Corrupt, "instances_val2017.json is no file of boxes as COCO's (JSONDecodeError"),
    "no object": (lambda f: (f / "annotations/instances_val2017.json").write_text("[]"), Corrupt, "AssertionError"),
    "no annotations": (rewrite(annotations=None), Corrupt, "is no file of boxes"),
    "no boxes' key": (rewrite(annotations=[{"id": 1, "image_id": 3, "category_id": 1}]), Corrupt, "KeyError: 'bbox'"),
    "a box of 3": (rewrite(annotations=[JUST | {"bbox": [1, 2, 3]}]), Corrupt, "ValueError"),
    "words for numbers": (rewrite(annotations=[JUST | {"area": "large"}]), Corrupt, "ValueError"),
    "other categories": (rewrite(categories=CATEGORIES[:2]), OutOfRange, "have other categories"),
    "annotations gone": (gone("annotations/instances_train2017.json"), DataMissing, "train2017.json is not there"),
    "picture gone": (gone("val2017/000000000007.jpg"), Corrupt, "1 of the 5 pictures that"),
    "nothing to learn": (emptied, OutOfRange, "lists no picture to use"),
}


@pytest.mark.parametrize("fault", SPOILT)
def test_a_damaged_tree_is_said_in_one_sentence_and_not_used(root, folder, fault):
    spoil, error, sentence = SPOILT[fault]
    coco.load(root)  # witness: whole before
    spoil(folder)
    for read, place in ((coco.load, root), (coco.read, folder)):
        with pytest.raises(error) as caught:
            read(place)
        assert sentence in str(caught.value) and str(folder) in str(caught.value) and "\n" not in str(caught.value)
        assert type(caught.value) is error


def test_a_picture_without_use_in_training_may_lack(folder):
    (folder / "train2017" / "000000000007.jpg").unlink()
    assert len(coco.read(folder)[0]) == 2


def test_a_damaged_picture_is_named_with_its_number(root, folder):
    path = folder / "val2017" / "000000000005.jpg"
    path.write_bytes(path.read_bytes()[:300])
    _, val = coco.load(root)
    with pytest.raises(Corrupt, match=rf"Picture 1 of 5: {path} cannot be decoded .*`workbench data fetch coco2017`"):
        val.item(1)
    with pytest.raises(Corrupt, match=rf"1 of 5 pictures in {folder / 'val2017'} cannot be decoded"):
        datasets.verify("coco2017", root=root)
    assert val.item(0).picture.shape == (30, 40, 3)  # witness


def test_a_picture_of_another_size_or_too_large_is_refused(folder, monkeypatch):
    _, val = coco.read(folder)
    Image.new("RGB", (30, 40)).save(folder / "val2017" / "000000000003.jpg")  # turned
    with pytest.raises(Corrupt, match=r"000000000003.jpg has 30 x 40 pixels and .* says 40 x 30, so its boxes do not"):
        val.item(0)
    decode = boxes.decode
    monkeypatch.setattr(boxes, "decode", lambda path: decode(path, limit=400))
    with pytest.raises(OutOfRange, match=r"Picture 1 of 5: .* has 40 x 30 pixels; at most"):
        val.item(1)


def test_a_name_that_leaves_the_folder_is_not_opened(folder, tmp_path):
    Image.new("RGB", (40, 30)).save(tmp_path / "secret.png")
    listed = [{"id": 3, "file_name": str(tmp_path / "secret.png"), "width": 40, "height": 30}]
    rewrite(images=listed)(folder)
    _, val = coco.read(folder)
    with pytest.raises(OutOfRange, match="leaves the folder"):
        val.item(0)


def test_without_pycocotools_the_package_is_named(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools.coco", None)
    with pytest.raises(ModuleNotFoundError) as caught:
        coco.read(folder)
    assert caught.value.name.split(".")[0] == "pycocotools"


def test_versions(folder, tmp_path):
    assert datasets.version("coco2017") == "-".join(md5 for _, md5 in coco.ARCHIVES.values())
    assert datasets.identity("coco2017") == {"name": "coco2017", "version": coco.VERSION}
    first = coco.version(folder)
    shutil.copytree(folder, tmp_path / "elsewhere")
    assert coco.version(tmp_path / "elsewhere") == first
    rewrite(annotations=[JUST])(folder)
    assert coco.version(folder) != first


def test_it_is_refused_where_classes_are_learned(root, tmp_path):
    with pytest.raises(OutOfRange, match="is for detectors") as caught:
        datasets.load("coco2017", root)
    assert "cifar10" in str(caught.value) and "imagenet" in str(caught.value)
    recipe = Recipe(batch=2, epochs=1, lr=0.1, schedule="constant")
    with pytest.raises(OutOfRange, match="is for detectors"):
        Store(tmp_path / "runs", root).run(
            Experiment(model="circularnet", dataset="coco2017", recipe=recipe, seed=0), "cpu"
        )
    assert not list((tmp_path / "runs").glob("*/*"))


def test_fetching_gets_what_is_not_there_and_checks_it(root, folder, tmp_path, monkeypatch):
    asked = []

    def get(url, place, md5, remove_finished):
        asked.append((url, md5))
        if "annotations" in url:
            raise RuntimeError("File not found or corrupted.")
        (place / "val2017").mkdir()

    monkeypatch.setattr("torchvision.datasets.utils.download_and_extract_archive", get)
    datasets.fetch("coco2017", root)
    assert asked == []
    shutil.rmtree(folder / "val2017"), shutil.rmtree(folder / "annotations")
    with pytest.raises(Corrupt, match=r"annotations_trainval2017.zip came damaged \(File not found"):
        datasets.fetch("coco2017", root)
    paths = [coco.ARCHIVES[part] for part in ("val2017", "annotations")]
    assert asked == [(f"{coco.SOURCE}/{path}", md5) for path, md5 in paths]


def test_without_a_network_fetching_says_so(tmp_path, monkeypatch):
    def offline(*given, **options):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    with pytest.raises(DataMissing, match=r"coco2017 cannot be downloaded \(no network\).*coco"):
        datasets.fetch("coco2017", tmp_path)


@pytest.fixture
def mini(tmp_path, monkeypatch):
    """A coco-mini of five pictures in each part."""
    root = tmp_path / "data"
    for part in coco.PARTS:
        write(root / "coco_mini_320", part=part)
    monkeypatch.setattr(coco, "MINI", coco.version(root / "coco_mini_320"))
    return root


def test_coco_mini_is_loaded_under_its_name_and_told_by_its_boxes(mini):
    train, val = datasets.load_boxes("coco-mini", mini)
    assert (len(train), len(val)) == (2, 5) and datasets.version("coco-mini") == coco.MINI
    datasets.fetch("coco-mini", mini)
    datasets.verify("coco-mini", root=mini)
    rewrite(annotations=[JUST])(mini / "coco_mini_320")
    with pytest.raises(Corrupt, match="coco_mini_320/annotations has other boxes than coco-mini") as caught:
        datasets.load_boxes("coco-mini", mini)
    assert "coco:PATH" in str(caught.value)


def test_a_damaged_picture_of_coco_mini_is_named(mini, capsys):
    assert cli.main(["data", "verify", "coco-mini", "--data-dir", str(mini)]) == 0
    assert capsys.readouterr().out == "coco-mini: 2 + 5 pictures, 3 classes, verified\n"
    path = mini / "coco_mini_320" / "val2017" / "000000000005.jpg"
    path.write_bytes(path.read_bytes()[:300])
    assert cli.main(["data", "verify", "coco-mini", "--data-dir", str(mini)]) == 1
    assert "1 of 5 pictures in" in capsys.readouterr().err


@pytest.mark.parametrize("action", ["fetch", "verify"])
def test_without_coco_mini_it_is_said_what_is_expected_where(tmp_path, capsys, action):
    assert cli.main(["data", action, "coco-mini", "--data-dir", str(tmp_path)]) == 3
    said = capsys.readouterr().err
    assert f"expected {tmp_path / 'coco_mini_320'} with train2017 and val2017 and annotations, 16 MB" in said
    assert "coco:PATH" in said and "workbench.datasets.coco.cut" in said


def test_a_folder_of_ones_own_is_a_data_set(folder, tmp_path):
    name = f"coco:{folder}"
    train, val = datasets.load_boxes(name, None)
    assert (len(train), len(val), datasets.classes(name)) == (2, 5, 3) and datasets.detects(name)
    datasets.verify(name)
    identity = {"name": "coco:coco", "version": coco.version(folder)}
    assert datasets.identity(name) == identity and datasets.label(identity) == f"coco:coco@{identity['version'][:8]}"
    shutil.copytree(folder, tmp_path / "moved" / "coco")
    assert datasets.identity(f"coco:{tmp_path / 'moved' / 'coco'}") == identity  # wherever it lies
    rewrite(annotations=[JUST])(folder)
    assert datasets.identity(name) != identity  # witness
    for nothing, error, said in (
        ("coco:", OutOfRange, "coco:PATH"),
        (f"coco:{tmp_path}", DataMissing, "cannot be read"),
    ):
        with pytest.raises(error, match=said):
            datasets.canonical(nothing)
    with pytest.raises(OutOfRange, match="is for detectors"):
        datasets.load(name, None)


def test_a_part_is_cut_by_the_numbers_of_its_pictures(folder, tmp_path):
    coco.cut(folder, tmp_path / "some", {5, 7})
    train, val = datasets.load_boxes(f"coco:{tmp_path / 'some'}", None)
    assert (train.ids.tolist(), val.ids.tolist(), train.classes) == ([5], [5, 7], coco.read(folder)[0].classes)
    whole = coco.read(folder)[1].item(1)
    assert all(map(torch.equal, val.item(0)[:5], whole[:5])) and len(whole.boxes) == 3
    assert len([*(tmp_path / "some" / "val2017").iterdir()]) == 2
    again = coco.version(tmp_path / "some")
    coco.cut(folder, tmp_path / "other", [7, 5])
    assert coco.version(tmp_path / "other") == again
    coco.cut(folder, tmp_path / "third", [5])
    assert coco.version(tmp_path / "third") != again  # witness
    with pytest.raises(OutOfRange, match=r"None of the 1 pictures that are asked for is in .*train2017"):
        coco.cut(folder, tmp_path / "none", [8])


def test_what_was_left_out_can_be_written_in_a_record(folder, tmp_path):
    train, _ = coco.read(folder)
    files.write_json(tmp_path / "record.json", train.skipped)
    assert files.read_json(tmp_path / "record.json") == SKIPPED | {"empty_pictures": 3}
    assert all(type(count) is int for count in train.skipped.values())
