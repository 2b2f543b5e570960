"""GE, GC, SK, BAM, GALA and the bridge compute the equations of their docstrings and add the parameters as pinned."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from workbench.attention import ConvSpec, Site, Trail
from workbench.attention.bam import BAM
from workbench.attention.bridge import Bridge
from workbench.attention.gala import GALA
from workbench.attention.gc import GC
from workbench.attention.ge import GE
from workbench.attention.sk import SK
from workbench.build import build
from workbench.errors import OutOfRange
from workbench.explain.complexity import count

C = 32
SITE = Site(stage=2, block=1, in_channels=16, channels=C, sources=(16, 24))
SPEC = ConvSpec(16, C, 3, 2)
DIRECT = {"form": "direct"}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def randomised(module):
    """The module in float64 and evaluation mode with random, lively weights and statistics."""
    for value in module.double().eval().state_dict().values():
        if value.is_floating_point():
            value.copy_(torch.randn_like(value) if value.dim() > 1 else torch.rand_like(value) + 0.5)
    return module


def bn(x, layer):
    return F.batch_norm(x, layer.running_mean, layer.running_var, layer.weight, layer.bias)


def ge(x, m):
    g = x
    for conv, norm in zip(m.extract.layers[::2], m.extract.layers[1::2], strict=True):
        g = bn(F.conv2d(g, conv.weight, stride=2, padding=1, groups=C), norm)
    return x * torch.sigmoid(F.interpolate(g, x.shape[-2:]))


def ge_minus(x, m):
    """The mean over the part of a (2E - 1)^2 window that lies inside the map."""
    ones = torch.ones_like(x)
    window = torch.ones(C, 1, 7, 7, dtype=x.dtype)
    total, inside = (F.conv2d(v, window, stride=4, padding=3, groups=C) for v in (x, ones))
    return x * torch.sigmoid(F.interpolate(total / inside, x.shape[-2:]))


def gc(x, m):
    w_k, b_k, w1, b1, gain, shift, w2, b2 = m.parameters()
    share = torch.softmax((torch.einsum("nchw,c->nhw", x, w_k.flatten()) + b_k).flatten(1), 1).view(
        len(x), *x.shape[2:]
    )
    g = torch.einsum("nchw,nhw->nc", x, share)
    hidden = F.relu(F.layer_norm(g @ w1.T + b1, (len(b1),), gain, shift))
    return x + (hidden @ w2.T + b2)[..., None, None]


def sk(x, m):
    U = [
        F.relu(bn(F.conv2d(x, branch[0].weight, stride=2, padding=d, dilation=d), branch[1]))
        for d, branch in ((1, m.first), (2, m.second))
    ]
    linear, norm, _ = m.transform.squeeze
    z = F.relu(bn((U[0] + U[1]).mean((2, 3)) @ linear.weight.T, norm))
    a, b = (z @ m.transform.select.weight.T).chunk(2, 1)
    share = torch.exp(a) / (torch.exp(a) + torch.exp(b))
    return share[..., None, None] * U[0] + (1 - share)[..., None, None] * U[1]


def bam(x, m):
    first, norm, _, last = m.transform.channel[1:]
    channel = F.linear(F.relu(bn(F.linear(x.mean((2, 3)), first.weight, first.bias), norm)), last.weight, last.bias)
    y = x
    for i, d in ((0, 0), (3, 4), (6, 4)):
        conv, norm = m.transform.spatial[i], m.transform.spatial[i + 1]
        y = F.relu(bn(F.conv2d(y, conv.weight, conv.bias, padding=d, dilation=max(d, 1)), norm))
    position = F.conv2d(y, m.transform.spatial[9].weight, m.transform.spatial[9].bias)
    return x + x * torch.sigmoid(channel[..., None, None] * position)


def gala(x, m):
    a, p, w1, b1, w2, b2, v1, c1, v2, c2 = m.parameters()
    g = (F.relu(x.mean((2, 3)) @ w1.T + b1) @ w2.T + b2)[..., None, None]
    l = F.conv2d(F.relu(F.conv2d(x, v1, c1)), v2, c2)
    return x * torch.tanh(a * (g + l) + p * g * l)


EARLIER = [torch.randn(2, 16, 9, 8, dtype=torch.float64), torch.randn(2, 24, 9, 8, dtype=torch.float64)]


def bridge(x, m):
    means = [y.mean((2, 3)) for y in (*EARLIER, x)]
    total = sum(bn(g @ linear.weight.T, norm) for g, (linear, norm) in zip(means, m.transform[0].layers, strict=True))
    return x * torch.sigmoid(F.relu(total) @ m.transform[2].weight.T)[..., None, None]


def bridge_direct(x, m):
    W, b = m.parameters()
    return F.relu(torch.cat([y.mean((2, 3)) for y in (*EARLIER, x)], 1) @ W.T + b)


LITERAL = {
    "GE": (GE(SITE, 4), ge),
    "GE, theta minus": (GE(SITE, 4, theta=False), ge_minus),
    "GE, whole map": (GE(SITE, 0, theta=False), lambda x, m: x * torch.sigmoid(x.mean((2, 3), keepdim=True))),
    "GC": (GC(SITE, 4), gc),
    "SK": (SK(SITE, SPEC, 4), sk),
    "BAM": (BAM(SITE, 4), bam),
    "GALA": (GALA(SITE, 4), gala),
    "bridge": (Bridge(SITE, reduction=4), bridge),
    "bridge, direct": (Bridge(SITE, **DIRECT), bridge_direct),
}


@pytest.mark.parametrize("name", LITERAL)
def test_module_is_its_equation(name):
    module, equation = LITERAL[name]
    module = randomised(copy.deepcopy(module))
    x = torch.randn(2, 16 if name == "SK" else C, 8, 11, dtype=torch.float64)
    expected = equation(x, module).detach()
    torch.testing.assert_close(module(x, Trail(features=EARLIER)), expected, rtol=0, atol=1e-12)
    recorded = module(x, Trail(records=True, features=EARLIER))
    torch.testing.assert_close(recorded, expected, rtol=0, atol=1e-12)
    for key, parameter in module.named_parameters():  # witness: every parameter counts
        if key == "extract.mask.bias":  # but the one that a softmax over positions cancels
            continue
        before = parameter.detach().clone()
        parameter.data += torch.randn_like(parameter)
        assert (module(x, Trail(features=EARLIER)) - expected).abs().max() > 1e-9, key
        parameter.data = before


ADDED = {  # definitions.md section 3, r = 16
    "ge8": lambda C: 33 * C,
    "ge8[theta=false]": lambda C: 0,
    "gc": lambda C: 2 * C * (C // 16) + 3 * (C // 16) + 2 * C + 1,
    "gala": lambda C: 2 * C * (C // 16) + (C // 16) + C + C * (C // 16) + 2 * (C // 16) + 1 + 2 * C,
}


@pytest.mark.parametrize("attention", ADDED)
def test_parameters_added_in_every_block(attention):
    widths = [256] * 3 + [512] * 4 + [1024] * 6 + [2048] * 3
    assert count(f"{attention}-resnet50").params - count("resnet50").params == sum(map(ADDED[attention], widths))


def test_the_bridge_adds_a_layer_and_a_norm_for_each_source():
    """Two sources of C / 4 and the map of C, each to C / 16 with a BN, then C / 16 -> C."""
    added = sum(
        (C // 2 + C + C) * (C // 16) + 3 * 2 * (C // 16) for C in [256] * 3 + [512] * 4 + [1024] * 6 + [2048] * 3
    )
    assert count("bridge-resnet50").params - count("resnet50").params == added


def test_sk_adds_a_branch_and_its_choice():
    """dP = 9C^2 + 2C + 3C^2/16 + C/8 over a plain 3x3 and its BN, C the bottleneck's width."""
    widths = [64] * 3 + [128] * 4 + [256] * 6 + [512] * 3
    added = sum(9 * c * c + 2 * c + 3 * c * c // 16 + c // 8 for c in widths)
    assert count("sk-resnet50").params - count("resnet50").params == added
    assert count("sk[reduction=8]-resnet50").params - count("resnet50").params != added  # witness


def test_bam_stands_after_every_stage_but_the_last():
    assert count("bam-resnet50").params == 25_915_099
    assert [str(block.site) for block in build("bam-resnet20").attentions()] == ["1.4", "2.4"]
    assert count("gala-resnet50").params == 29_377_608


@pytest.mark.parametrize("name", LITERAL)
@pytest.mark.parametrize("side", [1, 7])
@pytest.mark.parametrize("empty", [True, False])
def test_gradients_are_finite(name, side, empty):
    module = copy.deepcopy(LITERAL[name][0]).float().train(side > 1)
    x = torch.randn(2, 16 if name == "SK" else C, side, side) * (0 if empty else 1)
    assert finite(module, x)
    assert not finite(module, x * torch.nan)  # witness


def finite(module, x):
    x = x.clone().requires_grad_()
    earlier = [y.float() for y in EARLIER]
    loss = module(x, Trail(features=earlier)).square().sum()
    gradients = torch.autograd.grad(loss, [x, *module.parameters()], allow_unused=True)
    return all(gradient.isfinite().all() for gradient in gradients if gradient is not None)


def test_gc_starts_as_the_identity():
    x = torch.randn(2, C, 5, 5)
    module = GC(SITE)
    assert torch.equal(module(x), x)
    nn.init.ones_(module.transform[-1].bias)
    assert not torch.equal(module(x), x)  # witness


REFUSED = {
    "GE 3": (lambda: GE(SITE, 3), "power of two"),
    "GE 1": (lambda: GE(SITE, 1), "power of two"),
    "GE 0": (lambda: GE(SITE, 0), "theta=false"),
    "GC": (lambda: GC(SITE, 0), "from 1 to 32"),
    "GC constant": (lambda: GC(SITE, 32), "at most 16"),
    "BAM dilation": (lambda: BAM(SITE, 16, 0), "at least 1"),
    "SK": (lambda: SK(SITE, SPEC, 33), "from 1 to 32"),
    "SK 1x1": (lambda: SK(SITE, SPEC._replace(kernel=1)), "nothing to dilate"),
    "GALA": (lambda: GALA(SITE, 0), "from 1 to 32"),
    "BAM": (lambda: BAM(SITE, 64), "from 1 to 32"),
    "bridge form": (lambda: Bridge(SITE, form="both"), "direct or gate"),
    "bridge": (lambda: Bridge(SITE, reduction=33), "from 1 to 32"),
    "bridge alone": (lambda: Bridge(SITE._replace(sources=())), "no earlier ones"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_options_out_of_range_are_refused(name):
    make, message = REFUSED[name]
    with pytest.raises(OutOfRange, match=message):
        make()
