"""Bridged multi-layer attention, the model of a student report (table bridge-1) in the two readings that its text
allows; the report trained neither.

    gate      T = sigmoid(W relu(sum over i of BN(W_i GAP(X_i))))       X' = X_n * T
    direct    the classifier reads relu(W [GAP(X_1), ..., GAP(X_n)] + b) and nothing else

In words: the means of several maps -> one layer for each, summed -> one gate a channel, or the classifier's input.
Adds sum(C_i h + 2 h) + h C parameters as a gate, h = C / r; (sum(C_i) + 1) C_n in the direct form.

gate is the official BA module (Zhao et al., BA-Net): the X_i are all maps of one block, X_n the attended one, r = 16,
no biases.  direct is the report's method section: the X_i are the maps of all stages of the network.  A linear layer
on a concatenation is a sum of linear layers, so `direct` with a sigmoid is `gate[bottleneck=false]`, in which
T = sigmoid(sum over i of W_i GAP(X_i)).
"""

import torch
from torch import Tensor, nn

from workbench.attention.base import Attention, Site, Trail, mean
from workbench.errors import OutOfRange


class Bridge(Attention):
    """G is (N, C_1 + ... + C_n), the means of all sources and of the map; T is (N, C)."""

    def __init__(self, site: Site, form: str = "gate", reduction: int = 16, bottleneck: bool = True):
        super().__init__(site)
        self.direct = self.socket(form) == "head"
        widths = (*site.sources, site.channels)
        if len(widths) == 1:
            raise OutOfRange(f"Bridge at {site}: it bridges several maps, and this site has no earlier ones.")
        if not 1 <= reduction <= site.channels:
            raise OutOfRange(
                f"Bridge reduction {reduction} of {site.channels} channels; it must be from 1 to {site.channels}."
            )
        if self.direct:
            self.transform = nn.Sequential(nn.Linear(sum(widths), site.channels), nn.ReLU())
        elif bottleneck:
            hidden = site.channels // reduction
            last = nn.Linear(hidden, site.channels, bias=False)
            self.transform = nn.Sequential(Sum(widths, hidden, True), nn.ReLU(), last, nn.Sigmoid())
        else:
            self.transform = nn.Sequential(Sum(widths, site.channels, False), nn.Sigmoid())

    @staticmethod
    def socket(form: str, **options: object) -> str:  # type: ignore[override]
        """direct reads the whole network, gate one block."""
        if form not in ("direct", "gate"):
            raise OutOfRange(f"Bridge option form={form}; use direct or gate.")
        return "head" if form == "direct" else "attention"

    def look(self, x: Tensor, trail: Trail) -> Tensor:
        return torch.cat([mean(source) for source in (*trail.features, x)], 1)

    def fuse(self, T: Tensor, x: Tensor) -> Tensor:
        return T if self.direct else super().fuse(T, x)


class Sum(nn.Module):
    """Each source through its own bias-free layer (and BN), summed: (N, C_1 + ... + C_n) -> (N, outputs)."""

    def __init__(self, widths: tuple[int, ...], outputs: int, normalised: bool):
        super().__init__()
        self.widths = list(widths)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(width, outputs, bias=False), *([nn.BatchNorm1d(outputs)] if normalised else []))
            for width in widths
        )

    def forward(self, G: Tensor) -> Tensor:
        parts = G.split(self.widths, 1)
        return torch.stack([layer(part) for layer, part in zip(self.layers, parts, strict=True)]).sum(0)
