"""MobileNetV1 (Howard et al., 2017).

Attention stands after every ReLU but the stem's, as in the SE-MobileNet of the AW paper.  The conv socket is the
pointwise 1x1.  width and stem as in mobilenet.py.
"""

from torch import Tensor, nn

from workbench.attention import ConvSpec, Site, Trail
from workbench.backbones.mobilenet import Stem, entry, rounded, unit
from workbench.backbones.network import AttentionBuilder, ConvBuilder, Network, attend, he_init, plain_conv, run

STAGES = ((64, 1), (128, 2), (256, 2), (512, 6), (1024, 2))  # width, depth; all stages but the first halve the map


class MobileNetV1(Network):
    """A stem and 13 separable convolutions; the depthwise and the pointwise half are blocks of their own.

    Attention sites 1.1 and 1.2 to 5.3 and 5.4: 26 of them, odd blocks depthwise, even ones pointwise.
    """

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
        channels = rounded(32, width)
        self.stem = unit(nn.Conv2d(3, channels, 3, first, 1, bias=False), channels, nn.ReLU)
        self.stages = nn.ModuleList()
        for stage, (wide, depth) in enumerate(STAGES, 1):
            blocks = nn.ModuleList()
            for number in range(1, depth + 1):
                stride = 2 if number == 1 and stage > (2 if stem == "cifar" else 1) else 1
                out = rounded(wide, width)
                blocks.append(Separable(Site(stage, number, channels, out, stride), attention, conv))
                channels = out
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


mobilenetv1 = MobileNetV1
