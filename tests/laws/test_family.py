"""The laws between the papers' modules: which is a special case of which, and what each of them cannot see."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from workbench.attention import ConvSpec, Site, Trail
from workbench.attention.aw import AWConv
from workbench.attention.bridge import Bridge
from workbench.attention.cbam import CBAM
from workbench.attention.cra import CRA
from workbench.attention.cra_forms import template
from workbench.attention.gala import GALA
from workbench.attention.gc import GC
from workbench.attention.ge import GE
from workbench.attention.se import SE
from workbench.attention.sk import SK
from workbench.build import build

C = 8
SITE = Site(stage=2, block=1, in_channels=C, channels=C, sources=(4, 6))


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def randn(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def lively(module):
    """The module in float64 and evaluation mode with random weights and statistics."""
    for value in module.double().eval().state_dict().values():
        if value.is_floating_point():
            value.copy_(torch.randn_like(value) if value.dim() > 1 else torch.rand_like(value) + 0.5)
    return module


def gate(block, x, features=()):
    """The attention T of one recorded pass."""
    trail = Trail(records=True, features=features)
    block(x, trail)
    return trail.steps[-1].attention


def same(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def differ(a, b):
    assert a.shape == b.shape and not torch.allclose(a, b, atol=1e-6)


def test_cra_1_is_a_gate_of_each_channel_on_its_own_mean():
    block, x = lively(CRA(SITE, 1)), randn(2, C, 5, 9)
    w, b = (parameter.flatten() for parameter in block.parameters())
    same(gate(block, x), torch.sigmoid(w * x.mean((2, 3)) + b))
    changed = x.clone()
    changed[:, 0] += 1
    same(gate(block, changed)[:, 1:], gate(block, x)[:, 1:])
    differ(gate(block, changed)[:, 0], gate(block, x)[:, 0])
    se = lively(SE(SITE, 1))
    differ(gate(se, changed)[:, 1:], gate(se, x)[:, 1:])  # witness: SE's gates see each other's means


@pytest.mark.parametrize(("height", "width"), [(3, 3), (6, 9), (8, 10)], ids=["the map", "divides", "does not"])
def test_pool_and_depthwise_are_one_template(height, width):
    block, x = lively(CRA(SITE, 3)), randn(2, C, height, width)
    L, b = block.parameters()
    E = template(x, L[:, 0])
    same(gate(block, x), torch.sigmoid((x * E).sum((2, 3)) + b))
    same(block(x), x * gate(block, x)[..., None, None])
    differ(gate(block, x), torch.sigmoid((x * E.flip(2)).sum((2, 3)) + b))  # witness: it lies where its cells lie


@pytest.mark.parametrize(("height", "width"), [(6, 9), (8, 10)], ids=["divides", "does not"])
def test_on_constant_maps_a_grid_is_one_cell(height, width):
    """The template sums to what its kernel sums to, so CRA <3,3> is CRA <1,1> where nothing has a place."""
    grid, one, x = lively(CRA(SITE, 3)), CRA(SITE, 1).double(), randn(2, C, height, width)
    L, b = grid.parameters()
    same(template(x, L[:, 0]).sum((1, 2)), L.sum((1, 2, 3)))
    one.load_state_dict({"transform.0.weight": L.sum((2, 3), keepdim=True), "transform.0.bias": b})
    constant = x.mean((2, 3), keepdim=True).expand_as(x)
    same(grid(constant), one(constant))
    differ(grid(x), one(x))  # witness


def test_cra_whose_grid_is_the_map_is_ge_at_global_extent():
    """One weight a position and channel; GE's BN folds into CRA's kernel and bias: w = w' s, b = beta - mu s."""
    x, ge, cra = randn(3, C, 7, 7), GE(SITE, 8), CRA(SITE, 7)
    conv, norm = nn.Conv2d(C, C, 7, groups=C, bias=False), nn.BatchNorm2d(C)
    ge.extract.layers = nn.Sequential(conv, norm)  # instead of three of stride 2
    lively(ge), lively(cra)
    s = norm.weight / (norm.running_var + norm.eps).sqrt()
    cra.transform[0].weight.data = conv.weight * s[:, None, None, None]
    cra.transform[0].bias.data = norm.bias - norm.running_mean * s
    same(gate(cra, x), F.conv2d(x, cra.transform[0].weight, cra.transform[0].bias, groups=C).sigmoid().flatten(1))
    same(cra(x), ge(x))
    differ(cra(x), ge.train()(x))  # witness: in training its BN makes the gates of a batch depend on each other


def test_ge_without_theta_at_the_whole_map_is_se_without_its_layers():
    ge, se, cra = GE(SITE, 0, theta=False), SE(SITE, 1).double(), CRA(SITE, 1).double()
    for layer in (se.transform[0], se.transform[2]):
        nn.init.eye_(layer.weight)
        nn.init.zeros_(layer.bias)
    nn.init.ones_(cra.transform[0].weight)
    nn.init.zeros_(cra.transform[0].bias)
    x = randn(2, C, 5, 9)
    same(ge(x), cra(x))
    same(ge(x.relu()), se(x.relu()))
    differ(ge(x), se(x))  # witness: between its layers SE drops the negative means
    se.transform = nn.Sigmoid()
    same(ge(x), se(x))


@pytest.mark.parametrize("reduction", [1, 4])
def test_cbam_of_one_dimension_and_one_mean_is_se(reduction):
    x, se = randn(2, C, 5, 9), lively(SE(SITE, reduction))
    one, two = (CBAM(SITE, reduction, dims=("channel",), pool=pool).double() for pool in ("avg", "both"))
    for cbam in (one, two):
        cbam.channel.transform.mlp.load_state_dict(se.transform.state_dict())
    same(one(x), se(x))
    differ(two(x), se(x))  # witness: the maximum is a second descriptor


@pytest.mark.parametrize("name", ["ge[size=2]-circularnet", "gc[reduction=4]-resnet20", "sk[reduction=4]-resnet20"])
@pytest.mark.parametrize("schema", ["direct", "weighted"])
def test_the_other_modules_too_start_unconnected(name, schema):
    """DCA in the text's form at alpha = 0; tests/laws/test_vanilla.py has SE, CRA, CBAM and AW."""
    plain, pictures = build(name, 10).double().eval(), randn(2, 3, 16, 16)
    for parameter in plain.parameters():
        if not parameter.any():
            nn.init.normal_(parameter)  # GC adds nothing at first
    joined = build(f"dca[form=text,schema={schema}]-{name}", 10).double().eval()
    assert not joined.load_state_dict(plain.state_dict(), strict=False).unexpected_keys
    alphas = [parameter for key, parameter in joined.named_parameters() if key.endswith("alpha")]
    for value, compare in ((0.5, differ), (0.0, same)):  # witness first: the path is taken
        for alpha in alphas:
            nn.init.constant_(alpha, value)
        compare(joined(pictures), plain(pictures))
    assert alphas


def test_the_direct_bridge_with_a_sigmoid_is_the_gate_without_its_bottleneck():
    """A linear layer on a concatenation is a sum of linear layers, one a source."""
    earlier, x = (randn(2, 4, 9, 9), randn(2, 6, 5, 9)), randn(2, C, 5, 9)
    direct, gated = lively(Bridge(SITE, "direct", 1)), lively(Bridge(SITE, "gate", 1, bottleneck=False))
    linear, layers = direct.transform[0], gated.transform[0].layers
    for layer, weight in zip(layers, linear.weight.split([4, 6, C], 1), strict=True):
        layer[0].weight.data = weight
    direct.transform = nn.Sequential(linear, nn.Sigmoid())
    differ(gate(direct, x, earlier), gate(gated, x, earlier))  # witness: the gate has no bias
    nn.init.zeros_(linear.bias)
    same(gate(direct, x, earlier), gate(gated, x, earlier))
    same(gated(x, Trail(features=earlier)), x * direct(x, Trail(features=earlier))[..., None, None])


def test_sk_that_cannot_choose_is_the_mean_of_its_branches():
    sk, x = lively(SK(SITE, ConvSpec(C, C, 3, 2), 2)), randn(2, C, 9, 7)
    T, mean = gate(sk, x), (sk.first(x) + sk.second(x)) / 2
    same(T.sum(-1), torch.ones_like(T[..., 0]))
    differ(sk(x), mean)  # witness: with weights of their own it chooses
    select = sk.transform.select.weight
    select.data[C:] = select[:C]
    same(sk(x), mean)


GLOBAL = {
    "SE": SE(SITE, 2),
    "CRA 1": CRA(SITE, 1),
    "CBAM, channel": CBAM(SITE, 2, dims=("channel",)),
    "GE, whole map": GE(SITE, 0, theta=False),
    "GC": GC(SITE, 2),
    "GALA": GALA(SITE, 2),
    "bridge": Bridge(SITE, reduction=2),
    "AW, pointwise": AWConv(SITE, ConvSpec(C, C, 1), 2),
}
LOCAL = {
    "CRA 2": CRA(SITE, 2),
    "CBAM, spatial": CBAM(SITE, 2, dims=("spatial",)),
    "GE": GE(SITE, 2),
    "GE, theta minus": GE(SITE, 2, theta=False),
    "AW": AWConv(SITE, ConvSpec(C, C), 2),
}


def moved(name):
    """A module's result on a map whose positions are permuted, and its permuted result on the map itself."""
    block, x = lively((GLOBAL | LOCAL)[name]), randn(2, C, 5, 9)
    trail, order = Trail(features=(randn(2, 4, 9, 9), randn(2, 6, 5, 9))), torch.randperm(45)
    before, after = (y.flatten(2)[..., order].view_as(x) for y in (x, block(x, trail)))
    return block(before, trail), after


@pytest.mark.parametrize("name", GLOBAL)
def test_what_reads_only_global_descriptors_commutes_with_any_permutation_of_positions(name):
    same(*moved(name))


@pytest.mark.parametrize("name", LOCAL)
def test_what_reads_a_neighbourhood_or_a_grid_does_not(name):
    differ(*moved(name))


def test_gc_adds_the_same_everywhere():
    gc, se, x = lively(GC(SITE, 2)), lively(SE(SITE, 2)), randn(2, C, 5, 9)
    added = gc(x) - x
    same(added, added[..., :1, :1].expand_as(x))
    assert added.abs().min() > 1e-6  # it does add something
    other = se(x) - x
    differ(other, other[..., :1, :1].expand_as(x))  # witness: a gate's share is another one at every position
