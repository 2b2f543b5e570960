"""Bad pictures and bad folders: named, refused before they cost memory, and never trained on in silence."""

import json
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from workbench import cli, datasets
from workbench.datasets import crops, folders, images
from workbench.datasets.images import decode
from workbench.errors import Corrupt, DataMissing, OutOfRange

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
MEASURE = """
import re, sys
from pathlib import Path
from workbench.datasets.images import decode
from workbench.errors import OutOfRange
def peak():  # of this program; getrusage would also tell that of the process which started it
    return int(re.search("VmHWM: *([0-9]+) kB", Path("/proc/self/status").read_text().replace(chr(9), " "))[1])
before = peak()
for limit in map(int, sys.argv[2:]):
    try:
        print(decode(Path(sys.argv[1]), limit=limit).shape)
    except OutOfRange as error:
        print(error)
    print((peak() - before) // 1024)
"""


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def write_png(path, width, height):
    """A black picture, one byte a pixel, written without ever holding it."""
    rows = zlib.compressobj()
    data = b"".join(rows.compress(bytes(1 + width)) for _ in range(height)) + rows.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b""))


def measured(path, *limits):
    """What decoding it with each limit said, and the MB that it had taken by then, in a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", MEASURE, str(path), *map(str, limits)]
    lines = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120).stdout.splitlines()
    return [(said, int(megabytes)) for said, megabytes in zip(lines[::2], lines[1::2], strict=True)]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak of memory where Linux tells it")
def test_a_hundred_megapixels_are_refused_by_their_header(tmp_path):
    path = tmp_path / "huge.png"
    write_png(path, 10_000, 10_000)
    assert path.stat().st_size < 200_000
    refused, allowed = measured(path, images.LIMIT_PIXELS, 100_000_000)
    assert refused[0] == f"{path} has 10000 x 10000 pixels; at most 50 million are decoded. Make it smaller."
    assert refused[1] < 50
    assert allowed[0] == "torch.Size([10000, 10000, 3])" and allowed[1] > 200  # witness


def test_what_pillow_itself_refuses_is_refused_in_the_same_way(tmp_path):
    write_png(tmp_path / "huger.png", 20_000, 10_000)
    with pytest.raises(OutOfRange, match=r"huger\.png has too many pixels; at most 50 million"):
        decode(tmp_path / "huger.png")


@pytest.mark.parametrize("size", [(30_000, 1), (1, 30_000)])
def test_a_strip_is_right_and_does_not_become_a_sheet(tmp_path, size, monkeypatch):
    ramp = (np.arange(30_000) // 120).astype(np.uint8).reshape(size[1], size[0])
    Image.fromarray(np.dstack([ramp, 255 - ramp, ramp // 2])).save(tmp_path / "strip.png")
    picture = decode(tmp_path / "strip.png")
    assert np.array_equal(picture[:, :, 0], ramp) and np.array_equal(picture[:, :, 2], ramp // 2)
    resized = []
    real = v2.functional.resize
    monkeypatch.setattr(
        crops.F, "resize", lambda *given, **named: (resized.append(real(*given, **named)), resized[-1])[1]
    )
    middle = crops.centred(picture, 32)
    assert middle.shape == (32, 32, 3) and (middle[:, :, 0].int() - 125).abs().max() <= 1
    assert resized.pop().numel() < 30_000
    assert crops.augmented(picture, 32, 0, 0, 0).shape == (32, 32, 3)
    with monkeypatch.context() as patch:
        patch.setattr(crops, "STRIP", 10**9)  # witness
        crops.centred(picture, 32)
    assert resized.pop().numel() > 10**8


HTML, SVG = b"<!doctype html><p>404", b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'


@pytest.mark.parametrize("content", [b"", b"\0" * 500, HTML, SVG], ids=["empty", "zeros", "html", "svg"])
@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_what_is_no_picture_is_corrupt_and_named(tmp_path, content, name):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(Corrupt, match=rf"{name} is no picture in a format known here \(JPEG, PNG"):
        decode(tmp_path / name)
    Image.new("RGB", (4, 3), (1, 2, 3)).save(tmp_path / name, "PNG")  # witness: by content, whatever the name
    assert decode(tmp_path / name).tolist() == [[[1, 2, 3]] * 4] * 3


def test_a_gif_under_another_name_is_a_picture(tmp_path):
    Image.new("RGB", (4, 3), "red").save(tmp_path / "a.png", "GIF")
    assert decode(tmp_path / "a.png").tolist() == [[[255, 0, 0]] * 4] * 3


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"])
def test_a_picture_cut_short_is_corrupt(tmp_path, form):
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    path = tmp_path / "picture"
    Image.fromarray(noise).save(path, form)
    data = path.read_bytes()
    assert decode(path).shape == (40, 50, 3)  # witness
    for kept in (1, 20, len(data) // 2, len(data) * 9 // 10):
        path.write_bytes(data[:kept])
        with pytest.raises(Corrupt, match="picture"):
            decode(path)


@pytest.fixture
def root(tmp_path):
    """Twelve training and four test pictures of two classes."""
    for part, count in (("train", 6), ("val", 2)):
        for name in ("cat", "dog"):
            (tmp_path / "pets" / part / name).mkdir(parents=True)
            for number in range(count):
                noise = np.random.default_rng(number).integers(0, 256, (20, 24, 3), dtype=np.uint8)
                Image.fromarray(noise).save(tmp_path / "pets" / part / name / f"{number}.jpg")
    return tmp_path / "pets"


def cut(path):
    path.write_bytes(path.read_bytes()[:-200])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_picture_in_training_is_named_with_its_number(root, workers):
    cut(root / "train" / "dog" / "2.jpg")
    train, test = datasets.load(f"folder:{root}", None, 16)
    batches = train.batches(CPU, 3, workers=workers)
    batches.open(0, 0)
    with pytest.raises(Corrupt) as caught:
        for _ in range(4):
            batches.advance()
    batches.close()
    said = str(caught.value)
    assert said.startswith(f"Picture 8 of 12: {root / 'train' / 'dog' / '2.jpg'} cannot be decoded (")
    assert f"`workbench data verify 'folder:{root}' --skip-bad-images 1`" in said
    assert "worker" not in said and "Traceback" not in said and caught.value.exit_code == 1
    assert len([*test.batches(CPU, 3).ordered()]) == 2  # witness: where none is damaged none is refused


def test_a_picture_that_is_too_large_stops_training_too(root, monkeypatch):
    train, _ = datasets.load(f"folder:{root}", None, 16)
    monkeypatch.setattr(folders, "decode", lambda path: decode(path, limit=400))
    batches = train.batches(CPU, 3)
    batches.open(0, 0)
    with pytest.raises(OutOfRange, match=r"Picture \d+ of 12: .*\.jpg has 24 x 20 pixels"):
        batches.advance()


def test_damaged_pictures_are_left_out_only_on_request_and_change_the_version(root, capsys, caplog):
    name, whole = f"folder:{root}", datasets.version(f"folder:{root}")
    assert cli.main(["data", "verify", name]) == 0
    assert capsys.readouterr().out == f"{name}: 12 + 4 pictures, 2 classes, verified\n"
    folders.tree.cache_clear(), folders.version.cache_clear()
    cut(root / "train" / "dog" / "2.jpg")
    (root / "val" / "cat" / "1.jpg").write_bytes(b"")
    damaged = datasets.version(name)
    for few in ("0", "1"):
        assert cli.main(["data", "verify", name, "--skip-bad-images", few]) == 1
        said = capsys.readouterr().err
        assert "2 of 16 pictures cannot be decoded" in said and "--skip-bad-images 2" in said
        assert str(root / "train" / "dog" / "2.jpg") in said and str(root / "val" / "cat" / "1.jpg") in said
    assert not (root / folders.LEFT_OUT).exists() and datasets.version(name) == damaged
    assert cli.main(["data", "verify", name, "--skip-bad-images", "2"]) == 0
    assert capsys.readouterr().out == f"{name}: 11 + 3 pictures, 2 classes, verified\n"
    assert json.loads((root / folders.LEFT_OUT).read_text()) == ["train/dog/2.jpg", "val/cat/1.jpg"]
    assert f"1 pictures of {root / 'train' / 'dog'} are left out" in caplog.text
    assert len({whole, damaged, datasets.version(name)}) == 3
    train, test = datasets.load(name, None, 16)
    assert sum(len(labels) for split in (train, test) for _, labels in split.batches(CPU, 3).ordered()) == 14


def test_a_list_of_damaged_pictures_that_is_none_is_said(root):
    for content in ("{}", "[1"):
        (root / folders.LEFT_OUT).write_text(content)
        with pytest.raises(Corrupt, match=folders.LEFT_OUT):
            datasets.load(f"folder:{root}", None)


def moved(name, other):
    return lambda root: (root / name).rename(root / other)


def one_class(root):
    for part in ("train", "val"):
        (root / part / "dog").rename(root / f"{part} dog")


def dangling(root):
    (root / "train" / "cat" / "9.jpg").symlink_to(root / "gone.jpg")


def emptied(part):
    def spoil(root):
        for path in (root / part / "dog").iterdir():
            path.unlink()

    return spoil


FOLDERS = {
    "class missing in val": (moved("val/dog", "dog"), OutOfRange, "1 classes are in train or in val only (dog)"),
    "class missing in train": (moved("train/dog", "dog"), OutOfRange, "1 classes are in train or in val only (dog)"),
    "other classes": (moved("val/dog", "val/hound"), OutOfRange, "2 classes are in train or in val only (dog, hound)"),
    "one class": (one_class, DataMissing, "train has 1 folders of pictures, and it takes two classes to tell apart"),
    "empty class in train": (emptied("train"), OutOfRange, "dog has 0 pictures; a class needs at least 1"),
    "empty class in val": (emptied("val"), OutOfRange, "dog has 0 pictures; a class needs at least 1"),
    "train alone": (moved("val", "validation"), DataMissing, "has train alone"),
    "val alone": (moved("train", "training"), DataMissing, "has val alone"),
    "a link to nothing": (dangling, DataMissing, "9.jpg cannot be read"),
}


@pytest.mark.parametrize("fault", FOLDERS)
def test_a_folder_that_cannot_be_learned_from_is_said_in_one_sentence(root, fault):
    spoil, error, sentence = FOLDERS[fault]
    datasets.load(f"folder:{root}", None)  # witness: whole before
    folders.tree.cache_clear()
    spoil(root)
    with pytest.raises(error) as caught:
        datasets.load(f"folder:{root}", None)
    assert sentence in str(caught.value) and str(root) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unsplit_class_too_small_to_be_tested_is_refused(tmp_path):
    for name, count in (("cat", 5), ("dog", 4)):
        (tmp_path / name).mkdir()
        for number in range(count):
            Image.new("RGB", (4, 4)).save(tmp_path / name / f"{number}.png")
    with pytest.raises(OutOfRange, match="dog has 4 pictures; a class needs at least 5"):
        datasets.load(f"folder:{tmp_path}", None)
    Image.new("RGB", (4, 4)).save(tmp_path / "dog" / "4.png")
    folders.tree.cache_clear()
    assert [len(split) for split in datasets.load(f"folder:{tmp_path}", None)] == [8, 2]  # witness
