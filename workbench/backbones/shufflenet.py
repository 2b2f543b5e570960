"""ShuffleNet v1 (Zhang et al., CVPR 2018), 1x with 3 groups, in the form for 32x32 pictures that CRA Table V counts.

    y = BN(gconv1x1(BN(dwconv3x3(shuffle(relu(BN(gconv1x1(x))))))))
    unit = relu(y + x),   or with stride 2   relu([avgpool3x3(x), y])

A 3x3 stem of stride 1 without a pool, three stages of 4, 8 and 4 units, biases in all convolutions, and a grouped first
1x1 in the first stage too, where the paper has an ungrouped one.  Attention stands on y.  Weights start as PyTorch's.
"""

from functools import partial

import torch
from torch import Tensor, nn

from workbench.attention import Site, Trail
from workbench.backbones.network import AttentionBuilder, Network, attend


class ShuffleNet(Network):
    """Stages of `depths` units; the first has `width` channels, each other one twice as many."""

    image_size = 32

    def __init__(
        self,
        depths: tuple[int, ...],
        width: int,
        groups: int,
        *,
        classes: int,
        attention: AttentionBuilder | None = None,
    ):
        super().__init__()
        channels = 24
        self.stem = nn.Sequential(*conv_norm(3, channels, 3), nn.ReLU(inplace=True))
        self.stages = nn.ModuleList()
        for stage, depth in enumerate(depths, 1):
            units = nn.ModuleList()
            out = width * 2 ** (stage - 1)
            for block in range(1, depth + 1):
                site = Site(stage, block, channels, out - channels if block == 1 else out, 2 if block == 1 else 1)
                units.append(Unit(site, out, groups, attention))
                channels = out
            self.stages.append(units)
        self.head(channels, classes)

    def maps(self, x: Tensor, trail: Trail) -> list[Tensor]:
        x = self.stem(x)
        maps = []
        for stage in self.stages:
            for unit in stage.children():
                x = unit(x, trail)
            maps.append(x)
        return maps


class Unit(nn.Module):
    """A bottleneck of a quarter of the unit's width; `site` is that of its branch, which makes the missing channels."""

    def __init__(self, site: Site, out: int, groups: int, attention: AttentionBuilder | None):
        super().__init__()
        inner = out // 4
        self.compress = nn.Sequential(*conv_norm(site.in_channels, inner, 1, 1, groups), nn.ReLU(inplace=True))
        self.shuffle = nn.ChannelShuffle(groups)
        self.depthwise = nn.Sequential(*conv_norm(inner, inner, 3, site.stride, inner))
        self.expand = nn.Sequential(*conv_norm(inner, site.channels, 1, 1, groups))
        self.attention = attention(site._replace(sources=(inner, inner))) if attention else None
        self.pool = nn.AvgPool2d(3, 2, 1) if site.stride == 2 else None
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor, trail: Trail) -> Tensor:
        first = self.compress(x)
        second = self.depthwise(self.shuffle(first))
        y = attend(self.expand(second), self.attention, trail, first, second)
        return self.relu(x + y if self.pool is None else torch.cat([self.pool(x), y], 1))


def conv_norm(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> tuple[nn.Module, nn.Module]:
    """A biased convolution and its BN."""
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups), nn.BatchNorm2d(outputs)


shufflenet = partial(ShuffleNet, (4, 8, 4), 240, 3)
shufflenet0_5 = partial(ShuffleNet, (4, 8, 4), 120, 3)  # 0.5x
