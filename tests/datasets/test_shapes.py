"""`shapes`: a function of (seed, index); every box is exactly around what is seen; chance is far below 5 %."""

import hashlib
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from workbench import datasets
from workbench.datasets import shapes
from workbench.detection.coco_map import average_precision
from workbench.errors import OutOfRange


class Found(NamedTuple):
    """The fields of workbench.detection.detector.Detections."""

    boxes: Tensor
    labels: Tensor
    scores: Tensor


@pytest.fixture(scope="module")
def sets():
    return shapes.load()


def same(one, other):
    return all(map(torch.equal, (one.pictures, one.first, *one.boxes), (other.pictures, other.first, *other.boxes)))


def test_a_picture_is_a_function_of_seed_and_index():
    few, many = shapes.make(3, seed=5), shapes.make(8, seed=5)
    for index in range(3):
        one, other = few.item(index), many.item(index)
        assert all(map(torch.equal, one[:5], other[:5])) and one.image_id == other.image_id == index
    np.random.seed(0), torch.manual_seed(0)
    assert same(many, shapes.make(8, seed=5))
    assert not same(many, shapes.make(8, seed=6)) and not torch.equal(few.pictures[0], few.pictures[1])  # witness


def test_the_bits_are_those_of_version_1():
    """Hard-wired: a change of it makes records of other machines incomparable, so raise VERSION or do not."""
    split = shapes.make(20, seed=0)
    content = b"".join(part.numpy().tobytes() for part in (split.pictures, split.first, *split.boxes))
    assert hashlib.sha256(content).hexdigest()[:16] == "2f56c7f6a217c75e"
    assert shapes.VERSION == "shapes-1" == datasets.version("shapes")


def test_train_and_test_are_two_draws_of_the_printed_size(sets):
    train, test = sets
    assert (len(train), len(test)) == (1000, 200) and train.pictures.shape[1:] == (96, 96, 3)
    seen = {picture.tobytes() for picture in train.pictures.numpy()}
    assert not any(picture.tobytes() in seen for picture in test.pictures.numpy())
    assert train.pictures[0].numpy().tobytes() in seen  # witness


def test_objects_are_as_many_and_as_large_as_said(sets):
    for split in sets:
        counts, (left, top, right, bottom) = split.first.diff(), split.boxes.corners.unbind(1)
        assert counts.min() == 1 and counts.max() == 6
        assert torch.equal(right - left, bottom - top) and (right - left).min() == 12 and (right - left).max() == 48
        assert min(left.min(), top.min()) == 0 and max(right.max(), bottom.max()) == 96
        assert not split.boxes.crowd.any() and len(split.classes) == datasets.classes("shapes") == 6
        shares = torch.bincount(split.boxes.labels, minlength=6) / len(split.boxes.labels)
        assert (shares - 1 / 6).abs().max() < 0.03
        small = (split.boxes.areas <= 32**2).float().mean()
        assert 0.5 < small < 0.95 and split.boxes.areas.max() <= 96**2  # small and medium, by COCO's measure


def test_every_box_is_that_of_what_is_seen_and_every_area_its_pixels(monkeypatch):
    owners = []
    placed = shapes._placed
    monkeypatch.setattr(shapes, "_placed", lambda source: owners.append(placed(source)) or owners[-1])
    split = shapes.make(60, seed=2)
    covered = 0
    for index, (owner, _) in enumerate(owners):
        item = split.item(index)
        for number, box in enumerate(item.boxes.int().tolist(), 1):
            rows, columns = np.nonzero(owner == number)
            assert box == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert item.areas[number - 1] == len(rows)
            name = shapes.FIGURES[int(item.labels[number - 1]) % 3]
            whole = shapes.figure(name, box[2] - box[0])
            covered += len(rows) < whole.sum()
            assert whole[rows - box[1], columns - box[0]].all() and len(rows) >= 0.5 * whole.sum()
    assert covered > 5  # witness: objects do cover one another


def test_what_is_seen_is_where_the_box_says(sets):
    """Within its figure an object is much redder or bluer than anything beside it is likely to be."""
    train, _ = sets
    right = 0
    for index in range(200):
        item = train.item(index)
        warmth = item.picture[..., 0].int() - item.picture[..., 2].int()
        for (left, top, right_, bottom), label in zip(item.boxes.int().tolist(), item.labels, strict=True):
            middle = warmth[top:bottom, left:right_][(bottom - top) // 2, (right_ - left) // 2]
            right += int((middle > 0) == (label < 3))
    assert right / int(train.first[200]) > 0.97  # the middle may be covered by another


def test_figures_touch_their_boxes_are_upright_and_differ():
    for size in range(shapes.SMALLEST, shapes.LARGEST + 1):
        square, disc, triangle = (shapes.figure(name, size) for name in shapes.FIGURES)
        for pixels in (square, disc, triangle):
            assert pixels.shape == (size, size)
            assert np.array_equal(pixels, pixels[:, ::-1])  # a mirrored one is of its class
            assert pixels[0].any() and pixels[-1].any() and pixels[:, 0].any() and pixels[:, -1].any()
        assert square.all() and abs(disc.mean() - np.pi / 4) < 0.03 and abs(triangle.mean() - 0.5) < 1.1 / size
        assert not np.array_equal(triangle, triangle[::-1])


def test_neither_hue_nor_figure_alone_tells_the_class(sets):
    assert sets[0].classes == sets[1].classes == shapes.CLASSES
    hues, figures = zip(*(name.split() for name in shapes.CLASSES), strict=True)
    assert len({*hues}) == 2 and len({*figures}) == 3 and len({*shapes.CLASSES}) == 6


def test_boxes_share_a_quarter_at_the_most(sets):
    most = 0.0
    for index in range(300):
        corners = sets[0].item(index).boxes
        start, end = (
            torch.maximum(corners[:, None, :2], corners[:, :2]),
            torch.minimum(corners[:, None, 2:], corners[:, 2:]),
        )
        both = (end - start).clamp(min=0).prod(2).fill_diagonal_(0)
        area = (corners[:, 2:] - corners[:, :2]).prod(1)
        most = max(most, float((both / torch.minimum(area[:, None], area)).max()))
    assert 0.2 < most <= 0.25


def guess(side, step, labels, shares):
    """Boxes of one side on a grid, of each of these classes, scored by its share: the same for every picture.

    Of sides from 20 to 40 and grids from 5 x 5 to 3 x 3, a side of 40 every 14 px does best.
    """
    places = torch.arange(0, shapes.SIDE - side + 1, step).float()
    left, top = torch.meshgrid(places, places, indexing="xy")
    corner = torch.stack([left.flatten(), top.flatten()], 1)
    grid = torch.cat([corner, corner + side], 1)
    return Found(
        grid.repeat(len(labels), 1),
        torch.tensor(labels).repeat_interleave(len(grid)),
        shares[labels].repeat_interleave(len(grid)),
    )


def test_a_detector_that_knows_only_the_prior_is_far_below_5_percent(sets):
    pytest.importorskip("faster_coco_eval")
    train, test = sets
    shares = torch.bincount(train.boxes.labels).float() / len(train.boxes.labels)
    truth = [shapes.Boxes(item.boxes, item.labels, item.areas, item.crowd) for item in test]
    for labels, most in (([int(shares.argmax())], 0.1), ([*range(6)], 0.2)):
        found = average_precision([guess(40, 14, labels, shares)] * len(test), truth, 6)
        assert 0 < found["ap"] < most and found["ap50"] < 1
    seen = [Found(item.boxes, item.labels, torch.ones(len(item.labels))) for item in test]
    assert average_precision(seen, truth, 6)["ap"] == pytest.approx(100)  # witness: who looks, finds
    grey = [Found(item.boxes, item.labels % 3, torch.ones(len(item.labels))) for item in test]
    assert average_precision(grey, truth, 6)["ap"] < 30  # who sees no hue


def test_it_is_refused_where_classes_are_learned():
    with pytest.raises(OutOfRange, match=r"shapes has boxes and is for detectors, .*`workbench.datasets.load_boxes`"):
        datasets.load("shapes", None)
    with pytest.raises(OutOfRange, match=r"layouts has no boxes .* coco2017, coco-mini, shapes, coco:PATH"):
        datasets.load_boxes("layouts", None)


def test_items_are_counted_from_both_ends(sets):
    test = sets[1]
    assert torch.equal(test[-1].picture, test.item(199).picture) and test[-1].image_id == 199
    assert not torch.equal(test[-1].picture, test[0].picture)  # witness
    with pytest.raises(IndexError):
        test.item(200)
