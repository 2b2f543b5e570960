"""torchvision's vgg16_bn is the oracle of VGG-16's convolutions; its CIFAR classifier is held by a closed form."""

import runpy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import vgg16_bn

from workbench.attention import Trail
from workbench.backbones.vgg import vgg16
from workbench.build import build
from workbench.errors import OutOfRange

oracle = runpy.run_path(str(Path(__file__).with_name("oracle.py")))
WIDTHS = [64, 64, 128, 128, 256, 256, 256, *[512] * 6]


def meta(name, classes=100):
    with torch.device("meta"):
        return build(name, classes)


@torch.no_grad()
def test_torchvision_agrees():
    theirs, ours = oracle["lively"](lambda: vgg16_bn().features), oracle["lively"](lambda: vgg16(classes=7))
    assert oracle["same_names"](ours.features, theirs)
    ours.features.load_state_dict(theirs.state_dict(), strict=True, assign=True)
    picture = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    maps = ours.maps(picture, Trail())
    ends = [number for number, layer in enumerate(theirs, 1) if isinstance(layer, nn.MaxPool2d)]
    for x, end in zip(maps, ends, strict=True):
        assert (x - theirs[:end](picture)).abs().max() < 1e-12
        assert x.abs().max() > 1e-3
    hidden = theirs(picture).mean((2, 3))
    for name in ("classifier.0", "classifier.3"):
        layer = ours.get_submodule(name)
        hidden = F.linear(hidden, layer.weight, layer.bias).clamp(min=0)
    logits = F.linear(hidden, ours.fc.weight, ours.fc.bias)
    assert (ours(picture) - logits).abs().max() < 1e-12
    ours.features[0].weight[0, 0, 1, 1] += 0.1
    assert (ours(picture) - logits).abs().max() > 1e-9  # witness


@pytest.mark.parametrize("classes", [10, 100])
def test_parameters(classes):
    """Convolutions c -> o have 9 c o + o parameters and 2 o of BN; 512-512-512-classes."""
    convs = sum((9 * c + 3) * o for c, o in zip([3, *WIDTHS], WIDTHS, strict=False))
    total = convs + 2 * (512 * 512 + 512) + 513 * classes
    assert sum(p.numel() for p in meta("vgg16", classes).parameters()) == total
    assert (total == 15_299_748) == (classes == 100)  # witness


def test_attention_stands_after_every_convolution():
    sites = [block.site for block in meta("se-vgg16").attentions()]
    assert [site.channels for site in sites] == WIDTHS and sum(WIDTHS) == 4_224
    assert [site.in_channels for site in sites] == [3, *WIDTHS[:-1]]
    assert [str(site) for site in sites[:5]] == ["1.1", "1.2", "2.1", "2.2", "3.1"]
    assert [str(site) for site in sites] != sorted({str(site) for site in sites}, reverse=True)  # witness


@torch.no_grad()
def test_attention_reads_the_map_after_the_relu_and_before_the_pool():
    seen = []

    class Look(nn.Module):
        def __init__(self, site):
            super().__init__()

        def forward(self, x, trail):
            seen.append(x)
            return x - 1

    maps = vgg16(classes=2, attention=Look).eval().maps(torch.randn(1, 3, 32, 32), Trail())
    assert [x.shape[-1] for x in seen] == [32, 32, 16, 16, 8, 8, 8, 4, 4, 4, 2, 2, 2]
    assert all(x.min() >= 0 for x in seen)
    assert torch.equal(maps[0], F.max_pool2d(seen[1] - 1, 2))
    assert not torch.equal(maps[0], F.max_pool2d(seen[1], 2))  # witness: the attended map goes on


def test_a_grid_larger_than_the_last_maps_is_refused_unless_asked_for():
    meta("cra4[small=repeat]-vgg16")
    with pytest.raises(OutOfRange, match="4x4 exceeds the 2x2 map"):
        meta("cra4-vgg16")
