"""One attention block on one picture, step by step in float64; what a grid keeps of a map; what SE and CRA cost.

    X -> G = g(X) -> Z = f(G, M) -> T = t(Z) -> X' = fuse(T, X)        DCA Eq. 2-3

The network that is looked into stays as it is: a copy in float64 runs, and its block is watched from outside.
"""

import copy
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from workbench.attach import trace
from workbench.attention import Attention, Trail, attentions
from workbench.attention.base import averaging
from workbench.attention.dca import PerBranch
from workbench.attention.sk import SK
from workbench.backbones import Network
from workbench.build import build
from workbench.errors import OutOfRange, UnknownName
from workbench.explain.maps import check

UNTRAINED = {  # module -> a network of one such block a stage
    "aw": "aw[reduction=4]-resnet8",
    "bam": "bam[reduction=4]-resnet8",
    "bridge": "bridge[reduction=4]-resnet8",
    "cbam": "cbam[reduction=4]-resnet8",
    "cra": "cra4-resnet8",
    "dca-cbam": "dca-cbam[reduction=4]-resnet8",
    "dca-cra": "dca-cra4-resnet8",
    "dca-se": "dca-se[reduction=4]-resnet8",
    "gala": "gala[reduction=4]-resnet8",
    "gc": "gc[reduction=4]-resnet8",
    "ge": "ge[size=4]-resnet8",
    "se": "se[reduction=4]-resnet8",
    "sk": "sk[reduction=4]-resnet8",
}


class Seen(NamedTuple):
    """What one block did with one picture; tensors keep their batch dimension of 1.

    block: an Attention.  x: the map that it got, (1, C, H, W); inside: the same, or SK's two branches; features: the
    earlier maps of its backbone block; heard: (site, memory) of the blocks that its connection reads; G, Z, T:
    descriptor, connected descriptor (G itself without a connection) and attention; y: what the block handed on.
    """

    block: Any  # an Attention, whose parts differ by module
    x: Tensor
    inside: Any
    features: tuple[Tensor, ...]
    heard: list[tuple[str, Tensor]]
    G: Tensor
    Z: Tensor
    T: Tensor
    y: Tensor


def names(network: nn.Module) -> list[str]:
    """A name for every attention dimension in the order of the network: its site, with the dimension where it has two.

    "2.1", as in CRA Fig. 8, or "2.1 channel" and "2.1 spatial".
    """
    blocks = [(str(block.site), block.dim) for block in attentions(network)]
    sites = [site for site, _ in blocks]
    return [site if sites.count(site) == 1 else f"{site} {dim}" for site, dim in blocks]


def dissect(network: nn.Module, picture: Tensor, name: str) -> Seen:
    """The block of this name (see `names`) in one forward pass of `picture`, (1, 3, H, W) normalised as in training."""
    check(picture)
    known = names(network)
    if name not in known:
        raise UnknownName("attention block", name, known or ["(this network has none)"])
    own = copy.deepcopy(network).double().eval()
    block = list(attentions(own))[known.index(name)]
    kept: dict[str, Any] = {}

    def before(module: nn.Module, given: tuple[Tensor, Trail]) -> None:
        x, trail = given
        kept.update(x=x.clone(), features=tuple(map(torch.clone, trail.features)), steps=[*trail.steps])

    def after(module: nn.Module, given: tuple[Tensor, Trail], y: Tensor) -> None:
        kept.update(y=y.clone())  # the network adds its shortcut to y in place

    hooks = block.register_forward_pre_hook(before), block.register_forward_hook(after)
    with torch.no_grad():
        trace(own, picture[:1].double())
        for hook in hooks:
            hook.remove()
        return again(block, **kept)


def again(block: Attention, x: Tensor, features: tuple[Tensor, ...], steps: list, y: Tensor) -> Seen:
    """The steps of a block, one after the other, from what it got and what was told before."""
    trail = Trail(steps=steps, features=features)
    inside: Any = (block.first(x), block.second(x)) if isinstance(block, SK) else x
    G = block.look(inside, trail)
    Z = G if block.connection is None else block.connection(G, trail)
    return Seen(block, x, inside, features, heard(block, trail), G, Z, block.transform(Z), y)


def heard(block: Attention, trail: Trail) -> list[tuple[str, Tensor]]:
    """(site, memory) of the blocks that the connection of `block` reads, nearest first."""
    if block.connection is None:
        return []
    one: Any = block.connection.first if isinstance(block.connection, PerBranch) else block.connection
    told = [(str(step.site), step.memory) for step in trail.of(block.dim) if step.memory is not None]
    return [told[-back] for back in one.backs if told]


def untrained(word: str) -> Network:
    """A network of blocks with this module, as it is before training, from seed 0; evaluated and frozen."""
    if word not in UNTRAINED:
        raise UnknownName("module", word, UNTRAINED)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build(UNTRAINED[word], 10, checked=False).eval().requires_grad_(False)


class Kept(NamedTuple):
    """A map seen through a grid.  error: root mean square of map - back; spread: of map - its mean."""

    grid: np.ndarray
    back: np.ndarray
    error: float
    spread: float


def kept(values: np.ndarray, size: int) -> Kept:
    """What a size x size grid of means keeps of a map (H, W): the grid, and the map rebuilt from it.  CRA Eq. 4.

    Each position of the rebuilt map is the mean of the cells that cover it; they overlap where size does not divide.
    """
    side = min(values.shape)
    if not 1 <= size <= side:
        raise OutOfRange(f"Grid {size} of a {values.shape[0]}x{values.shape[1]} map; use 1 to {side} (CRA Eq. 4).")
    rows, columns = (averaging(n, size, torch.device("cpu"), torch.float64).numpy() for n in values.shape)
    grid = rows @ values @ columns.T
    back = covering(rows) @ grid @ covering(columns).T
    return Kept(grid, back, spread(values - back), spread(values - values.mean()))


def covering(averages: np.ndarray) -> np.ndarray:
    """(size, length) -> (length, size): the share of each cell at each position."""
    covers = (averages > 0).T
    return covers / covers.sum(1, keepdims=True)


def spread(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))


class Cost(NamedTuple):
    """Of one module: what it is, its trainable parameters, and its multiply-adds beside pooling and scaling."""

    module: str
    params: int
    macs: int


def costs(channels: int, reduction: int, sizes: tuple[int, ...]) -> list[Cost]:
    """SE of hidden width h = C / r (2 C h weights, h + C biases), and CRA with these grids, C (h w + 1)."""
    if not 1 <= reduction <= channels:
        raise OutOfRange(f"Reduction {reduction} of {channels} channels; it must be from 1 to {channels}.")
    hidden = channels // reduction
    products = 2 * channels * hidden
    se = Cost(f"SE, r = {reduction}, hidden width {hidden}", products + hidden + channels, products)
    cras = [Cost(f"CRA <{n},{n}>", channels * (n * n + 1), channels * n * n) for n in sizes]
    return [se, *cras]
