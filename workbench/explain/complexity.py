"""Parameters and multiply-adds of a network, in each paper's own convention.

The papers print multiply-adds as "FLOPs" and count them with different tools:

    aw     products, A * K, and one for each element that an attention pools or scales: the reading that reaches most of
           a column that no counter gives whole
    cra    thop of 2019: convolutions with bias, BN 2 per element, the classifier 2 per weight, pools as listed below
    dca    the early ptflops of the release: convolutions, fully-connected layers, BN 2 and ReLU 1 per element, pools 1
           per input element
    macs   convolutions and fully-connected layers alone

Counted on the meta device: no memory, no arithmetic.  Parameters are the trainable ones, without running statistics.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from workbench import names
from workbench.attention import Attention, GlobalPool
from workbench.attention.aw import AWConv
from workbench.attention.cbam import ChannelSummary, Summary
from workbench.attention.gc import Pointwise
from workbench.attention.matching import MatchSize
from workbench.attention.merging import Weights
from workbench.attention.sk import SK
from workbench.backbones import Network
from workbench.backbones.shufflenet import ShuffleNet
from workbench.build import build, running
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
        network = build(model, classes, image_size, checked=False).eval()
        with running(model, network, image_size):
            return measure(network, image_size or network.image_size, convention)


def measure(network: Any, image_size: int, convention: str) -> Complexity:
    """The same for a Network or a Detector on the meta device, by one forward with a hook on every leaf.

    A detector's picture is a square of `image_size`, and its heads read as many regions as it proposes when evaluated.
    """
    rule, total = CONVENTIONS[convention], 0
    attending = {id(module) for block in network.attentions() for module in block.modules()}

    def add(module: nn.Module, inputs: tuple[Tensor, ...], y: Tensor) -> None:
        nonlocal total
        total += rule(module, inputs[0], y, network if id(module) in attending else None)

    hooks = [m.register_forward_hook(add) for m in network.modules() if isinstance(m, COUNTED) or not any(m.children())]
    try:
        with torch.no_grad():
            run = network.trace if isinstance(network, Network) else network.layers
            run(torch.empty(1, 3, image_size, image_size, device="meta"))
    finally:
        for hook in hooks:
            hook.remove()
    return Complexity(sum(p.numel() for p in network.parameters() if p.requires_grad), total, image_size)


def macs(module: nn.Module, x: Tensor, y: Tensor, attended: Network | None) -> int:
    """Products of weights and inputs.  `attended`: the network, where the module belongs to one of its attentions."""
    if isinstance(module, AWConv):  # the convolution and A * K; the layers that make A count for themselves
        return y.numel() * module.weight[0].numel() + module.weight.numel()
    if isinstance(module, nn.Conv2d | nn.Linear):
        return y.numel() * module.weight[0].numel()
    return y.numel() * module.weight.numel() if type(module) is Weights else 0


def aw(module: nn.Module, x: Tensor, y: Tensor, attended: Network | None) -> int:
    """Products, and one for each element that an attention pools or scales."""
    if isinstance(module, AWConv):
        return macs(module, x, y, attended)
    if isinstance(module, Summary):
        return y.shape[-1] * x.numel()
    if isinstance(module, ChannelSummary):
        return 2 * x.numel()
    if isinstance(module, Attention) or (attended is not None and isinstance(module, GlobalPool)):
        return x.numel()
    return macs(module, x, y, attended)


def cra(module: nn.Module, x: Tensor, y: Tensor, attended: Network | None) -> int:
    """thop, as in the CRA tables.  SE's layers are counted once, as biased 1x1 convolutions; CRA's own pool is free."""
    products = macs(module, x, y, attended)
    if isinstance(module, nn.Linear) and attended is None:
        return 2 * products
    if products:
        return products + biases(module, y)
    if isinstance(module, nn.BatchNorm2d):
        return 2 * y.numel()
    if isinstance(module, nn.AvgPool2d):
        return y.numel()
    if isinstance(module, GlobalPool | Summary):
        if isinstance(attended, ShuffleNet):  # pools with a function, which thop does not see
            return 0
        fixed = attended is not None and attended.image_size < 224  # AvgPool2d in the CIFAR networks
        return x.shape[1] + (0 if fixed else x.numel())
    return 0


def dca(module: nn.Module, x: Tensor, y: Tensor, attended: Network | None) -> int:
    """ptflops, as in the DCA tables."""
    if products := macs(module, x, y, attended):
        plain = isinstance(module, nn.Linear) and not isinstance(module, Pointwise)
        return products + (0 if plain else biases(module, y))
    if isinstance(module, SK):  # the release pools the branches' sum, and where it tells what it attended both of those
        return y.numel() * (3 if connected(attended) == "attended" else 1)
    if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
        return 2 * y.numel()
    if isinstance(module, nn.ReLU | nn.ReLU6):
        return y.numel()
    if isinstance(module, MatchSize):
        return x.numel() if y.shape != x.shape else 0
    if isinstance(module, Summary):
        return y.shape[-1] * x.numel()
    return x.numel() if isinstance(module, GlobalPool | nn.MaxPool2d) else 0


def connected(network: Network | None) -> str:
    """What the network's attention blocks tell each other, if anything."""
    return next((block.tells for block in network.attentions()), "") if network else ""


def biases(module: nn.Module, y: Tensor) -> int:
    return y.numel() if getattr(module, "bias", None) is not None else 0


COUNTED = (Weights, Attention)  # besides all modules without children
CONVENTIONS: dict[str, Callable[..., int]] = dict(zip(names.CONVENTIONS, (aw, cra, dca, macs), strict=True))
