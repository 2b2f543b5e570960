"""VGG-16 with BN (Simonyan and Zisserman, ICLR 2015) for 32x32 pictures, as counted in CRA Table V.

Convolutions and their BN have torchvision's names (`features.N` of vgg16_bn); the classifier is the CIFAR one,
512-512-512-classes.  Attention stands after the ReLU of every convolution.  VGG-7, with one convolution a stage and no
fifth stage, is no paper's: it serves pictures of 16x16.
"""

from functools import partial

from torch import Tensor, nn

from workbench.attention import Site, Trail
from workbench.backbones.network import AttentionBuilder, Network, attend, he_init


class VGG(Network):
    """Stages of `depths` biased 3x3 convolutions of widths 64, 128, 256, 512, 512, each ended by a 2x2 max pool."""

    image_size = 32

    def __init__(self, depths: tuple[int, ...], *, classes: int, attention: AttentionBuilder | None = None):
        super().__init__()
        channels = 3
        self.features = nn.Sequential()
        self.attention = nn.ModuleList()
        for stage, depth in enumerate(depths, 1):
            width = min(64 * 2 ** (stage - 1), 512)
            for block in range(1, depth + 1):
                self.features.extend([nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width)])
                self.features.append(nn.ReLU(inplace=True))
                if attention:
                    self.attention.append(attention(Site(stage, block, channels, width)))
                channels = width
            self.features.append(nn.MaxPool2d(2))
        hidden = [nn.Linear(channels, 512), nn.ReLU(inplace=True), nn.Dropout()]
        self.classifier = nn.Sequential(*hidden, nn.Linear(512, 512), nn.ReLU(inplace=True), nn.Dropout())
        self.head(512, classes)
        he_init(self)

    def maps(self, x: Tensor, trail: Trail) -> list[Tensor]:
        maps, blocks = [], iter(self.attention)
        for layer in self.features:
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                x = attend(x, next(blocks, None), trail)
            elif isinstance(layer, nn.MaxPool2d):
                maps.append(x)
        return maps

    def classify(self, descriptor: Tensor) -> Tensor:
        return self.fc(self.classifier(descriptor))


vgg7 = partial(VGG, (1, 1, 1, 1))
vgg16 = partial(VGG, (2, 2, 3, 3, 3))
