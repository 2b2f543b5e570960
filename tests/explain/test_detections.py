"""Boxes stand where they were found, beside the truth; a frame has the same boxes in numbers."""

from typing import NamedTuple

import numpy as np
import pytest
import torch

from workbench.datasets import shapes
from workbench.datasets.boxes import Item
from workbench.explain.detections import MOST, Boxed, Scene, best, find, frame, piles, side_by_side, true_boxes

PICTURE = np.full((50, 100, 3), 90, np.uint8)
TRUTH = Boxed(np.array([[10, 10, 30, 30], [60, 20, 90, 40]], np.float32), ("cat", "dog"), np.ones(2, np.float32))
ONE = Boxed(
    np.array([[60, 20, 90, 30], [10, 10, 30, 30], [0, 0, 5, 5]], np.float32),
    ("dog", "dog", "cat"),
    np.array([0.5, 0.9, 0.2], np.float32),
)
NOTHING = Boxed(np.empty((0, 4), np.float32), (), np.empty(0, np.float32))


def scenes():
    return [Scene("known", PICTURE, TRUTH), Scene("own", np.full((100, 100, 3), 200, np.uint8))]


def found():
    return {"plain": [ONE, NOTHING], "cra": [TRUTH, ONE]}


def test_the_overlap_is_that_with_the_box_it_fits_best():
    assert best(ONE, TRUTH) == [(0.5, "dog"), (1.0, "cat"), (0.0, "")]
    assert best(ONE, NOTHING) == [(0.0, "")] * 3
    assert np.isnan([share for share, _ in best(ONE, None)]).all() and best(NOTHING, TRUTH) == []


def test_the_frame_has_a_row_a_box_above_the_score():
    rows = frame(scenes(), found(), 0.5)
    assert list(rows["network"]) == ["plain"] * 2 + ["cra"] * 4
    assert list(rows["picture"]) == ["known"] * 4 + ["own"] * 2
    first = rows.iloc[0]
    assert (first["class"], first["true class"], first["IoU"]) == ("dog", "cat", 1.0)  # the best score first
    assert list(first["left":"bottom"]) == [10, 10, 30, 30] and first["score"] == pytest.approx(0.9)
    assert rows["IoU"][4:].isna().all() and not rows["IoU"][:4].isna().any()
    assert len(frame(scenes(), found(), 0.1)) == 8 and frame(scenes(), found(), 0.95)["network"].eq("cra").all()
    assert frame(scenes(), {"plain": [NOTHING, NOTHING]}, 0.5).empty


def drawn(figure, axis):
    """The corners of solid coloured boxes in a panel, the lowest first, and of the dashed ones."""
    lines = [one for one in figure.data if one.type == "scatter" and one.xaxis == axis and one.x[0] is not None]
    corners = [
        [(one.x[at], one.y[at], one.x[at + 2], one.y[at + 2]) for at in range(0, len(one.x), 6)] for one in lines
    ]
    solid = [box for one, boxes in zip(lines, corners, strict=True) if one.line.width == 2.5 for box in boxes]
    return solid, [box for one, boxes in zip(lines, corners, strict=True) if one.line.dash == "dash" for box in boxes]


def test_boxes_stand_in_the_panel_of_their_network_and_picture():
    figure = side_by_side(scenes(), found(), 0.5)
    dashed = [tuple(box) for box in TRUTH.corners.tolist()]
    kept = [tuple(box) for box in ONE.corners[:2].tolist()]
    assert drawn(figure, "x") == (kept, dashed)
    assert drawn(figure, "x2") == (dashed[::-1], dashed)
    assert drawn(figure, "x3") == ([], []) and drawn(figure, "x4") == (kept, [])
    assert drawn(side_by_side(scenes(), found(), 0.1), "x")[0] != kept  # witness
    titles = [note.text for note in figure.layout.annotations]
    assert titles[:2] == ["plain", "cra"] and titles[2:4] == ["dog 50", "dog 90"] and len(titles) == 2 + 2 + 2 + 2
    assert [figure.layout[axis].title.text for axis in ("yaxis", "yaxis3")] == ["known", "own"]
    assert len([one for one in figure.data if one.type == "image"]) == 4


def test_a_class_has_one_colour_everywhere_and_the_truth_a_name():
    figure = side_by_side(scenes(), found(), 0.1)
    legend = {one.name: one.line.color for one in figure.data if one.name}
    assert {*legend} == {"cat", "dog", "truth"} and len({*legend.values()}) == 3
    for one in figure.data:
        if one.type == "scatter" and not one.name and one.line.width == 2.5:
            assert one.line.color == legend[one.text[0].partition(",")[0]]
    alone = side_by_side(scenes(), {"plain": [ONE, NOTHING]}, 0.4, ("cow", "cat", "dog"))
    other = side_by_side(scenes(), found(), 0.1, ("cow", "cat", "dog"))
    dogs = [one.line.color for figure in (alone, other, figure) for one in figure.data if one.name == "dog"]
    assert dogs[0] == dogs[1] != dogs[2]  # witness: it is the list of classes that keeps it
    assert "truth" not in {one.name for one in side_by_side(scenes()[1:], {"plain": [ONE]}, 0.1).data}


def test_a_panel_is_as_high_as_its_picture_and_a_label_lies_in_it():
    corners = np.array([[-3, -2, 20, 20], [80, 1, 104, 60]], np.float32)
    over = Boxed(corners, ("cat", "cat"), np.array([0.9, 0.8], np.float32))
    figure = side_by_side(scenes(), {"plain": [over, NOTHING]}, 0.5)
    heights = [figure.layout[axis].domain[1] - figure.layout[axis].domain[0] for axis in ("yaxis", "yaxis2")]
    assert heights[1] == pytest.approx(2 * heights[0])
    for note in figure.layout.annotations[1:]:
        assert 0 <= note.x <= 100 and 0 <= note.y <= 50 and note.yanchor == "top"
    assert {note.xanchor for note in figure.layout.annotations[1:]} == {"left", "right"}


def test_boxes_on_each_other_have_one_label():
    corners = np.array([[10, 10, 30, 30], [11, 10, 31, 30], [60, 20, 90, 40], [10, 11, 30, 31]], np.float32)
    pile = Boxed(corners, ("cat", "dog", "dog", "cow"), np.array([0.9, 0.8, 0.7, 0.6], np.float32))
    assert piles(pile) == {0: 2, 2: 0} and piles(NOTHING) == {}
    notes = side_by_side(scenes()[:1], {"plain": [pile]}, 0.5).layout.annotations[1:]
    assert [note.text for note in notes] == ["dog 70", "cat 90 +2"]
    assert len(drawn(side_by_side(scenes()[:1], {"plain": [pile]}, 0.5), "x")[0]) == 4
    apart = side_by_side(scenes()[:1], {"plain": [pile]}, 0.65).layout.annotations[1:]
    assert [note.text for note in apart] == ["dog 70", "cat 90 +1"]  # witness


def test_of_many_boxes_the_best_are_drawn_and_all_counted():
    many = Boxed(np.tile(ONE.corners[:1], (50, 1)), ("cat",) * 50, np.linspace(0.3, 0.8, 50).astype(np.float32))
    figure = side_by_side(scenes()[:1], {"plain": [many]}, 0.3)
    assert len(drawn(figure, "x")[0]) == MOST
    assert "known: plain 50, 2 in truth" in figure.layout.meta and f"At most {MOST} are drawn." in figure.layout.meta
    assert {note.text for note in figure.layout.annotations} >= {"cat 80 +19"}
    assert "At most" not in side_by_side(scenes(), found(), 0.3).layout.meta


def test_the_figure_says_what_it_shows():
    meta = side_by_side(scenes(), found(), 0.5).layout.meta
    assert meta == (
        "Boxes with a score of at least 50 % in pictures, by network; known: plain 2, cra 2, 2 in truth; "
        "own: plain 0, cra 2."
    )


class Answer(NamedTuple):
    boxes: torch.Tensor
    labels: torch.Tensor
    scores: torch.Tensor


class Guess:
    """A detector that always says the same."""

    def detect(self, pictures):
        assert len(pictures) == 1
        return [Answer(torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.tensor([1]), torch.tensor([0.5]))]


def test_what_a_detector_finds_has_the_names_of_its_classes():
    one = find(Guess(), ("cat", "dog"), torch.zeros(3, 8, 8))
    assert one.classes == ("dog",) and one.corners.tolist() == [[1, 2, 3, 4]] and one.scores.tolist() == [0.5]


def test_a_crowd_is_no_true_box():
    item = shapes.make(1, seed=1).item(0)
    whole = true_boxes(item, shapes.CLASSES)
    assert np.array_equal(whole.corners, item.boxes) and len(whole.classes) == len(item.labels) > 1
    crowd = torch.zeros_like(item.crowd)
    crowd[0] = True
    single = true_boxes(Item(*item[:4], crowd, item.image_id), shapes.CLASSES)
    assert np.array_equal(single.corners, item.boxes[1:]) and single.classes == whole.classes[1:]
