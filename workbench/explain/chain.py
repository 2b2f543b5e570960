"""The chain of connected attention blocks: who hears whom, with which share, through what.  DCA Fig. 2 and Fig. 5.

    share = |w_earlier| / (|w_current| + sum of |w| of all blocks heard)

Where a block hears one other it is the paper's contribution ratio; where it hears several, their shares add up to it.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go
import torch
from torch import Tensor, nn

from workbench.attention import Attention, Step, attentions
from workbench.attention.dca import Connection, PerBranch, described
from workbench.attention.matching import ChannelLinear, Match
from workbench.errors import Corrupt
from workbench.explain.figures import BLUE, COLOURS, GREY, plain
from workbench.explain.maps import contribution, steps, untouched

NODE_PX, STEP_PX, RISE_PX = 32, 54, 62  # a disc's diameter, the way to the next one, and the unit of an arc's width


class Block(NamedTuple):
    """width: channels of its descriptor; parameters: of its whole connection, also where that is never used."""

    site: str
    width: int
    parameters: int


class Link(NamedTuple):
    """What the block number `later` hears of the block number `earlier`, counted from 0 along the chain.

    share: in [0, 1], the mean of the branches in SK; weights: (w_current, w_earlier), a pair a branch; matching: what
    brings the memory to the size of the descriptor, in words; parameters: how many that has.
    """

    earlier: int
    later: int
    share: float
    weights: tuple[tuple[float, float], ...]
    matching: str
    parameters: int


class Chain(NamedTuple):
    """The blocks of one dimension in the order of the forward pass, and every connection between them."""

    dim: str
    blocks: tuple[Block, ...]
    links: tuple[Link, ...]


def read(network: nn.Module, pictures: Tensor) -> list[Chain]:
    """The chain of each connected dimension; pictures (N, 3, H, W) are what map sizes are found with."""
    contribution(network)  # refuses a network without connections
    found = []
    for dim, members in _dimensions(network, pictures).items():
        blocks = [Block(str(b.site), described(b), _count(b.connection) if b.connection else 0) for b, _ in members]
        links = [link for number in range(len(members)) for link in _links(number, members)]
        found.append(Chain(dim, tuple(blocks), tuple(links)))
    return found


def moved(network: nn.Module, pictures: Tensor) -> dict[tuple[str, str], float]:
    """(site, dim) -> mean |T - T_0| of every block that hears; T_0 is its attention when what it hears is 0.

    The memory is zeroed after matching and the map that the block sees stays the same, so each number is of one block.
    """
    found = {}
    with torch.no_grad(), untouched(network):
        for dim, members in _dimensions(network, pictures).items():
            for block, step in members:
                if _parts(block):
                    unheard: Any = block.transform(_unheard(block.connection, step.extracted))
                    found[str(step.site), dim] = float((step.attention - unheard).abs().mean())
    return found


def places(network: nn.Module) -> list[tuple[str, str]]:
    """(site, dim) of every connection, in the order of `maps.contribution`; of weights on the meta device, too."""
    return [(str(block.site), block.dim) for block in attentions(network) if _parts(block)]


def shares(places: Sequence[tuple[str, str]], metrics: Mapping[str, Any]) -> list[tuple[str, str, float]]:
    """(site, dim, ratio) of every connection, from the metrics of a record; see experiments/traits.py."""
    found = []
    dims = list(dict.fromkeys(dim for _, dim in places))
    for dim in dims:
        key = "contribution" if dim == dims[0] else f"contribution_{dim}"
        sites, ratios = [site for site, mine in places if mine == dim], metrics.get(key, [])
        if len(sites) != len(ratios):
            raise Corrupt(
                f"A record has {len(ratios)} numbers of {key!r} for {len(sites)} connections; run `workbench doctor`."
            )
        found += [(site, dim, float(ratio)) for site, ratio in zip(sites, ratios, strict=True)]
    return found


def rows(chain: Chain) -> list[dict[str, Any]]:
    """Every connection as a row of plain values."""
    found = []
    for link in chain.links:
        row: dict[str, Any] = {"dimension": chain.dim, "from block": chain.blocks[link.earlier].site}
        row |= {"to block": chain.blocks[link.later].site, "share": link.share}
        for number, (own, earlier) in enumerate(link.weights, 1):
            branch = f", branch {number}" if len(link.weights) > 1 else ""
            row |= {f"w_current{branch}": own, f"w_earlier{branch}": earlier}
        row |= {"matched by": link.matching, "parameters of the matching": link.parameters}
        found.append(row | {"parameters of the block's connection": chain.blocks[link.later].parameters})
    return found


def figure(chain: Chain, name: str) -> go.Figure:
    """Blocks as discs from top to bottom, and an arrow a connection, as thick as its share."""
    drawn = go.Figure()
    for link in chain.links:
        _arrow(drawn, chain, link)
    numbers, stages = list(range(len(chain.blocks))), [int(block.site.split(".")[0]) for block in chain.blocks]
    drawn.add_scatter(
        x=[0.0] * len(numbers),
        y=numbers,
        mode="markers+text",
        marker={"size": NODE_PX, "color": [COLOURS[stage % len(COLOURS)] for stage in stages], "line": {"width": 0}},
        text=[block.site for block in chain.blocks],
        textfont={"color": "white"},
        hovertext=[_node(block) for block in chain.blocks],
        hoverinfo="text",
    )
    for number, block in enumerate(chain.blocks):
        text = f"{block.width} channels" if block.width > 1 else "1 channel"
        drawn.add_annotation(x=0, y=number, text=text, xshift=-NODE_PX / 2 - 4, xanchor="right", showarrow=False)
    for number, (one, other) in enumerate(pairwise(stages)):
        if one != other:
            drawn.add_hline(number + 0.5, line={"color": GREY, "width": 1, "dash": "dot"}, layer="below")
    right = max(_rise(link.later - link.earlier) for link in chain.links) + 0.8
    drawn.update_xaxes(visible=False, range=[-1.8, right], fixedrange=True)
    drawn.update_yaxes(visible=False, range=[len(numbers) - 0.4, -0.6], fixedrange=True)
    plain(drawn, STEP_PX * len(numbers) + 20, _said(chain, name))
    margin = dict.fromkeys("lrtb", 10)
    return drawn.update_layout(width=int(RISE_PX * (right + 1.8)) + 20, showlegend=False, margin=margin)


def _arrow(drawn: go.Figure, chain: Chain, link: Link) -> None:
    """An arc past the blocks between, with its share beside it, and the head on the block that hears."""
    start, end, width = link.earlier + 0.15, link.later - 0.15, 1 + 8 * link.share
    angle = np.linspace(0, np.pi, 25)
    x, y = _rise(link.later - link.earlier) * np.sin(angle), (start + end) / 2 - (end - start) / 2 * np.cos(angle)
    hover = f"{_hover(chain, link)}<extra></extra>"
    line = {"color": BLUE, "width": width}
    drawn.add_scatter(x=x, y=y, mode="lines", line=line, opacity=0.75, hovertemplate=hover)
    drawn.add_annotation(x=x[12], y=y[12], text=f"{link.share:.2f}", xshift=4 + width / 2, xanchor="left",
                         showarrow=False, borderpad=0)  # fmt: skip
    drawn.add_annotation(x=0, y=end, ax=x[-4], ay=y[-4], axref="x", ayref="y", text="", arrowcolor=BLUE, arrowhead=2,
                         arrowwidth=max(1.5, width / 2), standoff=NODE_PX / 2 - 3)  # fmt: skip


def _hover(chain: Chain, link: Link) -> str:
    """All that is known of a connection, in lines."""
    weights = "<br>".join(f"w_earlier {earlier:.4f}, w_current {own:.4f}" for own, earlier in link.weights)
    later = chain.blocks[link.later]
    return (
        f"{chain.blocks[link.earlier].site} → {later.site}: share {link.share:.4f}<br>{weights}<br>"
        f"matched by {link.matching}: {link.parameters:,} parameters<br>"
        f"whole connection of {later.site}: {later.parameters:,} parameters"
    )


def _node(block: Block) -> str:
    return f"block {block.site}, {block.width} channels<br>its connection: {block.parameters:,} parameters"


def _said(chain: Chain, name: str) -> str:
    """The figure in words."""
    ends = [one(chain.links, key=lambda link: link.share) for one in (min, max)]
    least, most = (f"{e.share:.2f}, {chain.blocks[e.earlier].site} to {chain.blocks[e.later].site}" for e in ends)
    return (
        f"The {len(chain.blocks)} {chain.dim} attention blocks of {name} in the order of the forward pass, and their "
        f"{len(chain.links)} connections; the least share is {least}, the greatest {most}."
    )


def _rise(span: int) -> float:
    """The height of an arc over `span` steps."""
    return 0.72 * span**0.75


def _dimensions(network: nn.Module, pictures: Tensor) -> dict[str, list[tuple[Attention, Step]]]:
    """Connected dimension -> its blocks, each with its step in one forward of `pictures`."""
    seen, blocks = steps(network, pictures), list(attentions(network))
    return {
        dim: list(zip([b for b in blocks if b.dim == dim], [s for s in seen if s.dim == dim], strict=True))
        for dim in dict.fromkeys(block.dim for block in blocks if _parts(block))
    }


def _parts(block: Attention) -> list[Connection]:
    """The connections of a block that hears: one, or one for each branch of SK."""
    connection: Any = block.connection
    parts = [connection.first, connection.second] if isinstance(connection, PerBranch) else [connection]
    return [part for part in parts if part is not None and part.backs]


def _links(number: int, members: list[tuple[Attention, Step]]) -> Iterator[Link]:
    """The connections that end in block `number` of its dimension."""
    parts = _parts(members[number][0])
    weights = [part.merge.weights() for part in parts]
    for place, (back, width) in enumerate(zip(parts[0].backs, parts[0].widths, strict=True) if parts else ()):
        pairs = tuple((own, heard[place]) for own, *heard in weights)
        totals = [sum(map(abs, every)) for every in weights]
        share = float(
            np.mean([abs(one) / total if one else 0.0 for (_, one), total in zip(pairs, totals, strict=True)])
        )
        matches: list[Any] = [part.match[width] for part in parts]
        words = _matching(matches[0], members[number - back][1].memory, members[number][1].extracted)
        words += f", shared by all of width {width}" if parts[0].widths.count(width) > 1 and _count(matches[0]) else ""
        yield Link(number - back, number, share, pairs, words, sum(map(_count, matches)))


def _matching(match: Match, memory: Tensor | None, G: Tensor) -> str:
    """What stands between the memory and the descriptor."""
    words = []
    if memory is not None and memory.dim() == 4 and memory.shape[-2:] != G.shape[-2:]:
        sizes = " → ".join("x".join(map(str, one.shape[-2:])) for one in (memory, G))
        words.append(f"{match.size.pool} pooling {sizes}")
    linear = [layer for layer in match.layers if isinstance(layer, ChannelLinear)]
    if linear:
        widths = " → ".join(map(str, [linear[0].in_features, *(layer.out_features for layer in linear)]))
        words.append(f"{len(linear)} fully-connected layer{'s' * (len(linear) > 1)} (fc{len(linear)}) {widths}")
    convs = [layer for layer in match.layers if isinstance(layer, nn.Conv2d)]
    words += [f"1x1 convolution {conv.in_channels} → {conv.out_channels}" for conv in convs]
    return " and ".join(words) or "nothing, the sizes are equal"


def _unheard(connection: Any, G: Tensor) -> Tensor:
    """The connection's output where all that it hears is 0 after matching."""
    if isinstance(connection, PerBranch):
        parts = (connection.first, connection.second)
        return torch.stack([_unheard(one, G[..., number]) for number, one in enumerate(parts)], -1)
    return connection.embed(connection.merge(G, [torch.zeros_like(G)] * len(connection.backs)))


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
