"""torchvision's DenseNet, with a CIFAR stem put in, is the oracle of DenseNet-BC."""

import runpy
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision import models

from workbench.attention import Site, Trail
from workbench.backbones.densenet import DenseLayer
from workbench.build import build
from workbench.errors import OutOfRange

oracle = runpy.run_path(str(Path(__file__).with_name("oracle.py")))
WIDTHS = [start + 12 * layer for start in (24, 108, 150) for layer in range(16)]  # of the inputs of the dense layers


def meta(name, classes=100):
    with torch.device("meta"):
        return build(name, classes)


def params(name, classes=100):
    return sum(p.numel() for p in meta(name, classes).parameters())


def theirs():
    """torchvision's with a 3x3 stem of stride 1, without BN, ReLU and pool."""
    network = models.DenseNet(12, (16, 16, 16), num_init_features=24, bn_size=4, num_classes=100)
    network.features.conv0 = nn.Conv2d(3, 24, 3, padding=1, bias=False)
    for name in ("norm0", "relu0", "pool0"):
        setattr(network.features, name, nn.Identity())
    return network


@torch.no_grad()
def test_torchvision_agrees():
    expected, ours = oracle["lively"](theirs), meta("densenetbc100").eval()
    assert oracle["same_names"](ours, expected)
    ours.load_state_dict(expected.state_dict(), strict=True, assign=True)
    picture = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    logits = expected(picture)
    assert (ours(picture) - logits).abs().max() < 1e-12
    ours.get_submodule("features.denseblock2.denselayer5.conv2").weight *= 1.1
    assert (ours(picture) - logits).abs().max() > 1e-6  # witness


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("densenetbc100", "800.03"),
        ("se[reduction=4]-densenetbc100", "804.21"),
        ("cra4-densenetbc100[at=input]", "950.18"),
    ],
)
def test_thousands_of_parameters_as_printed(name, count):
    assert f"{params(name) / 1e3:.2f}" == count
    assert f"{params(name, classes=99) / 1e3:.2f}" != count  # witness: the classifier counts


@pytest.mark.parametrize("classes", [10, 100])
def test_parameters(classes):
    """Layers of c channels: BN, 1x1 to 48, BN, 3x3 to 12; transitions c -> c / 2: BN, 1x1; then BN and classifier."""
    layers = sum(2 * c + 48 * c + 2 * 48 + 9 * 48 * 12 for c in WIDTHS)
    transitions = sum(2 * c + c * c // 2 for c in (216, 300))
    total = 9 * 3 * 24 + layers + transitions + 2 * 342 + 343 * classes
    assert params("densenetbc100", classes) == total
    assert (total == 800_032) == (classes == 100)  # witness


def test_attention_sites():
    """On the 12 new channels of 48 layers, or on all that these read: 8,832 channels."""
    new, read = ([b.site for b in meta(f"cra1-densenetbc100[at={at}]").attentions()] for at in ("new", "input"))
    assert [site.channels for site in new] == [12] * 48
    assert [site.channels for site in read] == WIDTHS and sum(WIDTHS) == 8_832
    assert [str(site) for site in new] == [str(site) for site in read]
    assert [str(site) for site in new[15:17]] == ["1.16", "2.1"]
    assert [b.site for b in meta("cra1-densenetbc100").attentions()] == new != read  # witness


@pytest.mark.parametrize("at", ["new", "input"])
@torch.no_grad()
def test_attention_leaves_the_maps_passed_on_as_they_are(at):
    """at=new touches only what the layer adds, at=input only what it reads."""

    class Nothing(nn.Module):
        def __init__(self, site):
            super().__init__()

        def forward(self, x, trail):
            return 0 * x

    torch.manual_seed(0)
    layer = DenseLayer(Site(1, 1, 24, 12), 12, Nothing, at).eval()
    layer.norm1.bias.fill_(0.5)
    x = torch.randn(1, 24, 4, 4)
    y = layer(x, Trail())
    assert torch.equal(y[:, :24], x)
    assert torch.equal(y[:, 24:], layer(torch.randn_like(x), Trail())[:, 24:])
    assert y[:, 24:].any() == (at == "input")
    layer.before = layer.after = None
    assert not torch.equal(y, layer(x, Trail()))  # witness


def test_what_cannot_be_built_is_refused():
    with pytest.raises(OutOfRange, match="Reduction 16 of 12 channels"):
        meta("se-densenetbc100")
    with pytest.raises(OutOfRange, match="at=output; use new"):
        meta("densenetbc100[at=output]")


def test_maps_after_each_dense_block():
    maps = meta("densenetbc100").maps(torch.empty(1, 3, 32, 32, device="meta"), Trail())
    assert [tuple(x.shape[1:]) for x in maps] == [(216, 32, 32), (300, 16, 16), (342, 8, 8)]


@torch.no_grad()
def test_only_the_last_map_is_after_bn_and_relu():
    torch.manual_seed(0)
    maps = build("densenetbc100", 2).eval().maps(torch.randn(1, 3, 8, 8), Trail())
    assert [bool(x.min() >= 0) for x in maps] == [False, False, True]
