"""Every backbone trains: one forward and backward on two tiny pictures leaves a finite gradient on each parameter."""

import pytest
import torch
from torch import nn

from workbench.build import build

NAMES = {
    "se-vgg16": 32,
    "se[reduction=4]-densenetbc100": 8,
    "cra1-densenetbc100[at=input]": 8,
    "se-shufflenet": 16,
    "se-mobilenetv1": 32,
    "se[reduction=8]-mobilenetv2": 32,
    "sk[reduction=8]-mobilenetv2": 32,
    "cbam-mnasnet1_0": 32,
    "plain6": 8,
    "bridge[form=direct]-plain6": 8,
    "bridge-plain6": 8,
    "resnet50v1": 32,
    "resnext50": 32,
}


@pytest.mark.parametrize("name", NAMES)
def test_one_step_reaches_every_parameter(name):
    torch.manual_seed(0)
    network = build(name, classes=5)
    network.unused = nn.Parameter(torch.zeros(1))
    pictures = torch.randn(2, 3, NAMES[name], NAMES[name])
    logits = network(pictures)
    assert logits.shape == (2, 5) and logits.isfinite().all()
    nn.functional.cross_entropy(logits, torch.tensor([1, 3])).backward()
    gradients = {key: parameter.grad for key, parameter in network.named_parameters()}
    assert [key for key, value in gradients.items() if value is None] == ["unused"]  # witness: a missing one is seen
    assert all(value.isfinite().all() for value in gradients.values() if value is not None)
