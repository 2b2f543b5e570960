"""The blocks' own backward passes can be differentiated again, and torch.func's transforms see through the blocks."""

import pytest
import torch
from torch.autograd.function import once_differentiable
from torch.func import functional_call, grad, jvp, vmap

from workbench.attention import ConvSpec, Site
from workbench.attention.aw import AWConv
from workbench.attention.aw_forms import TapSum
from workbench.attention.base import Scale
from workbench.attention.cra_forms import Cells, Template
from workbench.build import build


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


FUNCTIONS = {
    "a gate a channel": (Scale, (2, 3, 4, 4), (2, 3, 1, 1)),
    "a gate a value": (Scale, (2, 3, 2, 2), (2, 3, 2, 2)),
    "template": (Template, (2, 3, 5, 4), (3, 2, 2), (3,)),
    "cells": (Cells, (2, 3, 4, 6), (3, 2, 2), (3,)),
    "taps": (TapSum, (2, 4, 3, 3), (4, 2, 3, 3), (2, 4, 1, 3, 3)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_second_derivatives(name):
    form, *shapes = FUNCTIONS[name]
    given = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    stride = [2] if form is TapSum else []
    assert torch.autograd.gradgradcheck(form.apply, [*given, *stride])
    once = type("Once", (form,), {"backward": staticmethod(once_differentiable(form.backward))})
    with pytest.raises(RuntimeError, match=r"Jacobian mismatch|differentiate twice"):  # witness
        torch.autograd.gradgradcheck(once.apply, [*given, *stride])


def test_second_derivatives_under_autocast():
    """bf16 maps and float32 kernels in the form by taps."""
    block = AWConv(Site(1, 1, 16, 16), ConvSpec(16, 16))
    penalties = []
    for half in (True, False):
        x = torch.linspace(-1, 1, 3 * 16 * 9).reshape(3, 16, 3, 3).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            y = block(x)
        (gradient,) = torch.autograd.grad(y.float().square().sum(), x, create_graph=True)
        penalties.append(torch.autograd.grad(gradient.square().sum(), [x, block.weight]))
    for one, other in zip(*penalties, strict=True):
        assert 1e-6 < (one - other).norm() / other.norm() < 0.05  # witness: it is half precision


@pytest.mark.parametrize("name", ["se-circularnet", "cra3-circularnet", "aw-resnet8", "dca-cbam[reduction=4]-resnet8"])
def test_per_sample_gradients_are_those_of_a_loop(name):
    network = build(name, 10).double().eval()
    parameters = dict(network.named_parameters())
    pictures = torch.randn(3, 3, 16, 16, dtype=torch.float64)

    def loss(parameters, picture):
        return functional_call(network, parameters, (picture[None],)).square().sum()

    together = vmap(grad(loss), in_dims=(None, 0))(parameters, pictures)
    for number, picture in enumerate(pictures):
        network.zero_grad()
        network(picture[None]).square().sum().backward()
        for key, parameter in parameters.items():
            one = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            torch.testing.assert_close(together[key][number], one, rtol=0, atol=1e-9)
    assert not torch.allclose(together["fc.weight"][0], together["fc.weight"][1])  # witness: the pictures differ


def test_forward_mode():
    network = build("cra3-circularnet", 10).double().eval()
    x, v = torch.randn(2, 2, 3, 16, 16, dtype=torch.float64)
    step = 1e-6 * v
    with torch.no_grad():
        difference = (network(x + step) - network(x - step)) / 2e-6
    logits, derivative = jvp(network, (x,), (v,))
    torch.testing.assert_close(logits, network(x), rtol=0, atol=1e-12)
    torch.testing.assert_close(derivative, difference, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(derivative, jvp(network, (x,), (x,))[1], rtol=1e-2)  # witness
