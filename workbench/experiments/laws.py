"""Statements of the papers about the mathematics itself, checked on the built modules and networks.

Each takes the table that the claim reads and returns whether the statement holds, and a sentence with what was found.
Values are compared in float64 to 1e-12, parameters and shapes exactly, on networks without memory (torch's meta
device).
"""

from fractions import Fraction
from itertools import pairwise

import torch
from torch import Tensor

from workbench.attention import Attention, ConvSpec, Site, Trail
from workbench.attention.aw import AWConv
from workbench.attention.cra import CRA
from workbench.attention.dca import Connection
from workbench.attention.matching import ChannelLinear
from workbench.attention.merging import SCHEMAS
from workbench.backbones import Network
from workbench.build import build
from workbench.experiments.printed import total
from workbench.experiments.table import Table

EXACT = 1e-12
SITE = Site(1, 1, 8, 8)


def cra_parameters(table: Table) -> tuple[bool, str]:
    """CRA II-C: C(hw + 1) parameters a module."""
    blocks = [block for block in weightless("cra7-resnet50").attentions() if isinstance(block, CRA)]
    found = [sum(p.numel() for p in block.parameters()) for block in blocks]
    said = [block.site.channels * (block.extract.size**2 + 1) for block in blocks]
    return (
        found == said,
        f"The {len(blocks)} modules of CRA-ResNet-50 have {sum(found):,}, by the formula {sum(said):,}.",
    )


def cra_flops(table: Table) -> tuple[bool, str]:
    """CRA II-C: 2C(3HW + hw) operations a module, against what the table adds for CRA-ResNet-56."""
    formula = sum(
        2 * block.site.channels * (3 * side**2 + block.extract.size**2) for block, side in maps("cra8-resnet56", 32)
    )
    terms = [[1, "CRA-ResNet-56, CIFAR-10", "macs"], [-1, "ResNet-56, CIFAR-10", "macs"]]
    printed = total(table, terms, counted=False)
    mega = Fraction(formula, 10**9)  # the column is in G
    return printed.low <= mega <= printed.high, (
        f"On ResNet-56 the formula gives {formula / 1e6:.2f}M, Table V adds {float(printed.value) * 1e3:.2f}M: "
        "what the depthwise kernels alone cost, C(hw + 1)."
    )


def cra_independent(table: Table) -> tuple[bool, str]:
    """CRA II-B: a channel's attention sees no other channel."""
    block, x = seeded_cra(7)
    changed = x.clone()
    changed[:, 0] += 1
    before, after = gates(block, x), gates(block, changed)
    alone = torch.equal(before[:, 1:], after[:, 1:]) and not torch.equal(before[:, 0], after[:, 0])
    others = "the others stay equal to the bit" if alone else "the others change with it, or it does not"
    return alone, f"One channel changed: its own attention follows, {others}."


def cra_fits(table: Table) -> tuple[bool, str]:
    """CRA II-A with III-B: the grid <4,4> is never larger than the map, in the networks of Table V."""
    small = []
    for row in table.rows:
        if row.model.startswith("cra4"):
            found = maps(row.model, 32)
            sides = [side for block, side in found if side < block.extract.size]
            if sides:
                few = f"{len(sides)} of {len(found)}"
                small.append(f"{row.label} ({few} modules see maps of {min(sides)}x{min(sides)})")
    return not small, f"<4,4> is larger than the map in {'; '.join(small)}." if small else "<4,4> fits every map."


def cra_grid_of_one(table: Table) -> tuple[bool, str]:
    """CRA III-A: <1,1> is a gate on the global mean, sigmoid(l mean(x) + b), so places do not matter."""
    block, x = seeded_cra(1)
    weight, bias = block.transform[0].parameters()
    error = (gates(block, x) - torch.sigmoid(weight.flatten() * x.mean((2, 3)) + bias)).abs().max().item()
    moved = x.flatten(2)[..., torch.arange(x[0, 0].numel()).flip(0)].view_as(x)
    shift = (gates(block, moved) - gates(block, x)).abs().max().item()
    return max(error, shift) <= EXACT, (
        f"The gate is that of the global mean to {error:.0e}, and moving the pixels moves it by {shift:.0e}."
    )


def dca_zero_is_vanilla(table: Table) -> tuple[bool, str]:
    """DCA 3.2: f(G, 0) = G in each of the three schemas."""
    G = torch.linspace(-2, 3, 12, dtype=torch.float64)
    off = {name: (schema([G, 0 * G.flip(0)]) - G).abs().max().item() for name, schema in SCHEMAS.items()}
    shown = ", ".join(f"{name} {distance:.2g}" for name, distance in off.items())
    return max(off.values()) <= EXACT, f"Distance of f(G, 0) from G, for G from -2 to 3: {shown}."


def dca_match_parameters(table: Table) -> tuple[bool, str]:
    """DCA 3.3: one fully-connected layer from C' to C channels has C' x C weights."""
    blocks = list(weightless("dca-se-resnet50").attentions())
    found, said = [], []
    for earlier, block in pairwise(blocks):
        if isinstance(block.connection, Connection) and earlier.site.channels != block.site.channels:
            layers = [m for m in block.connection.match.modules() if isinstance(m, ChannelLinear)]
            found.append(sum(layer.weight.numel() for layer in layers))
            said.append(earlier.site.channels * block.site.channels)
    return found == said, (
        f"The {len(found)} layers between stages of SE-ResNet50 have {sum(found):,} weights; C' x C: {sum(said):,}."
    )


def dca_stage_3(table: Table) -> tuple[bool, str]:
    """DCA 4.5: connections 7 to 13 are those of stage 3, where connection i leads to block i + 1."""
    sites = [block.site for block in weightless("se-resnet50").attentions()]
    into = [number for number, site in enumerate(sites[1:], 1) if site.stage == 3]
    return into == list(range(7, 14)), (
        f"{len(sites) - 1} connections join {len(sites)} blocks; {into[0]} to {into[-1]} lead into a block of stage 3, "
        f"and number {into[-1] + 1} leads from stage 3 to stage 4."
    )


def aw_residual(table: Table) -> tuple[bool, str]:
    """AW Eq. 6: a convolution with K + A K is that with K and that with A K, added."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        both, product = (AWConv(SITE, ConvSpec(8, 16), residual=residual).double().eval() for residual in (True, False))
        x = torch.randn(3, 8, 9, 9, dtype=torch.float64)
    product.load_state_dict(both.state_dict())
    plain = torch.nn.functional.conv2d(x, both.weight, padding=1)
    with torch.no_grad():
        error = (both(x) - plain - product(x)).abs().max().item()
    return error <= EXACT, f"The two sides differ by {error:.0e}."


def seeded_cra(size: int) -> tuple[CRA, Tensor]:
    """A module with a size x size grid, and maps for it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return CRA(SITE, size).double().eval(), torch.randn(2, 8, 14, 14, dtype=torch.float64)


def gates(block: Attention, x: Tensor) -> Tensor:
    """(N, C, H, W) -> the attention (N, C)."""
    with torch.no_grad():
        return block.transform(block.look(x, Trail()))


def weightless(name: str, classes: int = 1000) -> Network:
    """The network on the meta device."""
    with torch.device("meta"):
        return build(name, classes, checked=False).eval()


def maps(name: str, side: int) -> list[tuple[CRA, int]]:
    """Every CRA module of a network with the side of the map that it sees."""
    network, found = weightless(name, 100), []
    hooks = [
        block.register_forward_hook(lambda block, inputs, y: found.append((block, inputs[0].shape[-1])))
        for block in network.attentions()
    ]
    with torch.no_grad():
        network(torch.empty(1, 3, side, side, device="meta"))
    for hook in hooks:
        hook.remove()
    return found
