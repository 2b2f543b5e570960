"""extract -> connect -> transform -> fuse of SE, CRA, CBAM, GE and GC for one channel: its maps, and its lines.

Where a gate is a map, the lines are about one position p: where the channel's map is largest in size.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from workbench.attention.bam import BAM
from workbench.attention.base import averaging
from workbench.attention.gc import GC
from workbench.explain.anatomy import Seen
from workbench.explain.anatomy_lines import (
    Line,
    Panel,
    Stage,
    Term,
    array,
    batch_norm,
    connect,
    dense,
    layer_norm,
    peak,
    places,
    strongest,
    weighed,
)

MEAN = "the mean of the channel's map"


def se(seen: Seen, c: int) -> list[Stage]:
    first, relu, last, _ = seen.block.transform
    h = relu(first(seen.Z))[0]
    k = strongest(last, c, h)
    name = "Z" if seen.heard else "G"
    lines = [
        dense(f"h_{{{k}}}", unit(k), first, k, seen.Z[0], h[k], "relu", name),
        dense(f"T_{{{c}}}", "the gate of the channel", last, c, h, seen.T[0, c], "sigmoid", "h"),
    ]
    panels = (Panel("h, hidden units", array(h), (k,)), Panel("T", array(seen.T[0]), (c,)))
    extracted = Stage("extract", (chosen(seen, c), Panel("G", array(seen.G[0]), (c,))), (mean(seen, c, seen.G[0, c]),))
    return [extracted, *connect(seen, (c,)), Stage("transform", panels, tuple(lines)), fuse(seen, c)]


def cra(seen: Seen, c: int) -> list[Stage]:
    conv = seen.block.transform[0]
    U, L = seen.Z[0, c], conv.weight[c, 0]
    cell = peak(U * L)
    names = places(U.shape, "Z" if seen.heard else "G")
    line = weighed(
        f"T_{{{c}}}", "the gate: cells x weights, summed", names, U, L, conv.bias[c].item(), "sigmoid", seen.T[0, c]
    )
    rows, columns = (averaging(n, size, U.device, U.dtype) for n, size in zip(seen.x.shape[-2:], U.shape, strict=True))
    share = torch.outer(rows[cell[0]], columns[cell[1]])
    where, values, weights = inside(share, seen.x[0, c])
    words = "the cell that moves the gate most: the mean of its positions"
    G = seen.G[0, c]
    extracted = weighed(f"G_{{{c}}}({cell[0]},{cell[1]})", words, where, values, weights, 0.0, "", G[cell])
    grids = (Panel("grid", array(U), cell), Panel("weights L", array(L), cell), Panel("grid x L", array(U * L), cell))
    return [
        Stage("extract", (chosen(seen, c), Panel(f"G, {c}", array(G), cell)), (extracted,)),
        *connect(seen, (c, *cell)),
        Stage("transform", (*grids, Panel("T", array(seen.T[0]), (c,))), (line,)),
        fuse(seen, c),
    ]


def cbam_channel(seen: Seen, c: int) -> list[Stage]:
    first, relu, last = seen.block.transform.mlp
    paths = ["mean", "max"][: seen.G.shape[-1]]
    hidden = [relu(first(seen.Z[..., i]))[0] for i in range(len(paths))]
    sums = [last(h)[c] for h in hidden]
    lines = [
        dense(f"a^{{{path}}}_{{{c}}}", f"what the {path} of every channel says", last, c, h, a, "", f"h^{{{path}}}")
        for path, h, a in zip(paths, hidden, sums, strict=True)
    ]
    names = [line.symbol for line in lines]
    values = torch.stack(sums)
    words = "the gate: both through the same layers, added"
    lines.append(
        weighed(f"T_{{{c}}}", words, names, values, torch.ones_like(values), 0.0, "sigmoid", seen.T[0, c]),
    )
    vectors = [Panel(f"G, {path}", array(seen.G[0, :, i]), (c,)) for i, path in enumerate(paths)]
    return [
        Stage("extract", (chosen(seen, c), *vectors), (mean(seen, c, seen.G[0, c, 0], "mean"),)),
        *connect(seen, (c, 0)),
        Stage("transform", (Panel("T", array(seen.T[0]), (c,)),), tuple(lines)),
        fuse(seen, c),
    ]


def cbam_spatial(seen: Seen, c: int) -> list[Stage]:
    conv, norm, _ = seen.block.transform
    p = peak(seen.x[0, c])
    window = F.pad(seen.Z[0], (3, 3, 3, 3))[:, p[0] : p[0] + 7, p[1] : p[1] + 7]
    factor, shift = batch_norm(norm, 0)
    names = [*places((7, 7), "max"), *places((7, 7), "mean")]
    T = seen.T[0, 0]
    line = weighed(
        f"T({p[0]},{p[1]})", "the gate of the position, from its 7x7 window", names, window, conv.weight[0] * factor,
        shift, "sigmoid", T[p],
    )  # fmt: skip
    column = seen.x[0, :, p[0], p[1]]
    told = weighed(
        f"G^{{mean}}({p[0]},{p[1]})", "the mean over all channels at p", [f"X_{{{i}}}" for i in range(len(column))],
        column, torch.full_like(column, 1 / len(column)), 0.0, "", seen.G[0, 1][p],
    )  # fmt: skip
    maps = (Panel("G, max", array(seen.G[0, 0]), p), Panel("G, mean", array(seen.G[0, 1]), p))
    products = (window * conv.weight[0] * factor).sum(0)
    return [
        Stage("extract", (chosen(seen, c), *maps), (told,)),
        *connect(seen, (1, *p)),
        Stage("transform", (Panel("window x kernel", array(products), (3, 3)), Panel("T", array(T), p)), (line,)),
        fuse(seen, c),
    ]


def ge(seen: Seen, c: int) -> list[Stage]:
    gather: Any = seen.block.extract
    p = peak(seen.x[0, c])
    small = gather.small(seen.x)[0, c]
    q = tuple(at * size // full for at, size, full in zip(p, small.shape, seen.x.shape[-2:], strict=True))
    if gather.layers:
        *before, conv, norm = gather.layers
        source = torch.nn.Sequential(*before)(seen.x)[0, c]
        window = F.pad(source, (1, 1, 1, 1))[2 * q[0] : 2 * q[0] + 3, 2 * q[1] : 2 * q[1] + 3]
        factor, shift = batch_norm(norm, c)
        names, values, weights = places((3, 3), "g"), window, conv.weight[c, 0] * factor
    else:
        share, shift = neighbourhood(seen.x[0, c], gather.extent, q), 0.0
        names, values, weights = inside(share, seen.x[0, c])
    words = "what is gathered around p" if gather.extent else MEAN
    line = weighed(f"G_{{{c}}}({p[0]},{p[1]})", words, names, values, weights, shift, "", seen.G[0, c][p])
    Z, T = seen.Z[0, c][p], seen.T[0, c]
    gate = Line(f"T_{{{c}}}({p[0]},{p[1]})", "the gate of this value", (Term("Z" if seen.heard else "G", Z.item(), 1),),
                0.0, "sigmoid", T[p].item())  # fmt: skip
    return [
        Stage("extract", (chosen(seen, c), Panel("gathered", array(small), q), upsampled(seen, c, p)), (line,)),
        *connect(seen, (c, *p)),
        Stage("transform", (Panel(f"T, {c}", array(T), p),), (gate,)),
        fuse(seen, c),
    ]


def gc(seen: Seen, c: int) -> list[Stage]:
    pool: Any = seen.block.extract
    first, norm, relu, last = seen.block.transform
    share = pool.mask(seen.x).flatten(2).softmax(-1)[0, 0].view(seen.x.shape[-2:])
    inner = first(seen.Z)[0]
    h = relu(norm(inner))
    k = strongest(last, c, h)
    context = weighed(f"G_{{{c}}}", "the mean over positions, weighted by the softmax map",
                      places(share.shape, f"X_{{{c}}}"), seen.x[0, c], share, 0.0, "", seen.G[0, c])  # fmt: skip
    name = "Z" if seen.heard else "G"
    lines = (
        dense(f"h_{{{k}}}", unit(k), first, k, seen.Z[0], h[k], "relu", name, layer_norm(norm, inner, k)),
        dense(f"T_{{{c}}}", "the term that is added to the channel", last, c, h, seen.T[0, c], "", "h"),
    )
    panels = (Panel("softmax map", array(share), peak(share)), Panel("G", array(seen.G[0]), (c,)))
    return [
        Stage("extract", (chosen(seen, c), *panels), (context,)),
        *connect(seen, (c,)),
        Stage("transform", (Panel("h, hidden units", array(h), (k,)), Panel("T", array(seen.T[0]), (c,))), lines),
        fuse(seen, c),
    ]


def unit(k: int) -> str:
    return f"hidden unit {k}, the one that moves this channel most"


def chosen(seen: Seen, c: int) -> Panel:
    """The channel's own map before the block."""
    return Panel(f"X, channel {c}", array(seen.x[0, c]), peak(seen.x[0, c]))


def upsampled(seen: Seen, c: int, p: tuple[int, int]) -> Panel:
    return Panel(f"G, {c}", array(seen.G[0, c]), p)


def mean(seen: Seen, c: int, result: Tensor, path: str = "") -> Line:
    values = seen.x[0, c]
    symbol = f"G^{{{path}}}_{{{c}}}" if path else f"G_{{{c}}}"
    share = torch.full_like(values, 1 / values.numel())
    return weighed(symbol, MEAN, places(values.shape, f"X_{{{c}}}"), values, share, 0.0, "", result)


def inside(share: Tensor, values: Tensor) -> tuple[list[str], Tensor, Tensor]:
    """The positions that have a share: names, values, shares."""
    names = [name for name, one in zip(places(share.shape), share.flatten().tolist(), strict=True) if one]
    return names, values[share > 0], share[share > 0]


def neighbourhood(values: Tensor, extent: int, q: tuple[int, ...]) -> Tensor:
    """Shares of the positions that GE without theta averages for its cell q."""
    share = torch.zeros_like(values)
    rows, columns = (slice(max(0, at * extent - extent + 1), at * extent + extent) for at in q)
    share[rows, columns] = 1
    return (share if extent else torch.ones_like(values)) / (share.sum() if extent else values.numel())


def fuse(seen: Seen, c: int) -> Stage:
    """X' at the position where X is largest, for the blocks that scale a map or add to it."""
    p = peak(seen.x[0, c])
    at = f"{{{c}}}({p[0]},{p[1]})"
    X, T = seen.x[0, c][p].item(), seen.T[0, min(c, seen.T.shape[1] - 1)]
    gate = (T[p] if T.dim() else T).item()
    terms: tuple[Term, ...] = (Term(f"X_{at}", X, gate),)
    words = "the map, scaled by its gate"
    if isinstance(seen.block, BAM):
        terms, words = (Term(f"X_{at}", X, 1 + gate),), "the map, scaled by 1 + its gate"
    if isinstance(seen.block, GC):
        terms, words = (Term(f"X_{at}", X, 1), Term(f"T_{{{c}}}", gate, 1)), "the same term at every position"
    line = Line(f"X'_{at}", words, terms, 0.0, "", seen.y[0, c][p].item())
    return Stage("fuse", (chosen(seen, c), Panel(f"X', {c}", array(seen.y[0, c]), p)), (line,))
