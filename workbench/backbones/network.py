"""What every backbone is: feature maps, a global mean, a linear classifier, and a Trail through all its blocks.

A block has two sockets: `conv` builds its spatial convolution, `attention` its attention block.  Both get a Site.
Parameter names are torchvision's, so that its weights load and it serves as the oracle.
"""

from collections.abc import Callable, Iterator

from torch import Tensor, nn

from workbench.attention import Attention, GlobalPool, Site, Trail, attentions

AttentionBuilder = Callable[[Site], nn.Module]
ConvBuilder = Callable[[Site, int, int, int, int], nn.Module]


def plain_conv(site: Site, channels_in: int, channels_out: int, kernel: int, stride: int) -> nn.Module:
    """The convolution that a block has when nothing is plugged into its `conv` socket."""
    return nn.Conv2d(channels_in, channels_out, kernel, stride, padding=kernel // 2, bias=False)


class Network(nn.Module):
    """Subclasses define `features` and call `head`; `image_size` is the side they are made for, in pixels."""

    image_size: int = 224

    def features(self, x: Tensor, trail: Trail) -> list[Tensor]:
        """(N, 3, H, W) -> the maps after each stage."""
        raise NotImplementedError

    def head(self, channels: int, classes: int) -> None:
        self.avgpool = GlobalPool()
        self.fc = nn.Linear(channels, classes)

    def trace(self, x: Tensor) -> tuple[Tensor, Trail]:
        """(N, 3, H, W) -> logits (N, classes), and what every attention block did on the way."""
        trail = Trail()
        return self.fc(self.avgpool(self.features(x, trail)[-1])), trail

    def forward(self, x: Tensor) -> Tensor:
        return self.trace(x)[0]

    def attentions(self) -> Iterator[Attention]:
        return attentions(self)


def he_init(network: nn.Module) -> None:
    """Normal weights with variance 2 / fan-out in the backbone's convolutions, as torchvision's ResNet.

    Attention blocks keep PyTorch's own initialisation: the papers give none for them.
    """
    inside = {id(module) for block in attentions(network) for module in block.modules()}
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and id(module) not in inside:
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
