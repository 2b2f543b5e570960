"""Gather-Excite (Hu et al., NeurIPS 2018): a map of means over large neighbourhoods gates the map itself.

    G = upsample(gather(X)),   T = sigmoid(G),   X' = X * T

In words: every neighbourhood's summary, repeated to the size of the map -> one gate for every value.
Adds 11 C log2(E) parameters with theta, none without.

gather: `theta` log2(E) depthwise 3x3 convolutions of stride 2, each with BN and no activation between (GE-theta, what
the DCA tables count with E = 8); without theta the plain mean over (2E - 1)^2 positions at stride E (GE-theta-minus).
E = 0 is the whole map: without theta SE without its two layers; with theta one weight per position and channel, which
is a CRA whose grid is the map.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from workbench.attention.base import Attention, Site, Trail, mean
from workbench.errors import OutOfRange


class GE(Attention):
    """T is (N, C, H, W).  `size` is the extent ratio E: 2, 4, 8, ..., or 0 for the whole map."""

    extract: "Gather"

    def __init__(self, site: Site, size: int = 8, theta: bool = True):
        super().__init__(site)
        if size & (size - 1) or size == 1:
            raise OutOfRange(f"GE extent {size}; use a power of two from 2 on, or 0 for the whole map.")
        if theta and size == 0:
            raise OutOfRange("GE with theta and extent 0 is a CRA whose grid is the map; use cra7, or theta=false.")
        self.extract = Gather(site.channels, size, theta)
        self.transform = nn.Sigmoid()

    def alone(self, x: Tensor, trail: Trail) -> Tensor:
        """The sigmoid before the upsampling, where its map is small: repeating values commutes with it."""
        T = self.transform(self.extract.small(x))
        return self.fuse(T if T.shape[-2:] == (1, 1) else F.interpolate(T, x.shape[-2:]), x)

    def memory(self, G: Tensor, T: Tensor, y: Tensor) -> Tensor:
        return y.clone()  # the attended map, as the release of DCA; the network may add its shortcut to y in place


class Gather(nn.Module):
    """(N, C, H, W) -> (N, C, H, W): gathered at stride `extent`, repeated to the size of the map."""

    def __init__(self, channels: int, extent: int, theta: bool):
        super().__init__()
        self.extent = extent
        steps = extent.bit_length() - 1 if theta else 0
        self.layers = nn.Sequential()
        for _ in range(steps):
            self.layers.append(nn.Conv2d(channels, channels, 3, 2, 1, groups=channels, bias=False))
            self.layers.append(nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(self.small(x), x.shape[-2:])

    def small(self, x: Tensor) -> Tensor:
        """Gathered, before the upsampling."""
        if self.layers:
            return self.layers(x)
        if self.extent:
            window = 2 * self.extent - 1
            return F.avg_pool2d(x, window, self.extent, window // 2, count_include_pad=False)
        return mean(x)[..., None, None]
