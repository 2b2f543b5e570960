"""Attention as arrays: what the blocks computed, for each picture, of a network left as it was."""

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from workbench.attach import attach
from workbench.attention import attentions
from workbench.attention.aw import expand
from workbench.attention.aw_forms import grouped
from workbench.build import build
from workbench.errors import OutOfRange
from workbench.explain.maps import (
    apart,
    branch_shares,
    channel_attention,
    contribution,
    frame,
    kernel_attention,
    layer_means,
    spatial_attention,
    together,
)

SITES = [f"{stage}.{block}" for stage in (1, 2, 3) for block in (1, 2, 3)]
WIDTHS = [16] * 3 + [32] * 3 + [64] * 3
SIDES = [32] * 3 + [16] * 3 + [8] * 3


def made(name):
    torch.manual_seed(0)
    network = build(name, classes=5, checked=False)
    with torch.no_grad():
        network(torch.randn(4, 3, 32, 32))
    return network


@pytest.fixture(scope="module")
def pictures():
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def outputs(network, kind, pictures):
    """What every `transform` of this kind of block returned in a forward pass, by hooks."""
    seen = []
    blocks = [block for block in attentions(network) if type(block).__name__ == kind]
    hooks = [block.transform.register_forward_hook(lambda module, x, y: seen.append(y)) for block in blocks]
    with torch.no_grad():
        network.eval().trace(pictures)
    for hook in hooks:
        hook.remove()
    return [T.numpy() for T in seen]


@pytest.mark.parametrize(("name", "kind"), [("se", "SE"), ("cra2", "CRA"), ("cbam", "ChannelGate"), ("dca-se", "SE")])
def test_channel_attention_is_each_blocks_gate(name, kind, pictures):
    network = made(f"{name}-resnet20")
    found, gates = channel_attention(network, pictures), outputs(network, kind, pictures)
    assert [site for site, _ in found] == SITES
    assert [T.shape for _, T in found] == [(3, width) for width in WIDTHS]
    assert all(np.array_equal(T, gate) for (_, T), gate in zip(found, gates, strict=True))
    assert not np.array_equal(found[-1][1][0], found[-1][1][1])  # witness: pictures differ
    assert not np.array_equal(found[0][1], gates[1])


@pytest.mark.parametrize(("name", "kind"), [("gala", "GALA"), ("ge", "GE"), ("bam", "BAM")])
def test_a_gate_for_every_value_is_averaged(name, kind, pictures):
    network = made(f"{name}-resnet20")
    gates = outputs(network, kind, pictures)
    over_channels, over_positions = spatial_attention(network, pictures), channel_attention(network, pictures)
    assert [site for site, _ in over_channels] == [site for site, _ in over_positions]
    for (_, where), (_, what), gate in zip(over_channels, over_positions, gates, strict=True):
        np.testing.assert_allclose(where, gate.mean(1), atol=1e-6)
        np.testing.assert_allclose(what, gate.mean((2, 3)), atol=1e-6)
        assert gate.std() > 1e-4  # witness: a mean over the wrong axis would show


def test_spatial_attention_is_the_gate_of_positions(pictures):
    network = made("cbam-resnet20")
    found, gates = spatial_attention(network, pictures), outputs(network, "SpatialGate", pictures)
    assert [(site, T.shape) for site, T in found] == [
        (site, (3, side, side)) for site, side in zip(SITES, SIDES, strict=True)
    ]
    assert all(np.array_equal(T, gate[:, 0]) for (_, T), gate in zip(found, gates, strict=True))
    assert not np.array_equal(found[0][1][0], found[0][1][1])


def test_branch_shares_are_the_mixture_of_the_branches(pictures):
    network = made("sk-resnet20")
    found, gates = branch_shares(network, pictures), outputs(network, "SK", pictures)
    assert [(site, T.shape) for site, T in found] == [
        (site, (3, width, 2)) for site, width in zip(SITES, WIDTHS, strict=True)
    ]
    assert all(np.array_equal(T, gate) for (_, T), gate in zip(found, gates, strict=True))
    for _, T in found:
        np.testing.assert_allclose(T.sum(2), 1, atol=1e-6)
    assert not np.allclose(found[0][1].sum(1), 1)  # witness: the last axis is that of the branches


def test_the_second_branch_is_the_dilated_one(pictures):
    """Without its first branch, a kernel that gives the second all its share passes on what that one made."""
    network = made("sk-resnet20").eval()
    block = next(attentions(network))
    nn.init.zeros_(block.transform.squeeze[1].weight)
    nn.init.ones_(block.transform.squeeze[1].bias)
    block.transform.select.weight.data = torch.cat([-torch.ones(16, 1), torch.ones(16, 1)]) * 20
    share = branch_shares(network, pictures)[0][1]
    np.testing.assert_allclose(share, np.broadcast_to([0.0, 1.0], share.shape), atol=1e-6)
    with torch.no_grad():
        x = torch.randn(1, 16, 8, 8)
        assert block.second[0].dilation == (2, 2) and torch.allclose(block(x), block.second(x), atol=1e-5)
        assert not torch.allclose(block(x), block.first(x), atol=1e-2)  # witness


@pytest.mark.parametrize("options", ["", "[input_reduction=4]", "[output_reduction=2]", "[kernel_reduction=0]"])
def test_kernel_attention_has_the_axes_of_the_kernel(options, pictures):
    network = made(f"aw{options}-resnet20")
    found, maps = kernel_attention(network, pictures), outputs(network, "AWConv", pictures)
    blocks = [block for block in attentions(network) if block.dim == "weight"]
    assert [site for site, _ in found] == [str(block.site) for block in blocks] == SITES
    for (_, A), T, block in zip(found, maps, blocks, strict=True):
        outs, ins, side = block.shape
        assert A.shape == (3, outs, ins, side, side) and np.array_equal(A.reshape(T.shape), T)
        assert A.min() >= 0 and A.max() <= 1
    assert not np.array_equal(found[-1][1][0], found[-1][1][1])  # witness: every picture has its own


def test_kernel_attention_makes_the_kernel_that_convolves(pictures):
    """AW Eq. 6: the block's output is that of K + A K."""
    network, seen = made("aw[input_reduction=4]-resnet8").eval(), []
    block = next(attentions(network))
    hook = block.register_forward_hook(lambda module, x, y: seen.append((x[0], y)))
    (_, A), *_ = kernel_attention(network, pictures)
    hook.remove()
    ((x, y),) = seen
    with torch.no_grad():
        full = expand(torch.from_numpy(A).flatten(1, 2), block.shape, block.weight.shape)
        assert torch.allclose(grouped(x, block.weight, 1 + full, 1), y, atol=1e-4)
        assert not torch.allclose(grouped(x, block.weight, full, 1), y, atol=1e-2)  # witness


def test_a_shared_kernel_is_every_pictures(pictures):
    (_, A), *_ = kernel_attention(made("aw[shared=true]-resnet20"), pictures)
    assert A.shape == (3, 16, 1, 3, 3) and np.array_equal(A[0], A[2])


def test_pictures_one_by_one_are_a_batch(pictures):
    network = made("cra4-resnet20")
    batch = channel_attention(network, pictures)
    joined = together(channel_attention(network, one[None]) for one in pictures)
    assert [site for site, _ in joined] == SITES
    assert all(np.allclose(T, other, atol=1e-6) for (_, T), (_, other) in zip(batch, joined, strict=True))
    assert not np.allclose(joined[0][1][::-1], batch[0][1], atol=1e-6)  # witness: in their order


def test_a_frame_has_every_value_at_its_index():
    values = [("1.1", np.arange(12.0).reshape(2, 3, 2)), ("1.2", np.arange(4.0).reshape(2, 1, 2))]
    rows = frame(values, ["cat", "dog"], ["channel", "branch"])
    assert [*rows.columns] == ["block", "picture", "channel", "branch", "attention"] and len(rows) == 16
    assert rows[rows.picture == "dog"].iloc[3].tolist() == ["1.1", "dog", 1, 1, 9.0]
    assert rows.iloc[-1].tolist() == ["1.2", "dog", 0, 1, 3.0]


def test_the_channels_that_differ_most():
    values = [("1.1", np.array([[0.1, 0.9], [0.2, 0.3]])), ("1.2", np.array([[0.0, 0.5, 0.2], [1.0, 0.5, 0.0]]))]
    found = apart(values, 3)
    assert list(zip(found.block, found.channel, strict=True)) == [("1.2", 0), ("1.1", 1), ("1.2", 2)]
    assert found.difference.tolist() == pytest.approx([-1.0, 0.6, 0.2])
    assert (found["first"] - found["second"]).tolist() == found.difference.tolist()


def test_layer_means_weigh_every_picture_alike(pictures):
    network = made("se-resnet20")
    expected = [(site, T.mean()) for site, T in channel_attention(network, pictures)]
    found = layer_means(network, iter([pictures[:1], pictures[1:]]))
    assert [site for site, _ in found] == SITES
    np.testing.assert_allclose([mean for _, mean in found], [mean for _, mean in expected], rtol=1e-5)
    twice = [mean for _, mean in layer_means(network, [pictures[:1], pictures[:1], pictures[1:]])]
    assert not np.allclose(twice, [mean for _, mean in found], rtol=1e-5)  # witness: the pictures count


def test_layer_means_tell_shallow_from_deep(pictures):
    """CRA III-D: "channel attentions in shallow layers are much lower than in deep layers", made true by the biases."""
    network = made("cra2-resnet20")
    for block in attentions(network):
        nn.init.constant_(block.transform[0].bias, 2.0 * block.site.stage - 4)
        nn.init.zeros_(block.transform[0].weight)
    means = dict(layer_means(network, [pictures]))
    for site, mean in means.items():
        assert mean == pytest.approx(1 / (1 + np.exp(4 - 2.0 * int(site[0]))), abs=1e-6)


def test_contribution_is_the_share_of_the_weights():
    network = made("dca-cbam-resnet20")
    for number, block in enumerate(attentions(network)):
        if block.connection.backs:
            block.connection.merge.weight.data = torch.tensor([-3.0, 1.0 + number])
    found = contribution(network)
    assert [site for site, dim, _ in found if dim == "channel"] == SITES[1:]  # the first block hears nobody
    assert [site for site, dim, _ in found if dim == "spatial"] == SITES[1:]
    assert [ratio for _, _, ratio in found] == pytest.approx([(n + 1) / (n + 4) for n in range(2, 18)])


@pytest.mark.parametrize(
    "name", ["dca-se", "dca[form=text]-se", "dca-sk", "dca[reach=dense]-se", "dca-gc[reduction=4]"]
)
def test_every_connection_but_the_first_blocks_has_a_share(name):
    found = contribution(made(f"{name}-resnet20"))
    assert [site for site, _, _ in found] == SITES[1:]
    assert all(0 <= ratio <= 1 for _, _, ratio in found)
    starts_at_zero = "text" in name or "gc" in name
    assert all((ratio == 0) == starts_at_zero for _, _, ratio in found)


def test_networks_with_attached_blocks(pictures):
    torch.manual_seed(0)
    network = attach(torchvision.models.resnet18(num_classes=5), "dca-cbam", where="layer*.*.bn2", image_size=32)
    sites = [site for site, _ in channel_attention(network, pictures)]
    assert sites == [f"{stage}.{block}" for stage in (1, 2, 3, 4) for block in (1, 2)]
    assert [site for site, _ in spatial_attention(network, pictures)] == sites
    assert [site for site, dim, _ in contribution(network) if dim == "channel"] == sites[1:]


def test_the_network_is_as_it_was(pictures):
    network = made("cbam-mobilenetv2").train()
    network.features[1].eval()
    modes = [module.training for module in network.modules()]
    tensors = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    drawn = torch.get_rng_state()
    first = channel_attention(network, pictures), spatial_attention(network, pictures)
    layer_means(network, [pictures])
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(tensor, tensors[key]) for key, tensor in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(parameter.grad is None for parameter in network.parameters())
    again = channel_attention(network.eval(), pictures)
    assert all(np.array_equal(a, b) for (_, a), (_, b) in zip(first[0], again, strict=True))
    with torch.no_grad():  # witness: in training mode the values and the statistics are others
        trained = [step.attention.numpy() for step in network.train().trace(pictures)[1].of("channel")]
    assert not np.allclose(trained[0], again[0][1], atol=1e-3)
    assert any(not torch.equal(tensor, tensors[key]) for key, tensor in network.state_dict().items())


def test_a_failure_restores_the_modes(pictures):
    network = made("se-resnet20").train()
    with pytest.raises(RuntimeError):
        channel_attention(network, pictures[:, :2])
    assert all(module.training for module in network.modules())


@pytest.mark.parametrize(
    ("name", "function", "text"),
    [
        ("sk", channel_attention, "no channel attention; use a network with se"),
        ("aw", channel_attention, "no channel attention"),
        ("se", spatial_attention, "no spatial attention; use a network with cbam"),
        ("aw", spatial_attention, "no spatial attention"),
        ("aw", branch_shares, "no branch attention; use a network with sk"),
        ("sk", kernel_attention, "no kernel attention; use a network with aw"),
    ],
)
def test_what_a_network_has_not_is_refused(name, function, text, pictures):
    with pytest.raises(OutOfRange, match=text):
        function(made(f"{name}-resnet20"), pictures)


def test_what_cannot_be_read_is_refused(pictures):
    network = made("se-resnet20")
    with pytest.raises(OutOfRange, match="no connection between attention blocks; build one"):
        contribution(network)
    with pytest.raises(OutOfRange, match="No batch"):
        layer_means(network, [])
    for wrong in (pictures[0], pictures[:0], (pictures * 9).to(torch.uint8)):
        with pytest.raises(OutOfRange, match="Pictures of"):
            channel_attention(network, wrong)
    with pytest.raises(OutOfRange, match="pictures\\[None\\]"):
        layer_means(network, pictures)  # a batch where batches are asked for
    with pytest.raises(OutOfRange, match="no attached networks"):
        channel_attention(nn.Flatten(), pictures)
