"""The layer list of a ResNet as CRA Table I prints it, read off the built network."""

from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from workbench.attention.cra import CRA
from workbench.attention.se import SE
from workbench.backbones.resnet import ResNet
from workbench.build import build
from workbench.errors import OutOfRange


def layers(model: str, classes: int = 1000) -> tuple[tuple[str, str], ...]:
    """(output size, operations) line by line: ("56x56", "[1x1,64; 3x3,64; 1x1,256] x3 + fc [16,256]"), ...

    Equal blocks of a stage are one line.  The softmax is the loss's; no network here contains it.
    """
    with torch.device("meta"):
        network = build(model, classes).eval()
    if not isinstance(network, ResNet):
        raise OutOfRange(f"{model} has no such list; the layers of resnet and resnext networks can be listed.")
    named = {module: words for module, words in _lines(network)}
    sizes: dict[nn.Module, str] = {}

    def note(module: nn.Module, inputs: Any, y: Tensor) -> None:
        sizes[module] = "x".join(map(str, y.shape[2:])) or "1x1"

    hooks = [module.register_forward_hook(note) for module in named]
    side = network.image_size
    with torch.no_grad():
        network(torch.empty(1, 3, side, side, device="meta"))
    for hook in hooks:
        hook.remove()
    return tuple((sizes[module], words) for module, words in named.items())


def _lines(network: ResNet) -> list[tuple[nn.Module, str]]:
    """The modules after which a line's output stands, and its words."""
    lines: list[tuple[nn.Module, str]] = [(network.conv1, f"conv, {_kernel(network.conv1)}{_stride(network.conv1)}")]
    if isinstance(network.maxpool, nn.MaxPool2d):
        pool = network.maxpool
        lines.append((pool, f"max pool, {pool.kernel_size}x{pool.kernel_size}{_stride(pool)}"))
    for name in network.stages:
        for (convs, *module), equal in groupby(network.get_submodule(name).children(), _block):
            blocks = list(equal)
            lines.append((blocks[-1], " + ".join([f"{convs} x{len(blocks)}", *module])))
    return [*lines, (network.avgpool, f"global average pool, {network.fc.out_features}-d fc, softmax")]


def _block(block: nn.Module) -> tuple[str, ...]:
    """("[1x1,64; 3x3,64; 1x1,256]", "CRA <7x7>,256")."""
    parts = dict(block.named_children())
    convs = "; ".join(_kernel(parts[name], ",") for name in ("conv1", "conv2", "conv3") if name in parts)
    module = parts.get("attention")
    return (f"[{convs}]", *([_module(module)] if module else []))


def _kernel(conv: nn.Module, comma: str = ", ") -> str:
    """ "3x3,64"; a module in the place of a convolution by its name."""
    if not isinstance(conv, nn.Conv2d):
        return type(conv).__name__
    height, width = conv.kernel_size
    groups = f" in {conv.groups} groups" if conv.groups > 1 else ""
    return f"{height}x{width}{comma}{conv.out_channels}{groups}"


def _stride(layer: Any) -> str:
    step = layer.stride if isinstance(layer.stride, int) else layer.stride[0]
    return f", stride {step}" if step > 1 else ""


def _module(module: nn.Module) -> str:
    if isinstance(module, SE):
        widths = [layer.out_features for layer in module.transform.children() if isinstance(layer, nn.Linear)]
        return f"fc [{','.join(map(str, widths))}]"
    if isinstance(module, CRA):
        height, width = next(m.kernel_size for m in module.modules() if isinstance(m, nn.Conv2d))
        return f"CRA <{height}x{width}>,{module.site.channels}"
    return type(module).__name__
