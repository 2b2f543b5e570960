"""A folder of pictures: what is in it, what a key calls it, and that its batches are the same however decoded."""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from workbench import datasets
from workbench.datasets import ahead, crops, decoded, folders
from workbench.datasets.images import decode
from workbench.datasets.memory import order
from workbench.errors import DataMissing, OutOfRange, UnknownName, WorkbenchError

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")
ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
SIDE = 16


def save(path, seed=0, size=(24, 20)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def flat(tmp_path):
    """Two classes of 7 and 12 pictures, not split."""
    for name, count in (("cat", 7), ("ant", 12)):
        for number in range(count):
            save(tmp_path / "pets" / name / f"{number:02}.png", seed=100 * count + number)
    return tmp_path / "pets"


@pytest.fixture
def parted(tmp_path):
    """Training pictures of 3 classes, 22 in all, and 7 for validation, of several sizes."""
    for part, counts in (("train", (9, 6, 7)), ("val", (3, 2, 2))):
        for label, count in enumerate(counts):
            for number in range(count):
                size = (18 + 3 * number, 16 + 5 * label)
                save(tmp_path / "set" / part / f"class {label}" / f"{number}.png", 50 * label + number, size)
    return tmp_path / "set"


def load(root, side=SIDE):
    return datasets.load(f"folder:{root}", None, side)


def names(split):
    return [os.fsdecode(path) for path in split.files]


def test_the_parts_of_a_folder_are_its_splits(parted):
    train, test = load(parted)
    assert (len(train), len(test), train.side, train.augment, test.augment) == (22, 7, SIDE, True, False)
    assert train.classes == test.classes == ("class 0", "class 1", "class 2")
    for split, part in ((train, "train"), (test, "val")):
        assert names(split) == sorted(str(path.relative_to(parted)) for path in parted.glob(f"{part}/*/*"))
        assert [f"class {label}" for label in split.labels] == [name.split("/")[1] for name in names(split)]


def test_val_is_preferred_and_test_will_do(parted):
    shutil.copytree(parted / "val", parted / "test")
    folders.tree.cache_clear()
    assert all(name.startswith("val/") for name in names(load(parted)[1]))
    shutil.rmtree(parted / "val")
    folders.tree.cache_clear()
    assert all(name.startswith("test/") for name in names(load(parted)[1])) and len(load(parted)[1]) == 7


def test_of_an_unsplit_folder_every_fifth_picture_is_a_test_picture(flat):
    train, test = load(flat)
    assert names(test) == ["ant/04.png", "ant/09.png", "cat/04.png"]
    assert train.classes == ("ant", "cat") and test.labels.tolist() == [0, 0, 1]
    assert len(train) == 16 and not set(names(train)) & set(names(test))


def test_what_counts_as_a_picture(flat):
    save(flat / "ant" / "deeper" / "UPPER.JPEG")
    for other in ("ant/notes.txt", "ant/._00.png", "ant/.cache/00.png", ".git/x/00.png", "readme.png"):
        (flat / other).parent.mkdir(parents=True, exist_ok=True)
        (flat / other).write_bytes(b"")
    found = [name for split in load(flat) for name in names(split)]
    assert "ant/deeper/UPPER.JPEG" in found and len(found) == 20
    assert load(flat)[0].classes == ("ant", "cat")


def test_a_version_is_of_names_and_bytes_and_not_of_the_place(flat, tmp_path, monkeypatch):
    def version(root):
        folders.tree.cache_clear(), folders.version.cache_clear()
        return datasets.version(f"folder:{root}")

    first = version(flat)
    shutil.copytree(flat, tmp_path / "elsewhere" / "pets")
    assert version(tmp_path / "elsewhere" / "pets") == first
    (flat / "ant" / "notes.txt").write_text("no picture")
    assert version(flat) == first
    (flat / "ant" / "00.png").rename(flat / "ant" / "000.png")
    renamed = version(flat)
    (flat / "ant" / "000.png").rename(flat / "ant" / "00.png")
    data = bytearray((flat / "ant" / "00.png").read_bytes())
    data[-20] ^= 1
    (flat / "ant" / "00.png").write_bytes(data)
    edited = version(flat)
    assert len({first, renamed, edited}) == 3

    monkeypatch.setattr(folders, "WHOLE_BYTES", 1000)  # as if it were ImageNet: names and sizes
    large = version(flat)
    data[-20] ^= 1
    (flat / "ant" / "00.png").write_bytes(data)
    assert version(flat) == large
    (flat / "ant" / "00.png").write_bytes(data + b"\0")
    assert version(flat) != large


def test_the_name_of_a_folder(flat, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(flat)
    spellings = ("folder:pets", f"folder:{flat}", "folder:./pets/../pets/", "folder:link")
    assert {datasets.canonical(name) for name in spellings} == {f"folder:{flat}"}
    identity = datasets.identity("folder:link")
    assert identity == {"name": "folder:pets", "version": folders.version(flat)}
    assert datasets.label(identity) == f"folder:pets@{identity['version'][:8]}"
    assert datasets.classes("folder:link") == 2


def test_what_is_no_folder_of_pictures_says_what_is_expected(tmp_path):
    (tmp_path / "empty").mkdir()
    for missing, what in (("nowhere", "There is no folder"), ("empty", "0 folders of pictures")):
        with pytest.raises(DataMissing, match=what) as caught:
            datasets.load(f"folder:{tmp_path / missing}", None)
        assert str(tmp_path / missing) in str(caught.value) and "PATH/train/<class>/" in str(caught.value)
        assert caught.value.exit_code == 3
    with pytest.raises(OutOfRange, match="names no folder"):
        datasets.load("folder:", None)
    with pytest.raises(UnknownName, match="'folder:PATH'"):
        datasets.load("folders:PATH", None)


@pytest.mark.parametrize("size", [(375, 500), (500, 375), (32, 32), (40, 300), (300, 40), (7, 5)])
def test_a_random_crop_is_distributed_as_torchvisions(size):
    """Two-sample Kolmogorov-Smirnov on place and size, p = 0.001 each."""
    count = 3000
    torch.manual_seed(0)
    reference = v2.RandomResizedCrop(8)
    picture = [torch.empty(3, *size)]
    fields = ("top", "left", "height", "width")
    expected = [
        [params[field] for field in fields] for params in (reference.make_params(picture) for _ in range(count))
    ]
    found = [crops.random_crop(*size, 3, 5, index) for index in range(count)]
    assert (tuple(reference.scale), tuple(reference.ratio)) == (crops.SCALE, crops.RATIO)
    for ours, theirs in zip(zip(*found, strict=True), zip(*expected, strict=True), strict=False):
        assert distance(ours, theirs) < 1.95 * (2 / count) ** 0.5
    assert 0.45 < np.mean([crop.flip for crop in found]) < 0.55


def distance(one, other):
    """The largest difference of the two distribution functions."""
    at = np.union1d(one, other)
    below = [np.searchsorted(np.sort(values), at, "right") / len(values) for values in (one, other)]
    return np.abs(below[0] - below[1]).max()


def test_another_distribution_is_noticed():
    torch.manual_seed(0)
    reference = v2.RandomResizedCrop(8, scale=(0.15, 1))  # witness
    theirs = [reference.make_params([torch.empty(3, 375, 500)])["width"] for _ in range(3000)]
    ours = [crops.random_crop(375, 500, 3, 5, index).width for index in range(3000)]
    assert distance(ours, theirs) > 1.95 * (2 / 3000) ** 0.5


@pytest.mark.parametrize("size", [(1, 30_000), (30_000, 1), (2, 300), (300, 2), (1, 1)])
def test_where_no_shape_fits_the_middle_is_taken_as_torchvision_does(size):
    expected = v2.RandomResizedCrop(8).make_params([torch.empty(3, *size)])
    found = crops.random_crop(*size, 0, 0, 0)
    assert (found.height, found.width) == (expected["height"], expected["width"])
    if found.height * found.width < 0.08 * size[0] * size[1]:
        assert (found.top, found.left) == (expected["top"], expected["left"])


def test_the_draws_of_a_picture_are_its_block_of_one_stream():
    stream = np.random.Philox(key=np.array([7, 2 * 3 + 1], np.uint64)).random_raw(5 * crops.DRAWS).reshape(5, -1)
    assert np.array_equal(np.stack([crops._draws(7, 3, index) for index in range(5)]), stream)
    assert len({crops.random_crop(375, 500, *key) for key in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))}) == 4


def test_golden_crops():
    """Hard-wired, so that a change of the numbers is noticed before it changes results."""
    assert [tuple(crops.random_crop(375, 500, 0, 0, index)) for index in range(3)] == [
        (21, 141, 296, 333, False),
        (9, 158, 327, 339, True),
        (30, 51, 344, 397, True),
    ]


def test_a_training_picture_is_cut_and_resized_by_torchvision(parted):
    train, _ = load(parted)
    for index in (0, 5, 21):
        picture = decode(train.path(index))
        top, left, height, width, flip = crops.random_crop(*picture.shape[:2], 1, 2, index)
        planes = v2.functional.resized_crop(picture.permute(2, 0, 1), top, left, height, width, [SIDE, SIDE])
        expected = (planes.flip(2) if flip else planes).permute(1, 2, 0)
        assert torch.equal(train.picture(index, (1, 2)), expected)
        assert not torch.equal(train.picture(index, (1, 3)), expected)  # witness


def test_a_test_picture_is_its_middle(parted):
    _, test = load(parted, 224)
    pipeline = v2.Compose([v2.Resize(256), v2.CenterCrop(224)])
    expected = pipeline(decode(test.path(3)).permute(2, 0, 1)).permute(1, 2, 0)
    assert torch.equal(test.picture(3, None), expected) and expected.shape == (224, 224, 3)
    assert not torch.equal(test.picture(2, None), expected)  # witness


def drawn(batches, seed, epoch, start, count):
    """Every picture and label of `count` batches."""
    batches.open(seed, epoch, start)
    found = []
    for number in range(start, start + count):
        batches.advance()
        found.append(batches.batch(torch.tensor(number)))
    return found


def same(one, other):
    return len(one) == len(other) and all(
        torch.equal(x, y) and torch.equal(a, b) for (x, a), (y, b) in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("workers", [2, 4])
def test_who_decodes_changes_nothing(parted, workers):
    train, test = load(parted)
    alone, shared = (train.batches(CPU, 4, workers=number) for number in (0, workers))
    first = drawn(alone, 3, 0, 0, 5)
    assert same(drawn(shared, 3, 0, 0, 5), first)
    assert same(drawn(shared, 3, 0, 2, 3), first[2:])  # begun in the middle, the epoch before left unfinished or not
    shared.open(3, 1)
    shared.advance()
    assert same(drawn(shared, 3, 0, 4, 1), first[4:])
    assert not same(drawn(shared, 3, 1, 0, 5), first)  # witness
    assert same([*shared.ordered()], [*alone.ordered()])
    shared.close()
    alone, shared = (test.batches(CPU, 4, workers=number) for number in (0, workers))
    assert same([*shared.ordered()], [*alone.ordered()])
    shared.close()


def test_a_batch_is_the_pictures_in_their_order_normalised(parted):
    train, _ = load(parted)
    batches = train.batches(CPU, 4)
    found = drawn(batches, 3, 1, 0, 5)
    index = order(3, 1, 22)[:20].view(5, 4)
    mean, std = (torch.tensor(values, dtype=torch.float64) for values in (decoded.MEAN, decoded.STD))
    for (x, labels), row in zip(found, index, strict=True):
        expected = torch.stack([(train.picture(int(i), (3, 1)) / 255 - mean) / std for i in row]).permute(0, 3, 1, 2)
        assert x.dtype == torch.float32 and x.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(x.double(), expected, rtol=0, atol=1e-5)
        assert torch.equal(labels, train.labels[row])
    assert not torch.allclose(found[0][0], found[1][0])  # witness, and the first is not overwritten by the second


def test_pictures_as_they_are_come_whole_and_in_order(parted):
    for split in load(parted):
        batches = split.batches(CPU, 4)
        pictures, labels = (torch.cat(parts) for parts in zip(*batches.ordered(), strict=True))
        assert torch.equal(labels, split.labels) and len(pictures) == len(split)
        index = len(split) - 1
        expected = batches._normalised(crops.centred(decode(split.path(index)), SIDE)[None])
        assert torch.equal(pictures[-1:], expected)
        assert not torch.equal(pictures[-2:-1], expected)  # witness


@pytest.mark.parametrize("workers", [0, 2])
def test_processes_share_each_batch(parted, workers):
    train, _ = load(parted)
    whole = drawn(train.batches(CPU, 6), 0, 0, 0, 3)
    ordered = next(train.batches(CPU, 100).ordered())
    parts = [train.batches(CPU, 6, (rank, 3), workers) for rank in range(3)]
    shares = [drawn(part, 0, 0, 0, 3) for part in parts]
    for rank, share in enumerate(shares):
        assert same(share, [(x[rank::3], labels[rank::3]) for x, labels in whole])
        assert not same(share, shares[rank - 1])  # witness
    for rank, part in enumerate(parts):
        mine = tuple(torch.cat(tensors) for tensors in zip(*part.ordered(), strict=True))
        assert same([mine], [tuple(tensor[rank::3] for tensor in ordered)])
        part.close()


def test_a_process_decodes_its_part_alone_and_nothing_before_the_start(parted, monkeypatch):
    train, _ = load(parted)
    asked = []
    whole = folders.FolderSplit.picture
    monkeypatch.setattr(
        folders.FolderSplit, "picture", lambda self, i, draw: (asked.append(i), whole(self, i, draw))[1]
    )
    drawn(train.batches(CPU, 6, (1, 2)), 0, 0, 2, 1)
    assert asked == order(0, 0, 22)[12:18][1::2].tolist()


def test_no_numbers_are_drawn_from_the_generators_of_torch(parted):
    """A run that is continued opens an epoch once more, and dropout must not notice."""
    train, _ = load(parted)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    for workers in (0, 1):
        batches = train.batches(CPU, 4, workers=workers)
        drawn(batches, 0, 0, 0, 1)
        batches.close()
    assert torch.equal(torch.get_rng_state(), before)
    iter(torch.utils.data.DataLoader([0]))
    assert not torch.equal(torch.get_rng_state(), before)  # witness: a loader without a generator of its own


def test_the_time_of_waiting_is_summed(parted, monkeypatch):
    train, _ = load(parted)
    batches = train.batches(CPU, 4)
    assert batches.waited_s == 0
    drawn(batches, 0, 0, 0, 2)
    once = batches.waited_s
    assert 0 < once < 5
    real = folders.decode
    monkeypatch.setattr(folders, "decode", lambda path: (time.sleep(0.05), real(path))[1])
    drawn(batches, 0, 0, 0, 2)
    assert batches.waited_s - once >= 8 * 0.05


def test_workers_end_when_the_batches_are_closed(parted):
    train, _ = load(parted)
    before = set(multiprocessing.active_children())
    batches = train.batches(CPU, 4, workers=2)
    first = drawn(batches, 0, 0, 0, 5)
    workers = set(multiprocessing.active_children()) - before
    assert len(workers) == 2  # witness
    drawn(batches, 0, 1, 0, 1)
    assert set(multiprocessing.active_children()) - before == workers  # they serve all epochs
    batches.close()
    batches.close()
    assert not set(multiprocessing.active_children()) - before
    assert same(drawn(batches, 0, 0, 0, 5), first)  # and others take their place
    del batches
    assert not set(multiprocessing.active_children()) - before


def test_workers_end_although_somebody_still_holds_the_epoch(parted):
    """As a traceback in a notebook does, or a profiler that looks at frames."""
    train, _ = load(parted)
    before = set(multiprocessing.active_children())
    batches = train.batches(CPU, 4, workers=2)
    batches.open(0, 0)
    held = batches._ahead._held["epoch"]
    assert len(set(multiprocessing.active_children()) - before) == 2  # witness
    batches.close()
    assert not set(multiprocessing.active_children()) - before
    del held


def worker_ids(before):
    return [child.pid for child in set(multiprocessing.active_children()) - before]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_workers_outlive_the_signals_that_stop_a_run(parted, monkeypatch, number):
    """Ctrl-C and `docker stop` reach the whole group, and the step under way still needs its pictures."""
    before = set(multiprocessing.active_children())
    train, _ = load(parted)
    batches = train.batches(CPU, 4, workers=2)
    batches.open(0, 0)
    batches.advance()
    for worker in worker_ids(before):
        os.kill(worker, number)
    time.sleep(0.1)
    for _ in range(4):
        batches.advance()
    batches.close()

    monkeypatch.setattr(ahead, "_outlive_signals", lambda worker: None)  # witness
    batches = train.batches(CPU, 4, workers=2)
    with pytest.raises((WorkbenchError, RuntimeError), match=r"DataLoader worker \(pid"):
        for epoch in range(100):
            batches.open(0, epoch)
            for worker in worker_ids(before):
                os.kill(worker, signal.SIGKILL)
            for _ in range(5):
                batches.advance()
    batches.close()


PARENT = """
import multiprocessing, sys, time, torch
from workbench import datasets
train, _ = datasets.load("folder:" + sys.argv[1], None, 16)
batches = train.batches(torch.device("cpu"), 4, workers=2)
batches.open(0, 0)
batches.advance()
print(*(child.pid for child in multiprocessing.active_children()), flush=True)
time.sleep(float(sys.argv[2]))
"""


@pytest.fixture
def parent(parted):
    """parent(seconds): a process that leaves its batches open, and the numbers of its workers."""
    started = []

    def start(seconds):
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", PARENT, str(parted), str(seconds)]
        started.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
        return started[-1], [int(number) for number in started[-1].stdout.readline().split()]

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def alive(number):
    """Is there a process of this number that is not merely waiting to be counted?"""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks Linux about processes")
def test_a_process_that_ends_with_its_batches_open_ends(parent):
    process, workers = parent(0.5)
    assert len(workers) == 2 and all(map(alive, workers))  # witness
    assert process.wait(30) == 0
    assert not any(map(alive, workers))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks Linux about processes")
def test_workers_of_a_killed_process_end(parent):
    """They ask every few seconds whether it is still there."""
    process, workers = parent(600)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 30
    while any(map(alive, workers)):
        assert time.monotonic() < deadline
        time.sleep(0.2)
