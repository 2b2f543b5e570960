"""What each channel of a CRA block looks for, and where: its template over the whole map.

Pooling to a grid and then weighing its cells is linear (CRA Eq. 4-5), so that one weight a position says both:

    T = sigmoid(sum over H, W of X * E + b),   E = P_h^T L P_w

with the block's kernel L (C, h, w), its bias b, and the matrices P that average H rows and W columns to h and w.
Where E is positive, a large value of the map opens the channel's gate; where it is negative, it closes it.
"""

import copy
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from workbench.attach import trace
from workbench.attention import attentions
from workbench.attention.cra import CRA
from workbench.attention.cra_forms import spread
from workbench.errors import OutOfRange, UnknownName
from workbench.explain.maps import array, check, untouched


class Reading(NamedTuple):
    """How a block came to its gates of one picture: template and map are (C, H, W), bias and gate (C,)."""

    template: np.ndarray
    map: np.ndarray
    bias: np.ndarray
    gate: np.ndarray

    @property
    def sums(self) -> np.ndarray:
        """Sum over H and W of map and template, (C,); sigmoid(sums + bias) is the gate."""
        return (self.map * self.template).sum((1, 2))


def template(block: CRA, height: int, width: int) -> np.ndarray:
    """E for maps of height x width: (C, height, width) float64; raises OutOfRange where the block refuses such maps."""
    weight, _ = block.transform[0].parameters()
    block.extract.check(torch.empty(1, len(weight), height, width, device="meta"))
    return spread(weight.detach()[:, 0].double(), height, width).cpu().numpy()


def kernel(block: CRA) -> np.ndarray:
    """L, the weights of the grid's cells: (C, h, w)."""
    weight, _ = block.transform[0].parameters()
    return array(weight.detach()[:, 0]).copy()


def blocks(network: nn.Module) -> dict[str, CRA]:
    """Site -> CRA block; raises OutOfRange where there is none, or where blocks also read what earlier ones did."""
    found = {str(block.site): block for block in attentions(network) if isinstance(block, CRA)}
    if not found:
        raise OutOfRange(
            f"This {type(network).__name__} has no CRA block, and only CRA has templates; use, for example, "
            "cra8-resnet20."
        )
    if any(block.connection is not None for block in found.values()):
        raise OutOfRange(
            "The CRA blocks of this network also read what earlier blocks attended, so that no template of the map "
            "alone gives their gate; use a network without dca, for example cra8-resnet20."
        )
    return found


def reading(network: nn.Module, picture: Tensor, site: str) -> Reading:
    """The template of the CRA block at `site`, the map that it saw of one picture (1, 3, H, W), and its gates."""
    check(picture)
    if len(picture) != 1:
        raise OutOfRange(f"A batch of {len(picture)} pictures; a reading is of one picture (1, 3, H, W).")
    if site not in blocks(network):
        raise UnknownName("CRA block", site, blocks(network))
    tensors = (*network.parameters(), *network.buffers())
    twin = copy.deepcopy(network, {id(tensor): tensor for tensor in tensors})  # a hook on it disturbs nobody else
    block = blocks(twin)[site]
    seen: list[Tensor] = []
    block.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad(), untouched(twin):
        steps = trace(twin, picture)[1].of("channel")
    (gate,) = [step.attention[0] for step in steps if str(step.site) == site]
    _, bias = block.transform[0].parameters()
    return Reading(template(block, *seen[0].shape[-2:]), array(seen[0][0]), array(bias.detach()).copy(), array(gate))
