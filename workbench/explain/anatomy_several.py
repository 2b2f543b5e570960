"""The same steps for the modules that read more than one descriptor, or stand in a convolution's place.

SK, AW-convolution, BAM, GALA and Bridge; see anatomy_gates.py.
"""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from workbench.attention.aw import AWConv, expand
from workbench.attention.bridge import Sum
from workbench.explain.anatomy import Seen
from workbench.explain.anatomy_gates import chosen, fuse, mean, unit
from workbench.explain.anatomy_lines import (
    Fold,
    Line,
    Panel,
    Stage,
    Term,
    array,
    batch_norm,
    connect,
    dense,
    peak,
    places,
    strongest,
    weighed,
)


def sk(seen: Seen, c: int) -> list[Stage]:
    choice: Any = seen.block.transform
    linear, norm, _ = choice.squeeze
    total = seen.Z[0].sum(-1)
    h = choice.squeeze(total[None])[0]
    both = choice.select(h)
    count = len(total)
    k = strongest(choice.select, c, h)
    a = both[c], both[count + c]
    lines = [dense(f"h_{{{k}}}", unit(k), linear, k, total, h[k], "relu", "s", batch_norm(norm, k))]
    for branch, value in enumerate(a):
        words = f"what speaks for branch {branch + 1}"
        lines.append(dense(f"a^{branch + 1}_{{{c}}}", words, choice.select, branch * count + c, h, value, "", "h"))
    terms = Term(lines[1].symbol, a[0].item(), 1.0), Term(lines[2].symbol, a[1].item(), -1.0)
    words = "the share of branch 1: a softmax over two values is the sigmoid of their difference"
    lines.append(Line(f"T^1_{{{c}}}", words, terms, 0.0, "sigmoid", seen.T[0, c, 0].item()))
    first, second = (branch[0, c] for branch in seen.inside)
    p = peak(seen.y[0, c])
    told = weighed(f"G^1_{{{c}}}", "the mean of branch 1", places(first.shape, "U^1"), first,
                   torch.full_like(first, 1 / first.numel()), 0.0, "", seen.G[0, c, 0])  # fmt: skip
    branches = (Panel(f"U1, {c}", array(first), p), Panel(f"U2, {c}", array(second), p))
    shares = seen.T[0, c].tolist()
    at = f"{{{c}}}({p[0]},{p[1]})"
    parts = tuple(Term(f"U^{i + 1}_{at}", one[p].item(), shares[i]) for i, one in enumerate((first, second)))
    fused = Line(f"X'_{at}", "both branches by their shares", parts, 0.0, "", seen.y[0, c][p].item())
    return [
        Stage("extract", (*branches, Panel("G1 + G2", array(seen.G[0].sum(-1)), (c,))), (told,)),
        *connect(seen, (c, 0)),
        Stage("transform", (Panel("share of branch 1", array(seen.T[0, :, 0]), (c,)),), tuple(lines)),
        Stage("fuse", (*branches, Panel(f"X', {c}", array(seen.y[0, c]), p)), (fused,)),
    ]


def aw(seen: Seen, c: int) -> list[Stage]:
    block: Any = seen.block
    conv1, norm1, relu, conv2, norm2, _ = block.transform
    S = (expand(seen.T, block.shape, block.weight.shape)[0] + block.residual).expand_as(block.weight)[c]
    K = block.weight[c]
    o = int((K * S).abs().sum((1, 2)).argmax())  # the input that this output reads most
    m = c * block.shape.outputs // len(block.weight) * block.shape.inputs + o * block.shape.inputs // len(K)
    tap = peak(seen.T[0, m])
    h = relu(norm1(conv1(seen.Z)))[0, :, tap[0], tap[1]]
    k = strongest(conv2, m, h)
    row = f"({tap[0]},{tap[1]})"
    inputs, name = seen.Z[0, :, tap[0], tap[1]], "Z" if seen.heard else "G"
    lines = (
        dense(f"h_{{{k}}}{row}", unit(k), conv1, k, inputs, h[k], "relu", name, batch_norm(norm1, k)),
        dense(f"A_{{{c}}}{row}", f"the gate of output {c} at the tap {row}, its largest", conv2, m, h,
              seen.T[0, m][tap], "sigmoid", "h", batch_norm(norm2, m)),
    )  # fmt: skip
    source = c * (seen.x.shape[1] // len(K)) // len(block.weight) * len(K) + o
    share = block.extract(torch.eye(seen.x[0, 0].numel(), dtype=S.dtype).view(-1, 1, *seen.x.shape[-2:]))
    weights = share[:, 0, tap[0], tap[1]].view(seen.x.shape[-2:])
    told = weighed(f"G_{{{source}}}{row}", "the cell of this tap in the input that is read most",
                   places(weights.shape, f"X_{{{source}}}"), seen.x[0, source], weights, 0.0, "",
                   seen.G[0, source][tap])  # fmt: skip
    kernels = (Panel(f"kernel K, {c} from {source}", array(K[o]), tap), Panel("AK", array((K * S)[o]), tap))
    grids = (
        Panel(f"X, {source}", array(seen.x[0, source]), None),
        Panel(f"G, {source}", array(seen.G[0, source]), tap),
    )
    return [
        Stage("extract", grids, (told,)),
        *connect(seen, (source, *tap)),
        Stage("transform", (Panel(f"A, output {c}", array(seen.T[0, m]), tap), *kernels), lines),
        convolved(seen, c, K, S),
    ]


def convolved(seen: Seen, c: int, K: Tensor, S: Tensor) -> Stage:
    """The value of output c where it is largest, as a sum over inputs and taps of X x AK."""
    block: Any = seen.block
    assert isinstance(block, AWConv)
    p, side, kernel = peak(seen.y[0, c]), K.shape[-1] // 2, K.shape[-1]
    start = c * (seen.x.shape[1] // len(K)) // len(block.weight) * len(K)
    padded = F.pad(seen.x[0, start : start + len(K)], [side] * 4)
    i, j = (at * block.stride for at in p)
    patch = padded[:, i : i + kernel, j : j + kernel]
    names = [name for o in range(len(K)) for name in places((kernel, kernel), f"X_{{{start + o}}}")]
    line = weighed(f"Y_{{{c}}}({p[0]},{p[1]})", "inputs around p x the picture's own kernel", names, patch, K * S, 0.0,
                   "", seen.y[0, c][p])  # fmt: skip
    return Stage("fuse", (Panel(f"Y, {c}", array(seen.y[0, c]), p),), (line,))


def bam(seen: Seen, c: int) -> list[Stage]:
    both: Any = seen.block.transform
    pool, first, norm, relu, last = both.channel
    means = pool(seen.x)
    h = relu(norm(first(means)))[0]
    k, p = strongest(last, c, h), peak(seen.x[0, c])
    what, where = both.channel(seen.x)[0, c], both.spatial(seen.x)[0, 0]
    local = both.spatial[:-1](seen.x)[0, :, p[0], p[1]]
    at, T = f"({p[0]},{p[1]})", seen.T[0, c]
    lines = (
        dense(f"h_{{{k}}}", unit(k), first, k, means[0], h[k], "relu", "G", batch_norm(norm, k)),
        dense(f"M_{{{c}}}", "what: the channel's value", last, c, h, what, "", "h"),
        dense(f"M{at}", "where: the position's value", both.spatial[-1], 0, local, where[p], "", "l"),
        Line(f"T_{{{c}}}{at}", "the gate of this value", (Term(f"M_{{{c}}}", what.item(), where[p].item()),), 0.0,
             "sigmoid", T[p].item()),
    )  # fmt: skip
    panels = (Panel("where, M(p)", array(where), p), Panel(f"T, {c}", array(T), p))
    extracted = (chosen(seen, c), Panel("G, means", array(means[0]), (c,)))
    told = (mean(seen, c, means[0, c]),)
    return [Stage("extract", extracted, told), Stage("transform", panels, lines), fuse(seen, c)]


def gala(seen: Seen, c: int) -> list[Stage]:
    both: Any = seen.block.transform
    pool, first, relu, last = both.globally
    means = pool(seen.x)
    h = relu(first(means))[0]
    k, p = strongest(last, c, h), peak(seen.x[0, c])
    g, l = both.globally(seen.x)[0, c], both.locally(seen.x)[0, 0]
    local = both.locally[:-1](seen.x)[0, :, p[0], p[1]]
    at, T = f"({p[0]},{p[1]})", seen.T[0, c]
    a, m = both.sum[c].item(), both.product[c].item()
    terms = (
        Term(f"g_{{{c}}}", g.item(), a), Term(f"l{at}", l[p].item(), a), Term("g l", (g * l[p]).item(), m),
    )  # fmt: skip
    lines = (
        dense(f"h_{{{k}}}", unit(k), first, k, means[0], h[k], "relu", "G"),
        dense(f"g_{{{c}}}", "what: the channel's value", last, c, h, g, "", "h"),
        dense(f"l{at}", "where: the position's value", both.locally[-1], 0, local, l[p], "", "v"),
        Line(f"T_{{{c}}}{at}", "the gate of this value", terms, 0.0, "tanh", T[p].item()),
    )
    panels = (Panel("where, l(p)", array(l), p), Panel(f"T, {c}", array(T), p))
    extracted = (chosen(seen, c), Panel("G, means", array(means[0]), (c,)))
    told = (mean(seen, c, means[0, c]),)
    return [Stage("extract", extracted, told), Stage("transform", panels, lines), fuse(seen, c)]


def bridge(seen: Seen, c: int) -> list[Stage]:
    block: Any = seen.block
    first, G, T = block.transform[0], seen.G[0], seen.T[0]
    own = len(G) - seen.x.shape[1] + c  # the attended map's means come last
    gate = f"T_{{{c}}}"
    if not isinstance(first, Sum):
        words = "what the classifier reads of this channel"
        lines = [dense(gate, words, first, c, G, T[c], "relu", "G")]
    elif len(block.transform) == 2:
        lines = [sources(gate, "the gate of the channel", first, c, G, T[c], "sigmoid")]
    else:
        h, last = block.transform[:2](seen.G)[0], block.transform[2]
        k = strongest(last, c, h)
        lines = [
            sources(f"h_{{{k}}}", unit(k), first, k, G, h[k], "relu"),
            dense(gate, "the gate of the channel", last, c, h, T[c], "sigmoid", "h"),
        ]
    panels = (Panel("T", array(T), (c,)),)
    extracted = Stage("extract", (chosen(seen, c), Panel("G, all sources", array(G), (own,))), (mean(seen, c, G[own]),))
    transformed = Stage("transform", panels, tuple(lines))
    return [extracted, transformed] if block.direct else [extracted, transformed, fuse(seen, c)]


def sources(symbol: str, words: str, layers: Sum, k: int, G: Tensor, result: Tensor, rule: str) -> Line:
    """Unit k of the sum over sources, each through its own layer and BN."""
    terms: list[Term] = []
    bias = 0.0
    for number, (layer, part) in enumerate(zip(layers.layers, G.split(layers.widths), strict=True), 1):
        linear, *norm = cast(Any, layer)
        fold = batch_norm(norm[0], k) if norm else Fold()
        line = dense("", "", linear, k, part, 0.0, "", f"G^{number}", fold)
        terms += line.terms
        bias += line.bias
    return Line(symbol, words, tuple(terms), bias, rule, result.item())
