"""Bottleneck Attention Module (Park et al., BMVC 2018), between the stages of a network; r = 16, dilation 4.

M_c = MLP(GAP(X))                     biased FCs, BN between them
M_s = conv1x1(conv3x3(conv3x3(conv1x1(X))))     to one channel; the 3x3 dilated
X' = X * (1 + sigmoid(M_c * M_s))     the released code; the text adds M_c and M_s

In words: the mean of each channel through a bottleneck, the map through dilated convolutions to one channel, multiplied
to a gate for every value, which adds to what is there.
Adds 2 C h + C + 3 h and C h + 18 h h + 10 h + 1 parameters, h = C / r.
"""

import torch
from torch import Tensor, nn

from workbench.attention.base import Attention, GlobalPool, Site, scale
from workbench.attention.se import bottleneck
from workbench.errors import OutOfRange


class BAM(Attention):
    """T is (N, C, H, W).  It stands after a stage, so it sees the shortcut's sum, not a branch."""

    socket = "stage"

    def __init__(self, site: Site, reduction: int = 16, dilation: int = 4):
        super().__init__(site)
        if dilation < 1:
            raise OutOfRange(f"BAM dilation {dilation}; it must be at least 1.")
        self.extract = nn.Identity()
        self.transform = BothMaps(site.channels, reduction, dilation)

    def fuse(self, T: Tensor, x: Tensor) -> Tensor:
        return scale(x, 1 + T)


class BothMaps(nn.Module):
    """(N, C, H, W) -> sigmoid of the channel map times the position map, (N, C, H, W)."""

    def __init__(self, channels: int, reduction: int, dilation: int):
        super().__init__()
        first, relu, last = bottleneck(channels, reduction)
        hidden = first.out_features
        self.channel = nn.Sequential(GlobalPool(), first, nn.BatchNorm1d(hidden), relu, last)
        layers: list[nn.Module] = []
        for inputs, kernel in ((channels, 1), (hidden, 3), (hidden, 3)):
            spread = dilation if kernel == 3 else 1
            conv = nn.Conv2d(inputs, hidden, kernel, padding=kernel // 2 * spread, dilation=spread)
            layers += [conv, nn.BatchNorm2d(hidden), nn.ReLU()]
        self.spatial = nn.Sequential(*layers, nn.Conv2d(hidden, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.channel(x)[..., None, None] * self.spatial(x))
