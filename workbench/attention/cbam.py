"""Convolutional Block Attention Module (Woo et al., ECCV 2018): a channel gate, then a spatial gate.

    T_c = sigmoid(MLP(mean_HW X) + MLP(max_HW X)),                X' = X * T_c
    T_s = sigmoid(BN(conv7x7([max_C X', mean_C X']))),            X'' = X' * T_s

In words: mean and maximum of each channel -> one shared bottleneck -> one gate a channel; then mean and maximum of each
position -> a 7x7 convolution -> one gate a position.
Adds 2 C h + h + C parameters for the channels, h = C / r (2 C h without bias), and 98 + 2 for the positions.
"""

import torch
from torch import Tensor, nn

from workbench.attention.base import Attention, Site, Trail, mean
from workbench.attention.se import bottleneck
from workbench.errors import OutOfRange

DIMS = ("channel", "spatial")


class CBAM(nn.Module):
    """Both gates in their order.  `dims` leaves one out, `pool=avg` drops the max path, `bias` is the MLP's."""

    socket = "attention"

    def __init__(
        self,
        site: Site,
        reduction: int = 16,
        bias: bool = True,
        dims: tuple[str, ...] = DIMS,
        pool: str = "both",
    ):
        super().__init__()
        if not set(dims) <= set(DIMS) or not dims:
            raise OutOfRange(f"CBAM dims={'+'.join(dims)}; use channel, spatial or channel+spatial.")
        if pool not in ("avg", "both"):
            raise OutOfRange(f"CBAM option pool={pool}; use avg or both.")
        if "channel" in dims:
            self.channel = ChannelGate(site, reduction, bias, maximum=pool == "both")
        if "spatial" in dims:
            self.spatial = SpatialGate(site)

    def forward(self, x: Tensor, trail: Trail | None = None) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W); one Step for each gate."""
        for gate in self.children():
            x = gate(x, trail)
        return x


class ChannelGate(Attention):
    """G = [mean, max] over positions, (N, C, 2); one shared MLP, summed."""

    def __init__(self, site: Site, reduction: int, bias: bool, maximum: bool):
        super().__init__(site)
        self.extract = Summary(maximum)
        self.transform = SharedMLP(site.channels, reduction, bias)

    def memory(self, G: Tensor, T: Tensor, y: Tensor) -> Tensor:
        return G[..., :1] * T[..., None]  # the attended mean: one vector serves both paths of the next block


class SpatialGate(Attention):
    """G = [max, mean] over channels, (N, 2, H, W); a 7x7 convolution and BN give T, (N, 1, H, W)."""

    dim = "spatial"

    def __init__(self, site: Site):
        super().__init__(site)
        self.extract = ChannelSummary()
        self.transform = nn.Sequential(
            nn.Conv2d(2, 1, 7, padding=3, bias=False), nn.BatchNorm2d(1, momentum=0.01), nn.Sigmoid()
        )


class Summary(nn.Module):
    """(N, C, H, W) -> (N, C, 2), mean and maximum over positions, or (N, C, 1) without the maximum."""

    def __init__(self, maximum: bool):
        super().__init__()
        self.maximum = maximum

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([mean(x), x.amax((2, 3))], -1) if self.maximum else mean(x)[..., None]


class ChannelSummary(nn.Module):
    """(N, C, H, W) -> (N, 2, H, W), maximum and mean over channels."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x.amax(1, keepdim=True), x.mean(1, keepdim=True)], 1)


class SharedMLP(nn.Module):
    """(N, C, k) -> (N, C): the same bottleneck on each of k descriptors, summed, sigmoid."""

    def __init__(self, channels: int, reduction: int, bias: bool):
        super().__init__()
        self.mlp = nn.Sequential(*bottleneck(channels, reduction, bias))

    def forward(self, G: Tensor) -> Tensor:
        return self.mlp(G.transpose(1, 2)).sum(1).sigmoid()
