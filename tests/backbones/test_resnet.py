"""torchvision is the oracle of the ImageNet ResNets and ResNeXts; the CIFAR ones are held by closed forms."""

import runpy
from functools import partial
from pathlib import Path

import pytest
import torch
from torchvision import models
from torchvision.models.resnet import Bottleneck

from workbench.attention import Site, Trail
from workbench.backbones.resnet import PadShortcut
from workbench.build import build

oracle = runpy.run_path(str(Path(__file__).with_name("oracle.py")))


def meta(name, classes=1000):
    with torch.device("meta"):
        return build(name, classes)


def params(network):
    return sum(p.numel() for p in network.parameters())


def v1(depths):
    """torchvision's ResNet with the strides moved from the 3x3 to the first 1x1 of each block."""
    network = models.ResNet(Bottleneck, depths)
    for block in network.modules():
        if isinstance(block, Bottleneck):
            block.conv1.stride, block.conv2.stride = block.conv2.stride, (1, 1)
    return network


ORACLES = {
    **{f"resnet{depth}": partial(models.get_model, f"resnet{depth}") for depth in (18, 34, 50, 101, 152)},
    "resnet50v1": partial(v1, [3, 4, 6, 3]),
    "resnext50": models.resnext50_32x4d,
    "resnext101": partial(models.ResNet, Bottleneck, [3, 4, 23, 3], groups=32, width_per_group=4),
}


@pytest.mark.parametrize("name", ORACLES)
@torch.no_grad()
def test_torchvision_agrees(name):
    theirs, ours = oracle["lively"](ORACLES[name]), meta(name).eval()
    assert oracle["same_names"](ours, theirs)
    ours.load_state_dict(theirs.state_dict(), strict=True, assign=True)
    picture = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    expected = theirs(picture)
    assert (ours(picture) - expected).abs().max() < 1e-12
    ours.conv1.weight[0, 0, 3, 3] += 0.1
    assert (ours(picture) - expected).abs().max() > 1e-6  # witness


@torch.no_grad()
def test_v1_is_another_network_of_the_same_weights():
    weights = oracle["lively"](ORACLES["resnet50"]).state_dict()
    picture = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    logits = []
    for name in ("resnet50", "resnet50v1"):
        network = meta(name).eval()
        network.load_state_dict(weights, strict=True, assign=True)
        logits.append(network(picture))
    assert (logits[0] - logits[1]).abs().max() > 1e-6


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("resnet50", 25_557_032),
        ("resnet101", 44_549_160),
        ("resnet152", 60_192_808),
        ("resnet50v1", 25_557_032),
        ("resnet101v1", 44_549_160),
        ("resnext50", 25_028_904),
        ("resnext101", 44_177_704),
    ],
)
def test_parameters_as_published(name, count):
    assert params(meta(name)) == count
    assert params(meta(name, classes=999)) == count - 2049  # witness: the classifier counts


@pytest.mark.parametrize(("depth", "n"), [(20, 3), (32, 5), (44, 7), (56, 9), (110, 18)])
def test_cifar_parameters_and_channels(depth, n):
    """Stem, three stages of n blocks of widths 16, 32, 64, classifier: 97,216 n - 21,926."""
    stage = [2 * n * 9 * 16 * 16 + 4 * n * 16]
    stage += [9 * c // 2 * c + (2 * n - 1) * 9 * c * c + 4 * n * c for c in (32, 64)]
    plain = meta(f"resnet{depth}", classes=10)
    assert params(plain) == 9 * 3 * 16 + 2 * 16 + sum(stage) + 64 * 10 + 10 == 97_216 * n - 21_926
    assert params(plain) == {56: 853_018, 110: 1_727_962}.get(depth, params(plain))
    sites = [block.site for block in meta(f"se-resnet{depth}").attentions()]
    assert sum(site.channels for site in sites) == 112 * n
    assert len(sites) == 3 * n


@pytest.mark.parametrize("classes", [10, 100])
def test_resnext29_parameters_and_channels(classes):
    """Stem, three stages of 3 blocks of outputs C = 256, 512, 1024, inner width 2C in 64 groups, and the classifier."""
    total, before = 9 * 3 * 64 + 2 * 64, 64
    for out in (256, 512, 1024):
        inner = 2 * out
        for inputs in (before, out, out):
            total += inputs * inner + 9 * inner * inner // 64 + inner * out + 2 * (inner + inner + out)
        total += before * out + 2 * out
        before = out
    assert params(meta("resnext29", classes)) == total + 1025 * classes
    assert total + 1025 * 10 == 18_169_674
    assert total + 1025 * 10 != params(meta("resnext50", 10))  # witness
    assert [block.site.channels for block in meta("se-resnext29").attentions()] == [256] * 3 + [512] * 3 + [1024] * 3


@pytest.mark.parametrize(("name", "channels"), [("resnet50", 15_104), ("resnet101", 32_512)])
def test_channels_of_all_blocks(name, channels):
    assert sum(block.site.channels for block in meta(f"se-{name}").attentions()) == channels


def test_option_a_shortcut_subsamples_and_pads_zeros():
    torch.manual_seed(0)
    x = torch.randn(2, 16, 9, 8)
    shortcut = PadShortcut(Site(2, 1, 16, 32, stride=2))
    y = shortcut(x)
    assert not [*shortcut.parameters()]
    assert torch.equal(y[:, 8:24], x[:, :, ::2, ::2])
    assert not y[:, :8].any() and not y[:, 24:].any()
    assert not torch.equal(y[:, 8:24], x[:, :, 1::2, 1::2].repeat(1, 1, 2, 1)[:, :, :5])  # witness: which positions


@pytest.mark.parametrize(
    ("name", "size_px", "maps"),
    [("resnet18", 65, (17, 9, 5, 3)), ("resnet20", 31, (31, 16, 8)), ("resnext29", 31, (31, 16, 8))],
)
def test_maps_halve_stage_by_stage(name, size_px, maps):
    features = meta(name).maps(torch.empty(1, 3, size_px, size_px, device="meta"), Trail())
    assert tuple(x.shape[-1] for x in features) == maps
