"""Batches with boxes: order and flips are pure functions of (seed, epoch, index); a flipped box stays on its object."""

import multiprocessing

import numpy as np
import pytest
import torch
from scenes import photographs

from workbench import datasets
from workbench.datasets import shapes
from workbench.datasets.boxes import Item
from workbench.detection.batches import DetectionBatches, flipped, learned
from workbench.errors import Corrupt

ONE_COLOUR = 200


def telling(index):
    """A picture of its own size, black but for the pixels of its one box; the second box is around a crowd."""
    rng = np.random.default_rng(index)
    height, width = rng.integers(20, 40, 2)
    left, top = rng.integers(0, 9, 2)
    right, bottom = left + rng.integers(1, 9), top + rng.integers(1, 9)
    picture = torch.zeros(int(height), int(width), 3, dtype=torch.uint8)
    picture[top:bottom, left:right] = ONE_COLOUR
    corners = torch.tensor([[left, top, right, bottom], [0, 0, width, height]]).float()
    return Item(
        picture, corners, torch.tensor([index % 5, 1]), torch.tensor([9.0, 99]), torch.tensor([False, True]), index
    )


class Telling:
    """23 of them, in memory."""

    classes = tuple("abcde")

    def __len__(self):
        return 23

    def item(self, index):
        return telling(index)


def drawn(batches, *given, **options):
    """Pictures and boxes of an epoch in one list each."""
    epoch = list(batches.epoch(*given, **options))
    return [x for pictures, _ in epoch for x in pictures], [y for _, boxes in epoch for y in boxes]


def same(one, other):
    """Are these lists of pictures and boxes equal, bit for bit?"""
    return len(one[0]) == len(other[0]) and all(
        map(torch.equal, [*one[0], *(c for b in one[1] for c in b)], [*other[0], *(c for b in other[1] for c in b)])
    )


def lit(picture):
    """Left, top, right, bottom of what is not black in (3, H, W)."""
    rows, columns = (picture.sum((0, axis)).nonzero().flatten().tolist() for axis in (2, 1))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


def test_the_pixels_tell_where_the_box_is_flipped_or_not():
    pictures, boxes = drawn(DetectionBatches(Telling(), 1), 0, 0)
    assert len(pictures) == 23
    for picture, box in zip(pictures, boxes, strict=True):
        assert box.corners.tolist() == [lit(picture)] and picture.dtype == torch.float32
        assert picture.max() == torch.tensor(ONE_COLOUR / 255)
    plain = [telling(index) for index in range(23)]
    flips = [flipped(0, 0, index) for index in range(23)]
    assert 0 < sum(flips) < 23
    moved = [item.boxes[:1].tolist() != learned(item, True)[1].corners.tolist() for item in plain]
    assert any(moved)  # witness: a box that stayed would be noticed


def test_without_a_flip_a_picture_is_its_bytes_and_twice_flipped_is_itself():
    item = telling(4)
    picture, boxes = learned(item, False)
    assert torch.equal((picture * 255).round().byte().permute(1, 2, 0), item.picture)
    assert torch.equal(boxes.corners, item.boxes[:1])
    mirrored, there = learned(item, True)
    back = item._replace(picture=item.picture.flip(1), boxes=torch.cat([there.corners, item.boxes[1:]]))
    again, boxes_again = learned(back, True)
    assert torch.equal(again, picture) and torch.equal(boxes_again.corners, boxes.corners)
    assert not torch.equal(mirrored, picture)  # witness


def test_crowds_are_left_out_of_what_is_learned_and_kept_in_what_is_measured():
    batches = DetectionBatches(Telling(), 4)
    _, boxes = drawn(batches, 0, 0)
    assert all(len(box.labels) == len(box.areas) == 1 and not box.crowd.any() for box in boxes)
    items = [item for batch in batches.ordered() for item in batch]
    assert [item.image_id for item in items] == [*range(23)]
    assert all(item.crowd.tolist() == [False, True] for item in items)


def test_an_epoch_is_a_function_of_seed_and_epoch():
    first = drawn(DetectionBatches(Telling(), 4), 1, 2)
    np.random.seed(0), torch.manual_seed(0)
    assert same(first, drawn(DetectionBatches(Telling(), 4), 1, 2))
    for other in ((1, 3), (0, 2), (2, 1), (2**63 - 1, 2)):
        assert not same(first, drawn(DetectionBatches(Telling(), 4), *other))  # witness


def test_an_epoch_continues_at_any_batch_and_drops_the_incomplete_last_one():
    batches = DetectionBatches(Telling(), 4)
    assert len(batches) == 5
    whole = drawn(batches, 3, 1)
    assert len(whole[0]) == 20
    for start in range(6):
        rest = drawn(batches, 3, 1, start=start)
        assert same(rest, (whole[0][4 * start :], whole[1][4 * start :]))
    assert not same(drawn(batches, 3, 1, start=1), (whole[0][:16], whole[1][:16]))  # witness


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_each_batch_and_see_what_one_would(processes):
    alone = list(DetectionBatches(Telling(), 4).epoch(5, 0))
    shares = [list(DetectionBatches(Telling(), 4, (rank, processes)).epoch(5, 0)) for rank in range(processes)]
    for number, (pictures, _) in enumerate(alone):
        parts = [share[number][0] for share in shares]
        assert [len(part) for part in parts] == [4 // processes] * processes
        assert all(torch.equal(parts[place % processes][place // processes], x) for place, x in enumerate(pictures))
    seen = [
        item.image_id
        for rank in range(processes)
        for batch in DetectionBatches(Telling(), 4, (rank, processes)).ordered()
        for item in batch
    ]
    assert sorted(seen) == [*range(23)]  # each once, none twice


def test_flips_are_fair_and_of_each_picture_alone():
    """The last numbers are hard-wired, so that a numpy whose Philox changes is noticed."""
    flips = torch.tensor([[flipped(0, epoch, index) for index in range(100)] for epoch in range(40)]).double()
    assert abs(flips.mean() - 0.5) < 0.03  # 4,000 draws: 3.8 standard deviations
    assert ((flips.mean(0) - 0.5).abs() < 0.35).all() and len({tuple(row) for row in flips.tolist()}) == 40
    assert [flipped(0, 0, index) for index in range(8)] == [False, True, True, True, False, True, True, False]


def test_nothing_is_decoded_before_it_is_asked_for():
    asked = []

    class Counted(Telling):
        def item(self, index):
            asked.append(index)
            return telling(index)

    epoch = DetectionBatches(Counted(), 4).epoch(0, 0, start=3)
    assert not asked
    next(epoch)
    assert len(asked) == 4


def test_pictures_in_memory_are_taken_as_they_are():
    split = shapes.make(6, seed=3)
    ((pictures, boxes),) = DetectionBatches(split, 6).epoch(0, 0)
    assert [tuple(picture.shape) for picture in pictures] == [(3, 96, 96)] * 6
    assert sum(len(box.labels) for box in boxes) == len(split.boxes.labels)


@pytest.fixture
def split(tmp_path):
    """24 pictures in files."""
    return datasets.load_boxes(photographs(tmp_path / "coco"), tmp_path)[0]


@pytest.mark.parametrize("workers", [1, 2])
def test_processes_that_decode_change_nothing(split, workers):
    alone, helped = DetectionBatches(split, 5), DetectionBatches(split, 5, workers=workers)
    before = set(multiprocessing.active_children())
    assert same(drawn(helped, 3, 1), drawn(alone, 3, 1))
    assert len(set(multiprocessing.active_children()) - before) == workers  # witness
    assert same(drawn(helped, 3, 2, start=2), drawn(alone, 3, 2, start=2))
    assert not same(drawn(helped, 3, 2), drawn(alone, 3, 1))  # witness
    for ours, theirs in zip(helped.ordered(), alone.ordered(), strict=True):
        for one, other in zip(ours, theirs, strict=True):
            assert all(map(torch.equal, one[:5], other[:5])) and one.image_id == other.image_id
    helped.close()
    assert not set(multiprocessing.active_children()) - before


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_picture_is_named_with_its_number_whoever_decodes_it(split, workers):
    batches = DetectionBatches(split, 4, workers=workers)
    list(batches.epoch(0, 0))  # witness
    path = split.path(7)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(Corrupt, match=rf"Picture 7 of 24: {path} cannot be decoded"):
        list(batches.epoch(0, 1))
    batches.close()


def test_pictures_in_memory_need_no_process():
    before = set(multiprocessing.active_children())
    batches = DetectionBatches(shapes.make(8, seed=0), 4, workers=2)
    assert len(drawn(batches, 0, 0)[0]) == 8 and not set(multiprocessing.active_children()) - before
