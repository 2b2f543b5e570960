"""ShuffleNet's laws: what its groups see, what its units add or put beside their input, and its parameters."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from workbench.attention import Site, Trail
from workbench.backbones.shufflenet import Unit
from workbench.build import build

# in and out of every unit; those that widen put their input beside the branch
UNITS = [
    pair
    for before, width, depth in ((24, 240, 4), (240, 480, 8), (480, 960, 4))
    for pair in [(before, width)] + [(width, width)] * (depth - 1)
]
BRANCHES = [out - c if out > c else out for c, out in UNITS]


def meta(name, classes=100):
    with torch.device("meta"):
        return build(name, classes)


def params(name, classes=100):
    return sum(p.numel() for p in meta(name, classes).parameters())


def unit(*site, out):
    torch.manual_seed(0)
    return Unit(Site(*site), out, 3, None).eval()


@pytest.mark.parametrize("classes", [10, 100])
def test_parameters(classes):
    """1x1 in 3 groups, depthwise 3x3 and 1x1 in 3 groups, each with a bias and BN; all widths between are out / 4."""
    total = (9 * 3 + 3) * 24
    for (c, out), branch in zip(UNITS, BRANCHES, strict=True):
        inner = out // 4
        total += (c // 3 + 3) * inner + (9 + 3) * inner + (inner // 3 + 3) * branch
    total += 961 * classes
    assert params("shufflenet", classes) == total
    assert (total == 1_012_108) == (classes == 100)  # witness


def test_attention_stands_on_the_branch():
    sites = [block.site for block in meta("se-shufflenet").attentions()]
    assert [site.channels for site in sites] == BRANCHES and sum(BRANCHES) == 7_896
    assert [site.in_channels for site in sites] == [c for c, _ in UNITS]
    assert sum(out for _, out in UNITS) != 7_896  # witness: not the units' outputs
    assert [str(site) for site in sites] == [f"{s}.{b + 1}" for s, d in ((1, 4), (2, 8), (3, 4)) for b in range(d)]
    assert f"{params('se-shufflenet') / 1e6:.2f}" == "1.63"
    assert (
        params("cra4-shufflenet") - params("shufflenet") == 17 * 7_896
    )  # CRA Table V prints 1.38M, which is not <4,4>


@torch.no_grad()
def test_stride_2_puts_the_pooled_input_beside_the_branch():
    layer = unit(1, 1, 24, 36, 2, out=60)
    x = torch.randn(2, 24, 8, 8)
    y = layer(x, Trail())
    assert y.shape == (2, 60, 4, 4)
    assert torch.equal(y[:, :24], F.avg_pool2d(x, 3, 2, 1).relu())
    assert not torch.equal(y[:, :24], F.max_pool2d(x, 3, 2, 1).relu())  # witness
    assert (y >= 0).all()


@torch.no_grad()
def test_stride_1_adds_the_branch_to_the_input():
    layer = unit(1, 2, 60, 60, out=60)
    x = torch.randn(2, 60, 8, 8)
    layer.attention = Nothing()
    assert torch.equal(layer(x, Trail()), x.relu())
    layer.attention = None
    assert not torch.equal(layer(x, Trail()), x.relu())  # witness


class Nothing(nn.Module):
    def forward(self, x, trail):
        return 0 * x


@torch.no_grad()
def test_the_shuffle_lets_every_group_see_all_others():
    """A change of one third of the input reaches all outputs of the branch; without the shuffle, one third."""
    layer = unit(1, 2, 60, 60, out=60)
    x = torch.randn(1, 60, 8, 8)
    other = torch.cat([x[:, :20] + torch.randn(1, 20, 8, 8), x[:, 20:]], 1)

    def reached():
        branches = [layer.expand(layer.depthwise(layer.shuffle(layer.compress(picture)))) for picture in (x, other)]
        return (branches[0] - branches[1]).abs().amax((0, 2, 3)) > 0

    assert reached().all()
    layer.shuffle = nn.Identity()
    assert reached().tolist() == [True] * 20 + [False] * 40  # witness


def test_maps_after_each_stage():
    maps = meta("shufflenet").maps(torch.empty(1, 3, 32, 32, device="meta"), Trail())
    assert [tuple(x.shape[1:]) for x in maps] == [(240, 16, 16), (480, 8, 8), (960, 4, 4)]


def test_every_convolution_has_a_bias():
    convs = [m for m in meta("shufflenet").modules() if isinstance(m, nn.Conv2d)]
    assert len(convs) == 1 + 3 * 16
    assert all(conv.bias is not None for conv in convs)
    assert any(m.bias is None for m in meta("mobilenetv1").modules() if isinstance(m, nn.Conv2d))  # witness
