"""MobileNetV1 (Howard et al., 2017), MobileNetV2 (Sandler et al., CVPR 2018) and MnasNet-B1 (Tan et al., CVPR 2019).

The last two are torchvision's, with its initialisation and its BN momentum.  Their attention stands at the end of
the branch, after its last BN and before the shortcut; MobileNetV1's after every ReLU but the stem's, as in the
SE-MobileNet of the AW paper.  The conv socket is MobileNetV2's depthwise 3x3 and MobileNetV1's pointwise 1x1.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from torch import Tensor, nn

from workbench.attention import ConvSpec, GlobalPool, Site, Trail
from workbench.backbones.network import AttentionBuilder, ConvBuilder, Network, attend, he_init, norm, plain_conv, run


class Stack(NamedTuple):
    """A stage of equal inverted residuals, of which the first has the stride."""

    expansion: int
    kernel: int
    channels: int
    depth: int
    stride: int


MOBILENETV2 = (
    Stack(1, 3, 16, 1, 1),
    Stack(6, 3, 24, 2, 2),
    Stack(6, 3, 32, 3, 2),
    Stack(6, 3, 64, 4, 2),
    Stack(6, 3, 96, 3, 1),
    Stack(6, 3, 160, 3, 2),
    Stack(6, 3, 320, 1, 1),
)
MNASNET = (
    Stack(3, 3, 24, 3, 2),
    Stack(3, 5, 40, 3, 2),
    Stack(6, 5, 80, 3, 2),
    Stack(6, 3, 96, 2, 1),
    Stack(6, 5, 192, 4, 2),
    Stack(6, 3, 320, 1, 1),
)
MOBILENETV1 = ((64, 1), (128, 2), (256, 2), (512, 6), (1024, 2))  # width, depth; all stages but the first halve the map


class MobileNetV2(Network):
    """Attention sites 1.1 to 7.1, numbered by stack: 17 blocks, 1,504 channels."""

    def __init__(self, *, classes: int, attention: AttentionBuilder | None = None, conv: ConvBuilder = plain_conv):
        super().__init__()
        self.features = nn.Sequential(unit(nn.Conv2d(3, 32, 3, 2, 1, bias=False), 32))
        for stack, site in sites(MOBILENETV2, 32):
            hidden = site.in_channels * stack.expansion
            layers = nn.Sequential()
            if stack.expansion > 1:
                layers.append(unit(nn.Conv2d(site.in_channels, hidden, 1, bias=False), hidden))
            spec = ConvSpec(hidden, hidden, stack.kernel, site.stride, hidden, nn.ReLU6)
            layers.append(unit(conv(site._replace(in_channels=hidden, channels=hidden), spec), hidden))
            site = site._replace(sources=(hidden,) * len(layers))
            layers.extend([nn.Conv2d(hidden, site.channels, 1, bias=False), nn.BatchNorm2d(site.channels)])
            self.features.append(InvertedResidual(site, "conv", layers, attention))
        self.features.append(unit(nn.Conv2d(320, 1280, 1, bias=False), 1280))
        self.avgpool = GlobalPool()
        last = nn.Linear(1280, classes)
        self.classifier = nn.Sequential(nn.Dropout(0.2), last)
        he_init(self)
        nn.init.normal_(last.weight, 0, 0.01)
        nn.init.zeros_(last.bias)

    def maps(self, x: Tensor, trail: Trail) -> list[Tensor]:
        """(N, 3, H, W) -> the maps after each stack; the last one after the 1x1 to 1,280 channels."""
        stem, *blocks, last = self.features
        x = stem(x)
        maps = {}
        for block in blocks:
            x = maps[block.stage] = block(x, trail)
        return [*list(maps.values())[:-1], last(x)]

    def classify(self, descriptor: Tensor) -> Tensor:
        return self.classifier(descriptor)


class MnasNet(Network):
    """Attention sites 1.1 to 6.1, numbered by stack: 16 blocks, 1,712 channels; the separable convolution has none."""

    def __init__(self, *, classes: int, attention: AttentionBuilder | None = None):
        super().__init__()
        stacks = [nn.Sequential() for _ in MNASNET]
        for stack, site in sites(MNASNET, 16):
            hidden = site.in_channels * stack.expansion
            expand = slow_unit(site.in_channels, hidden)
            depthwise = slow_unit(hidden, hidden, stack.kernel, site.stride, hidden)
            project = slow_unit(hidden, site.channels)[:2]
            layers = nn.Sequential(*expand, *depthwise, *project)
            site = site._replace(sources=(hidden, hidden))
            stacks[site.stage - 1].append(InvertedResidual(site, "layers", layers, attention))
        separable = [*slow_unit(32, 32, 3, groups=32), *slow_unit(32, 16)[:2]]
        self.layers = nn.Sequential(*slow_unit(3, 32, 3, 2), *separable, *stacks, *slow_unit(320, 1280))
        self.avgpool = GlobalPool()
        last = nn.Linear(1280, classes)
        self.classifier = nn.Sequential(nn.Dropout(0.2), last)
        he_init(self)
        nn.init.kaiming_uniform_(last.weight, mode="fan_out", nonlinearity="sigmoid")
        nn.init.zeros_(last.bias)

    def maps(self, x: Tensor, trail: Trail) -> list[Tensor]:
        """(N, 3, H, W) -> the maps after each stack; the last one after the 1x1 to 1,280 channels."""
        maps = {}
        for layer in flat(self.layers):
            if isinstance(layer, InvertedResidual):
                x = maps[layer.stage] = layer(x, trail)
            else:
                x = layer(x)
        return [*list(maps.values())[:-1], x]

    def classify(self, descriptor: Tensor) -> Tensor:
        return self.classifier(descriptor)


class MobileNetV1(Network):
    """A stem and 13 separable convolutions; the depthwise and the pointwise half are blocks of their own.

    Attention sites 1.1 and 1.2 to 5.3 and 5.4: 26 of them, odd blocks depthwise, even ones pointwise.
    """

    def __init__(self, *, classes: int, attention: AttentionBuilder | None = None, conv: ConvBuilder = plain_conv):
        super().__init__()
        channels = 32
        self.stem = unit(nn.Conv2d(3, channels, 3, 2, 1, bias=False), channels, nn.ReLU)
        self.stages = nn.ModuleList()
        for stage, (width, depth) in enumerate(MOBILENETV1, 1):
            blocks = nn.ModuleList()
            for number in range(1, depth + 1):
                stride = 2 if stage > 1 and number == 1 else 1
                blocks.append(Separable(Site(stage, number, channels, width, stride), attention, conv))
                channels = width
            self.stages.append(blocks)
        self.head(channels, classes)
        he_init(self)

    def maps(self, x: Tensor, trail: Trail) -> list[Tensor]:
        x = self.stem(x)
        maps = []
        for stage in self.stages:
            for block in stage.children():
                x = block(x, trail)
            maps.append(x)
        return maps


class Separable(nn.Module):
    """Depthwise 3x3, which has the stride, then pointwise 1x1, each with BN, ReLU and attention."""

    def __init__(self, site: Site, attention: AttentionBuilder | None, conv: ConvBuilder):
        super().__init__()
        inputs, outputs = site.in_channels, site.channels
        first = site._replace(block=2 * site.block - 1, channels=inputs)
        second = site._replace(block=2 * site.block, stride=1)
        self.depthwise = unit(plain_conv(first, ConvSpec(inputs, inputs, 3, site.stride, inputs)), inputs, nn.ReLU)
        self.attention1 = attention(first) if attention else None
        self.pointwise = unit(conv(second, ConvSpec(inputs, outputs, 1)), outputs, nn.ReLU)
        self.attention2 = attention(second) if attention else None

    def forward(self, x: Tensor, trail: Trail) -> Tensor:
        x = attend(self.depthwise(x), self.attention1, trail)
        for layer in self.pointwise:
            x = run(layer, x, trail)
        return attend(x, self.attention2, trail)


class InvertedResidual(nn.Module):
    """1x1 to a larger width, depthwise, 1x1 to the new width; plus the input where the shape stays.

    The branch's `layers` are kept under torchvision's `name`.  Its maps after each activation are the site's sources.
    """

    def __init__(self, site: Site, name: str, layers: nn.Sequential, attention: AttentionBuilder | None):
        super().__init__()
        self.stage, self.name = site.stage, name
        self.residual = site.stride == 1 and site.in_channels == site.channels
        self.add_module(name, layers)
        self.attention = attention(site) if attention else None

    def forward(self, x: Tensor, trail: Trail) -> Tensor:
        y, earlier = x, []
        for layer in flat(self.get_submodule(self.name)):
            y = run(layer, y, trail)
            if isinstance(layer, nn.ReLU | nn.ReLU6):
                earlier.append(y)
        y = attend(y, self.attention, trail, *earlier)
        return x + y if self.residual else y


def sites(stacks: tuple[Stack, ...], channels: int) -> Iterator[tuple[Stack, Site]]:
    """Every block's site, with its stack; `channels` enter the first."""
    for stage, stack in enumerate(stacks, 1):
        for block in range(1, stack.depth + 1):
            yield stack, Site(stage, block, channels, stack.channels, stack.stride if block == 1 else 1)
            channels = stack.channels


def unit(conv: nn.Module, channels: int, activation: Callable[..., nn.Module] = nn.ReLU6) -> nn.Sequential:
    """A convolution with its BN and activation."""
    return nn.Sequential(conv, norm(conv, channels), activation(inplace=True))


def slow_unit(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """The same for MnasNet, whose running statistics move by 0.0003 a step, as torchvision's."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs, momentum=1 - 0.9997), nn.ReLU(inplace=True)]


def flat(layers: nn.Module) -> Iterator[nn.Module]:
    """The layers of nested sequences, in a row."""
    for layer in layers.children():
        if isinstance(layer, nn.Sequential):
            yield from flat(layer)
        else:
            yield layer


mobilenetv1, mobilenetv2, mnasnet1_0 = MobileNetV1, MobileNetV2, MnasNet
