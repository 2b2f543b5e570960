"""The pyramid is torchvision's on the maps of any backbone; attention stands before its convolutions, and is traced."""

from collections import OrderedDict

import pytest
import torch
from scenes import lively
from torchvision.ops import FeaturePyramidNetwork

from workbench.attention import Trail
from workbench.attention.aw import AWConv
from workbench.attention.se import SE
from workbench.build import build
from workbench.detection.fpn import FPN, Shape, shapes_of
from workbench.errors import OutOfRange

TAKEN = [Shape(1, 16, 4), Shape(2, 32, 8), Shape(3, 64, 16)]
WIDTH = 32


def maps():
    generator = torch.Generator().manual_seed(0)
    sides = ((20, 26), (10, 13), (5, 7))
    return OrderedDict(
        (str(i), torch.rand(2, shape.channels, *side, generator=generator, dtype=torch.float64))
        for i, (shape, side) in enumerate(zip(TAKEN, sides, strict=True))
    )


def pyramid(name=""):
    return lively(FPN(TAKEN, WIDTH, None, name, 3))


def test_the_plain_pyramid_is_torchvisions():
    ours = pyramid()
    theirs = FeaturePyramidNetwork([16, 32, 64], WIDTH).double()
    theirs.load_state_dict(ours.state_dict())
    mine, wanted = ours(maps(), Trail()), theirs(maps())
    assert list(mine) == list(wanted) and all(torch.equal(mine[key], wanted[key]) for key in mine)
    with torch.no_grad():
        theirs.layer_blocks[0][0].bias += 1
    assert not torch.equal(mine["0"], theirs(maps())["0"])  # witness


def test_convolutions_of_the_pyramid_begin_as_torchvisions():
    """Uniform with the variance 1 / (3 fan-in) that kaiming_uniform with a = 1 has, biases zero."""
    for name in ("", "se", "aw"):
        block = FPN([Shape(0, 128, 4)], 128, None, name, 1).layer_blocks[0]
        conv = block.get_submodule("0")
        bound = (3 / (128 * 9)) ** 0.5
        assert 0.99 * bound < conv.weight.abs().max() <= bound
        assert not (block.bias if name == "aw" else conv.bias).any()


@pytest.mark.parametrize("name", ["aw", "se", "cbam", "aw-se", "aw-cbam", "cra3"])
def test_attention_in_the_pyramid_is_traced_in_order(name):
    network, trail = pyramid(name).eval(), Trail(records=True)
    found = network(maps(), trail)
    assert [y.shape for y in found.values()] == [(2, WIDTH, 20, 26), (2, WIDTH, 10, 13), (2, WIDTH, 5, 7)]
    blocks = [m for m in network.modules() if hasattr(m, "extract")]
    assert [step.site for step in trail.steps] == [block.site for block in blocks]
    sites = [f"{level}.{block}" for block in (1, 2) for level in (4, 5, 6)]
    assert list(dict.fromkeys(str(step.site) for step in trail.steps)) == sites
    dims = {"aw": {"weight"}, "se": {"channel"}, "cbam": {"channel", "spatial"}, "cra3": {"channel"}}
    assert {step.dim for step in trail.steps} == set().union(*(dims[part] for part in name.split("-")))
    quiet = Trail()
    for key, y in network(maps(), quiet).items():
        assert torch.allclose(found[key], y, rtol=1e-12)
    assert not quiet.steps


def test_attention_stands_right_before_the_convolution():
    block = pyramid("se").inner_blocks[1].eval()
    x = maps()["1"]
    gated = block.attention(x)
    assert torch.equal(block(x, Trail()), block.get_submodule("0")(gated))
    assert not torch.equal(block(x, Trail()), block.get_submodule("0")(x))  # witness


def test_an_aw_convolution_has_the_bias_of_the_one_it_replaces():
    block = pyramid("aw").layer_blocks[0].eval()
    x = torch.rand(2, WIDTH, 9, 9, dtype=torch.float64)
    conv = block.get_submodule("0")
    assert isinstance(conv, AWConv) and conv.weight.shape == (WIDTH, WIDTH, 3, 3)
    assert torch.equal(block(x, Trail()), conv(x) + block.bias[:, None, None])
    assert isinstance(pyramid("aw").inner_blocks[0].get_submodule("0"), AWConv)
    assert pyramid("aw").inner_blocks[0].get_submodule("0").weight.shape == (WIDTH, 16, 1, 1)


def test_a_gate_that_is_open_is_the_plain_pyramid():
    plain, gated = pyramid(), pyramid("se")
    gated.load_state_dict(plain.state_dict(), strict=False)
    closed = gated(maps(), Trail())
    for block in gated.modules():
        if isinstance(block, SE):
            torch.nn.init.zeros_(block.transform[-2].weight)
            torch.nn.init.constant_(block.transform[-2].bias, 1000)  # sigmoid is 1
    opened = gated(maps(), Trail())
    for key, y in plain(maps(), Trail()).items():
        assert torch.equal(opened[key], y) and not torch.equal(closed[key], y)


@pytest.mark.parametrize("name", ["", "aw", "se", "aw-cbam"])
def test_weights_load_from_a_file_which_tells_no_version(name, monkeypatch):
    saved, network = dict(pyramid(name).state_dict()), FPN(TAKEN, WIDTH, None, name, 3).double()
    network.load_state_dict(saved)
    assert all(torch.equal(saved[key], value) for key, value in network.state_dict().items())
    monkeypatch.delattr(FPN, "_load_from_state_dict")
    if name.startswith("aw"):
        with pytest.raises(RuntimeError, match=r"inner_blocks\.0\.0\.bias"):  # witness
            network.load_state_dict(dict(saved))


def test_weights_of_torchvisions_first_version_still_load():
    plain, network = pyramid().state_dict(), FPN(TAKEN, WIDTH, None, "", 3).double()
    network.load_state_dict(
        {key.replace(".0.weight", ".weight").replace(".0.bias", ".bias"): value for key, value in plain.items()}
    )
    assert all(torch.equal(plain[key], value) for key, value in network.state_dict().items())


@pytest.mark.parametrize(
    ("name", "strides"),
    [
        ("resnet18", [4, 8, 16, 32]),
        ("resnet20", [1, 2, 4]),
        ("mobilenetv2", [2, 4, 8, 16, 16, 32, 32]),
        ("vgg16", [2, 4, 8, 16, 32]),
    ],
)
def test_the_maps_of_a_backbone_are_found_without_running_it(name, strides):
    network = build(name, 5)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    shapes = shapes_of(network)
    assert [shape.stride for shape in shapes] == strides
    side = max(32, strides[-1])
    real = network.eval().maps(torch.rand(1, 3, side, side), Trail())
    assert [shape.channels for shape in shapes] == [y.shape[1] for y in real]
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


def test_levels_begin_where_asked_or_at_the_coarsest_two():
    def strides(name):
        with torch.device("meta"):
            return build(name, 5).backbone.strides

    assert strides("retinanet-resnet18") == [8, 16, 32, 64, 128]
    assert strides("fasterrcnn-resnet18") == [4, 8, 16, 32, 64]
    assert strides("retinanet-resnet8") == [2, 4, 8, 16]
    assert strides("fasterrcnn-resnet8") == strides("cascadercnn-resnet8") == [2, 4, 8]
    assert strides("retinanet[finest=4]-resnet8") == [4, 8, 16]
    assert strides("fasterrcnn[finest=16]-resnet18") == [16, 32, 64]
    with pytest.raises(OutOfRange, match="stride of 8 px or more; it has 1, 2, 4"):
        strides("retinanet[finest=8]-resnet8")


def test_maps_are_float32_at_least_where_the_layers_are_not():
    """Anchors take the precision of the maps."""
    network = build("retinanet-resnet8", 3).eval()
    x = torch.rand(1, 3, 64, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = network.maps(x, Trail())
        low = network.backbone.fpn({str(i): y for i, y in enumerate(network.network.maps(x, Trail())[1:])})
        assert {y.dtype for y in low.values()} == {torch.bfloat16}  # witness
        assert {y.dtype for y in found.values()} == {torch.float32}
        assert {y.dtype for y in network.outputs(found).values()} == {torch.float32}
