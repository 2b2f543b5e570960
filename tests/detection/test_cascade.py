"""Cascade R-CNN: one stage is Faster R-CNN with boxes of no class; each stage is stricter, reads better boxes, and all
have one vote."""

import pytest
import torch
from scenes import boxes, lively, pictures, targets
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import MultiScaleRoIAlign, box_iou

from workbench.attention import Trail
from workbench.build import build
from workbench.detection.cascade import STAGES, Cascade, CascadeRCNN, Stage, moved, predict
from workbench.detection.fasterrcnn import FasterRCNN

CLASSES = 3
NAME = "cascadercnn[proposals=60,regions=32]-resnet8"
SIZES = [(64, 96), (64, 64)]


@pytest.fixture
def cascade():
    """A detector in float64 whose heads all do something."""
    return lively(build(NAME, CLASSES))


def seen(detector, known=None):
    images, resized = detector.resize(pictures(), known)
    maps = detector.maps(images.tensors, Trail())
    return images, maps, resized


def distance(boxes, others):
    """Of each box to the nearest of the others, in px."""
    return (boxes[:, None] - others).abs().amax(2).amin(1)


def single(name):
    """Faster R-CNN, or a cascade of its one stage, on equal backbones."""
    torch.manual_seed(0)
    kind = {"fasterrcnn": FasterRCNN, "cascadercnn": CascadeRCNN}[name]
    kind = type(kind.__name__, (kind,), {"stages": STAGES[:1]})
    return lively(kind(build("resnet8", 5), CLASSES, proposals=60, regions=32))


def test_one_stage_is_faster_rcnn_whose_classes_share_a_box():
    one, faster = single("cascadercnn"), single("fasterrcnn")
    state = {
        key.replace("roi_heads.stages.0.", "roi_heads."): value.repeat(CLASSES + 1, *[1] * (value.dim() - 1))
        if "box_predictor.bbox_pred" in key
        else value
        for key, value in one.state_dict().items()
    }
    faster.load_state_dict(state)
    found = []
    for detector in (one, faster):
        torch.manual_seed(3)
        losses = {
            key.removesuffix("_1"): value for key, value in detector.train().losses(pictures(), targets()).items()
        }
        found.append((losses, detector.eval().detect(pictures())))
    (mine, boxes_here), (wanted, boxes_there) = found
    assert mine.keys() == wanted.keys() and all(torch.equal(mine[key], wanted[key]) for key in mine)
    for ours, theirs in zip(boxes_here, boxes_there, strict=True):
        assert len(ours.boxes) and torch.equal(ours.labels, theirs.labels)
        assert torch.equal(ours.boxes, theirs.boxes)
        assert torch.allclose(ours.scores, theirs.scores, rtol=0, atol=1e-7)
    with torch.no_grad():
        faster.roi_heads.box_predictor.bbox_pred.bias[8:] += 1  # of one class alone
    other = faster.detect(pictures())
    assert any(not torch.equal(a.boxes, b.boxes) for a, b in zip(boxes_here, other, strict=True))  # witness


@pytest.mark.parametrize(("number", "stage"), list(enumerate(STAGES)))
def test_a_stage_takes_for_objects_exactly_the_proposals_of_its_iou(number, stage):
    heads = Cascade(MultiScaleRoIAlign(["0"], 7, 2), 4, CLASSES + 1, 512).stages[number]
    truth = torch.tensor([[10.0, 10, 50, 50]])
    shifts = torch.arange(0, 40, 0.5)
    proposals = truth + torch.stack([shifts, 0 * shifts, shifts, 0 * shifts], 1)
    exact = torch.tensor([[10.0, 10, 50, 10 + 40 * stage.iou]])  # IoU is u itself
    proposals = torch.cat([proposals, exact])
    _, labels = heads.assign_targets_to_proposals([proposals], [truth], [torch.tensor([2])])
    overlaps = box_iou(proposals, truth)[:, 0]
    assert torch.equal(labels[0] == 2, overlaps >= stage.iou) and labels[0][-1] == 2
    assert set(labels[0].tolist()) == {0, 2}  # none is ignored
    assert not torch.equal(labels[0] == 2, overlaps >= stage.iou + 0.05)  # witness


def test_the_stages_are_the_papers():
    heads = build(NAME, CLASSES).roi_heads
    assert [stage.proposal_matcher.high_threshold for stage in heads.stages] == [0.5, 0.6, 0.7]
    assert [stage.proposal_matcher.low_threshold for stage in heads.stages] == [0.5, 0.6, 0.7]
    assert [stage.box_coder.weights[::2] for stage in heads.stages] == [(10, 5), (20, 10), (30, 15)]
    assert heads.weights == [1, 0.5, 0.25]


def test_losses_are_weighted_and_all_stages_learn(cascade):
    torch.manual_seed(0)
    plain = cascade.train().losses(pictures(), targets())
    cascade.roi_heads.weights = [1, 1, 1]
    torch.manual_seed(0)
    full = cascade.losses(pictures(), targets())
    for number, weight in ((1, 1), (2, 0.5), (3, 0.25)):
        for kind in ("classifier", "box_reg"):
            key = f"loss_{kind}_{number}"
            assert full[key] > 0 and torch.allclose(plain[key], weight * full[key], rtol=1e-12)
    sum(full.values()).backward()
    assert all(p.grad is not None and p.grad.any() for p in cascade.roi_heads.parameters())


def test_no_gradient_goes_through_a_box(cascade):
    """The losses of later stages do not reach what moved their boxes."""
    losses = cascade.train().losses(pictures(), targets())
    first = cascade.roi_heads.stages[0].box_predictor.bbox_pred.weight
    later = sum(value for key, value in losses.items() if key.endswith(("_2", "_3")))
    assert torch.autograd.grad(later, first, retain_graph=True, allow_unused=True) == (None,)
    assert torch.autograd.grad(losses["loss_box_reg_1"], first)[0].any()  # witness


def test_the_score_is_the_mean_of_three_softmaxes_on_the_last_boxes(cascade):
    cascade.eval()
    images, maps, _ = seen(cascade)
    heads, (proposals, _) = cascade.roi_heads, cascade.rpn(images, maps)
    for stage in heads.stages[:2]:
        _, moves = predict(stage, heads.pool(maps, proposals, images.image_sizes))
        proposals = moved(stage, moves, proposals, images.image_sizes)
    regions = heads.pool(maps, proposals, images.image_sizes)
    votes = [predict(stage, regions)[0].softmax(1) for stage in heads.stages]
    wanted = (votes[0] + votes[1] + votes[2]) / 3
    assert not torch.allclose(wanted, votes[2], atol=1e-3)  # witness
    for stage in heads.stages:  # keep everything
        stage.score_thresh, stage.nms_thresh, stage.detections_per_img = -1, 1, 10_000
    found = heads.find(maps, cascade.rpn(images, maps)[0], images.image_sizes)
    counts = [len(one) for one in proposals]
    for one, mean in zip(found, wanted.split(counts), strict=True):
        assert torch.allclose(one["scores"].sort()[0], mean[:, 1:].flatten().sort()[0], rtol=0, atol=1e-12)


def test_stages_that_move_nothing_leave_the_boxes(cascade):
    for stage in cascade.roi_heads.stages:
        torch.nn.init.zeros_(stage.box_predictor.bbox_pred.weight)
        torch.nn.init.zeros_(stage.box_predictor.bbox_pred.bias)
    cascade.eval()
    images, maps, _ = seen(cascade)
    proposals, _ = cascade.rpn(images, maps)
    found = cascade.roi_heads.find(maps, proposals, images.image_sizes)
    for one, given in zip(found, proposals, strict=True):
        nearest = distance(one["boxes"], given)
        assert len(nearest) and nearest.max() < 1e-9
    torch.nn.init.ones_(cascade.roi_heads.stages[0].box_predictor.bbox_pred.bias)
    other = cascade.roi_heads.find(maps, proposals, images.image_sizes)
    assert distance(other[0]["boxes"], proposals[0]).max() > 1  # witness


def test_a_perfect_stage_gives_the_next_one_the_true_boxes():
    """Decoding what a stage should learn returns the truth, in the units of each stage."""
    heads = Cascade(MultiScaleRoIAlign(["0"], 7, 2), 4, CLASSES + 1, 512)
    truth, near = torch.tensor([[10.0, 12, 50, 40]]), torch.tensor([[14.0, 9, 47, 44]])
    differences = []
    for stage in heads.stages:
        differences += stage.box_coder.encode([truth], [near])
        moves = differences[-1].repeat(1, CLASSES + 1)
        assert torch.allclose(moved(stage, moves, [near], [(64, 64)])[0], truth, atol=1e-4)
        assert moved(stage, 10 * moves, [near], [(64, 64)])[0].max() <= 64  # inside of the picture
    assert torch.allclose(differences[1], 2 * differences[0]) and torch.allclose(differences[2], 3 * differences[0])


def test_later_stages_read_the_refined_boxes_and_the_true_ones(cascade, monkeypatch):
    """What the second stage chooses from is what the first one moved, and the true boxes."""
    first, second, _ = cascade.roi_heads.stages
    given, chosen = [], []
    choose = type(first).select_training_samples

    def watch(stage, proposals, known):
        given.append((stage, [one.clone() for one in proposals]))
        chosen.append(choose(stage, proposals, known))
        return chosen[-1]

    monkeypatch.setattr(type(first), "select_training_samples", watch)
    images, maps, known = seen(cascade.train(), [{"boxes": t.corners, "labels": t.labels + 1} for t in targets()])
    proposals, _ = cascade.rpn(images, maps, known)
    cascade.roi_heads.learn(maps, proposals, images.image_sizes, known)
    assert [stage for stage, _ in given] == list(cascade.roi_heads.stages)
    sampled = chosen[0][0]
    _, moves = predict(first, cascade.roi_heads.pool(maps, sampled, images.image_sizes))
    for mine, wanted in zip(given[1][1], moved(first, moves, sampled, images.image_sizes), strict=True):
        assert torch.allclose(mine, wanted) and len(mine) == len(wanted) <= 32
    for one, truth in zip(chosen[1][0], known, strict=True):
        assert distance(truth["boxes"].double(), one).max() < 1e-9
    assert second is given[1][0]


def test_no_proposal_and_no_box_are_no_error(cascade):
    heads = cascade.eval().roi_heads
    images = ImageList(torch.zeros(2, 3, 64, 96, dtype=torch.float64), SIZES)
    maps = cascade.maps(images.tensors, Trail())
    none = [torch.zeros(0, 4, dtype=torch.float64)] * 2
    assert [len(one["boxes"]) for one in heads.find(maps, none, SIZES)] == [0, 0]
    losses = cascade.train().losses(pictures(), [boxes([], []), boxes([], [])])
    assert all(value.isfinite() for value in losses.values())


def test_other_cascades_are_a_tuple_of_stages():
    heads = Cascade(MultiScaleRoIAlign(["0"], 7, 2), 4, 2, 8, (Stage(0.4, (1, 1, 1, 1), 2.0),))
    assert len(heads.stages) == 1 and heads.weights == [2.0]
