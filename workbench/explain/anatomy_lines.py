"""The arithmetic of a block for one channel, in lines that recombine: result = rule(sum of value x weight + bias).

A batch normalisation that follows a layer is folded into the line's weights and bias, as is a LayerNorm, whose mean
and deviation are those of this picture.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from workbench.attention.dca import PerBranch
from workbench.attention.merging import Alpha
from workbench.explain.anatomy import Seen

if TYPE_CHECKING:
    import pandas as pd


class Term(NamedTuple):
    name: str
    value: float
    weight: float


class Line(NamedTuple):
    """result = rule(sum over the terms of value x weight + bias); symbol and terms' names are LaTeX without $."""

    symbol: str
    words: str
    terms: tuple[Term, ...]
    bias: float
    rule: str
    result: float

    def total(self) -> float:
        """What the rule is applied to."""
        return math.fsum([*(term.value * term.weight for term in self.terms), self.bias])


class Panel(NamedTuple):
    """A map or grid (H, W), or a vector over channels; mark: the index in it that the lines are about."""

    title: str
    values: np.ndarray
    mark: tuple[int, ...] | None = None


class Stage(NamedTuple):
    """One step of a block (extract, connect, transform or fuse) for one channel."""

    name: str
    panels: tuple[Panel, ...]
    lines: tuple[Line, ...]


RULES: dict[str, Callable[[float], float]] = {
    "": lambda value: value,
    "relu": lambda value: max(value, 0.0),
    "sigmoid": lambda value: 1 / (1 + math.exp(-value)) if value >= 0 else math.exp(value) / (1 + math.exp(value)),
    "tanh": math.tanh,
}
SIGNS = {"": "", "relu": r"\mathrm{ReLU}", "sigmoid": r"\sigma", "tanh": r"\tanh"}


class Fold(NamedTuple):
    """A normalisation of one value: value x factor + shift."""

    factor: float = 1.0
    shift: float = 0.0


SAME = Fold()


def batch_norm(norm: Any, unit: int) -> Fold:
    """In evaluation mode, with the running mean and variance."""
    factor = (norm.weight[unit] / (norm.running_var[unit] + norm.eps).sqrt()).item()
    return Fold(factor, norm.bias[unit].item() - norm.running_mean[unit].item() * factor)


def layer_norm(norm: Any, values: Tensor, unit: int) -> Fold:
    """Over the vector `values`."""
    factor = (norm.weight[unit] / (values.var(unbiased=False) + norm.eps).sqrt()).item()
    return Fold(factor, norm.bias[unit].item() - values.mean().item() * factor)


def weighed(
    symbol: str, words: str, names: Iterable[str], values: Tensor, weights: Tensor, bias: float, rule: str, result: Any
) -> Line:
    """A line from tensors of one shape."""
    terms = zip(names, values.flatten().tolist(), weights.flatten().tolist(), strict=True)
    return Line(symbol, words, tuple(Term(*term) for term in terms), bias, rule, float(result))


def dense(
    symbol: str,
    words: str,
    layer: nn.Linear | nn.Conv2d,
    unit: int,
    inputs: Tensor,
    result: Any,
    rule: str = "",
    name: str = "z",
    fold: Fold = SAME,
) -> Line:
    """One unit of a fully-connected layer or a 1x1 convolution, and the normalisation after it."""
    bias = 0.0 if layer.bias is None else layer.bias[unit].item()
    names = [f"{name}_{{{i}}}" for i in range(inputs.numel())]
    weights = layer.weight[unit].flatten() * fold.factor
    return weighed(symbol, words, names, inputs, weights, bias * fold.factor + fold.shift, rule, result)


def places(shape: Sequence[int], name: str = "X") -> list[str]:
    height, width = shape
    return [f"{name}({i},{j})" for i in range(height) for j in range(width)]


def peak(values: Tensor) -> tuple[int, int]:
    """Where a map (H, W) is largest in size."""
    i, j = np.unravel_index(int(values.abs().argmax()), values.shape)
    return int(i), int(j)


def strongest(layer: nn.Linear | nn.Conv2d, unit: int, inputs: Tensor) -> int:
    """The input that adds most, in size, to this unit."""
    return int((layer.weight[unit].flatten() * inputs.flatten()).abs().argmax())


def array(values: Tensor) -> np.ndarray:
    return values.detach().numpy()


def connect(seen: Seen, index: tuple[int, ...]) -> list[Stage]:
    """The connection at `index` of the descriptor, G[0][index]; nothing where a block hears nobody.  DCA Eq. 4-6."""
    if not seen.heard:
        return []
    one: Any = seen.block.connection
    G, Z, memories = seen.G, seen.Z, [memory for _, memory in seen.heard]
    if isinstance(one, PerBranch):
        *kept, branch = index
        one, index = (one.first, one.second)[branch], tuple(kept)
        G, Z, memories = G[..., branch], Z[..., branch], [memory[..., branch] for memory in memories]
    matched = [one.match[width](memory, G) for width, memory in zip(one.widths, memories, strict=True)]
    matched = [M.reshape(*M.shape, *[1] * (G.dim() - M.dim())).expand_as(G) for M in matched]
    terms, bias, merged = merge(one, G, matched, [site for site, _ in seen.heard], index)
    at = ",".join(map(str, index))
    embeds = not isinstance(one.embed, nn.Identity)
    symbol = f"f_{{{at}}}" if embeds else f"Z_{{{at}}}"
    lines = [Line(symbol, "the descriptor merged with what was heard", terms, bias, "", merged[0][index].item())]
    if embeds:
        norm = one.embed[0]
        column: Any = (0, slice(None), *index[1:])
        along = merged[column]
        fold = batch_norm(norm, index[0]) if isinstance(norm, nn.BatchNorm2d) else layer_norm(norm, along, index[0])
        term = Term(symbol, merged[0][index].item(), fold.factor)
        words = "normalised, and cut at 0: what the transform reads"
        lines.append(Line(f"Z_{{{at}}}", words, (term,), fold.shift, "relu", Z[0][index].item()))
    heard = [(f"M, from block {site}", M) for (site, _), M in zip(seen.heard, matched, strict=True)]
    panels = [panel(title, values, index) for title, values in (("G", G), *heard, ("Z", Z))]
    return [Stage("connect", tuple(panels), tuple(lines))]


def merge(
    one: Any, G: Tensor, matched: Sequence[Tensor], sites: Sequence[str], index: tuple[int, ...]
) -> tuple[tuple[Term, ...], float, Tensor]:
    """The terms of Eq. 4-6 at `index`, their bias, and the merged descriptor as the module makes it."""
    merged = one.merge(G, list(matched))
    values = torch.stack([G[0][index], *(M[0][index] for M in matched)])
    weights, bias = torch.tensor(one.merge.weights(), dtype=values.dtype), 0.0
    if isinstance(one.merge, Alpha) and one.merge.schema != "direct":
        parts = weights * values
        total = parts.abs().sum()
        share = (-parts).softmax(0) if one.merge.schema == "softmax" else parts.abs() / torch.where(total > 0, total, 1)
        weights = weights * share
    elif getattr(one.merge, "bias", None) is not None:
        bias = one.merge.bias.item()
    at = ",".join(map(str, index))
    names = [f"G_{{{at}}}", *(f"M^{{{site}}}_{{{at}}}" for site in sites)]
    terms = zip(names, values.tolist(), weights.tolist(), strict=True)
    return tuple(Term(*term) for term in terms), bias, merged


def panel(title: str, values: Tensor, index: tuple[int, ...]) -> Panel:
    """The slice of a descriptor (1, C, ...) that `index` lies in: its grid or map, or the vector over channels."""
    if values.dim() == 4:
        return Panel(f"{title}, {index[0]}", array(values[0, index[0]]), index[1:])
    column: Any = (0, slice(None), *index[1:])
    return Panel(title, array(values[column]), index[:1])


def latex(line: Line, shown: int = 2) -> str:
    """The line in numbers, with its `shown` largest products; the rest as one number."""
    first = sorted(line.terms, key=lambda term: -abs(term.value * term.weight))[:shown]
    rest = line.total() - line.bias - math.fsum(term.value * term.weight for term in first)
    pieces = [rf"{signed(term.value)} \cdot {bracketed(term.weight)}" for term in first]
    others = [(rest, f"{len(line.terms) - len(first)} more products")] if len(line.terms) > len(first) else []
    others += [(line.bias, "bias")] if line.bias else []
    under = " ".join(rf"\underbrace{{{signed(value)}}}_{{\text{{{what}}}}}" for value, what in others)
    together = " ".join(pieces).lstrip("+") + (rf" \\ &\quad {under}" if under else "")
    sign = SIGNS[line.rule]
    total = rf"{sign}({short(line.total())}) = " if sign else ""
    start = rf"{sign}\big(" if sign else ""
    end = r"\big)" if sign else ""
    return (
        rf"\begin{{aligned}} {line.symbol} &= {start}{together}{end} \\ &= {total}{short(line.result)} \end{{aligned}}"
    )


def frame(stages: Sequence[Stage]) -> "pd.DataFrame":
    """Every term of every line, in full precision."""
    import pandas as pd

    rows = []
    for stage in stages:
        for line in stage.lines:
            for term in (*line.terms, Term("bias", line.bias, 1.0)):
                rows.append((stage.name, line.symbol, *term, term.value * term.weight, line.rule, line.result))
    columns = ["step", "line", "term", "value", "weight", "product", "rule", "result"]
    return pd.DataFrame(rows, columns=columns).set_index("step")


def short(value: float) -> str:
    """Four significant digits."""
    if value and abs(value) < 1e-3:
        number, power = f"{value:.2e}".split("e")
        return rf"{number} \cdot 10^{{{int(power)}}}"
    return f"{value:.4g}" if abs(value) < 9999.5 else f"{value:.0f}"  # from there on, .4g would write 1e+04


def signed(value: float) -> str:
    return short(value) if value < 0 else f"+{short(value)}"


def bracketed(value: float) -> str:
    return f"({short(value)})" if value < 0 else short(value)
