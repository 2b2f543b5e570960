"""Detectors are names: parsed, built, checked at the maps that they will see, frozen, counted and described."""

import copy

import pytest
import torch
from scenes import boxes, pictures, targets
from torchvision.models.detection import fasterrcnn_resnet50_fpn, retinanet_resnet50_fpn
from torchvision.models.detection.faster_rcnn import FasterRCNN_ResNet50_FPN_Weights
from torchvision.models.detection.retinanet import RetinaNet_ResNet50_FPN_Weights
from torchvision.ops import FrozenBatchNorm2d, MultiScaleRoIAlign

from workbench import cli
from workbench.build import build, canonical, resolved
from workbench.detection import Detections
from workbench.errors import OutOfRange, UnknownName, WorkbenchError
from workbench.experiments import tables
from workbench.explain.complexity import count
from workbench.explain.describe import describe
from workbench.names import parse

ROWS = [row.model for key in ("cra-6", "aw-2", "dca-7") for row in tables.load(key).rows]
FIRST = ("conv1", "bn1", "layer1")  # of a ResNet, the stem and the first stage
TWINS = {"retinanet": "retinanet-{}resnet8", "fasterrcnn": "fasterrcnn[{}proposals=60,regions=32]-resnet8"}
TWINS["cascadercnn"] = "cascadercnn[{}proposals=60,regions=32]-resnet8"


@pytest.mark.parametrize("name", list(dict.fromkeys(ROWS)))
def test_every_row_of_the_coco_tables_is_built(name):
    assert str(parse(name)) == str(canonical(name)) == name
    cost = count(name, 80)
    assert cost.image_size == 800 and 30e6 < cost.params < 90e6


def test_canonical_and_resolved_know_the_detector():
    name = "fasterrcnn[image_size=0,fpn=aw-se,regions=512]-resnet20"
    assert str(canonical(name)) == "fasterrcnn[fpn=aw-se]-resnet20"
    assert resolved(name) == resolved("fasterrcnn[fpn=aw-se]-resnet20") != resolved("fasterrcnn-resnet20")
    assert resolved("retinanet-resnet20")["detector"] == {
        "word": "retinanet",
        "image_size": "0",
        "fpn": "",
        "width": "0",
        "finest": "0",
        "anchor": "4",
        "norm": "none",
    }


@pytest.mark.parametrize(
    ("name", "error", "sentence"),
    [
        ("retinanet[fpm=aw]-resnet8", UnknownName, "option of 'retinanet'.*Did you mean 'fpn'"),
        ("retinanet[network=x]-resnet8", UnknownName, "option of 'retinanet'"),
        ("retinanet[anchor=0]-resnet8", OutOfRange, "at least 1"),
        ("fasterrcnn[proposals=0]-resnet8", OutOfRange, "at least 1"),
        ("fasterrcnn[fpn=sse]-resnet8", UnknownName, "Did you mean 'se'"),
        ("fasterrcnn[fpn=bam]-resnet8", OutOfRange, "cannot stand before a convolution of the pyramid"),
        ("fasterrcnn[fpn=dca-se]-resnet8", OutOfRange, "dca cannot stand"),
        ("fasterrcnn[fpn=my:Own]-resnet8", OutOfRange, "my:Own cannot stand"),
        ("retinanet-bridge[form=direct]-resnet8", OutOfRange, "last global mean"),
        ("retinanet-se-circularnet[padding=x]", OutOfRange, "circular or zeros"),
        ("retinanet-retinanet-resnet8", OutOfRange, "each once"),
    ],
)
def test_what_cannot_be_built_is_refused(name, error, sentence):
    with torch.device("meta"), pytest.raises(error, match=sentence) as caught:
        build(name, 3)
    assert isinstance(caught.value, WorkbenchError) and "\n" not in str(caught.value)


def test_grids_are_checked_at_the_size_of_the_detector():
    """800 px end in maps of 25, 96 px on a CIFAR ResNet in maps of 24."""
    with torch.device("meta"):
        for largest, backbone in ((25, "resnet50"), (24, "resnet8")):
            assert build(f"retinanet-cra{largest}-{backbone}", 3)
            with pytest.raises(OutOfRange, match=f"Use size <= {largest}"):
                build(f"retinanet-cra{largest + 1}-{backbone}", 3)
        with pytest.raises(OutOfRange, match="Use size <= 16"):
            build("retinanet-cra24-resnet8", 3, image_size=64)


def test_image_size_is_the_names_or_the_callers():
    with torch.device("meta"):
        sizes = [build(name, 3).image_size for name in ("retinanet-resnet8", "retinanet[image_size=64]-resnet8")]
        assert [*sizes, build("retinanet[image_size=64]-resnet8", 3, 80).image_size] == [96, 64, 80]
        detector = build("fasterrcnn-resnet8", 3, 80)
    assert detector.transform.min_size == (80,) and detector.transform.max_size == 133


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("retinanet-resnet8", 32),
        ("retinanet-cra8-resnet8", 32),
        ("retinanet-cra9-resnet8", 64),
        ("retinanet[fpn=cra9]-resnet8", 64),
        ("fasterrcnn[proposals=20]-dca-cra24-resnet8", 96),
        ("retinanet[image_size=100]-cra25-resnet8", 128),
        ("retinanet-cra9-shufflenet", 96),
    ],
)
def test_a_panorama_is_padded_to_the_grids(name, side):
    """A picture of 1:20 would end in maps of 1.5 cells at a quarter of its size."""
    detector = build(name, 3).eval()
    panorama, square = torch.rand(3, 20, 400), torch.rand(3, 96, 96)
    (found,) = detector.detect([panorama])
    assert found.boxes.shape[1] == 4
    images, _ = detector.resize([panorama], None)
    assert images.image_sizes[0][0] in (7, 8) and images.tensors.shape[2] == side
    assert detector.resize([square], None)[0].tensors.shape[2:] == (-(-detector.image_size // 32) * 32,) * 2
    if side > 32:
        assert build(name, 3).double().least == side
        detector.least = 32
        with pytest.raises(OutOfRange, match="CRA grid"):  # witness
            detector.detect([panorama])


@pytest.mark.parametrize("name", ["fasterrcnn[proposals=20]-resnet8", "cascadercnn[finest=4,proposals=20]-resnet20"])
def test_regions_are_read_at_the_strides_of_their_levels_whatever_picture_comes_first(name):
    """A slim picture is padded, and what torchvision takes from its sides is twice too large."""
    detector = build(name, 3).eval()
    (pool,) = {module for module in detector.modules() if isinstance(module, MultiScaleRoIAlign)}
    strides = [shape.stride for shape in detector.backbone.taken]
    square, slim = torch.rand(3, 96, 96), torch.rand(3, 40, 160)
    levels, found = vars(pool.map_levels), []
    for first in (slim, square):
        detector.detect([first])
        assert pool.scales == [1 / stride for stride in strides]
    for first in (square, slim):
        pool.scales = pool.map_levels = None
        detector.detect([first])
        found.append((pool.scales, vars(pool.map_levels)))
    right, wrong = found
    assert right == ([1 / stride for stride in strides], levels)
    assert wrong[0] == [2 / stride for stride in strides] and wrong[1] != levels  # witness


@pytest.mark.parametrize("kind", TWINS)
def test_a_detector_learns_finds_and_is_traced(kind):
    torch.manual_seed(0)
    options = "[fpn=aw-se]-dca-cra4-" if kind == "retinanet" else "fpn=aw-se,"
    name = "retinanet[fpn=aw-se]-dca-cra4-resnet8" if kind == "retinanet" else TWINS[kind].format(options)
    detector = build(name, 3).train()
    losses = detector(pictures(torch.float32), targets())
    sum(losses.values()).backward()
    assert all(value.dim() == 0 and value.isfinite() for value in losses.values())
    idle = {key for key, p in detector.named_parameters() if p.grad is None}
    assert all(".connection." in key for key in idle)  # the first block's, built and never used (DCA)
    found, trail = detector.eval().trace(pictures(torch.float32))
    assert all(isinstance(one, Detections) for one in found) and len(found) == 2
    assert [step.site for step in trail.steps] == [block.site for block in detector.attentions()]
    sites = [str(step.site) for step in trail.steps]
    assert {"4.1", "4.2", "5.1", "5.2"} <= set(sites)  # of the pyramid: three stages are the backbone's
    assert ("1.1" in sites) == (kind == "retinanet")
    quiet = detector(pictures(torch.float32))
    assert all(torch.allclose(a.boxes, b.boxes, atol=1e-3) for a, b in zip(found, quiet, strict=True))


def test_modes_are_told_apart():
    detector = build("retinanet-resnet8", 3)
    with pytest.raises(OutOfRange, match="call eval"):
        detector.detect(pictures(torch.float32))
    with pytest.raises(OutOfRange, match="call train"):
        detector.eval().losses(pictures(torch.float32), targets())


@pytest.mark.parametrize("kind", ["cra4", "cbam", "dca-cbam", "bam"])
def test_what_is_frozen_stays(kind):
    """Frozen BN is torchvision's FrozenBatchNorm2d: a constant in training too, whose numbers have no gradient."""
    torch.manual_seed(0)
    detector = build(f"retinanet-{kind}-resnet8", 3)
    for module in detector.network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1), module.running_var.uniform_(0.5, 1.5)
    detector.train()
    detector.freeze(*FIRST)
    before = copy.deepcopy(detector.state_dict())
    optimizer = torch.optim.SGD([p for p in detector.parameters() if p.requires_grad], lr=0.01)
    sum(detector.losses(pictures(torch.float32), targets()).values()).backward()
    optimizer.step()
    norms = {n for n, m in detector.network.named_modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)}
    changed = {key for key, value in detector.state_dict().items() if not torch.equal(value, before[key])}
    body = {key.removeprefix("backbone.body.") for key in changed if key.startswith("backbone.body.")}
    assert not {key for key in body if key.startswith(FIRST) or key.rpartition(".")[0] in norms}
    assert "layer2.0.conv1.weight" in body and "head.classification_head.cls_logits.weight" in changed  # witness
    assert not any(m.training for n, m in detector.network.named_modules() if n in norms)


def test_a_frozen_norm_computes_what_torchvisions_does():
    detector = build("retinanet-resnet8", 3)
    norm = detector.network.bn1
    norm.running_mean.uniform_(-1, 1), norm.running_var.uniform_(0.5, 2)
    theirs = FrozenBatchNorm2d(16)
    theirs.load_state_dict(norm.state_dict())
    x = torch.rand(2, 16, 9, 9)
    moving = copy.deepcopy(norm)
    detector.freeze()
    detector.train()
    assert torch.allclose(norm(x), theirs(x), atol=1e-6) and torch.equal(norm.running_mean, theirs.running_mean)
    assert not torch.allclose(moving(x), theirs(x), atol=1e-2)  # witness
    assert not torch.equal(moving.running_mean, theirs.running_mean)
    assert all(p.requires_grad for p in detector.network.conv1.parameters())  # no part was named


def test_parts_to_freeze_are_named():
    with pytest.raises(UnknownName, match=r"part of the backbone 'layer5'.*Did you mean"):
        build("retinanet-resnet8", 3).freeze("layer5")
    detector = build("retinanet-resnet8", 3)
    detector.freeze("conv1", norms=False)
    assert detector.train().network.bn1.training and not detector.network.conv1.weight.requires_grad


@pytest.mark.parametrize(
    ("name", "make", "weights", "background"),
    [
        ("retinanet-resnet50", retinanet_resnet50_fpn, RetinaNet_ResNet50_FPN_Weights.COCO_V1, 0),
        ("fasterrcnn-resnet50", fasterrcnn_resnet50_fpn, FasterRCNN_ResNet50_FPN_Weights.COCO_V1, 1),
    ],
)
def test_parameters_are_torchvisions(name, make, weights, background):
    with torch.device("meta"):
        theirs = make(weights=None, weights_backbone=None, num_classes=80 + background)
        norms = sum(p.numel() for key, p in theirs.backbone.body.named_parameters() if "bn" in key or "sample.1" in key)
    assert count(name, 80).params == sum(p.numel() for p in theirs.parameters())
    published = count(name, 91 - background).params - norms  # there, BN is frozen and has no parameter
    assert published == weights.meta["num_params"]
    assert count(name, 80).params != count(name.replace("50", "18"), 80).params  # witness


@pytest.mark.parametrize(
    ("name", "classes", "weights"),
    [
        ("retinanet-resnet50", 91, RetinaNet_ResNet50_FPN_Weights.COCO_V1),
        ("fasterrcnn-resnet50", 90, FasterRCNN_ResNet50_FPN_Weights.COCO_V1),
    ],
)
def test_multiply_adds_are_torchvisions(name, classes, weights):
    """Of pictures of 800 px, in units of 10^9, to the last digit that torchvision prints."""
    cost = count(name, classes)
    assert cost.image_size == 800 and round(cost.macs / 1e9, 2) == weights.meta["_ops"]
    assert count(name, classes, 64).macs < cost.macs / 2  # witness


def test_regions_are_read_as_often_as_when_evaluated():
    grown = count("fasterrcnn-resnet50", 80).macs - count("fasterrcnn[proposals=1000]-resnet50", 80).macs
    assert grown == 500 * (256 * 49 * 1024 + 1024 * 1024 + 1024 * 81 * 5)  # the head of 500 regions less
    more = count("cascadercnn-resnet50", 80).macs - count("fasterrcnn-resnet50", 80).macs
    one = 256 * 49 * 1024 + 1024 * 1024 + 1024 * 81
    assert more == 1000 * (5 * (one + 1024 * 4) - (one + 1024 * 81 * 4))


def test_the_command_counts_lists_and_shows_detectors(capsys):
    assert cli.main(["count", "retinanet-cra7-resnet50", "--classes", "80"]) == 0
    assert f"{count('retinanet-cra7-resnet50', 80).params:,}" in capsys.readouterr().out
    assert cli.main(["list", "*rcnn"]) == 0
    said = capsys.readouterr().out
    assert "cascadercnn  fasterrcnn" in said and "[detector-][connection-]" in said
    assert "focal loss" in describe("retinanet") and "retinanet[anchor=4]" in describe("retinanet")
    assert "IoU" in describe("cascadercnn") and "fasterrcnn[proposals=2000]" in describe("fasterrcnn")
    text = describe("fasterrcnn[fpn=aw-se]-cra7-resnet18")
    assert "4.2 5.1" not in text and "in blocks 5.1 6.1 7.1 8.1" in text  # SE and AW of the pyramid alone
    assert "AW-convolution" in text and "RetinaNet" not in text


def test_a_detector_with_boxes_of_a_crowd_learns_the_others():
    detector = build("fasterrcnn[proposals=20]-resnet8", 3).train()
    crowd = boxes([[0, 0, 60, 60], [10, 10, 30, 30]], [0, 1], [True, False])
    plain = boxes([[10, 10, 30, 30]], [1])
    found = []
    for known in (crowd, plain):
        torch.manual_seed(0)
        found.append(detector.losses([pictures(torch.float32)[0]], [known]))
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])


@pytest.mark.parametrize(("height", "width"), [(1, 448), (448, 1), (2, 448)])
def test_a_strip_is_refused_in_a_sentence(height, width):
    detector = build("retinanet[image_size=64]-resnet8", 3).eval()
    with pytest.raises(OutOfRange, match=f"A picture of {width} x {height} px has no pixel across"):
        detector.detect([torch.rand(3, height, width)])
    for shape in ((5, 448), (448, 5), (1, 1)):
        detector.detect([torch.rand(3, *shape)])  # witness
