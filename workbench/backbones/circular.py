"""The smallest network in which the claim of CRA can be true or false by construction.

Without strides, with circular padding and a global mean before the classifier, a circular shift of the picture
shifts every map and leaves every global mean as it was.  So with no attention, or with any gate on global means (SE,
CRA <1,1>), no logit can depend on where something is.  A gate on a grid can.
"""

from typing import Literal

from torch import Tensor, nn

from workbench.attention import Site, Trail
from workbench.backbones.network import AttentionBuilder, Network, he_init
from workbench.backbones.resnet import join, known
from workbench.errors import OutOfRange

Padding = Literal["circular", "zeros"]


class CircularNet(Network):
    """Stem and two residual blocks of 16 channels on 16x16 pictures.

    `padding=zeros` is the control that cheats: zero padding marks the border, so position leaks into every mean.
    """

    image_size = 16

    def __init__(self, *, classes: int, attention: AttentionBuilder | None = None, padding: Padding = "circular"):
        super().__init__()
        if padding not in ("circular", "zeros"):
            raise OutOfRange(f"circularnet option padding={padding}; use circular or zeros.")
        self.conv1 = conv3x3(3, 16, padding)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = nn.ModuleList(Block(Site(1, number, 16, 16), attention, padding) for number in (1, 2))
        self.head(16, classes)
        he_init(self)

    def maps(self, x: Tensor, trail: Trail) -> list[Tensor]:
        x = self.relu(self.bn1(self.conv1(x)))
        for block in self.layer1:
            x = block(x, trail)
        return [x]


class Block(nn.Module):
    """A basic residual block with its own padding and no shape change."""

    def __init__(self, site: Site, attention: AttentionBuilder | None, padding: Padding):
        super().__init__()
        self.conv1 = conv3x3(site.in_channels, site.channels, padding)
        self.bn1 = nn.BatchNorm2d(site.channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = conv3x3(site.channels, site.channels, padding)
        self.bn2 = nn.BatchNorm2d(site.channels)
        self.attention = attention(site) if attention else None
        self.downsample = None
        self.writable = known(self.attention)

    def forward(self, x: Tensor, trail: Trail) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(join(self.bn2(self.conv2(y)), x, self, trail))


def conv3x3(channels_in: int, channels_out: int, padding: Padding) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, 3, padding=1, padding_mode=padding, bias=False)


circularnet = CircularNet
