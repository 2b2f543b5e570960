"""ResNet (He et al., CVPR 2016) and ResNeXt (Xie et al., CVPR 2017), as torchvision's, and their CIFAR forms.

Attention stands at the end of the branch, before the shortcut is added.  The conv socket is the 3x3 of a bottleneck
and the second 3x3 of a basic block; the stage socket stands after every stage but the last.
"""

from functools import partial
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from workbench.attention import ConvSpec, Site, Trail
from workbench.backbones.network import AttentionBuilder, ConvBuilder, Network, attend, he_init, norm, plain_conv, run


class Design(NamedTuple):
    """depths: blocks a stage; width: of the stem; the 3x3 has `groups` groups, each group_width / 64 of a plain one's.

    cifar: a 3x3 stem on 32x32 pictures; padded: parameter-free shortcuts (option A); v1: the stride of a bottleneck
    on its first 1x1, as the original, instead of the 3x3.
    """

    block: "type[Basic] | type[Bottleneck]"
    depths: tuple[int, ...]
    width: int = 64
    cifar: bool = False
    padded: bool = False
    groups: int = 1
    group_width: int = 64
    v1: bool = False


class Basic(nn.Module):
    """Two 3x3 convolutions; the first carries the stride."""

    expansion = 1

    def __init__(
        self,
        site: Site,
        design: Design,
        attention: AttentionBuilder | None,
        conv: ConvBuilder,
        shortcut: nn.Module | None,
    ):
        super().__init__()
        out = site.channels
        self.conv1 = plain_conv(site, ConvSpec(site.in_channels, out, 3, site.stride))
        self.bn1 = nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = conv(site._replace(in_channels=out), ConvSpec(out, out))
        self.bn2 = norm(self.conv2, out)
        self.attention = attention(site._replace(sources=(out,))) if attention else None
        self.downsample = shortcut
        self.writable = known(self.attention) and known(self.conv2)

    def forward(self, x: Tensor, trail: Trail) -> Tensor:
        first = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(run(self.conv2, first, trail))
        return self.relu(join(y, x, self, trail, first))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1; the 3x3 carries the stride (torchvision's v1.5), or the first 1x1 (v1)."""

    expansion = 4

    def __init__(
        self,
        site: Site,
        design: Design,
        attention: AttentionBuilder | None,
        conv: ConvBuilder,
        shortcut: nn.Module | None,
    ):
        super().__init__()
        width = site.channels // self.expansion * design.group_width // 64 * design.groups
        first, second = (site.stride, 1) if design.v1 else (1, site.stride)
        self.conv1 = plain_conv(site, ConvSpec(site.in_channels, width, 1, first))
        self.bn1 = nn.BatchNorm2d(width)
        inner = site._replace(in_channels=width, channels=width)
        self.conv2 = conv(inner, ConvSpec(width, width, 3, second, design.groups))
        self.bn2 = norm(self.conv2, width)
        self.conv3 = plain_conv(site, ConvSpec(width, site.channels, 1))
        self.bn3 = nn.BatchNorm2d(site.channels)
        self.relu = nn.ReLU(inplace=True)
        self.attention = attention(site._replace(sources=(width, width))) if attention else None
        self.downsample = shortcut
        self.writable = known(self.attention) and known(self.conv2)

    def forward(self, x: Tensor, trail: Trail) -> Tensor:
        first = self.relu(self.bn1(self.conv1(x)))
        second = self.relu(self.bn2(run(self.conv2, first, trail)))
        y = self.bn3(self.conv3(second))
        return self.relu(join(y, x, self, trail, first, second))


def join(y: Tensor, x: Tensor, block: Any, trail: Trail, *earlier: Tensor) -> Tensor:
    """The attended branch `y` plus the shortcut of the input `x`; `earlier` are the branch's other maps.

    In place, unless a class of one's own made the map: it may have kept it, and its last operation may need it.
    """
    y = attend(y, block.attention, trail, *earlier)
    shortcut = x if block.downsample is None else block.downsample(x)
    return y.add_(shortcut) if block.writable else y + shortcut


def known(module: nn.Module | None) -> bool:
    """Whether this project's or torch's, whose maps may be written into."""
    return type(module).__module__.startswith(("builtins", "torch.", "workbench."))


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
        design: Design,
        *,
        classes: int,
        attention: AttentionBuilder | None = None,
        conv: ConvBuilder = plain_conv,
        stage: AttentionBuilder | None = None,
        head: AttentionBuilder | None = None,
    ):
        super().__init__()
        self.image_size = 32 if design.cifar else 224
        channels = design.width
        self.conv1 = nn.Conv2d(3, channels, *((3, 1, 1) if design.cifar else (7, 2, 3)), bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.Identity() if design.cifar else nn.MaxPool2d(3, 2, 1)
        self.stages = [f"layer{number}" for number in range(1, len(design.depths) + 1)]
        self.between = nn.ModuleList()
        widths = [design.width * 2**number * design.block.expansion for number in range(len(self.stages))]
        for number, (name, depth, out) in enumerate(zip(self.stages, design.depths, widths, strict=True), 1):
            blocks = nn.ModuleList()
            for block in range(1, depth + 1):
                site = Site(number, block, channels, out, 2 if number > 1 and block == 1 else 1)
                changes = site.stride > 1 or channels != out
                shortcut = (PadShortcut if design.padded else projection)(site) if changes else None
                blocks.append(design.block(site, design, attention, conv, shortcut))
                channels = out
            self.add_module(name, blocks)
            if stage and number < len(self.stages):
                self.between.append(stage(Site(number, depth + 1, out, out)))
        self.head(channels, classes, head, tuple(widths[:-1]))
        he_init(self)

    def maps(self, x: Tensor, trail: Trail) -> list[Tensor]:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        maps = []
        for number, stage in enumerate(self.stages):
            for block in self.get_submodule(stage).children():
                x = block(x, trail)
            if number < len(self.between):
                x = self.between[number](x, trail)
            maps.append(x)
        return maps


resnet18 = partial(ResNet, Design(Basic, (2, 2, 2, 2)))
resnet34 = partial(ResNet, Design(Basic, (3, 4, 6, 3)))
resnet50 = partial(ResNet, Design(Bottleneck, (3, 4, 6, 3)))
resnet101 = partial(ResNet, Design(Bottleneck, (3, 4, 23, 3)))
resnet152 = partial(ResNet, Design(Bottleneck, (3, 8, 36, 3)))
resnet50v1 = partial(ResNet, Design(Bottleneck, (3, 4, 6, 3), v1=True))
resnet101v1 = partial(ResNet, Design(Bottleneck, (3, 4, 23, 3), v1=True))
resnext50 = partial(ResNet, Design(Bottleneck, (3, 4, 6, 3), groups=32, group_width=4))
resnext101 = partial(ResNet, Design(Bottleneck, (3, 4, 23, 3), groups=32, group_width=4))
resnext29 = partial(ResNet, Design(Bottleneck, (3, 3, 3), cifar=True, groups=64, group_width=8))
# ResNet-(6n+2): three stages of n basic blocks
resnet8, resnet14, resnet20, resnet32, resnet44, resnet56, resnet110 = (
    partial(ResNet, Design(Basic, (n, n, n), 16, cifar=True, padded=True)) for n in (1, 2, 3, 5, 7, 9, 18)
)
# ResNeXt-(9n+2) as narrow as those: three stages of n bottlenecks whose 3x3 has 4 groups.  No paper's.
resnext11, resnext20 = (
    partial(ResNet, Design(Bottleneck, (n, n, n), 16, cifar=True, groups=4, group_width=16)) for n in (1, 2)
)
