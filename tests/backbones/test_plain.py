"""The plain stack: n maps of one width, all read by a bridge."""

import pytest
import torch

from workbench.attention import Trail
from workbench.backbones.plain import Plain
from workbench.build import build


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def params(network):
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(("depth", "width"), [(6, 64), (3, 8)])
def test_parameters(depth, width):
    """A convolution from 3 channels and n - 1 equal ones, each with BN; the classifier."""
    total = 9 * 3 * width + (depth - 1) * 9 * width**2 + depth * 2 * width + (width + 1) * 10
    assert params(Plain(depth, width, classes=10)) == total
    assert (params(build("plain6", 10)) == total) == (depth == 6)  # witness


@pytest.mark.parametrize(("depth", "sides"), [(6, [32, 32, 16, 16, 8, 8]), (3, [32, 32, 16]), (4, [32, 32, 16, 16])])
def test_maps_have_one_width_and_pools_between(depth, sides):
    maps = Plain(depth, 8, classes=2).maps(torch.randn(1, 3, 32, 32), Trail())
    assert [tuple(x.shape[1:]) for x in maps] == [(8, side, side) for side in sides]
    assert all((x >= 0).all() for x in maps)
    assert len({x.sum().item() for x in maps}) == depth  # witness: they are different maps


@torch.no_grad()
def test_both_bridges_read_all_means():
    picture = torch.randn(2, 3, 32, 32)
    for name in ("bridge[form=direct]-plain6", "bridge-plain6"):
        network = build(name, 10).eval()
        weights = {key: value for key, value in network.state_dict().items() if key.startswith("layers.")}
        plain = build("plain6", 10).eval()
        plain.load_state_dict(weights, strict=False)
        means = [x.mean((2, 3)) for x in plain.maps(picture, Trail())]
        (step,) = network.trace(picture)[1].steps
        assert torch.equal(step.extracted, torch.cat(means, 1)) and step.extracted.shape == (2, 6 * 64)
        assert not torch.equal(step.extracted, torch.cat(means[::-1], 1))  # witness: the order
        assert step.site.sources == (64,) * 5


@torch.no_grad()
def test_only_the_gate_changes_the_last_map():
    picture = torch.randn(2, 3, 32, 32)
    gated, direct = (build(name, 10).eval() for name in ("bridge-plain6", "bridge[form=direct]-plain6"))
    direct.load_state_dict({k: v for k, v in gated.state_dict().items() if k.startswith("layers.")}, strict=False)
    (*earlier, last), (*same, plain) = (network.maps(picture, Trail()) for network in (gated, direct))
    assert all(map(torch.equal, earlier, same))
    assert not torch.equal(last, plain)
