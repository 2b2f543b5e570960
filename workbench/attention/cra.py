"""Channel Reassessment Attention (Shen and Wen, 2020: "Convolutional Neural Network optimization via Channel
Reassessment Attention module"), II-A and II-B.

    U = pool(X) to h x w                          Eq. 4
    T = sigmoid(sum over h, w of L * U + b)       Eq. 5, a global depthwise convolution (GDConv)
    X' = X * T                                    Eq. 6

In words: a small grid of means of each channel -> one weight a cell, summed -> one gate a channel.
Adds C (h w + 1) parameters: a kernel and a bias per channel, no normalisation.
"""

from typing import Any

from torch import Tensor, nn

from workbench.attention.base import Attention, GridPool, Site, Trail
from workbench.attention.cra_forms import reassess
from workbench.errors import OutOfRange


class CRA(Attention):
    """Channel gate from a size x size grid; size 1 is a per-channel gate on the global mean."""

    extract: GridPool
    transform: nn.Sequential

    def __init__(self, site: Site, size: int = 7, small: str = "refuse"):
        super().__init__(site)
        if size < 1:
            raise OutOfRange(f"CRA grid {size}; it must be at least 1 and at most the side of the smallest map.")
        if small not in ("refuse", "repeat"):
            raise OutOfRange(f"CRA option small={small}; use refuse (CRA Eq. 4) or repeat (CRA Table V, VGG-16).")
        self.extract = GridPool(size, small)
        self.transform = nn.Sequential(GlobalDepthwise(site.channels, size), nn.Sigmoid())

    def alone(self, x: Tensor, trail: Trail) -> Tensor:
        """In one of the fast forms, unless somebody changed a part, pruning its weights by a hook or otherwise."""
        conv: Any = self.transform[0]
        kinds = [type(part) for part in (self, self.extract, *self.transform)]
        if kinds != [CRA, GridPool, GlobalDepthwise, nn.Sigmoid] or conv._forward_pre_hooks:
            return super().alone(x, trail)
        self.extract.check(x)
        return reassess(x, conv.weight[:, 0], conv.bias)


class GlobalDepthwise(nn.Conv2d):
    """Depthwise convolution whose kernel covers the whole map: (N, C, h, w) -> (N, C).  CRA Eq. 5."""

    def __init__(self, channels: int, size: int):
        super().__init__(channels, channels, size, groups=channels)

    def forward(self, u: Tensor) -> Tensor:
        assert self.bias is not None
        return (u * self.weight[:, 0]).sum((2, 3)) + self.bias
