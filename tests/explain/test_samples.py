"""Pictures at hand: named alike everywhere, right in type, and nobody's change reaches another's."""

import threading
import time

import numpy as np
import pytest
import torch

from workbench.datasets import cifar, shapes
from workbench.errors import UnknownName
from workbench.explain import samples


def test_every_known_picture_is_there(tmp_path):
    names = samples.known(tmp_path)
    assert len({*names}) == len(names) and {"pattern:grey", "layouts:horizontal 0.0", "photo:grace-hopper"} <= {*names}
    for name in names:
        picture = samples.picture(name, tmp_path)
        assert picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3, name
        assert name == "pattern:grey" or picture.std() > 1, name
    assert len([name for name in names if name.startswith("layouts:")]) == 32


@pytest.mark.parametrize("name", ["", "nosuch", "pattern:", "photo:../../etc/passwd", "cifar10:cat", "a\0", "x" * 4000])
def test_another_name_is_unknown(tmp_path, name):
    with pytest.raises(UnknownName, match="Unknown picture"):
        samples.picture(name, tmp_path)


@pytest.mark.parametrize("name", ["pattern:stripes", "layouts:horizontal 0.0", "cifar10:class 3 2"])
def test_a_picture_is_the_callers_own(tiny_cifar, name):
    before = samples.picture(name, tiny_cifar).copy()
    samples.picture(name, tiny_cifar)[:] = 77
    assert np.array_equal(samples.picture(name, tiny_cifar), before)
    assert (before != 77).any()  # witness


def test_patterns_are_of_whole_cells(tmp_path):
    cells = np.indices((8, 8))
    for name, values in (("stripes", cells[0] % 2), ("checkerboard", cells.sum(0) % 2)):
        picture = samples.picture(f"pattern:{name}", tmp_path)
        assert np.array_equal(picture, 255 * np.kron(values, np.ones((8, 8)))[..., None].repeat(3, 2))
        assert not np.array_equal(picture[0], picture[-1])  # witness: eight rows, the last unlike the first


def test_a_layout_shows_its_class(tmp_path):
    """Horizontal stripes differ from row to row, and lie in the cell that the name says."""
    for row, column in ((0, 0), (3, 2)):
        cell = np.s_[4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
        deviation = np.abs(samples.picture(f"layouts:horizontal {row}.{column}", tmp_path).astype(float) - 128)
        assert deviation[cell].mean() > 1.4 * np.delete(deviation, np.s_[4 * row : 4 * row + 4], 0).mean()


def test_cifar_is_there_where_it_was_fetched(tiny_cifar, tmp_path):
    names = [name for name in samples.known(tiny_cifar) if name.startswith("cifar10:")]
    assert names[:3] == ["cifar10:class 0", "cifar10:class 0 2", "cifar10:class 1"]
    _, test = cifar.load("cifar10", tiny_cifar)
    assert np.array_equal(samples.picture("cifar10:class 1", tiny_cifar), test.pictures[1])
    assert np.array_equal(samples.picture("cifar10:class 1 2", tiny_cifar), test.pictures[11])
    assert not [name for name in samples.known(tmp_path / "empty") if name.startswith("cifar")]


def test_a_damaged_cifar_is_left_out(tiny_cifar):
    file = next(tiny_cifar.glob("cifar-10-batches-py/test_batch"))
    file.write_bytes(file.read_bytes()[:-1])
    names = samples.known(tiny_cifar)
    assert not [name for name in names if name.startswith("cifar10:")]
    assert [name for name in names if name.startswith("cifar100:")]  # witness


def test_sessions_that_ask_at_once_read_a_data_set_once(tiny_cifar, monkeypatch):
    read, load = [], cifar.load

    def slow(name, root):
        read.append(name)
        time.sleep(0.1)
        return load(name, root)

    monkeypatch.setattr(cifar, "load", slow)
    threads = [threading.Thread(target=samples.known, args=(tiny_cifar,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(read) == ["cifar10", "cifar100"]


def test_one_begins_with_pictures_that_tell_something(tiny_cifar, tmp_path):
    assert [name.partition(":")[0] for name in samples.telling("cifar10", tiny_cifar)] == ["cifar10"] * 2
    assert [name.partition(":")[0] for name in samples.telling("layouts", tiny_cifar)] == ["layouts"] * 2
    strange = samples.telling("cifar10", tmp_path / "empty")
    assert [name.partition(":")[0] for name in strange] == ["photo"] * 2 and len({*strange}) == 2


def test_pictures_with_boxes_are_the_first_of_the_test_split(tmp_path):
    names = [name for name in samples.known(tmp_path) if name.startswith("shapes:")]
    assert names == [f"shapes:{number}" for number in range(1, 9)]
    test = shapes.make(3, seed=1)
    item, classes = samples.boxed("shapes:3", tmp_path)
    assert np.array_equal(samples.picture("shapes:3", tmp_path), test.pictures[2]) and classes == shapes.CLASSES
    assert torch.equal(item.boxes, test.item(2).boxes)
    assert not np.array_equal(samples.picture("shapes:2", tmp_path), test.pictures[2])  # witness
    assert samples.boxed("photo:china", tmp_path) is None and samples.boxed("coco-mini:1", tmp_path) is None


def test_only_a_detector_begins_with_pictures_that_have_boxes(tiny_cifar, tmp_path):
    assert [name.partition(":")[0] for name in samples.telling("shapes", tmp_path)] == ["shapes"] * 2
    for dataset in ("cifar10", "layouts", "imagenette", "nosuch"):
        for root in (tiny_cifar, tmp_path / "empty"):
            assert not [name for name in samples.telling(dataset, root) if name.startswith("shapes")]


def test_a_part_of_coco_is_there_where_it_lies_whole(tmp_path, monkeypatch):
    test = shapes.make(2, seed=3)
    (tmp_path / "coco_mini_320").mkdir()
    assert not [name for name in samples.known(tmp_path) if name.startswith("coco")]  # it is empty
    samples._coco.cache_clear()
    monkeypatch.setattr(samples.coco, "load_mini", lambda root: (None, test))
    assert [name for name in samples.known(tmp_path) if name.startswith("coco")] == ["coco-mini:1", "coco-mini:2"]
    assert np.array_equal(samples.picture("coco-mini:2", tmp_path), test.pictures[1])
    samples._coco.cache_clear()
