"""A memory in the shape of the next block's descriptor (DCA 3.3): pooled to its map, through layers to its width."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn


class Match(nn.Module):
    """A memory (N, C', ...) in the shape of G (N, C, ...): pooled where its map is larger, then through the layers."""

    def __init__(self, pool: str, layers: list[nn.Module]):
        super().__init__()
        self.size = MatchSize(pool)
        self.layers = nn.Sequential(*layers)

    def forward(self, memory: Tensor, G: Tensor) -> Tensor:
        return self.layers(self.size(memory, G))


class MatchSize(nn.Module):
    """(N, k, H', W') -> (N, k, H, W): pooling with "stride and receptive field" the reduction of the map (DCA 3.3).

    A side that its last window exceeds is pooled to its end, one that windows do not fill loses its rest.
    """

    def __init__(self, pool: str):
        super().__init__()
        self.pool = pool

    def forward(self, memory: Tensor, G: Tensor) -> Tensor:
        if memory.dim() < 4 or memory.shape[-2:] == G.shape[-2:]:
            return memory
        height, width = G.shape[-2:]
        kernel = [max(1, round(before / now)) for before, now in zip(memory.shape[-2:], G.shape[-2:], strict=True)]
        memory = memory[..., : height * kernel[0], : width * kernel[1]]
        return POOLS[self.pool](memory, kernel, ceil_mode=True)


class ChannelLinear(nn.Linear):
    """A fully-connected layer over dimension 1 of (N, C', ...)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over dimension 1 of (N, C, ...)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


POOLS: dict[str, Callable[..., Tensor]] = {"avg": F.avg_pool2d, "max": F.max_pool2d}
