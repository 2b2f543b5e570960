"""RetinaNet is torchvision's: same weights, same losses, same boxes; and labels from 0 need no conversion."""

from functools import partial

import pytest
import torch
from scenes import boxes, lively, pictures, targets, theirs
from torchvision.models.detection import retinanet_resnet50_fpn
from torchvision.models.detection.retinanet import RetinaNetHead

from workbench.build import build
from workbench.errors import OutOfRange

CLASSES = 3


@pytest.fixture(scope="module")
def built():
    """Ours and torchvision's with the same weights, for pictures of 64 px."""
    ours = lively(build("retinanet-resnet50", CLASSES, 64))
    other = retinanet_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=CLASSES, min_size=64, max_size=106
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
    assert [key for key, _ in ours.named_parameters()] == [key for key, _ in other.named_parameters()]


def test_the_losses_are_torchvisions(both):
    ours, other = both
    mine = ours.train().losses(pictures(), targets())
    wanted = other.train()(pictures(), theirs(targets(), 0))
    assert mine.keys() == wanted.keys()
    assert all(torch.equal(mine[key], wanted[key]) for key in mine)
    shifted = ours.losses(pictures(), [one._replace(labels=(one.labels + 1) % 3) for one in targets()])
    assert not torch.equal(mine["classification"], shifted["classification"])  # witness
    assert torch.equal(mine["bbox_regression"], shifted["bbox_regression"])


def test_the_boxes_are_torchvisions(both):
    ours, other = both
    found, wanted = ours.eval().detect(pictures()), other.eval()(pictures())
    for mine, one in zip(found, wanted, strict=True):
        assert 0 < len(mine.boxes) <= 300
        assert torch.equal(mine.boxes, one["boxes"].float()) and torch.equal(mine.scores, one["scores"].float())
        assert torch.equal(mine.labels, one["labels"])
        assert (mine.scores.diff() <= 0).all() and mine.boxes.dtype == mine.scores.dtype == torch.float32
    with torch.no_grad():
        other.head.regression_head.bbox_reg.bias += 0.1
    moved = other(pictures())
    assert not torch.equal(found[0].boxes, moved[0]["boxes"].float())  # witness


def test_logit_k_is_label_k(both):
    ours, _ = both
    bias = ours.head.classification_head.cls_logits.bias
    with torch.no_grad():
        bias.fill_(-20)
        bias[1::CLASSES] = 20
        found = ours.eval().detect(pictures())
    assert all((one.labels == 1).all() and len(one.labels) for one in found)


def test_boxes_are_in_the_pixels_of_the_picture_that_was_given(both):
    ours, _ = both
    small = [picture[:, :60, :60] for picture in pictures()]
    large = [torch.nn.functional.interpolate(x[None], scale_factor=2, mode="nearest")[0] for x in small]
    assert max(one.boxes.max() for one in ours.eval().detect(small)) <= 60
    assert 60 < max(one.boxes.max() for one in ours.detect(large)) <= 120


def test_a_picture_without_boxes_teaches_background_alone_and_a_crowd_nothing(both):
    ours, _ = both
    empty = [boxes([], []), boxes([], [])]
    losses = ours.train().losses(pictures(), empty)
    assert losses["bbox_regression"] == 0 and losses["classification"] > 0
    crowd = [boxes([[4, 6, 40, 44]], [2], [True]), boxes([], [])]
    assert torch.equal(ours.losses(pictures(), crowd)["classification"], losses["classification"])
    counted = [boxes([[4, 6, 40, 44]], [2]), boxes([], [])]
    assert not torch.equal(ours.losses(pictures(), counted)["classification"], losses["classification"])  # witness


def test_the_head_of_version_2_has_torchvisions_names_and_values():
    """GroupNorm after every 3x3 convolution; version 2 also has another loss of boxes, which no paper here uses."""
    ours = lively(build("retinanet[norm=group,width=64]-resnet8", CLASSES)).head
    theirs = RetinaNetHead(64, 9, CLASSES, norm_layer=partial(torch.nn.GroupNorm, 32)).double()
    theirs.load_state_dict(ours.state_dict())
    maps = [torch.rand(2, 64, side, side, dtype=torch.float64) for side in (6, 3)]
    assert all(torch.equal(ours(maps)[key], y) for key, y in theirs(maps).items())
    with pytest.raises(OutOfRange, match="norm=group of 48 channels"):
        build("retinanet[norm=group,width=48]-resnet8", CLASSES)
