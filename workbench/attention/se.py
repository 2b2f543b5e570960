"""Squeeze-and-Excitation (Hu et al., CVPR 2018), as counted in the CRA and DCA tables: biased FCs, r = 16.

    T = sigmoid(W2 relu(W1 GAP(X) + b1) + b2),   W1: C -> C/r,   W2: C/r -> C
    X' = X * T

In words: mean of each channel -> two fully-connected layers with a bottleneck -> one gate a channel.
Adds 2 C h + h + C parameters, h = C / r.
"""

from torch import nn

from workbench.attention.base import Attention, GlobalPool, Site
from workbench.errors import OutOfRange


class SE(Attention):
    """Channel gate from the global mean.  `reduction_first` is r in the first block of each stage (DCA Table 4)."""

    def __init__(self, site: Site, reduction: int = 16, reduction_first: int = 0):
        super().__init__(site)
        r = reduction_first if reduction_first and site.block == 1 else reduction
        self.extract = GlobalPool()
        self.transform = nn.Sequential(*bottleneck(site.channels, r), nn.Sigmoid())


def bottleneck(
    channels: int, reduction: int, bias: bool = True, layer: type[nn.Linear] = nn.Linear
) -> tuple[nn.Linear, nn.ReLU, nn.Linear]:
    """The two fully-connected layers C -> C/r -> C of SE, CBAM and others."""
    if not 1 <= reduction <= channels:
        raise OutOfRange(f"Reduction {reduction} of {channels} channels; it must be from 1 to {channels}.")
    hidden = channels // reduction
    return layer(channels, hidden, bias), nn.ReLU(), layer(hidden, channels, bias)
