"""Deep Connected Attention (DCANet, CVPR draft), section 3: each block also sees what the previous one attended.

    Z = f(G, M),   M = match(memory of the previous block of the same dimension)

    direct    G + a M                                                    Eq. 4
    weighted  (G G + a M a M) / (G + a M)                                Eq. 5
    softmax   (e^-G G + e^-aM a M) / (e^-G + e^-aM)                      Eq. 6; the minus signs are the paper's

Two forms.  `text` is the paper's words: one learnable a, no new embedding; a starts at 0, where direct and weighted are
the vanilla network to the bit.  `official` is what the tables count and the authors released: LayerNorm and ReLU after
matching and after merging, two learned weights in place of a, and a connection in the first block that is built and
never used.  Official softmax and weighted are not in the release; here they keep one a in place of the two weights.
"""

import itertools
from collections.abc import Callable, Iterable
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workbench.attention.base import Attention, Dim, Trail, attentions
from workbench.attention.cbam import ChannelGate
from workbench.errors import OutOfRange

N = TypeVar("N", bound=nn.Module)


def connect(
    network: N,
    dims: tuple[str, ...] = (),
    schema: str = "direct",
    match: str = "fc1",
    reduction: int = 16,
    pool: str = "avg",
    form: str = "official",
) -> N:
    """Connect the attention blocks of `network` in place, each dimension on its own (DCA 3.4), and return it.

    dims: the dimensions to connect, all when empty.  match: one (fc1) or two (fc2, r = `reduction`) fully-connected
    layers between unequal widths.  pool: avg or max between unequal map sizes.
    """
    _allowed("schema", schema, SCHEMAS)
    _allowed("match", match, ("fc1", "fc2"))
    _allowed("pool", pool, POOLS)
    _allowed("form", form, ("official", "text"))
    blocks = list(attentions(network))
    present = list(dict.fromkeys(block.dim for block in blocks))
    if not present or not set(dims) <= set(present):
        have = f"has {' and '.join(present)}" if present else "has none"
        raise OutOfRange(f"DCA dims={'+'.join(dims) or 'all'}: no such attention to connect; this network {have}.")
    for dim in dims or present:
        previous = None
        for block in (block for block in blocks if block.dim == dim):
            if previous is not None:
                previous.tells = True
            if previous is not None or form == "official":
                width = previous.site.channels if previous else block.site.in_channels
                if dim == "channel":
                    block.connection = over_channels(block, width, schema, reduction if match == "fc2" else None, form)
                else:
                    block.connection = over_positions(schema, pool, form)
            previous = block
    return network


class Connection(nn.Module):
    """f(G, M) of one block: match the size of the previous memory, merge it with G, embed the result."""

    def __init__(self, dim: Dim, match: nn.Module, merge: "Alpha | Weights", embed: nn.Module):
        super().__init__()
        self.dim: Dim = dim
        self.match, self.merge, self.embed = match, merge, embed

    def forward(self, G: Tensor, trail: Trail) -> Tensor:
        """(N, C, ...) -> (N, C, ...); the first block of a dimension has nothing before it and passes G on."""
        earlier = trail.of(self.dim)
        if not earlier:
            return G
        M = self.match(earlier[-1].memory, G)
        return self.embed(self.merge(G, M.reshape(*M.shape, *[1] * (G.dim() - M.dim()))))

    def contribution(self) -> float:
        """Share of the previous attention, |w_previous| / (|w_previous| + |w_current|), in [0, 1].  DCA Fig. 5."""
        current, previous = map(abs, self.merge.weights())
        return previous / (previous + current) if previous else 0.0


def over_channels(block: Attention, width: int, schema: str, reduction: int | None, form: str) -> Connection:
    """Connection of channel descriptors; the release gives CBAM a BatchNorm in matching and no bias in merging."""
    channels, cbam = block.site.channels, isinstance(block, ChannelGate)
    if reduction is not None and not 1 <= reduction <= channels:
        raise OutOfRange(f"DCA reduction {reduction} of {channels} channels; it must be from 1 to {channels}.")
    norm = nn.BatchNorm1d if cbam else ChannelNorm
    widths = [width, channels] if reduction is None else [width, channels // reduction, channels]
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(widths if width != channels else ()):
        layers += [ChannelLinear(a, b), norm(b), nn.ReLU()] if form == "official" else [ChannelLinear(a, b), nn.ReLU()]
    if form == "text":  # the matched map stays "clean": nothing after its last layer (DCA 3.2)
        return Connection("channel", MatchWidth(layers[:-1]), Alpha(schema), nn.Identity())
    merge = Weights(bias=not cbam) if schema == "direct" else Alpha(schema)
    return Connection("channel", MatchWidth(layers), merge, nn.Sequential(ChannelNorm(channels), nn.ReLU()))


def over_positions(schema: str, pool: str, form: str) -> Connection:
    """Connection of spatial descriptors (N, 2, H, W); the release starts at the vanilla weights 1 and 0."""
    if form == "text":
        return Connection("spatial", MatchSize(pool), Alpha(schema), nn.Identity())
    merge = Weights(bias=False, start=(1.0, 0.0)) if schema == "direct" else Alpha(schema)
    return Connection("spatial", MatchSize(pool), merge, nn.Sequential(nn.BatchNorm2d(2), nn.ReLU()))


class MatchWidth(nn.Module):
    """(N, C', ...) -> (N, C, ...) through fully-connected layers; none where the widths are equal."""

    def __init__(self, layers: list[nn.Module]):
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, memory: Tensor, G: Tensor) -> Tensor:
        return self.layers(memory)


class MatchSize(nn.Module):
    """(N, k, H', W') -> (N, k, H, W): pooling with "stride and receptive field" the reduction of the map (DCA 3.3)."""

    def __init__(self, pool: str):
        super().__init__()
        self.pool = pool

    def forward(self, memory: Tensor, G: Tensor) -> Tensor:
        if memory.shape[-2:] == G.shape[-2:]:
            return memory
        kernel = [-(-before // now) for before, now in zip(memory.shape[-2:], G.shape[-2:], strict=True)]
        return POOLS[self.pool](memory, kernel, ceil_mode=True)


class Alpha(nn.Module):
    """One learnable weight on the previous memory, in one of the three schemas."""

    def __init__(self, schema: str):
        super().__init__()
        self.schema = schema
        self.alpha = nn.Parameter(torch.zeros(()))

    def forward(self, G: Tensor, M: Tensor) -> Tensor:
        return SCHEMAS[self.schema](G, self.alpha * M)

    def weights(self) -> tuple[float, float]:
        return 1.0, self.alpha.item()


class Weights(nn.Module):
    """The release's 1x1 convolution 2 -> 1: w_current G + w_previous M (+ bias)."""

    def __init__(self, bias: bool, start: tuple[float, float] | None = None):
        super().__init__()
        linear = nn.Linear(2, 1, bias)
        self.weight = nn.Parameter(linear.weight.detach()[0] if start is None else torch.tensor(start))
        self.bias = nn.Parameter(linear.bias.detach()) if bias else None

    def forward(self, G: Tensor, M: Tensor) -> Tensor:
        merged = self.weight[0] * G + self.weight[1] * M
        return merged if self.bias is None else merged + self.bias

    def weights(self) -> tuple[float, float]:
        current, previous = self.weight.tolist()
        return current, previous


class ChannelLinear(nn.Linear):
    """A fully-connected layer over dimension 1 of (N, C', ...)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over dimension 1 of (N, C, ...)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


def direct(G: Tensor, aM: Tensor) -> Tensor:
    """Eq. 4."""
    return G + aM


def weighted(G: Tensor, aM: Tensor) -> Tensor:
    """Eq. 5 where both terms have one sign; elsewhere its weights use |.|, since Eq. 5 is singular at G + aM = 0."""
    total = G.abs() + aM.abs()
    total = torch.where(total > 0, total, 1)
    return G.abs() / total * G + aM.abs() / total * aM


def softmax(G: Tensor, aM: Tensor) -> Tensor:
    """Eq. 6 as printed: the larger entry gets the smaller weight."""
    share = torch.sigmoid(aM - G)  # e^-G / (e^-G + e^-aM)
    return share * G + (1 - share) * aM


SCHEMAS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"direct": direct, "weighted": weighted, "softmax": softmax}
POOLS: dict[str, Callable[..., Tensor]] = {"avg": F.avg_pool2d, "max": F.max_pool2d}


def _allowed(option: str, value: str, known: Iterable[str]) -> None:
    if value not in known:
        raise OutOfRange(f"DCA option {option}={value}; use {' or '.join(known)}.")
