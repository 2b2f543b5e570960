"""ResNet (He et al., CVPR 2016), as torchvision's, and its CIFAR form with parameter-free shortcuts (option A).

Attention stands at the end of the branch, before the shortcut is added.  The conv socket is the 3x3 of a bottleneck
and the second 3x3 of a basic block.
"""

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from workbench.attention import Site, Trail
from workbench.backbones.network import AttentionBuilder, ConvBuilder, Network, he_init, plain_conv


class Basic(nn.Module):
    """Two 3x3 convolutions; the first carries the stride."""

    expansion = 1

    def __init__(self, site: Site, attention: AttentionBuilder | None, conv: ConvBuilder, shortcut: nn.Module | None):
        super().__init__()
        self.conv1 = plain_conv(site, site.in_channels, site.channels, 3, site.stride)
        self.bn1 = nn.BatchNorm2d(site.channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = conv(site, site.channels, site.channels, 3, 1)
        self.bn2 = nn.BatchNorm2d(site.channels)
        self.attention = attention(site) if attention else None
        self.downsample = shortcut

    def forward(self, x: Tensor, trail: Trail) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu(join(y, x, self.attention, self.downsample, trail))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1; the 3x3 carries the stride (torchvision's v1.5)."""

    expansion = 4

    def __init__(self, site: Site, attention: AttentionBuilder | None, conv: ConvBuilder, shortcut: nn.Module | None):
        super().__init__()
        width = site.channels // self.expansion
        self.conv1 = plain_conv(site, site.in_channels, width, 1, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv(site, width, width, 3, site.stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = plain_conv(site, width, site.channels, 1, 1)
        self.bn3 = nn.BatchNorm2d(site.channels)
        self.relu = nn.ReLU(inplace=True)
        self.attention = attention(site) if attention else None
        self.downsample = shortcut

    def forward(self, x: Tensor, trail: Trail) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.relu(join(y, x, self.attention, self.downsample, trail))


def join(y: Tensor, x: Tensor, attention: nn.Module | None, shortcut: nn.Module | None, trail: Trail) -> Tensor:
    """The attended branch `y` plus the shortcut of the input `x`."""
    y = y if attention is None else attention(y, trail)
    return y + (x if shortcut is None else shortcut(x))


class PadShortcut(nn.Module):
    """Option A: every second position, new channels zero, half before and half after.  No parameters."""

    def __init__(self, site: Site):
        super().__init__()
        self.stride, self.extra = site.stride, site.channels - site.in_channels

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, self.extra // 2, self.extra - self.extra // 2))


def projection(site: Site) -> nn.Module:
    """Option B, torchvision's: 1x1 convolution and BN where the shape changes."""
    return nn.Sequential(
        nn.Conv2d(site.in_channels, site.channels, 1, site.stride, bias=False), nn.BatchNorm2d(site.channels)
    )


class ResNet(Network):
    """Stages of equal blocks; the first block of every stage but the first halves the map."""

    def __init__(
        self,
        block: type[Basic] | type[Bottleneck],
        depths: tuple[int, ...],
        width: int,
        cifar: bool,
        *,
        classes: int,
        attention: AttentionBuilder | None = None,
        conv: ConvBuilder = plain_conv,
    ):
        super().__init__()
        self.image_size = 32 if cifar else 224
        self.conv1 = nn.Conv2d(3, width, 3 if cifar else 7, 1 if cifar else 2, 1 if cifar else 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.Identity() if cifar else nn.MaxPool2d(3, 2, 1)
        channels = width
        for stage, depth in enumerate(depths, 1):
            blocks = nn.ModuleList()
            for number in range(1, depth + 1):
                out = width * 2 ** (stage - 1) * block.expansion
                site = Site(stage, number, channels, out, 2 if stage > 1 and number == 1 else 1)
                changes = site.stride > 1 or channels != out
                shortcut = (PadShortcut if cifar else projection)(site) if changes else None
                blocks.append(block(site, attention, conv, shortcut))
                channels = out
            self.add_module(f"layer{stage}", blocks)
        self.stages = [f"layer{stage}" for stage in range(1, len(depths) + 1)]
        self.head(channels, classes)
        he_init(self)

    def features(self, x: Tensor, trail: Trail) -> list[Tensor]:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        maps = []
        for stage in self.stages:
            for block in self.get_submodule(stage).children():
                x = block(x, trail)
            maps.append(x)
        return maps


resnet18 = partial(ResNet, Basic, (2, 2, 2, 2), 64, False)
resnet34 = partial(ResNet, Basic, (3, 4, 6, 3), 64, False)
resnet50 = partial(ResNet, Bottleneck, (3, 4, 6, 3), 64, False)
resnet101 = partial(ResNet, Bottleneck, (3, 4, 23, 3), 64, False)
resnet152 = partial(ResNet, Bottleneck, (3, 8, 36, 3), 64, False)
# ResNet-(6n+2): three stages of n basic blocks
resnet20, resnet32, resnet44, resnet56, resnet110 = (
    partial(ResNet, Basic, (n, n, n), 16, True) for n in (3, 5, 7, 9, 18)
)
