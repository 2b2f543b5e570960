"""Every module's steps and equations: what is computed, where its paper has it, and each symbol in words."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

from workbench.attention import Attention
from workbench.attention.aw import AWConv
from workbench.attention.bam import BAM
from workbench.attention.bridge import Bridge
from workbench.attention.cbam import ChannelGate, SpatialGate
from workbench.attention.cra import CRA
from workbench.attention.gala import GALA
from workbench.attention.gc import GC
from workbench.attention.ge import GE
from workbench.attention.matching import ChannelNorm
from workbench.attention.se import SE
from workbench.attention.sk import SK
from workbench.errors import OutOfRange, UnknownName
from workbench.explain import anatomy_gates as gates
from workbench.explain import anatomy_several as several
from workbench.explain.anatomy import Seen
from workbench.explain.anatomy_lines import Stage


class Equation(NamedTuple):
    """latex: the step as an equation; where: its number in which paper; symbols: LaTeX -> words."""

    latex: str
    where: str
    symbols: dict[str, str]


X = {"X_c": "the map of channel c that the block gets"}
G = {"G_c": "the descriptor: what is kept of the map"}
Z = {"Z": "what the transform reads: G, or G connected with what the block before attended"}
T = {"T_c": "the attention"}
h = {"h": "the hidden units, C / r of them", "r": "the reduction"}
FUSED = {"X'_c": "the map that the block hands on"}
SIGMA = {r"\sigma": "sigmoid, to a gate from 0 to 1"}
CONNECT = {
    "released": Equation(
        r"f(G, M) = w_1 G + w_2 M", "DCA Eq. 4, G + \u03b1 M, with the weights of the released code", {}
    ),
    "direct": Equation(r"f(G, M) = G + \alpha M", "DCA Eq. 4", {}),
    "weighted": Equation(
        r"f(G, M) = \frac{|G|}{|G| + |\alpha M|}\, G + \frac{|\alpha M|}{|G| + |\alpha M|}\, \alpha M",
        "DCA Eq. 5; with absolute values, since the print is singular at G + \u03b1 M = 0",
        {},
    ),
    "softmax": Equation(
        r"f(G, M) = \frac{e^{-G}\, G + e^{-\alpha M}\, \alpha M}{e^{-G} + e^{-\alpha M}}",
        "DCA Eq. 6; the minus signs are the paper's",
        {},
    ),
}
HEARD = {
    "f": "the connection",
    "M": "the memory: what the block before attended, brought to this block's size",
    "w, \\alpha": "learned weights of the merge",
}
EMBEDDED = {  # what follows the merge
    nn.Identity: "f(G, M)",
    nn.BatchNorm2d: "f(G, M), each of its maps normalised by BN and cut at 0",
    ChannelNorm: "f(G, M), normalised over the channels and cut at 0",
}
SCALED = r"X'_c = X_c \cdot T_c"


def se_like(where: tuple[str, str, str]) -> dict[str, Equation]:
    transform = r"T = \sigma\big(W_2\, \mathrm{ReLU}(W_1 Z + b_1) + b_2\big)"
    return {
        "extract": Equation(r"G_c = \frac{1}{HW} \sum_{i,j} X_c(i,j)", where[0], X | G),
        "transform": Equation(transform, where[1], Z | T | SIGMA | {"W_1, W_2": "two fully-connected layers"} | h),
        "fuse": Equation(SCALED, where[2], X | T | FUSED),
    }


CRA_EQUATIONS = {
    "extract": Equation(
        r"G_c = \mathrm{pool}_{h \times w}(X_c)", "CRA Eq. 4",
        X | {"G_c": "the grid of h x w means (the paper's u)", "h, w": "the size of the grid"},
    ),
    "transform": Equation(
        r"T_c = \sigma\Big(\sum_{i,j} L_c(i,j)\, Z_c(i,j) + b_c\Big)", "CRA Eq. 5; the bias is in the counted form",
        Z | T | SIGMA | {"L_c": "one weight for each cell of the grid", "b_c": "the bias of the channel"},
    ),
    "fuse": Equation(SCALED, "CRA Eq. 6", X | T | FUSED),
}  # fmt: skip
CHANNEL_GATE = {
    "extract": Equation(
        r"G_c = \big[\,\mathrm{mean}\, X_c,\ \max X_c\,\big]", "CBAM (Woo et al. 2018), Eq. 2",
        X | {"G_c": "mean and maximum of the map"},
    ),
    "transform": Equation(
        r"T = \sigma\big(\mathrm{MLP}(Z^{mean}) + \mathrm{MLP}(Z^{max})\big)", "CBAM Eq. 2",
        Z | T | SIGMA | {r"\mathrm{MLP}": "two fully-connected layers, the same for both"},
    ),
    "fuse": Equation(SCALED, "CBAM Eq. 1", X | T | FUSED),
}  # fmt: skip
SPATIAL_GATE = {
    "extract": Equation(
        r"G(p) = \big[\max_c X_c(p),\ \mathrm{mean}_c\, X_c(p)\big]", "CBAM Eq. 3",
        {"G(p)": "maximum and mean of all channels at position p", "X": "what the channel gate handed on"},
    ),
    "transform": Equation(
        r"T = \sigma\big(\mathrm{BN}(K_{7 \times 7} * Z)\big)", "CBAM Eq. 3",
        Z | SIGMA | {"T": "one gate for each position, the same for all channels", "K": "the 7x7 kernel"},
    ),
    "fuse": Equation(r"X'_c(p) = X_c(p) \cdot T(p)", "CBAM Eq. 1", X | FUSED | {"p": "a position (i, j)"}),
}  # fmt: skip
GE_EQUATIONS = {
    "extract": Equation(
        r"G_c = \mathrm{upsample}\big(\mathrm{gather}(X_c)\big)", "Gather-Excite (Hu et al. 2018)",
        X | {"\\mathrm{gather}": "a summary of each neighbourhood: depthwise 3x3 convolutions of stride 2 with BN, or "
                        "without theta a mean", "\\mathrm{upsample}": "each cell repeated to the size of the map"},
    ),
    "transform": Equation(r"T_c(p) = \sigma(Z_c(p))", "Gather-Excite", Z | T | SIGMA),
    "fuse": Equation(r"X'_c(p) = X_c(p) \cdot T_c(p)", "Gather-Excite", X | FUSED | {"p": "a position (i, j)"}),
}  # fmt: skip
GC_EQUATIONS = {
    "extract": Equation(
        r"G_c = \sum_p s(p)\, X_c(p), \quad s = \mathrm{softmax}_p(W_k X(p))", "Global Context (Cao et al. 2019)",
        X | G | {"s(p)": "the share of position p, one map for all channels"},
    ),
    "transform": Equation(
        r"T = W_2\, \mathrm{ReLU}\big(\mathrm{LN}(W_1 Z + b_1)\big) + b_2", "Global Context",
        Z | {"T_c": "a term, not a gate; it starts at 0", r"\mathrm{LN}": "LayerNorm over the hidden units"} | h,
    ),
    "fuse": Equation(r"X'_c(p) = X_c(p) + T_c", "Global Context", X | FUSED),
}  # fmt: skip
SK_EQUATIONS = {
    "extract": Equation(
        r"G^i_c = \frac{1}{HW} \sum_p U^i_c(p), \quad s = G^1 + G^2", "Selective Kernel (Li et al. 2019)",
        {"U^1, U^2": "the branches: 3x3 convolutions of dilation 1 and 2, with BN and ReLU", "G^i": "their means"},
    ),
    "transform": Equation(
        r"T^i_c = \frac{e^{a^i_c}}{e^{a^1_c} + e^{a^2_c}}, \quad a = W_2\, \mathrm{ReLU}(\mathrm{BN}(W_1 s))",
        "Selective Kernel", {"T^i_c": "the share of branch i", "a^i": "what speaks for branch i"} | h,
    ),
    "fuse": Equation(r"X'_c = T^1_c\, U^1_c + T^2_c\, U^2_c", "Selective Kernel", FUSED),
}  # fmt: skip
AW_EQUATIONS = {
    "extract": Equation(
        r"G = \mathrm{pool}_{h \times w}(X)", "AW Eq. 7, A0",
        {"X": "the input of the convolution", "G": "a grid of means as large as the kernel, h x w"},
    ),
    "transform": Equation(
        r"\begin{gathered} A = \sigma\big(\mathrm{BN}(W_2\, \mathrm{ReLU}(\mathrm{BN}(W_1 Z)))\big) \\ "
        r"AK = K + A \odot K \end{gathered}",
        "AW Eq. 6-8", Z | SIGMA | {"A": "a gate for each output and tap of the kernel, the same for all inputs",
                               "K": "the kernel of the convolution", "AK": "the kernel of this picture"} | h,
    ),
    "fuse": Equation(
        r"Y_c(p) = \sum_{o,j,k} X_o\big(p + (j,k)\big)\, AK_{c,o}(j,k)", "AW Eq. 5",
        {"Y_c": "output c of the convolution", "o": "an input channel", "j, k": "a tap of the kernel"},
    ),
}  # fmt: skip
GATED = r"W_2\, \mathrm{ReLU}(W_1 G + b_1) + b_2"
BAM_EQUATIONS = {
    "extract": Equation(r"G_c = \frac{1}{HW} \sum_p X_c(p)", "BAM (Park et al. 2018)", X | G),
    "transform": Equation(
        r"T_c(p) = \sigma\big(M_c \cdot M(p)\big)", "BAM, as released: M times M; the text adds them",
        {"M_c": "what: the means through a bottleneck with BN", "M(p)": "where: dilated convolutions"} | T,
    ),
    "fuse": Equation(r"X'_c(p) = X_c(p) \cdot \big(1 + T_c(p)\big)", "BAM", X | T | FUSED),
}  # fmt: skip
GALA_EQUATIONS = {
    "extract": Equation(r"G_c = \frac{1}{HW} \sum_p X_c(p)", "GALA (Linsley et al. 2019)", X | G),
    "transform": Equation(
        rf"\begin{{gathered}} g = {GATED} \\ "
        r"T_c(p) = \tanh\big(a_c\,(g_c + l(p)) + m_c\, g_c\, l(p)\big) \end{gathered}", "GALA",
        {"g_c": "what", "l(p)": "where: 1x1 convolutions to one channel", "a_c, m_c": "learned, of each channel"} | T,
    ),
    "fuse": Equation(r"X'_c(p) = X_c(p) \cdot T_c(p)", "GALA", X | T | FUSED),
}  # fmt: skip
BRIDGE_EQUATIONS = {
    "extract": Equation(
        r"G = [\,\mathrm{GAP}(X^1), \dots, \mathrm{GAP}(X^n)\,]", "Bridge report; no equation is numbered",
        {"X^i": "the earlier maps and the one attended", "G": "the means of all their channels"},
    ),
    "transform": Equation(
        r"T = \sigma\Big(W\, \mathrm{ReLU}\big(\textstyle\sum_i \mathrm{BN}(W_i G^i)\big)\Big)",
        "Bridge, as a gate", T | SIGMA | {"W_i": "the layer of source i", "W": "the layer to one gate a channel"},
    ),
    "fuse": Equation(SCALED, "Bridge, as a gate", X | T | FUSED),
}  # fmt: skip
SE_PAPER = ("SE (Hu et al. 2018), Eq. 2", "SE Eq. 3; biases as in the counted form", "SE Eq. 4")
MODULES: dict[type[Attention], tuple[Callable[[Seen, int], list[Stage]], dict[str, Equation]]] = {
    AWConv: (several.aw, AW_EQUATIONS),
    BAM: (several.bam, BAM_EQUATIONS),
    Bridge: (several.bridge, BRIDGE_EQUATIONS),
    ChannelGate: (gates.cbam_channel, CHANNEL_GATE),
    CRA: (gates.cra, CRA_EQUATIONS),
    GALA: (several.gala, GALA_EQUATIONS),
    GC: (gates.gc, GC_EQUATIONS),
    GE: (gates.ge, GE_EQUATIONS),
    SE: (gates.se, se_like(SE_PAPER)),
    SK: (several.sk, SK_EQUATIONS),
    SpatialGate: (gates.cbam_spatial, SPATIAL_GATE),
}
DIRECT = Equation(
    r"T = \mathrm{ReLU}(W G + b)",
    "Bridge, direct: the classifier reads T, and no map is scaled",
    {"T_c": "what the classifier reads", "W, b": "one fully-connected layer"},
)
NO_BOTTLENECK = Equation(
    r"T = \sigma\big(\textstyle\sum_i W_i G^i\big)",
    "Bridge, as a gate without its bottleneck",
    T | SIGMA | {"W_i": "the layer of source i"},
)


def stages(seen: Seen, channel: int) -> list[Stage]:
    """The steps of this block for this channel; raises OutOfRange or UnknownName."""
    count = channels(seen)
    if not 0 <= channel < count:
        raise OutOfRange(f"Channel {channel} of {count}; use 0 to {count - 1}.")
    if type(seen.block) not in MODULES:
        raise UnknownName("module", type(seen.block).__name__, [kind.__name__ for kind in MODULES])
    with torch.no_grad():
        return MODULES[type(seen.block)][0](seen, channel)


def channels(seen: Seen) -> int:
    """How many channels the block hands on."""
    return seen.y.shape[1]


def equations(seen: Seen) -> dict[str, Equation]:
    """The equation of each step of this block, in the form that its options give it."""
    block = seen.block
    found = dict(MODULES[type(block)][1])
    if isinstance(block, Bridge) and len(block.transform) == 2:  # type: ignore[arg-type]
        found["transform"] = DIRECT if block.direct else NO_BOTTLENECK
    if seen.heard:
        found["connect"] = connection(block)
    return found


def connection(block: Attention) -> Equation:
    """f(G, M) of the block's schema, with the bias and the normalisation that its connection has."""
    one: Any = getattr(block.connection, "first", block.connection)
    equation = CONNECT[getattr(one.merge, "schema", "released")]
    if getattr(one.merge, "bias", None) is not None:
        equation = equation._replace(latex=f"{equation.latex} + b", symbols={"b": "the bias of the released code"})
    norm = next(one.embed.children(), one.embed)
    return equation._replace(symbols=G | HEARD | equation.symbols | {"Z": EMBEDDED[type(norm)]})
