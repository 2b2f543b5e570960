"""Parameters and multiply-adds of a network, in each paper's own convention.

The papers print multiply-adds as "FLOPs" and count them with different tools:

    cra    thop of 2019: convolutions with bias, BN 2 per element, the classifier 2 per weight, pools as listed below
    dca    the early ptflops of the release: convolutions, fully-connected layers, BN 2 and ReLU 1 per element, pools 1
           per input element
    macs   convolutions and fully-connected layers alone

Counted on the meta device: no memory, no arithmetic.  Parameters are the trainable ones, without running statistics.
"""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor, nn

from workbench import names
from workbench.attention import GlobalPool
from workbench.attention.cbam import Summary
from workbench.attention.dca import Weights
from workbench.backbones import Network
from workbench.build import build
from workbench.errors import UnknownName


class Complexity(NamedTuple):
    """Counts for one picture: trainable parameters, multiply-adds, and the picture's side in pixels."""

    params: int
    macs: int
    image_size: int


@cache
def count(model: str, classes: int = 1000, image_size: int | None = None, convention: str = "macs") -> Complexity:
    """Parameters and multiply-adds of the named network; raises UnknownName or OutOfRange."""
    if convention not in CONVENTIONS:
        raise UnknownName("counting convention", convention, CONVENTIONS)
    with torch.device("meta"):
        network = build(model, classes, image_size).eval()
        return measure(network, image_size or network.image_size, convention)


def measure(network: Network, image_size: int, convention: str) -> Complexity:
    """The same for a network on the meta device, by one forward with a hook on every leaf."""
    rule, total = CONVENTIONS[convention], 0
    attending = {id(module) for block in network.attentions() for module in block.modules()}

    def add(module: nn.Module, inputs: tuple[Tensor, ...], y: Tensor) -> None:
        nonlocal total
        total += rule(module, inputs[0], y, id(module) in attending, network.image_size)

    hooks = [m.register_forward_hook(add) for m in network.modules() if isinstance(m, Weights) or not any(m.children())]
    try:
        with torch.no_grad():
            network(torch.empty(1, 3, image_size, image_size, device="meta"))
    finally:
        for hook in hooks:
            hook.remove()
    return Complexity(sum(p.numel() for p in network.parameters() if p.requires_grad), total, image_size)


def macs(module: nn.Module, x: Tensor, y: Tensor, attending: bool, side: int) -> int:
    """Products of weights and inputs."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        return y.numel() * module.weight[0].numel()
    return 2 * y.numel() if isinstance(module, Weights) else 0


def cra(module: nn.Module, x: Tensor, y: Tensor, attending: bool, side: int) -> int:
    """thop, as in the CRA tables.  SE's layers are counted once, as biased 1x1 convolutions; CRA's own pool is free."""
    products = macs(module, x, y, attending, side)
    if isinstance(module, nn.Linear) and not attending:
        return 2 * products
    if products:
        return products + biases(module, y)
    if isinstance(module, nn.BatchNorm2d):
        return 2 * y.numel()
    if isinstance(module, GlobalPool | Summary):
        fixed = attending and side < 224  # SE in the CIFAR networks pools with AvgPool2d, all else adaptively
        return x.shape[1] + (0 if fixed else x.numel())
    return 0


def dca(module: nn.Module, x: Tensor, y: Tensor, attending: bool, side: int) -> int:
    """ptflops, as in the DCA tables."""
    if products := macs(module, x, y, attending, side):
        return products + (0 if isinstance(module, nn.Linear) else biases(module, y))
    if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
        return 2 * y.numel()
    if isinstance(module, nn.ReLU):
        return y.numel()
    if isinstance(module, Summary):
        return y.shape[-1] * x.numel()
    return x.numel() if isinstance(module, GlobalPool | nn.MaxPool2d) else 0


def biases(module: nn.Module, y: Tensor) -> int:
    return y.numel() if module.bias is not None else 0


CONVENTIONS: dict[str, Callable[..., int]] = dict(zip(names.CONVENTIONS, (cra, dca, macs), strict=True))
