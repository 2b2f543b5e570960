"""Global Context block (Cao et al., ICCV workshops 2019), in every block of the network, r = 16.

G = sum over positions j of softmax_j(W_k X)_j X_j        one attention map for all positions
T = W2 relu(LayerNorm(W1 G))                              W2 starts at 0, so the block starts as the identity
X' = X + T

In words: one softmax map of positions -> the mean so weighted -> a bottleneck -> one term a channel, added everywhere.
Adds 2 C h + 3 h + 2 C + 1 parameters, h = C / r.
"""

import torch
from torch import Tensor, nn

from workbench.attention.base import Attention, Site
from workbench.attention.se import bottleneck
from workbench.errors import OutOfRange


class GC(Attention):
    """Adds a context vector to every position; the only block here that adds instead of scaling."""

    def __init__(self, site: Site, reduction: int = 16):
        super().__init__(site)
        first, relu, last = bottleneck(site.channels, reduction, layer=Pointwise)
        if first.out_features == 1:
            raise OutOfRange(
                f"GC reduction {reduction} of {site.channels} channels leaves one hidden unit, which LayerNorm makes "
                f"constant; use at most {site.channels // 2}."
            )
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.extract = ContextPool(site.channels)
        self.transform = nn.Sequential(first, nn.LayerNorm(first.out_features), relu, last)

    def fuse(self, T: Tensor, x: Tensor) -> Tensor:
        return x + T.to(x.dtype)[..., None, None]

    def memory(self, G: Tensor, T: Tensor, y: Tensor) -> Tensor:
        return T  # what was added; there is no gate to scale by


class Pointwise(nn.Linear):
    """A 1x1 convolution of a vector: the same arithmetic as a fully-connected layer, counted as a convolution."""


class ContextPool(nn.Module):
    """(N, C, H, W) -> (N, C): the mean of all positions, weighted by a softmax over them."""

    def __init__(self, channels: int):
        super().__init__()
        self.mask = nn.Conv2d(channels, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        share = self.mask(x).flatten(2).softmax(-1)  # (N, 1, HW)
        return torch.bmm(x.flatten(2), share.transpose(1, 2))[..., 0]
