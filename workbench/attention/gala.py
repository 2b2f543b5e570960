"""Global-and-local attention (Linsley et al., ICLR 2019), r = 16, without its human click maps.

g = W2 relu(W1 GAP(X))                      (N, C), biased
l = V2 relu(V1 X)                           (N, 1, H, W), 1x1 convolutions with biases
T = tanh(a (g + l) + m g l)                 a and m per channel
X' = X * T

In words: what, from the means through a bottleneck; where, from 1x1 convolutions to one channel; added and multiplied
with learned weights to a gate for every value.
Adds 3 C h + 3 h + 3 C + 1 parameters, h = C / r.
"""

import torch
from torch import Tensor, nn

from workbench.attention.base import Attention, GlobalPool, Site
from workbench.attention.se import bottleneck


class GALA(Attention):
    """T is (N, C, H, W) in (-1, 1); a and m start at 1 and 0, the sum alone."""

    def __init__(self, site: Site, reduction: int = 16):
        super().__init__(site)
        self.extract = nn.Identity()
        self.transform = GlobalLocal(site.channels, reduction)


class GlobalLocal(nn.Module):
    """(N, C, H, W) -> (N, C, H, W): what and where, added and multiplied."""

    def __init__(self, channels: int, reduction: int):
        super().__init__()
        layers = bottleneck(channels, reduction)
        hidden = layers[0].out_features
        self.globally = nn.Sequential(GlobalPool(), *layers)
        self.locally = nn.Sequential(nn.Conv2d(channels, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, 1, 1))
        self.sum = nn.Parameter(torch.ones(channels, 1, 1))
        self.product = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        g, l = self.globally(x)[..., None, None], self.locally(x)
        return torch.tanh(self.sum * (g + l) + self.product * (g * l))
