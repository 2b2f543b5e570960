"""What every backbone is: feature maps, a global mean, a linear classifier, and a Trail through all its blocks.

A backbone offers sockets, as arguments of these names: `attention` at the end of a block's branch, `conv` in place of
its spatial convolution, `stage` between stages, `head` in place of the last global mean.  Each gets a Site.
Parameter names are torchvision's where torchvision has the network, so that its weights load and it is the oracle.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator

from torch import Tensor, nn

from workbench.attention import Attention, ConvSpec, GlobalPool, Site, Trail, attentions

AttentionBuilder = Callable[[Site], nn.Module]
ConvBuilder = Callable[[Site, ConvSpec], nn.Module]


class Network(nn.Module, ABC):
    """Subclasses define `maps` and call `head`; `image_size` is the side they are made for, in pixels."""

    image_size: int = 224

    @abstractmethod
    def maps(self, x: Tensor, trail: Trail) -> list[Tensor]:
        """(N, 3, H, W) -> the maps after each stage."""

    def head(self, channels: int, classes: int, builder: AttentionBuilder | None = None, sources: tuple[int, ...] = ()):
        """The descriptor of the last map, and its classifier; `sources` are the widths of all maps before it."""
        site = Site(len(sources) + 1, 1, channels, channels, 1, sources)
        self.avgpool = builder(site) if builder else GlobalPool()
        self.fc = nn.Linear(channels, classes)

    def classify(self, descriptor: Tensor) -> Tensor:
        """(N, C) -> logits (N, classes)."""
        return self.fc(descriptor)

    def trace(self, x: Tensor) -> tuple[Tensor, Trail]:
        """(N, 3, H, W) -> logits (N, classes), and what every attention block did on the way."""
        trail = Trail(records=True)
        return self.logits(x, trail), trail

    def forward(self, x: Tensor) -> Tensor:
        return self.logits(x, Trail())

    def logits(self, x: Tensor, trail: Trail) -> Tensor:
        return self.read(self.maps(x, trail), trail)

    def read(self, maps: list[Tensor], trail: Trail) -> Tensor:
        """The maps after each stage -> logits (N, classes)."""
        *trail.features, last = maps
        return self.classify(run(self.avgpool, last, trail))

    def attentions(self) -> Iterator[Attention]:
        return attentions(self)


def plain_conv(site: Site, spec: ConvSpec) -> nn.Module:
    """The convolution that a block has when nothing is plugged into its `conv` socket."""
    inputs, outputs, kernel, stride, groups, _ = spec
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)


def norm(conv: nn.Module, channels: int) -> nn.Module:
    """The BN after a `conv` socket; none where what is plugged in has its own."""
    return nn.Identity() if getattr(conv, "normalised", False) else nn.BatchNorm2d(channels)


def run(module: nn.Module, x: Tensor, trail: Trail) -> Tensor:
    """Attention blocks get the trail, plain layers the map alone."""
    return module(x, trail) if isinstance(module, Attention) else module(x)


def attend(y: Tensor, attention: nn.Module | None, trail: Trail, *earlier: Tensor) -> Tensor:
    """The map `y` after its block's attention, if any; `earlier` are the maps that the block made before."""
    if attention is None:
        return y
    trail.features = earlier
    return attention(y, trail)


def he_init(network: nn.Module) -> None:
    """Normal weights with variance 2 / fan-out in the backbone's convolutions, as torchvision's ResNet.

    What is plugged into a socket keeps its own initialisation, but for what stands in a convolution's place: the
    papers give none for that.
    """
    own = (module for module in network.modules() if getattr(module, "socket", "conv") != "conv")
    inside = {id(module) for block in own for module in block.modules()}
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and id(module) not in inside:
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
