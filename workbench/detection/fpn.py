"""Feature pyramid (Lin et al., CVPR 2017) over the maps C_i of a backbone, as torchvision's, with attention in it.

    M_i = lateral_i(C_i) + upsampled M_(i+1),   P_i = output_i(M_i);   lateral: 1x1, output: 3x3

`fpn=aw-se` and the like plug the parts of a model's name into it (AW 4.2): "all the lateral and output convolutions of
the FPN adopt our AW-convolution.  The SE and CBAM modules are placed right before the lateral and output convolutions."
"""

import copy
import itertools
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock, FeaturePyramidNetwork

from workbench.attention import ConvSpec, Site, Trail, attentions
from workbench.backbones import Network
from workbench.backbones.network import attend, run
from workbench.build import bound, socket
from workbench.errors import OutOfRange
from workbench.names import parse

WIDTH = 256  # of the pyramid, where the backbone's last map is not narrower
M = TypeVar("M", bound=nn.Module)
PROBE_PX = 2048  # strides are found with pictures of this side, on the meta device


class Shape(NamedTuple):
    """What a map of the backbone is: its number among them all, from 0, its channels, its stride in px."""

    number: int
    channels: int
    stride: int


class Pyramid(nn.Module):
    """A backbone without its classifier, `body`, and the pyramid on its maps, `fpn`.

    One level for every stride of the backbone from `finest` on, the last map of each stride.  finest 0: `usual`, or
    where the backbone has no two maps as coarse, the coarsest two.  width 0: 256, or that of a narrower last map.
    extra: what makes the coarser levels, each half as large.
    """

    def __init__(
        self,
        network: Network,
        fpn: str,
        width: int,
        finest: int,
        usual: int,
        extra: Callable[[int], ExtraFPNBlock],
        extras: int,
    ):
        super().__init__()
        shapes = distinct(shapes_of(network))
        coarsest = [shape.stride for shape in shapes[-2:]]
        taken = [shape for shape in shapes if shape.stride >= (finest or min(usual, coarsest[0]))]
        if not taken:
            raise OutOfRange(
                f"No map of this backbone has a stride of {finest} px or more; it has "
                f"{', '.join(str(shape.stride) for shape in shapes)}."
            )
        self.body = beheaded(network)
        self.out_channels = width or min(WIDTH, taken[-1].channels)
        self.taken = taken
        self.strides = [shape.stride for shape in taken] + [taken[-1].stride << k for k in range(1, extras + 1)]
        self.fpn = FPN(taken, self.out_channels, extra(self.out_channels), fpn, shapes[-1].number + 1)

    def forward(self, x: Tensor, trail: Trail) -> dict[str, Tensor]:
        """(N, 3, H, W) -> the maps of all levels, finest first, in at least float32.

        Anchors take the precision of the maps, and in bf16 a corner is good to some px only.
        """
        maps = self.body.maps(x, trail)
        levels = OrderedDict((str(level), maps[shape.number]) for level, shape in enumerate(self.taken))
        return {name: precise(y) for name, y in self.fpn(levels, trail).items()}


class FPN(FeaturePyramidNetwork):
    """Torchvision's pyramid, whose convolutions may be attended; `stages` are those of the backbone.

    The blocks of level i = 1, 2, ... from the finest are of stage `stages` + i, 1 at the lateral and 2 at the output
    convolution: 5.1 and 5.2 are those on C2 of a ResNet with four stages.
    """

    def __init__(self, taken: list[Shape], width: int, extra: ExtraFPNBlock, name: str, stages: int):
        super().__init__([shape.channels for shape in taken], width, extra)
        if not name:
            return
        parts = plugged(name)
        for level, channels in enumerate((shape.channels for shape in taken), 1):
            lateral, output = (Site(stages + level, block, c, c) for block, c in ((1, channels), (2, width)))
            self.inner_blocks[level - 1] = Attended(lateral, ConvSpec(channels, width, 1), **parts)
            self.layer_blocks[level - 1] = Attended(output, ConvSpec(width, width, 3), **parts)

    def forward(self, x: dict[str, Tensor], trail: Trail | None = None) -> dict[str, Tensor]:
        trail = Trail() if trail is None else trail
        names, maps = list(x), list(x.values())
        sums = [_through(block, y, trail) for block, y in zip(self.inner_blocks, maps, strict=True)]
        for level in reversed(range(len(sums) - 1)):
            sums[level] = sums[level] + F.interpolate(sums[level + 1], size=sums[level].shape[-2:], mode="nearest")
        found = [_through(block, y, trail) for block, y in zip(self.layer_blocks, sums, strict=True)]
        if self.extra_blocks is not None:
            found, names = self.extra_blocks(found, maps, names)
        return OrderedDict(zip(names, found, strict=True))

    def _load_from_state_dict(self, state: Any, prefix: str, metadata: dict[str, Any], *given: Any) -> None:
        """Torchvision's renames what its first version wrote, and would take an Attended's bias for that."""
        if any(isinstance(block, Attended) for block in self.inner_blocks):
            metadata = metadata | {"version": 2}
        super()._load_from_state_dict(state, prefix, metadata, *given)


class Attended(nn.Module):
    """An attention, where there is one, then a convolution with bias, plain or plugged in: (N, C, H, W) -> the same.

    The convolution has torchvision's name, "0"; the bias of one that is plugged in, which has none, is added here.
    """

    bias: nn.Parameter | None

    def __init__(self, site: Site, spec: ConvSpec, attention: Callable | None, conv: Callable | None):
        super().__init__()
        inputs, outputs, kernel = spec[:3]
        self.attention = attention(site) if attention else None
        if conv:
            made = conv(site._replace(channels=outputs), spec)
        else:
            made = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
            nn.init.zeros_(made.get_parameter("bias"))
        if isinstance(getattr(made, "weight", None), nn.Parameter):
            nn.init.kaiming_uniform_(made.weight, a=1)  # as torchvision's convolutions of the FPN
        self.add_module("0", made)
        self.register_parameter("bias", nn.Parameter(torch.zeros(outputs)) if conv else None)

    def forward(self, x: Tensor, trail: Trail) -> Tensor:
        y = run(self.get_submodule("0"), attend(x, self.attention, trail), trail)
        return y if self.bias is None else y + self.bias.to(y.dtype)[:, None, None]


def _through(block: nn.Module, x: Tensor, trail: Trail) -> Tensor:
    return block(x, trail) if isinstance(block, Attended) else block(x)


def plugged(name: str) -> dict[str, Any]:
    """What builds the attention and the convolution of this name, as in a model's; raises UnknownName, OutOfRange."""
    model = parse(f"{name}-resnet50")  # the grammar of names ends in a backbone
    foreign = model.detector or model.connection
    attention, conv = model.attention, model.conv
    own = attention and ":" in attention.word  # its source would be no part of a run's key
    if foreign or own or (attention and socket(attention, "attention") != "attention"):
        raise OutOfRange(
            f"fpn={name}: {foreign or attention} cannot stand before a convolution of the pyramid; use for example "
            "aw, se, cbam, aw-se or aw-cbam."
        )
    return {
        "attention": attention and bound(attention, "attention"),
        "conv": conv and bound(conv, "conv"),
    }


def shapes_of(network: Network) -> list[Shape]:
    """The maps of a network, found on the meta device; the network is not run."""
    with torch.no_grad():
        maps = ghost(network).maps(torch.empty(1, 3, PROBE_PX, PROBE_PX, device="meta"), Trail())
    return [Shape(number, y.shape[1], round(PROBE_PX / y.shape[2])) for number, y in enumerate(maps)]


def ghost(module: M) -> M:
    """A copy on the meta device, in float32, evaluated."""
    known: dict[int, Any] = {id(x): nn.Parameter(x.to("meta"), x.requires_grad) for x in module.parameters()}
    known |= {id(x): x.to("meta") for x in module.buffers()}
    return copy.deepcopy(module, known).float().eval()


def distinct(shapes: list[Shape]) -> list[Shape]:
    """The last map of each stride; raises OutOfRange unless each stride is twice the one before."""
    found = list({shape.stride: shape for shape in shapes}.values())
    strides = [shape.stride for shape in found]
    if any(b != 2 * a for a, b in itertools.pairwise(strides)):
        raise OutOfRange(f"A pyramid needs maps each half as large as the one before; the strides here are {strides}.")
    return found


def beheaded(network: Network) -> Network:
    """`network` without the layers after its maps, in place."""
    if any(attentions(network.avgpool)):
        raise OutOfRange(
            "The attention of this backbone stands in place of its last global mean, which a detector does not have; "
            "use one that stands in the blocks, such as bridge[form=gate]."
        )
    for name in ("avgpool", "fc", "classifier"):
        if hasattr(network, name):
            delattr(network, name)
    return network


def precise(y: Tensor) -> Tensor:
    """`y` in at least float32."""
    return y.to(torch.promote_types(y.dtype, torch.float32))
