"""Deep Connected Attention (DCANet, CVPR draft), section 3: each block also sees what the previous one attended.

    Z = f(G, M),   M = match(memory of the previous block of the same dimension)

    direct    f = G + a M                                                Eq. 4
    weighted  f = (G G + a M a M) / (G + a M)                            Eq. 5
    softmax   f = (e^-G G + e^-aM a M) / (e^-G + e^-aM)                  Eq. 6; the minus signs are the paper's

In words: what the previous block attended -> the size of this block's descriptor -> merged with it.
Adds in C + 3 C parameters where the width changes from in to C (fc1), and 3 + 2 C a block, in SE's official form.

Two forms.  `text` is the paper's words: one learnable a, no new embedding; a starts at 0, where direct and weighted are
the vanilla network to the bit.  `official` is what the tables count and the authors released: LayerNorm and ReLU after
matching and after merging, two learned weights in place of a, and a connection in the first block that is built and
never used.  Official softmax and weighted are not in the release; here they keep one a in place of the two weights.

`reach` is who is heard: `previous` alone, as in the paper; `dense`, all earlier blocks; `tree`, the previous block and
those where a binary count of the blocks carries (4, 6 and 7 before the 8th), so that each hears at most log2 n.  The
paper's section 5 asks for the last two and defines neither; with them every block heard has its own a, and the three
equations run over all terms.
"""

import itertools
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from workbench.attention.bam import BAM
from workbench.attention.base import Attention, Dim, Trail, attentions
from workbench.attention.bridge import Bridge
from workbench.attention.cbam import ChannelGate
from workbench.attention.gala import GALA
from workbench.attention.gc import GC
from workbench.attention.ge import GE
from workbench.attention.matching import POOLS, ChannelLinear, ChannelNorm, Match
from workbench.attention.merging import SCHEMAS, Alpha, Scalars, Weights
from workbench.errors import OutOfRange

N = TypeVar("N", bound=nn.Module)


class Options(NamedTuple):
    """How to connect; see `connect`."""

    schema: str
    match: str
    reduction: int
    pool: str
    form: str


def connect(
    network: N,
    dims: tuple[str, ...] = (),
    schema: str = "direct",
    match: str = "fc1",
    reduction: int = 16,
    pool: str = "avg",
    form: str = "official",
    reach: str = "previous",
    memory: str = "attended",
) -> N:
    """Connect the attention blocks of `network` in place, each dimension on its own (DCA 3.4), and return it.

    dims: the dimensions to connect, all when empty.  match: one (fc1) or two (fc2) fully-connected layers between
    unequal widths; GE has one convolution there.  reduction: r of fc2; fc1 has none.  pool: avg or max between unequal
    map sizes.  memory: what is told, the attended descriptor or the attention alone, as the release does for SK in
    MobileNetV2.  New layers go where their block is, in its precision and mode.
    """
    for option, value, known in (
        ("schema", schema, SCHEMAS),
        ("match", match, ("fc1", "fc2")),
        ("pool", pool, POOLS),
        ("form", form, ("official", "text")),
        ("reach", reach, REACH),
        ("memory", memory, ("attended", "attention")),
    ):
        if value not in known:
            raise OutOfRange(f"DCA option {option}={value}; use {' or '.join(known)}.")
    options = Options(schema, match, reduction, pool, form)
    blocks = list(attentions(network))
    for block in blocks:
        if isinstance(block, BAM | GALA | Bridge):
            raise OutOfRange(
                f"DCA connects a block's descriptor with the one before; {type(block).__name__} has none of a single "
                "width. Use se, cra, cbam, ge, gc, sk or aw."
            )
    present = list(dict.fromkeys(block.dim for block in blocks))
    if not present or not set(dims) <= set(present):
        have = f"has {' and '.join(present)}" if present else "has none"
        raise OutOfRange(f"DCA dims={'+'.join(dims) or 'all'}: no such attention to connect; this network {have}.")
    for dim in dims or present:
        chain = [block for block in blocks if block.dim == dim]
        for number, block in enumerate(chain):
            heard = [chain[number - back] for back in REACH[reach](number)]
            for earlier in heard:
                earlier.tells = memory
            widths = [earlier.site.channels for earlier in heard] or [block.site.in_channels]
            if heard or form == "official":
                like = next(block.parameters(), next(network.parameters(), torch.empty(0)))
                added = connection(block, number, REACH[reach](number), widths, options)
                block.connection = added.to(like.device, like.dtype).train(block.training)
    return network


def connection(block: Attention, number: int, backs: list[int], widths: list[int], options: Options) -> nn.Module:
    """The connection of the block that has `number` before it and hears those `backs` steps back, of these widths."""

    def one() -> Connection:
        matches = {str(width): match(block, width, options) for width in dict.fromkeys(widths)}
        merge, embed = ends(block, len(widths), options)
        return Connection(block.dim, number, backs, list(map(str, widths)), matches, merge, embed)

    return PerBranch(one(), one()) if block.dim == "branch" else one()


class Connection(nn.Module):
    """f(G, M) of one block: match the size of the memories heard, merge them with G, embed the result."""

    def __init__(
        self,
        dim: Dim,
        number: int,
        backs: list[int],
        widths: list[str],
        matches: dict[str, Match],
        merge: Alpha | Weights,
        embed: nn.Module,
    ):
        super().__init__()
        self.dim: Dim = dim
        self.number, self.backs, self.widths = number, backs, widths
        self.match, self.merge, self.embed = nn.ModuleDict(matches), merge, embed

    def forward(self, G: Tensor, trail: Trail) -> Tensor:
        """(N, C, ...) -> (N, C, ...); the first block of a dimension has nothing before it and passes G on."""
        heard = self.hear(trail)
        return self.merged(G, heard) if heard else G

    def hear(self, trail: Trail) -> list[Tensor]:
        """The memories of the earlier blocks, in the order of `widths`; none where this block runs on its own.

        Counted from the first block on: an activation checkpoint (with use_reentrant=False) runs a block again when
        the trail holds the later ones, too.
        """
        told = [step.memory for step in trail.of(self.dim) if step.memory is not None]
        if 0 < len(told) < self.number:
            raise OutOfRange(
                f"This block has {self.number} of its dimension ({self.dim}) before it, and {len(told)} of them ran; "
                "call the whole network, since DCA connects them, or one block alone."
            )
        return [told[self.number - back] for back in self.backs if told]

    def merged(self, G: Tensor, heard: list[Tensor]) -> Tensor:
        matched = [self.match[width](memory, G) for width, memory in zip(self.widths, heard, strict=True)]
        return self.embed(self.merge(G, [M.reshape(*M.shape, *[1] * (G.dim() - M.dim())) for M in matched]))

    def contribution(self) -> float:
        """Share of the earlier attentions, |w_earlier| / (|w_earlier| + |w_current|), in [0, 1].  DCA Fig. 5."""
        current, *earlier = map(abs, self.merge.weights())
        return sum(earlier) / (sum(earlier) + current) if sum(earlier) else 0.0


class PerBranch(nn.Module):
    """SK: a connection for each branch of (N, C, 2)."""

    def __init__(self, first: Connection, second: Connection):
        super().__init__()
        self.first, self.second = first, second

    def forward(self, G: Tensor, trail: Trail) -> Tensor:
        heard = self.first.hear(trail)
        if not heard:
            return G
        branches = enumerate((self.first, self.second))
        return torch.stack([one.merged(G[..., i], [M[..., i] for M in heard]) for i, one in branches], -1)

    def contribution(self) -> float:
        """The mean of both."""
        return (self.first.contribution() + self.second.contribution()) / 2


def match(block: Attention, width: int, options: Options) -> Match:
    """The layers from a memory of `width` to the block's own width, none where they are equal.

    Official layers are followed by LayerNorm and ReLU, in CBAM by BatchNorm and ReLU, in GE convolutions with both;
    GC's last one and the text's, which keeps the matched map "clean" (DCA 3.2), by nothing.
    """
    channels, text = described(block), options.form == "text"
    if block.dim == "spatial" or width == channels:
        return Match(options.pool, [])
    if isinstance(block, GE):
        if options.match == "fc2":
            raise OutOfRange("DCA option match=fc2: GE's maps are matched by one convolution, not by layers; use fc1.")
        conv = nn.Conv2d(width, channels, 1)
        return Match(options.pool, [conv] if text else [conv, nn.BatchNorm2d(channels), nn.ReLU()])
    widths = [width, channels]
    if options.match == "fc2":
        if not 1 <= options.reduction <= channels:
            raise OutOfRange(f"DCA reduction {options.reduction} of {channels} channels; use 1 to {channels}.")
        widths.insert(1, channels // options.reduction)
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(widths):
        normed = [] if text else [(nn.BatchNorm1d if isinstance(block, ChannelGate) else ChannelNorm)(b)]
        layers += [ChannelLinear(a, b), *normed, nn.ReLU()]
    return Match(options.pool, layers[:-1] if text else layers[:-2] if isinstance(block, GC) else layers)


def ends(block: Attention, count: int, options: Options) -> tuple[Alpha | Weights, nn.Module]:
    """What merges G with `count` memories, and what follows the merge, in each module's released form."""
    if options.form == "text" or isinstance(block, GC):
        return Alpha(options.schema, count), nn.Identity()
    embed: nn.Module = nn.Sequential(ChannelNorm(described(block)), nn.ReLU())
    if block.dim == "spatial":
        embed = nn.Sequential(nn.BatchNorm2d(2), nn.ReLU())
    elif isinstance(block, GE):
        embed = nn.Identity()
    if options.schema != "direct":
        return Alpha(options.schema, count), embed
    if block.dim == "spatial":  # the release starts at the vanilla weights 1 and 0
        return Scalars(count, start=(1.0, *[0.0] * count)), embed
    return Scalars(count) if isinstance(block, GE) else Weights(count, not isinstance(block, ChannelGate)), embed


def described(block: Attention) -> int:
    """The channels of the block's descriptor: an AW-convolution describes its input, all others what they attend."""
    return block.site.in_channels if block.dim == "weight" else block.site.channels


def tree(number: int) -> list[int]:
    """The paths of a binary-indexed tree: with 7 blocks before, the 7th, 6th and 4th, that is 1, 2 and 4 back."""
    backs, left = [], number
    while left:
        backs.append(number - left + 1)
        left &= left - 1
    return backs


REACH: dict[str, Callable[[int], list[int]]] = {  # how many blocks back the one with `number` before it hears
    "previous": lambda number: [1] if number else [],
    "dense": lambda number: [*range(1, number + 1)],
    "tree": tree,
}
