"""The template of a CRA block gives the gate that the block gives, and a reading is what the network did."""

import copy

import numpy as np
import pytest
import torch

from workbench.attention import Site, Trail, attentions
from workbench.attention.cra import CRA
from workbench.build import build
from workbench.errors import OutOfRange, UnknownName
from workbench.explain.templates import blocks, reading, template


def made(name):
    torch.manual_seed(0)
    network = build(name, classes=5, checked=False)
    with torch.no_grad():
        network(torch.randn(4, 3, 32, 32))
    return network.eval().requires_grad_(False)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def gates(block, x):
    """The block's own attention."""
    trail = Trail(records=True)
    with torch.no_grad():
        block(x, trail)
    return trail.steps[0].attention.numpy()


@pytest.mark.parametrize(
    ("size", "height", "width"), [(1, 6, 5), (4, 4, 4), (4, 16, 16), (3, 7, 11), (4, 8, 10), (7, 2, 2)]
)
def test_the_template_gives_the_blocks_own_gates(size, height, width):
    torch.manual_seed(1)
    block = CRA(Site(1, 1, 6, 6), size, "repeat").double()
    x = 5 * torch.randn(3, 6, height, width, dtype=torch.float64)
    E, bias = template(block, height, width), block.transform[0].bias.detach().numpy()
    assert E.shape == (6, height, width) and E.dtype == np.float64
    T = gates(block, x)
    np.testing.assert_allclose(sigmoid((x.numpy() * E).sum((2, 3)) + bias), T, rtol=0, atol=1e-12)
    wrong = np.roll(E, 1, 0)  # witnesses: another channel's template, another place, no bias
    assert np.abs(sigmoid((x.numpy() * wrong).sum((2, 3)) + bias) - T).max() > 1e-3
    if size > 1 and min(height, width) >= size:
        assert np.abs(sigmoid((x.numpy() * E[:, ::-1]).sum((2, 3)) + bias) - T).max() > 1e-3
    assert np.abs(sigmoid((x.numpy() * E).sum((2, 3))) - T).max() > 1e-3


def test_a_template_sums_to_its_kernel():
    """Averaging spreads a weight over its cells and keeps the sum."""
    block = CRA(Site(1, 1, 3, 3), 5)
    kernel = block.transform[0].weight.detach().double().sum((1, 2, 3)).numpy()
    np.testing.assert_allclose(template(block, 12, 9).sum((1, 2)), kernel, atol=1e-12)
    with pytest.raises(OutOfRange, match="CRA grid 5x5 exceeds the 4x9 map"):
        template(block, 4, 9)


def test_a_reading_is_what_the_network_did():
    network = made("cra4-resnet8")
    picture = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    before = copy.deepcopy(network.state_dict())
    with torch.no_grad():
        logits, trail = network.trace(picture)
    assert [*blocks(network)] == [str(step.site) for step in trail.steps] == ["1.1", "2.1", "3.1"]
    for step, (channels, side) in zip(trail.steps, [(16, 32), (32, 16), (64, 8)], strict=True):
        one = reading(network, picture, str(step.site))
        assert one.template.shape == one.map.shape == (channels, side, side)
        assert np.array_equal(one.gate, step.attention[0].numpy())
        np.testing.assert_allclose(sigmoid(one.sums + one.bias), one.gate, atol=1e-6)
        grid = step.extracted[0].numpy()
        np.testing.assert_allclose(one.map.reshape(channels, 4, side // 4, 4, side // 4).mean((2, 4)), grid, atol=1e-5)
        assert not np.allclose(sigmoid(one.sums + 2 * one.bias), one.gate, atol=1e-6)  # witness
    assert not any(module._forward_pre_hooks for module in network.modules())  # shared networks are left as they were
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    with torch.no_grad():
        assert torch.equal(network.trace(picture)[0], logits)


def test_the_twin_shares_the_weights():
    network = made("cra4-resnet8")
    picture = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    first = reading(network, picture, "1.1")
    with torch.no_grad():
        next(attentions(network)).transform[0].bias += 1
    again = reading(network, picture, "1.1")
    np.testing.assert_allclose(again.bias, first.bias + 1)
    assert np.array_equal(again.map, first.map) and not np.allclose(again.gate, first.gate, atol=1e-3)


def test_what_has_no_template_is_refused():
    picture = torch.zeros(1, 3, 32, 32)
    with pytest.raises(OutOfRange, match=r"no CRA block.*cra8-resnet20"):
        reading(made("se-resnet8"), picture, "1.1")
    with pytest.raises(OutOfRange, match=r"earlier blocks attended.*without dca"):
        reading(made("dca-cra4-resnet8"), picture, "2.1")
    network = made("cra4-resnet8")
    with pytest.raises(UnknownName, match=r"CRA block '4\.1'"):
        reading(network, picture, "4.1")
    with pytest.raises(OutOfRange, match="A batch of 2"):
        reading(network, picture.repeat(2, 1, 1, 1), "1.1")
