"""A plain stack of equal-width convolutions, the network of the bridge report's methods section (papers/bridge).

The report concatenates the global means of n layers into an n x c vector, so all n have c channels; it gives neither
number.  Here n = 6 and c = 64, on 32x32 pictures.  The head socket reads all n maps; the attention socket stands on
the last map, with the n - 1 before it as sources.
"""

from functools import partial

from torch import Tensor, nn

from workbench.attention import Site, Trail
from workbench.backbones.network import AttentionBuilder, Network, attend, he_init


class Plain(Network):
    """`depth` times 3x3 convolution, BN, ReLU; a 2x2 max pool stands after every second one but the last."""

    image_size = 32

    def __init__(
        self,
        depth: int,
        width: int,
        *,
        classes: int,
        attention: AttentionBuilder | None = None,
        head: AttentionBuilder | None = None,
    ):
        super().__init__()
        self.layers = nn.ModuleList()
        for number in range(depth):
            conv = nn.Conv2d(width if number else 3, width, 3, padding=1, bias=False)
            self.layers.append(nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True)))
        self.pool = nn.MaxPool2d(2)
        sources = (width,) * (depth - 1)
        self.attention = attention(Site(depth, 1, width, width, 1, sources)) if attention else None
        self.head(width, classes, head, sources)
        he_init(self)

    def maps(self, x: Tensor, trail: Trail) -> list[Tensor]:
        """(N, 3, H, W) -> the maps after each convolution, before its pool."""
        maps: list[Tensor] = []
        for number, layer in enumerate(self.layers):
            maps.append(layer(self.pool(x) if number and number % 2 == 0 else x))
            x = maps[-1]
        return [*maps[:-1], attend(x, self.attention, trail, *maps[:-1])]


plain6 = partial(Plain, 6, 64)
