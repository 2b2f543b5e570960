"""Average precision is COCO's: pycocotools says the same to 1e-9, and cases by hand come out as counted by hand."""

import contextlib
import io
import sys
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from workbench import cli, files
from workbench.datasets import PLACES, coco
from workbench.datasets.boxes import Boxes
from workbench.detection import coco_map
from workbench.detection.coco_map import average_precision
from workbench.errors import OutOfRange

pytest.importorskip("faster_coco_eval")
REAL = files.data_dir() / PLACES["coco-mini"]  # as the caller's environment says, before any test has its own
NAMES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")


class Found(NamedTuple):
    """The fields of workbench.detection.detector.Detections."""

    boxes: Tensor
    labels: Tensor
    scores: Tensor


def oracle(found, truth, classes):
    """The same by pycocotools, through its own loading of results and its own summary; -1 for what is of no box."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def sides(corners):
        left, top, right, bottom = corners.tolist()
        return [left, top, right - left, bottom - top]

    listed, results = [], []
    for image, boxes in enumerate(truth):
        for corners, label, area, crowd in zip(*boxes, strict=True):
            said = {"bbox": sides(corners), "area": float(area), "iscrowd": int(crowd), "category_id": int(label) + 1}
            listed.append({"id": len(listed) + 1, "image_id": image, **said})
        for corners, label, score in zip(*found[image], strict=True):
            said = {"bbox": sides(corners), "score": float(score), "category_id": int(label) + 1}
            results.append({"image_id": image, **said})
    with contextlib.redirect_stdout(io.StringIO()):
        reader = COCO()
        images = [{"id": image} for image in range(len(truth))]
        reader.dataset = {
            "images": images,
            "annotations": listed,
            "categories": [{"id": 1 + k} for k in range(classes)],
        }
        reader.createIndex()
        evaluator = COCOeval(reader, reader.loadRes(results), "bbox")
        evaluator.evaluate(), evaluator.accumulate(), evaluator.summarize()
    return dict(zip(NAMES, evaluator.stats[:6].tolist(), strict=True))


def compare(found, truth, classes):
    """Both, which agree to 1e-9; -> ours."""
    ours, theirs = average_precision(found, truth, classes), oracle(found, truth, classes)
    assert ours.keys() == {name for name, value in theirs.items() if value > -1}
    for name, value in ours.items():
        assert value / 100 == pytest.approx(theirs[name], abs=1e-9), name
    return ours


def boxes(*rows, areas=None, crowd=()):
    """Rows of left, top, right, bottom, label; the area of the outline is the box's where none is given."""
    table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 5)
    corners = table[:, :4]
    sizes = (corners[:, 2:] - corners[:, :2]).prod(1) if areas is None else torch.tensor(areas, dtype=torch.float32)
    return Boxes(corners, table[:, 4].long(), sizes, torch.tensor([row in crowd for row in range(len(rows))]).bool())


def detections(*rows):
    """Rows of left, top, right, bottom, label, score."""
    table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)
    return Found(table[:, :4], table[:, 4].long(), table[:, 5])


def disturbed(truth, classes, seed):
    """Detections made from the truth: moved, left out, of another class, added, with scores of which many are equal."""
    rng = np.random.default_rng(seed)
    found = []
    for picture in truth:
        kept = rng.random(len(picture.labels)) < 0.8
        corners, labels = picture.corners.numpy()[kept], picture.labels.numpy()[kept]
        twice = rng.integers(0, 3, len(labels))
        corners, labels = np.repeat(corners, twice, 0), np.repeat(labels, twice)
        sides = np.tile(corners[:, 2:] - corners[:, :2], 2)
        corners = np.sort((corners + 0.08 * sides * rng.standard_normal(corners.shape)).reshape(-1, 2, 2), 1).reshape(
            -1, 4
        )
        labels = np.where(rng.random(len(labels)) < 0.1, rng.integers(0, classes, len(labels)), labels)
        stray = np.sort(rng.random((rng.integers(0, 5), 2, 2)) * 200, 1).reshape(-1, 4)
        corners, labels = np.concatenate([corners, stray]), np.append(labels, rng.integers(0, classes, len(stray)))
        scores = np.sort(rng.random(len(labels)).round(1))[::-1]
        found.append(
            Found(torch.tensor(corners).float(), torch.tensor(labels).long(), torch.tensor(scores.copy()).float())
        )
    return found


@pytest.mark.skipif(not REAL.is_dir(), reason="coco-mini is not in $WORKBENCH_DATA")
@pytest.mark.parametrize("seed", [0, 1])
def test_on_real_photographs_it_is_that_of_pycocotools(seed):
    _, split = coco.read(REAL)
    parts = [slice(*split.first[i : i + 2].tolist()) for i in range(len(split))]
    truth = [Boxes(*(column[part] for column in split.boxes)) for part in parts]
    assert any(picture.crowd.any() for picture in truth)
    found = disturbed(truth, 80, seed)
    ours = compare(found, truth, 80)
    assert ours.keys() == {*NAMES} and 5 < ours["ap"] < ours["ap50"] < 90
    other = average_precision(disturbed(truth, 80, seed + 10), truth, 80)
    assert abs(other["ap"] - ours["ap"]) > 1e-3  # witness


@pytest.mark.parametrize("seed", range(8))
def test_on_drawn_boxes_it_is_that_of_pycocotools(seed):
    """Crowds, empty pictures, boxes without area, classes without boxes, outlines smaller than boxes, equal scores."""
    rng = np.random.default_rng(seed)
    truth = []
    for count in rng.integers(0, 9, 20):
        start, sides = rng.integers(0, 100, (count, 2)), rng.integers(0, 150, (count, 2))
        corners = torch.tensor(np.concatenate([start, start + sides], 1)).float()
        areas = torch.tensor(sides.prod(1) * rng.random(count)).float()
        crowd = torch.tensor(rng.random(count) < 0.2)
        truth.append(Boxes(corners, torch.tensor(rng.choice([0, 2, 3, 5], count)).long(), areas, crowd))
    ours = compare(disturbed(truth, 7, seed), truth, 7)
    assert 0 < ours["ap"] < 100


SQUARE = (10, 10, 60, 60)  # 2,500 px: medium


def test_the_truth_itself_is_perfect_and_the_place_counts_by_its_overlap():
    truth = [boxes((*SQUARE, 0))]
    perfect = compare([detections((*SQUARE, 0, 0.9))], truth, 1)
    assert perfect == {"ap": 100, "ap50": 100, "ap75": 100, "ap_medium": 100}  # no small, no large: left out
    near = compare([detections((10, 10, 60, 41, 0, 0.9))], truth, 1)  # overlap 0.62: found at 0.50, 0.55 and 0.60
    assert near["ap50"] == 100 and near["ap75"] == 0 and near["ap"] == pytest.approx(30)
    assert compare([detections((*SQUARE, 1, 0.9))], [boxes((*SQUARE, 0))], 2)["ap"] == 0  # of another class


def test_no_detection_is_0_and_no_box_is_left_out():
    empty, nothing = detections(), boxes()
    assert average_precision([empty], [boxes((*SQUARE, 0))], 3) == {"ap": 0, "ap50": 0, "ap75": 0, "ap_medium": 0}
    assert average_precision([empty], [nothing], 3) == {}
    assert average_precision([detections((*SQUARE, 0, 0.9))], [nothing], 3) == {}
    assert average_precision([], [], 3) == {}


def test_what_is_said_of_an_empty_picture_is_wrong():
    truth, hit = [boxes((*SQUARE, 0)), boxes()], detections((*SQUARE, 0, 0.5))
    assert compare([hit, detections()], truth, 1)["ap"] == 100
    assert compare([hit, detections((*SQUARE, 0, 0.4))], truth, 1)["ap"] == 100  # after all there was to find
    assert compare([hit, detections((*SQUARE, 0, 0.6))], truth, 1)["ap"] == pytest.approx(50)  # one of two


def test_classes_without_boxes_do_not_count_and_gaps_are_none():
    truth = [boxes((*SQUARE, 0), (70, 70, 120, 120, 4))]
    found = [detections((*SQUARE, 0, 0.9), (*SQUARE, 2, 0.8))]
    assert compare(found, truth, 5)["ap"] == pytest.approx(50)  # of classes 0 and 4 alone
    assert compare(found, truth, 80) == compare(found, truth, 5)


def test_a_crowd_is_neither_missed_nor_wrong():
    plain, both = boxes((*SQUARE, 0)), boxes((*SQUARE, 0), (0, 70, 200, 200, 0), crowd=(1,))
    inside = [(row, 80, row + 30, 110, 0, 0.95) for row in range(0, 150, 50)]
    found = [detections(*inside, (*SQUARE, 0, 0.9))]
    assert compare(found, [both], 1)["ap"] == 100
    assert compare(found, [plain], 1)["ap"] == pytest.approx(25)  # witness: they were wrong without it
    assert average_precision(found, [boxes((0, 70, 200, 200, 0), crowd=(0,))], 1) == {}


def test_boxes_without_area_are_finite():
    flat = (30, 30, 30, 60)
    truth = [boxes((*SQUARE, 0), (*flat, 0))]
    assert compare([detections((*SQUARE, 0, 0.9))], truth, 1)["ap"] == pytest.approx(100 * 51 / 101)
    assert compare([detections((*SQUARE, 0, 0.9), (*flat, 0, 0.8))], truth, 1)["ap"] <= 100
    assert compare([detections((*flat, 0, 0.95), (*SQUARE, 0, 0.9))], [boxes((*SQUARE, 0))], 1)["ap"] == pytest.approx(
        50
    )


def test_among_equal_scores_the_first_listed_comes_first():
    truth = [boxes((*SQUARE, 0))]
    right, wrong = (*SQUARE, 0, 0.5), (100, 100, 150, 150, 0, 0.5)
    assert compare([detections(right, wrong)], truth, 1)["ap"] == 100
    assert compare([detections(wrong, right)], truth, 1)["ap"] == pytest.approx(50)
    two = [boxes((*SQUARE, 0)), boxes()]
    assert compare([detections(right), detections(wrong)], two, 1)["ap"] == 100
    assert compare([detections(wrong), detections(right)], two[::-1], 1)["ap"] == pytest.approx(50)


def test_of_each_class_the_best_100_of_a_picture_count():
    truth = [boxes((*SQUARE, 0))]
    strays = [(100, 100, 150, 150, 0, 0.5 + 0.001 * row) for row in range(100)]
    assert compare([detections(*strays[:99], (*SQUARE, 0, 0.4))], truth, 1)["ap"] == pytest.approx(1)  # the 100th
    assert compare([detections(*strays, (*SQUARE, 0, 0.4))], truth, 1)["ap"] == 0
    others = [(100, 100, 150, 150, 1, 0.9)] * 100
    assert compare([detections(*others, (*SQUARE, 0, 0.4))], truth, 2)["ap"] == 100


def test_small_medium_and_large_are_told_by_the_outline():
    sides = ((0, 0, 100, 100, 0), (0, 0, 100, 100, 1), (0, 0, 100, 100, 2))
    truth = [boxes(*sides, areas=(1000, 5000, 9999))]
    found = [detections(*((*side, 0.9) for side in sides[:2]))]
    ours = compare(found, truth, 3)
    assert (ours["ap_small"], ours["ap_medium"], ours["ap_large"]) == (100, 100, 0)
    by_box = compare(found, [boxes(*sides)], 3)
    assert "ap_small" not in by_box and by_box["ap_large"] == pytest.approx(200 / 3)  # witness


def test_what_cannot_be_compared_is_refused():
    one, box_ = detections((*SQUARE, 0, 0.9)), boxes((*SQUARE, 0))
    with pytest.raises(OutOfRange, match="1 pictures of detections and 2 of boxes"):
        average_precision([one], [box_, box_], 1)
    with pytest.raises(OutOfRange, match=r"Detections of picture 1 have labels from 2 to 2; with 2 classes .* 0 to 1"):
        average_precision([one, detections((*SQUARE, 2, 0.9))], [box_, box_], 2)
    with pytest.raises(OutOfRange, match=r"Boxes of picture 0 have labels from -1 to 0"):
        average_precision([one], [boxes((*SQUARE, 0), (*SQUARE, -1))], 2)
    for broken in ((*SQUARE, 0, float("nan")), (10, 10, float("inf"), 60, 0, 0.9)):
        with pytest.raises(OutOfRange, match="Detections of picture 0 have a box or a score that is no number"):
            average_precision([detections(broken)], [box_], 1)
    assert average_precision([one, one], [box_, box_], 1)["ap"] == 100  # witness


def test_nothing_is_printed_and_nothing_given_is_changed(capsys):
    truth, found = [boxes((*SQUARE, 0))], [detections((*SQUARE, 0, 0.9))]
    before = [column.clone() for part in (*truth, *found) for column in part]
    average_precision(found, truth, 1)
    assert capsys.readouterr() == ("", "")
    assert all(map(torch.equal, before, [column for part in (*truth, *found) for column in part]))


def test_without_the_evaluator_its_extra_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(ModuleNotFoundError) as caught:
        average_precision([], [], 1)
    assert cli.EXTRAS[caught.value.name] == "detection" and coco_map.METRICS.keys() == {*NAMES}
