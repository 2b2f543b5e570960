"""A trained backbone of any kind begins a detector: its stem and first stage stay, and what comes after them learns."""

import pytest
import torch
from scenes import lively, pictures, targets

from workbench.attention import Trail
from workbench.build import build
from workbench.detection.start import first, start

STARTED = (
    "resnet8",
    "dca-cbam[reduction=4]-resnet8",
    "resnext11",
    "circularnet",
    "densenetbc22",
    "mnasnet1_0",
    "mobilenetv1",
    "mobilenetv2",
    "plain6",
    "shufflenet",
    "vgg7",
)


@pytest.mark.parametrize("name", STARTED)
def test_the_first_map_stays_and_the_others_learn(name):
    weights = lively(build(name, 5)).state_dict()
    detector = lively(build(f"retinanet[width=32]-{name}", 3, 64), seed=1)
    start(detector, weights)
    network, x = detector.train().network, torch.rand(1, 3, 64, 64, dtype=torch.float64)
    assert all(torch.equal(value, weights[key]) for key, value in network.state_dict().items())
    with torch.no_grad():
        before = [y.clone() for y in network.maps(x, Trail())]
    optimizer = torch.optim.SGD([p for p in detector.parameters() if p.requires_grad], lr=0.01)
    sum(detector.losses(pictures(), targets()).values()).backward()
    optimizer.step()
    with torch.no_grad():
        after = network.maps(x, Trail())
    assert torch.equal(before[0], after[0])
    assert len(after) == 1 or not torch.equal(before[-1], after[-1])  # witness; circularnet is one stage


@pytest.mark.parametrize("name", ["resnet8", "resnet50", "dca-se-resnet18", "dca-aw-cbam-resnet18"])
def test_of_a_resnet_these_are_conv1_bn1_and_layer1(name):
    with torch.device("meta"):
        network = build(f"retinanet-{name}", 3, checked=False).network
    frozen = {id(parameter) for parameter in first(network)}
    names = {key for key, parameter in network.named_parameters() if id(parameter) in frozen}
    assert names == {key for key, _ in network.named_parameters() if key.split(".")[0] in ("conv1", "bn1", "layer1")}
    assert "layer2.0.conv1.weight" in dict(network.named_parameters())  # witness: there is more
