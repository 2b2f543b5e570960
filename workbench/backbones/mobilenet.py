"""MobileNetV2 (Sandler et al., CVPR 2018) and MnasNet-B1 (Tan et al., CVPR 2019).

Both are torchvision's, with its initialisation and its BN momentum.  Attention stands at the end of the branch, after
its last BN and before the shortcut.  The conv socket is MobileNetV2's depthwise 3x3.

width: times the channels of all layers, rounded to multiples of 8, as torchvision; its last 1x1 keeps 1,280.
stem=cifar: for 32x32 pictures, without the first two halvings of the map; no paper's.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Literal, NamedTuple

from torch import Tensor, nn

from workbench.attention import ConvSpec, GlobalPool, Site, Trail
from workbench.backbones.network import AttentionBuilder, ConvBuilder, Network, attend, he_init, norm, plain_conv, run
from workbench.errors import OutOfRange

Stem = Literal["imagenet", "cifar"]


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


class MobileNetV2(Network):
    """Attention sites 1.1 to 7.1, numbered by stack: 17 blocks, 1,504 channels."""

    def __init__(
        self,
        *,
        classes: int,
        attention: AttentionBuilder | None = None,
        conv: ConvBuilder = plain_conv,
        width: float = 1.0,
        stem: Stem = "imagenet",
    ):
        super().__init__()
        self.image_size, first = entry(stem)
        channels, last_channels = rounded(32, width), rounded(1280, max(1.0, width))
        self.features = nn.Sequential(unit(nn.Conv2d(3, channels, 3, first, 1, bias=False), channels))
        for stack, site in sites(fitted(MOBILENETV2, width, stem), channels):
            channels = site.channels
            hidden = site.in_channels * stack.expansion
            layers = nn.Sequential()
            if stack.expansion > 1:
                layers.append(unit(nn.Conv2d(site.in_channels, hidden, 1, bias=False), hidden))
            spec = ConvSpec(hidden, hidden, stack.kernel, site.stride, hidden, nn.ReLU6)
            layers.append(unit(conv(site._replace(in_channels=hidden, channels=hidden), spec), hidden))
            site = site._replace(sources=(hidden,) * len(layers))
            layers.extend([nn.Conv2d(hidden, site.channels, 1, bias=False), nn.BatchNorm2d(site.channels)])
            self.features.append(InvertedResidual(site, "conv", layers, attention))
        self.features.append(unit(nn.Conv2d(channels, last_channels, 1, bias=False), last_channels))
        self.avgpool = GlobalPool()
        last = nn.Linear(last_channels, classes)
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
    """Attention sites 1.1 to 6.1, numbered by stack: 16 blocks, 1,712 channels; the separable convolution has none.

    momentum: by which BN's running statistics move, torchvision's by default; a short training needs a larger one.
    """

    def __init__(
        self,
        *,
        classes: int,
        attention: AttentionBuilder | None = None,
        width: float = 1.0,
        stem: Stem = "imagenet",
        momentum: float = 0.0003,
    ):
        super().__init__()
        if not 0 < momentum <= 1:
            raise OutOfRange(f"MnasNet option momentum={momentum}; use more than 0, at most 1.")
        self.image_size, first = entry(stem)
        slow_unit = partial(self.unit, momentum)
        start, channels = rounded(32, width), rounded(16, width)
        separable = [*slow_unit(start, start, 3, groups=start), *slow_unit(start, channels)[:2]]
        stacks = [nn.Sequential() for _ in MNASNET]
        for stack, site in sites(fitted(MNASNET, width, stem), channels):
            channels = site.channels
            hidden = site.in_channels * stack.expansion
            expand = slow_unit(site.in_channels, hidden)
            depthwise = slow_unit(hidden, hidden, stack.kernel, site.stride, hidden)
            project = slow_unit(hidden, site.channels)[:2]
            layers = nn.Sequential(*expand, *depthwise, *project)
            site = site._replace(sources=(hidden, hidden))
            stacks[site.stage - 1].append(InvertedResidual(site, "layers", layers, attention))
        self.layers = nn.Sequential(*slow_unit(3, start, 3, first), *separable, *stacks, *slow_unit(channels, 1280))
        self.avgpool = GlobalPool()
        last = nn.Linear(1280, classes)
        self.classifier = nn.Sequential(nn.Dropout(0.2), last)
        he_init(self)
        nn.init.kaiming_uniform_(last.weight, mode="fan_out", nonlinearity="sigmoid")
        nn.init.zeros_(last.bias)

    @staticmethod
    def unit(
        momentum: float, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1
    ) -> list[nn.Module]:
        """A convolution with its BN and ReLU."""
        conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        return [conv, nn.BatchNorm2d(outputs, momentum=momentum), nn.ReLU(inplace=True)]

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


def sites(stacks: Iterable[Stack], channels: int) -> Iterator[tuple[Stack, Site]]:
    """Every block's site, with its stack; `channels` enter the first."""
    for stage, stack in enumerate(stacks, 1):
        for block in range(1, stack.depth + 1):
            yield stack, Site(stage, block, channels, stack.channels, stack.stride if block == 1 else 1)
            channels = stack.channels


def entry(stem: Stem) -> tuple[int, int]:
    """The side of the pictures in pixels, and the stride of the stem."""
    if stem not in ("imagenet", "cifar"):
        raise OutOfRange(f"MobileNet option stem={stem}; use imagenet (224x224 pictures) or cifar (32x32).")
    return (32, 1) if stem == "cifar" else (224, 2)


def fitted(stacks: tuple[Stack, ...], width: float, stem: Stem) -> Iterator[Stack]:
    """The stacks times `width`; behind a CIFAR stem the first that halves the map does not."""
    halved = stem == "imagenet"
    for stack in stacks:
        stride = stack.stride if halved else 1
        halved = halved or stack.stride > 1
        yield stack._replace(channels=rounded(stack.channels, width), stride=stride)


def rounded(channels: int, width: float) -> int:
    """The multiple of 8 nearest to channels * width, the next one where that loses more than a tenth."""
    if not 0.1 <= width <= 4:
        raise OutOfRange(f"MobileNet option width={width}; use 0.1 to 4.")
    near = max(8, int(channels * width + 4) // 8 * 8)
    return near + 8 * (near < 0.9 * channels * width)


def unit(conv: nn.Module, channels: int, activation: Callable[..., nn.Module] = nn.ReLU6) -> nn.Sequential:
    """A convolution with its BN and activation."""
    return nn.Sequential(conv, norm(conv, channels), activation(inplace=True))


def flat(layers: nn.Module) -> Iterator[nn.Module]:
    """The layers of nested sequences, in a row."""
    for layer in layers.children():
        if isinstance(layer, nn.Sequential):
            yield from flat(layer)
        else:
            yield layer


mobilenetv2, mnasnet1_0 = MobileNetV2, MnasNet
