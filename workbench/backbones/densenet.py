"""DenseNet-BC (Huang et al., CVPR 2017) for 32x32 pictures: every layer reads the maps of all layers before it.

    x_l = [x_{l-1}, conv3x3(relu(BN(conv1x1(relu(BN(x_{l-1}))))))]        k new channels, 4k between

Names are torchvision's, whose stem is the ImageNet one.  Attention stands at one of two places, as in CRA Table V:

    at=new      on the k new channels, before the concatenation                    (SE there)
    at=input    on the layer's input, before its first BN                          (CRA there)

CRA leaves open whether the second also rescales the maps passed on.  Here it does not: x_{l-1} goes on untouched.
"""

from collections import OrderedDict
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from workbench.attention import Site, Trail
from workbench.backbones.network import AttentionBuilder, Network, attend, he_init
from workbench.errors import OutOfRange

Place = Literal["new", "input"]


class DenseNet(Network):
    """Three blocks of `depth` layers that each add `growth` channels; transitions halve channels and map."""

    image_size = 32

    def __init__(
        self, depth: int, growth: int, *, classes: int, attention: AttentionBuilder | None = None, at: Place = "new"
    ):
        super().__init__()
        if at not in ("new", "input"):
            raise OutOfRange(f"DenseNet option at={at}; use new (a layer's own channels) or input (all that it reads).")
        channels = 2 * growth
        self.features = nn.ModuleDict({"conv0": nn.Conv2d(3, channels, 3, padding=1, bias=False)})
        for stage in (1, 2, 3):
            layers = nn.ModuleDict()
            for block in range(1, depth + 1):
                site = Site(stage, block, channels, growth if at == "new" else channels)
                layers[f"denselayer{block}"] = DenseLayer(site, growth, attention, at)
                channels += growth
            self.features[f"denseblock{stage}"] = layers
            if stage < 3:
                self.features[f"transition{stage}"] = transition(channels)
                channels //= 2
        self.features["norm5"] = nn.BatchNorm2d(channels)
        self.avgpool = MapPool()
        self.classifier = nn.Linear(channels, classes)
        he_init(self)
        nn.init.zeros_(self.classifier.bias)

    def maps(self, x: Tensor, trail: Trail) -> list[Tensor]:
        """(N, 3, H, W) -> the maps after each dense block; the last one after BN and ReLU."""
        maps = []
        for name, part in self.features.items():
            if name.startswith("denseblock"):
                for layer in part.children():
                    x = layer(x, trail)
                maps.append(x)
            else:
                x = part(x)
        return [*maps[:-1], x.relu()]

    def classify(self, descriptor: Tensor) -> Tensor:
        return self.classifier(descriptor)


class DenseLayer(nn.Module):
    """(N, C, H, W) -> (N, C + growth, H, W)."""

    def __init__(self, site: Site, growth: int, attention: AttentionBuilder | None, at: Place):
        super().__init__()
        hidden = 4 * growth
        self.before = attention(site) if attention and at == "input" else None
        self.norm1 = nn.BatchNorm2d(site.in_channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(site.in_channels, hidden, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(hidden)
        self.conv2 = nn.Conv2d(hidden, growth, 3, padding=1, bias=False)
        self.after = attention(site._replace(sources=(hidden,))) if attention and at == "new" else None

    def forward(self, x: Tensor, trail: Trail) -> Tensor:
        read = attend(x, self.before, trail)
        inner = self.relu(self.norm2(self.conv1(self.relu(self.norm1(read)))))
        return torch.cat([x, attend(self.conv2(inner), self.after, trail, inner)], 1)


class MapPool(nn.AvgPool2d):
    """Mean over the map, (N, C, H, W) -> (N, C): the original's pool of 8x8, for pictures of any size."""

    def __init__(self) -> None:
        super().__init__(8)

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


def transition(channels: int) -> nn.Sequential:
    """Compression 0.5: 1x1 to half the channels, then a 2x2 mean."""
    layers = {"norm": nn.BatchNorm2d(channels), "relu": nn.ReLU(inplace=True)}
    layers |= {"conv": nn.Conv2d(channels, channels // 2, 1, bias=False), "pool": nn.AvgPool2d(2)}
    return nn.Sequential(OrderedDict(layers))


# depth 6 n + 4: three blocks of n layers, k = 12
densenetbc22, densenetbc100 = (partial(DenseNet, n, 12) for n in (3, 16))
