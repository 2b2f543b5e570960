"""Totals of the published counters, and what each module adds by its closed form; the tables' cells are audited."""

import pytest
import torch

from workbench.backbones import Network
from workbench.build import build
from workbench.errors import OutOfRange, UnknownName
from workbench.explain.complexity import Complexity, count, measure


@pytest.mark.parametrize(
    ("model", "classes", "convention", "unit", "total"),
    [
        ("resnet50", 1000, "cra", 1e9, "4.1136"),
        ("resnet101", 1000, "cra", 1e9, "7.8360"),
        ("resnet56", 10, "cra", 1e6, "126.5555"),
        ("resnet50", 1000, "dca", 1e9, "4.1219"),
    ],
)
def test_totals_of_the_published_counters(model, classes, convention, unit, total):
    def shown(name):
        return f"{count(model, classes, convention=name).macs / unit:.4f}"

    assert shown(convention) == total
    assert shown("macs") != total  # witness


PARAMS = {
    ("resnet50", 1000): 25_557_032,
    ("resnet101", 1000): 44_549_160,
    ("resnet152", 1000): 60_192_808,
    ("resnet56", 10): 853_018,
    ("resnet110", 10): 1_727_962,
    ("dca-se-resnet50", 1000): 30_898_696,
    ("dca[match=fc2]-se-resnet50", 1000): 28_651_736,
    ("dca[match=fc2,reduction=8]-se[reduction_first=8]-resnet50", 1000): 29_870_232,
    ("dca[match=fc2,reduction=4]-se[reduction_first=4]-resnet50", 1000): 32_307_224,
    ("dca-cbam-resnet50", 1000): 30_900_376,
    ("dca[dims=channel]-cbam-resnet50", 1000): 30_900_280,
    ("dca[dims=spatial]-cbam-resnet50", 1000): 28_089_720,
}


@pytest.mark.parametrize(("model", "classes"), PARAMS)
def test_parameters_to_the_last_one(model, classes):
    assert count(model, classes).params == PARAMS[model, classes]
    assert count(model, classes + 1).params > PARAMS[model, classes]  # witness: the classifier is counted


@pytest.mark.parametrize(
    ("backbone", "classes", "channels"),
    [("resnet50", 1000, 15_104), ("resnet101", 1000, 32_512), ("resnet56", 10, 1008), ("resnet110", 100, 2016)],
)
@pytest.mark.parametrize("size", [1, 5, 7])
def test_a_cra_module_costs_its_kernel_and_its_bias(backbone, classes, channels, size):
    """dP = C(hw + 1), and as many multiply-adds: its pool is free.  `channels`: C summed over the blocks."""
    plain = count(backbone, classes, convention="cra")
    gated = count(f"cra{size}-{backbone}", classes, convention="cra")
    assert gated.params - plain.params == channels * (size * size + 1)
    assert gated.macs - plain.macs == channels * (size * size + 1)
    text = sum(2 * c * (3 * h * h + size * size) for c, h in ((256, 56), (512, 28), (1024, 14), (2048, 7)))
    assert gated.macs - plain.macs != text  # witness: the formula of CRA II-C


@pytest.mark.parametrize(
    ("backbone", "stages"),
    [
        ("resnet50", [(3, 256, 56), (4, 512, 28), (6, 1024, 14), (3, 2048, 7)]),
        ("resnet56", [(9, 16, 0), (9, 32, 0), (9, 64, 0)]),  # CIFAR: its pool costs C, whatever the map
    ],
)
def test_an_se_module_costs_its_layers_once_and_its_pool(backbone, stages):
    plain, gated = (count(name, convention="cra") for name in (backbone, f"se-{backbone}"))
    layers = sum(blocks * (2 * c * (c // 16) + c // 16 + c) for blocks, c, _ in stages)
    pools = sum(blocks * c * (side * side + 1) for blocks, c, side in stages)
    assert gated.params - plain.params == layers
    assert gated.macs - plain.macs == layers + pools
    assert count(f"se-{backbone}").macs - count(backbone).macs < layers  # witness: `macs` counts neither bias nor pool


def test_the_picture_is_the_backbones_own_unless_another_is_asked_for():
    assert [count(name).image_size for name in ("resnet50", "resnet20", "circularnet")] == [224, 32, 16]
    large = count("resnet20", 10, 64)
    assert (large.image_size, large.params) == (64, count("resnet20", 10).params)
    assert large.macs - 640 == 4 * (count("resnet20", 10).macs - 640)  # all but the classifier grow with the area


def test_frozen_parameters_are_not_counted():
    with torch.device("meta"):
        network = build("resnet20", 10)
        before = measure(network, 32, "macs")
        network.fc.requires_grad_(False)
        after = measure(network, 32, "macs")
    assert before.params - after.params == 650
    assert before.macs == after.macs


def hooks(network):
    return sum(len(module._forward_hooks) for module in network.modules())


def test_the_network_is_left_without_hooks(monkeypatch):
    seen = []
    trace = Network.trace
    monkeypatch.setattr(Network, "trace", lambda self, x: (seen.append(hooks(self)), trace(self, x))[1])
    with torch.device("meta"):
        network = build("dca-cra7-resnet50").eval()
        assert isinstance(measure(network, 224, "cra"), Complexity)
        assert hooks(network) == 0
        with pytest.raises(OutOfRange):  # 6 x 6 maps in the last stage
            measure(network, 192, "cra")
        assert hooks(network) == 0
    assert seen[-2:] and all(seen[-2:])  # witness: there were some


def test_an_unknown_convention_is_refused():
    with pytest.raises(UnknownName, match=r"Unknown counting convention 'thop'.*cra, dca, macs"):
        count("resnet20", convention="thop")


@pytest.mark.parametrize(("model", "error"), [("cra8-resnet50", OutOfRange), ("cbma-resnet50", UnknownName)])
def test_what_cannot_be_built_cannot_be_counted(model, error):
    with pytest.raises(error):
        count(model)
