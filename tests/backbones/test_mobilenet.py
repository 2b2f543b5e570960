"""torchvision is the oracle of MobileNetV2 and MnasNet; MobileNetV1 is held by its closed form."""

import itertools
import runpy
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision import models

from workbench.attention import Trail
from workbench.attention.sk import SK
from workbench.backbones.mobilenet import InvertedResidual, mnasnet1_0, mobilenetv2
from workbench.backbones.mobilenetv1 import mobilenetv1
from workbench.build import build
from workbench.errors import OutOfRange

oracle = runpy.run_path(str(Path(__file__).with_name("oracle.py")))
ORACLES = {"mobilenetv2": models.mobilenet_v2, "mnasnet1_0": models.mnasnet1_0}
WIDTHS = {"mobilenetv2": (16, 24, 32, 64, 96, 160, 320), "mnasnet1_0": (24, 40, 80, 96, 192, 320)}
DEPTHS = {"mobilenetv2": (1, 2, 3, 4, 3, 3, 1), "mnasnet1_0": (3, 3, 3, 2, 4, 1)}


def meta(name, classes=1000):
    with torch.device("meta"):
        return build(name, classes)


def params(name, classes=1000):
    return sum(p.numel() for p in meta(name, classes).parameters())


class Zero(nn.Module):
    """An attention that lets nothing through."""

    def __init__(self, site):
        super().__init__()

    def forward(self, x, trail):
        return 0 * x


@pytest.mark.parametrize("name", ORACLES)
@torch.no_grad()
def test_torchvision_agrees(name):
    theirs, ours = oracle["lively"](ORACLES[name]), meta(name).eval()
    assert oracle["same_names"](ours, theirs)
    ours.load_state_dict(theirs.state_dict(), strict=True, assign=True)
    picture = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    expected = theirs(picture)
    assert (ours(picture) - expected).abs().max() < 1e-12
    next(ours.parameters())[0, 0, 1, 1] += 0.1
    assert (ours(picture) - expected).abs().max() > 1e-6  # witness


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("mobilenetv2[width=0.5]", lambda: models.mobilenet_v2(width_mult=0.5)),
        ("mobilenetv2[width=1.3]", lambda: models.mobilenet_v2(width_mult=1.3)),
        ("mnasnet1_0[width=0.5]", models.mnasnet0_5),
        ("mnasnet1_0[width=1.3]", models.mnasnet1_3),
    ],
)
def test_narrow_and_wide_ones_are_torchvisions(name, theirs):
    def shapes(network):
        return [tuple(value.shape) for value in network.state_dict().values()]

    with torch.device("meta"):
        expected = theirs()
    assert shapes(meta(name)) == shapes(expected)
    assert shapes(meta(name.replace("5]", "6]").replace("3]", "2]"))) != shapes(expected)  # witness


@pytest.mark.parametrize("name", [*ORACLES, "mobilenetv1"])
def test_a_cifar_stem_leaves_out_two_halvings(name):
    with torch.device("meta"):
        cifar, plain = build(f"{name}[stem=cifar]", 10).eval(), build(name, 10).eval()
        sides = [[m.shape[-1] for m in net.maps(torch.empty(1, 3, 32, 32), Trail())] for net in (cifar, plain)]
    assert (cifar.image_size, plain.image_size) == (32, 224)
    assert (sides[0][-1], sides[1][-1]) == (4, 1)
    assert params(f"{name}[stem=cifar]") == params(name)


@pytest.mark.parametrize("option", ["width=0", "width=9", "stem=small"])
def test_what_no_mobilenet_is(option):
    with pytest.raises(OutOfRange, match=option.replace("width=0", "width=0.0").replace("9", "9.0")):
        build(f"mobilenetv2[{option}]", 10)


@pytest.mark.parametrize("name", ORACLES)
@torch.no_grad()
def test_training_moves_the_running_statistics_as_torchvisions(name):
    """MnasNet's by 0.0003 of the way, MobileNetV2's by 0.1."""
    theirs, ours = oracle["lively"](ORACLES[name]).train(), meta(name).train()
    ours.load_state_dict({key: value.clone() for key, value in theirs.state_dict().items()}, assign=True)
    before = {key: value.clone() for key, value in ours.named_buffers()}
    pictures = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    theirs(pictures)
    ours(pictures)
    for key, value in theirs.named_buffers():
        assert (ours.get_buffer(key) - value).abs().max() < 1e-12
        assert not torch.equal(before[key], value)  # witness: they move


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("mobilenetv2", "3.504872"),
        ("se[reduction=8]-mobilenetv2", "3.56"),
        ("sk[reduction=8]-mobilenetv2", "5.28"),
        ("ge8-mobilenetv2", "3.55"),
        ("cbam[reduction=8]-mobilenetv2", "3.57"),
        ("mnasnet1_0", "4.383312"),
        ("se-mnasnet1_0", "4.42"),
        ("ge8-mnasnet1_0", "4.44"),
        ("cbam-mnasnet1_0", "4.42"),
        ("mobilenetv1", "4.231976"),
        ("se-mobilenetv1", "5.07"),
    ],
)
def test_millions_of_parameters_as_printed(name, count):
    digits = len(count) - 2
    assert f"{params(name) / 1e6:.{digits}f}" == count
    assert f"{params(name, classes=990) / 1e6:.{digits}f}" != count  # witness: the classifier counts


@pytest.mark.parametrize("name", ORACLES)
def test_attention_stands_in_every_inverted_residual(name):
    """Stacks are stages; 17 blocks of 1,504 channels and 16 of 1,712."""
    sites = [block.site for block in meta(f"cra1-{name}").attentions()]
    expected = [
        (stage, block, width)
        for stage, (width, depth) in enumerate(zip(WIDTHS[name], DEPTHS[name], strict=True), 1)
        for block in range(1, depth + 1)
    ]
    assert [(site.stage, site.block, site.channels) for site in sites] == expected
    inputs = [32 if name == "mobilenetv2" else 16, *[site.channels for site in sites[:-1]]]
    assert [site.in_channels for site in sites] == inputs
    assert (len(sites), sum(site.channels for site in sites)) == {
        "mobilenetv2": (17, 1504),
        "mnasnet1_0": (16, 1712),
    }[name]
    assert len(sites) != len([*meta("se-mobilenetv1").attentions()])  # witness


@pytest.mark.parametrize("make", [mobilenetv2, mnasnet1_0])
@torch.no_grad()
def test_attention_acts_on_the_branch_and_not_on_the_shortcut(make):
    network = make(classes=2, attention=Zero).eval()
    shapes = set()
    for block in network.modules():
        if isinstance(block, InvertedResidual):
            inputs = next(m for m in block.modules() if isinstance(m, nn.Conv2d)).in_channels
            x = torch.randn(1, inputs, 4, 4)
            y = block(x, Trail())
            assert torch.equal(y, x) if block.residual else not y.any()
            block.attention = None
            assert y.shape != x.shape or not torch.equal(block(x, Trail()), x)  # witness
            shapes.add(y.shape == x.shape)
    assert shapes == {True, False}


@torch.no_grad()
def test_sources_are_the_widths_of_the_blocks_earlier_maps():
    seen = []

    class Look(Zero):
        def __init__(self, site):
            super().__init__(site)
            self.sources = site.sources

        def forward(self, x, trail):
            seen.append((self.sources, tuple(f.shape[1] for f in trail.features)))
            return x

    mobilenetv2(classes=2, attention=Look).eval()(torch.randn(1, 3, 32, 32))
    assert len(seen) == 17 and all(told == made for told, made in seen)
    assert [told for told, _ in seen[:2]] == [(32,), (96, 96)]  # witness: they differ between blocks


def test_sk_has_two_depthwise_branches_and_nothing_normalises_twice():
    network = meta("sk[reduction=8]-mobilenetv2")
    blocks = [m for m in network.modules() if isinstance(m, InvertedResidual)]
    assert len(blocks) == len([m for m in network.modules() if isinstance(m, SK)]) == 17
    for block in blocks:
        (unit,) = (u for u in block.conv.children() if isinstance(next(u.children(), None), SK))
        convs = [m for m in unit.modules() if isinstance(m, nn.Conv2d)]
        assert [(c.groups, c.dilation[0]) for c in convs] == [(c.in_channels, 1 + i) for i, c in enumerate(convs)]
        assert len(convs) == len([m for m in unit.modules() if isinstance(m, nn.BatchNorm2d)]) == 2
        assert isinstance(unit[1], nn.Identity)
    plain = next(m for m in meta("mobilenetv2").modules() if isinstance(m, InvertedResidual))
    assert isinstance(plain.conv[0][1], nn.BatchNorm2d)  # witness


def test_mobilenetv1_parameters_and_sites():
    """Separable convolutions c -> o have 11 c + c o + 2 o parameters; attention after both of their ReLUs."""
    widths = [32, 64, 128, 128, 256, 256, *[512] * 6, 1024, 1024]
    pairs = [*itertools.pairwise(widths)]
    assert len(pairs) == 13
    total = 9 * 3 * 32 + 2 * 32 + sum(11 * c + c * o + 2 * o for c, o in pairs) + 1025 * 1000
    assert params("mobilenetv1") == total == 4_231_976
    sites = [block.site for block in meta("cra1-mobilenetv1").attentions()]
    assert [site.channels for site in sites] == [width for pair in pairs for width in pair]
    assert len({str(site) for site in sites}) == 26  # no two sites share a name
    assert [str(site) for site in sites[:6]] == ["1.1", "1.2", "2.1", "2.2", "2.3", "2.4"]
    assert params("cra1-mobilenetv1") - total == 2 * sum(site.channels for site in sites)
    assert params("cra2-mobilenetv1") != params("cra1-mobilenetv1")  # witness


def test_mobilenetv1s_conv_socket_is_every_pointwise_convolution():
    specs = []

    def conv(site, spec):
        specs.append((site, spec))
        return nn.Conv2d(spec.inputs, spec.outputs, spec.kernel, spec.stride)

    mobilenetv1(classes=2, conv=conv)
    assert len(specs) == 13
    assert all(spec.kernel == spec.stride == spec.groups == 1 for _, spec in specs)
    assert [(site.in_channels, site.channels) for site, _ in specs] == [(s.inputs, s.outputs) for _, s in specs]
    added = [(c + o + 2) * (o // 16) + 2 * o for _, (c, o, *_) in specs]  # by AW, with C2 / 16 hidden channels
    assert sum(added) == 448_744
    assert sum(added[::2]) != 448_744  # witness


@pytest.mark.parametrize(
    ("name", "sides", "last"),
    [
        ("mobilenetv1", (32, 16, 8, 4, 2), 1024),
        ("mobilenetv2", (32, 16, 8, 4, 4, 2, 2), 1280),
        ("mnasnet1_0", (16, 8, 4, 4, 2, 2), 1280),
    ],
)
def test_maps_after_each_stage(name, sides, last):
    maps = meta(name).maps(torch.empty(1, 3, 64, 64, device="meta"), Trail())
    assert tuple(x.shape[-1] for x in maps) == sides
    assert maps[-1].shape[1] == last != maps[-2].shape[1]
