"""CIFAR read through torchvision: colours, labels, and what is said when it is missing or altered."""

import http.client
import io
import pickle

import numpy as np
import pytest
import torch
import torchvision

from workbench import datasets
from workbench.datasets import cifar
from workbench.errors import Corrupt, DataMissing, UnknownName

NAMES = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}
FILES = [("cifar10", "data_batch_3"), ("cifar10", "test_batch"), ("cifar10", "batches.meta")]
FILES += [("cifar100", "train"), ("cifar100", "test"), ("cifar100", "meta")]


def test_pictures_are_rows_of_red_green_blue(tiny_cifar):
    train, _ = datasets.load("cifar10", tiny_cifar)
    stored = pickle.loads((tiny_cifar / NAMES["cifar10"] / "data_batch_2").read_bytes())["data"]
    planes = stored[0].reshape(3, 32, 32)  # the file keeps red, green and blue one after the other
    assert train.pictures.shape == (80, 32, 32, 3) and train.pictures.dtype == torch.uint8
    assert np.array_equal(train.pictures[16].numpy(), np.moveaxis(planes, 0, -1))
    assert not np.array_equal(train.pictures[16].numpy(), np.moveaxis(planes[::-1], 0, -1))  # witness: not blue first


@pytest.mark.parametrize(("name", "sizes", "classes"), [("cifar10", (80, 20), 10), ("cifar100", (300, 40), 100)])
def test_labels_and_classes(tiny_cifar, name, sizes, classes):
    for split, size in zip(datasets.load(name, tiny_cifar), sizes, strict=True):
        expected = [i % 16 % 10 if name == "cifar10" and size == 80 else i % classes for i in range(size)]
        assert split.labels.tolist() == expected and split.labels.dtype == torch.int64
        assert split.classes == tuple(f"class {i}" for i in range(classes))  # fine, not the 20 coarse


def test_only_training_pictures_are_augmented(tiny_cifar):
    train, test = datasets.load("cifar10", tiny_cifar)
    assert (train.pad, train.flip, test.pad, test.flip) == (4, True, 0, False)
    assert train.mean == test.mean == cifar.STATISTICS["cifar10"][0]


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_data_set_says_where_how_big_and_how_to_get_it(tmp_path, name):
    with pytest.raises(DataMissing) as caught:
        datasets.load(name, tmp_path)
    message = str(caught.value)
    assert str(tmp_path / NAMES[name]) in message and "MB" in message
    assert f"`workbench data fetch {name}`" in message and "WORKBENCH_DATA" in message
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(("name", "file"), FILES)
@pytest.mark.parametrize("damage", ["byte", "cut", "gone"])
def test_an_altered_file_is_named_and_not_used(tiny_cifar, name, file, damage):
    datasets.load(name, tiny_cifar)  # witness: whole before
    path = tiny_cifar / NAMES[name] / file
    data = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        middle = len(data) // 2
        path.write_bytes(data[:middle] + (bytes([data[middle] ^ 1]) + data[middle + 1 :] if damage == "byte" else b""))
    with pytest.raises(Corrupt) as caught:
        datasets.load(name, tiny_cifar)
    assert file in str(caught.value) and f"`workbench data fetch {name}`" in str(caught.value)


def test_an_altered_picture_would_pass_without_the_checksum(tiny_cifar, monkeypatch):
    """Witness of the guard: the reader itself notices nothing."""
    path = tiny_cifar / NAMES["cifar10"] / "test_batch"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    before = datasets.load("cifar10", tiny_cifar)[1].pictures
    path.write_bytes(data)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *given: True)
    assert not torch.equal(before, datasets.load("cifar10", tiny_cifar)[1].pictures)


def test_version_is_the_checksum_of_the_published_archive():
    assert datasets.version("cifar10") == torchvision.datasets.CIFAR10.tgz_md5
    assert datasets.version("cifar100") == torchvision.datasets.CIFAR100.tgz_md5 != datasets.version("cifar10")


def test_an_unknown_data_set_names_its_neighbour(tmp_path):
    with pytest.raises(UnknownName, match="'cifar10'"):
        datasets.load("cifar1O", tmp_path)


class CutShort(io.BytesIO):
    """A download that ends before it is whole."""

    url, length, headers = None, 1000, {}


@pytest.mark.parametrize(
    ("failure", "kind", "said"),
    [
        (ConnectionResetError(104, "Connection reset by peer"), DataMissing, "reset by peer"),
        (TimeoutError("The read operation timed out"), DataMissing, "timed out"),
        (http.client.IncompleteRead(b""), DataMissing, "IncompleteRead"),
        (OSError(28, "No space left on device"), DataMissing, "No space left"),
        (None, Corrupt, r"came damaged.*fetch cifar10 again"),
    ],
    ids=["reset", "silent", "incomplete", "no room", "cut short"],
)
def test_a_download_that_breaks_off_is_one_sentence(tmp_path, monkeypatch, failure, kind, said):
    def urlopen(*given, **options):
        if failure:
            raise failure
        return CutShort(b"x" * 10)

    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    with pytest.raises(kind, match=said) as caught:
        datasets.fetch("cifar10", tmp_path)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)
    with pytest.raises(type(failure) if failure else RuntimeError):  # witness: what torchvision says
        torchvision.datasets.CIFAR10(tmp_path, download=True)
