"""torchvision is the oracle of the ImageNet ResNets; the CIFAR ResNets are held by closed forms."""

import pytest
import torch
import torchvision

from workbench.attention import Site, Trail
from workbench.backbones.resnet import PadShortcut
from workbench.build import build


def meta(name, classes=1000):
    with torch.device("meta"):
        return build(name, classes)


def params(network):
    return sum(p.numel() for p in network.parameters())


def oracle(name):
    """torchvision's network in float64 with random, lively weights and running statistics."""
    torch.manual_seed(0)
    with torch.device("meta"):
        network = torchvision.models.get_model(name).double()
    network.to_empty(device="cpu")
    for key, value in network.state_dict().items():
        if value.dim() > 1:
            value.normal_(0, (2 / value[0].numel()) ** 0.5)
        elif value.is_floating_point():
            value.uniform_(-0.5, 0.5) if key.endswith(("mean", "bias")) else value.uniform_(0.2, 0.5)
    return network.eval()


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"])
@torch.no_grad()
def test_torchvision_agrees(name):
    theirs, ours = oracle(name), meta(name).eval()
    assert [key for key, _ in ours.named_parameters()] == [key for key, _ in theirs.named_parameters()]
    ours.load_state_dict(theirs.state_dict(), strict=True, assign=True)
    picture = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    expected = theirs(picture)
    assert (ours(picture) - expected).abs().max() < 1e-12
    ours.conv1.weight[0, 0, 3, 3] += 0.1
    assert (ours(picture) - expected).abs().max() > 1e-6  # witness


@pytest.mark.parametrize(
    ("name", "count"), [("resnet50", 25_557_032), ("resnet101", 44_549_160), ("resnet152", 60_192_808)]
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


@pytest.mark.parametrize(("name", "size_px", "maps"), [("resnet18", 65, (17, 9, 5, 3)), ("resnet20", 31, (31, 16, 8))])
def test_maps_halve_stage_by_stage(name, size_px, maps):
    features = meta(name).maps(torch.empty(1, 3, size_px, size_px, device="meta"), Trail())
    assert tuple(x.shape[-1] for x in features) == maps
