"""Faster R-CNN is torchvision's: same weights and random state, same losses and boxes; its background is no label."""

import pytest
import torch
from scenes import boxes, lively, pictures, targets, theirs
from torchvision.models.detection import fasterrcnn_resnet50_fpn

from workbench.build import build

CLASSES = 3


@pytest.fixture(scope="module")
def built():
    """Ours and torchvision's with the same weights, for pictures of 64 px."""
    ours = lively(build("fasterrcnn[proposals=200,regions=64]-resnet50", CLASSES, 64))
    fewer = {
        f"rpn_{when}_nms_top_n_{mode}": n for when in ("pre", "post") for mode, n in (("train", 200), ("test", 100))
    }
    fewer["box_batch_size_per_image"] = 64
    other = fasterrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=CLASSES + 1, min_size=64, max_size=106, **fewer
    ).double()
    return ours, other, {key: value.clone() for key, value in ours.state_dict().items()}


@pytest.fixture
def both(built):
    ours, other, state = built
    ours.load_state_dict(state)
    other.load_state_dict(state)
    return ours, other


def test_the_state_has_torchvisions_names(both):
    ours, other = both
    assert list(ours.state_dict()) == list(other.state_dict())


def losses(detector, *arguments, seed=0):
    torch.manual_seed(seed)
    return detector.train()(*arguments)


def test_the_losses_are_torchvisions(both):
    ours, other = both
    mine = losses(ours, pictures(), targets())
    wanted = losses(other, pictures(), theirs(targets(), 1))
    assert mine.keys() == wanted.keys()
    assert all(torch.equal(mine[key], wanted[key]) for key in mine)
    assert any(not torch.equal(mine[key], value) for key, value in losses(ours, pictures(), targets(), seed=1).items())
    unshifted = losses(other, pictures(), theirs(targets(), 0))  # witness: label 0 would be the background
    assert not torch.equal(mine["loss_classifier"], unshifted["loss_classifier"])


def test_the_boxes_are_torchvisions(both):
    ours, other = both
    found, wanted = ours.eval().detect(pictures()), other.eval()(pictures())
    for mine, one in zip(found, wanted, strict=True):
        assert 0 < len(mine.boxes) <= 100
        assert torch.equal(mine.boxes, one["boxes"].float()) and torch.equal(mine.scores, one["scores"].float())
        assert torch.equal(mine.labels + 1, one["labels"]) and mine.labels.min() >= 0
        assert (mine.scores.diff() <= 0).all() and mine.boxes.dtype == mine.scores.dtype == torch.float32
    with torch.no_grad():
        other.roi_heads.box_predictor.bbox_pred.bias += 0.1
    assert not torch.equal(found[0].boxes, other(pictures())[0]["boxes"].float())  # witness


def test_logit_k_plus_1_is_label_k(both):
    ours, _ = both
    bias = ours.roi_heads.box_predictor.cls_score.bias
    with torch.no_grad():
        bias.copy_(torch.tensor([-50.0, -50.0, -50.0, 50.0]))
        found = ours.eval().detect(pictures())
    assert all((one.labels == 2).all() and len(one.labels) for one in found)


def test_proposals_and_regions_are_as_many_as_asked_for():
    detector = build("fasterrcnn[proposals=20,regions=8]-resnet8", CLASSES).train()
    images, known = detector.resize(pictures(torch.float32), theirs(targets(), 1))
    maps = detector.maps(images.tensors, None)
    proposals, _ = detector.rpn(images, maps, known)
    assert [len(one) for one in proposals] == [20, 20]
    assert [len(one) for one in detector.roi_heads.select_training_samples(proposals, known)[0]] == [8, 8]
    proposals, _ = detector.eval().rpn(images, maps)
    assert [len(one) for one in proposals] == [10, 10]


def test_a_picture_without_boxes_has_finite_losses():
    detector = build("fasterrcnn[proposals=20]-resnet8", CLASSES).train()
    found = detector.losses(pictures(torch.float32), [boxes([], []), boxes([], [])])
    assert all(value.isfinite() for value in found.values())
    assert found["loss_box_reg"] == found["loss_rpn_box_reg"] == 0
