"""Selective Kernel (Li et al., CVPR 2019) as the DCA tables count it: two branches in place of a block's 3x3.

    U_i = relu(BN(conv_i(X)))                    3x3 with dilation 1 and 2, ungrouped; depthwise where the 3x3 was
    G_i = GAP(U_i)
    T = softmax over i of W2 relu(BN(W1 (G_1 + G_2)))      W1: C -> C/r, W2: C/r -> 2C, no biases
    X' = sum over i of T_i U_i

In words: two receptive fields -> the sum of their means -> a bottleneck -> how much of each, a channel at a time.
Adds 9 C^2 + 2 C + 3 C^2 / r + 2 C / r parameters to an ungrouped 3x3 of C channels and its BN.
SKNet's own form has 32 groups and a hidden width of at least 32.
"""

from typing import Any

import torch
from torch import Tensor, nn

from workbench.attention.base import Attention, ConvSpec, Site, Trail, mean
from workbench.errors import OutOfRange


class SK(Attention):
    """G and T are (N, C, 2), one column a branch; includes the BN and the activation of the convolution it replaces."""

    dim = "branch"
    socket = "conv"
    normalised = True

    def __init__(self, site: Site, spec: ConvSpec, reduction: int = 16):
        super().__init__(site)
        if spec.kernel == 1:
            raise OutOfRange(f"SK at {site}: a 1x1 convolution has nothing to dilate; it needs a 3x3 one.")
        self.first, self.second = branch(spec, 1), branch(spec, 2)
        self.transform = Choice(spec.outputs, reduction)

    def forward(self, x: Tensor, trail: Trail | None = None) -> Tensor:
        """(N, C', H, W) -> (N, C, H / stride, W / stride)."""
        branches: Any = (self.first(x), self.second(x))
        return super().forward(branches, trail)

    def look(self, x: Any, trail: Trail) -> Tensor:
        return torch.stack([mean(branch) for branch in x], -1)

    def fuse(self, T: Tensor, x: Any) -> Tensor:
        first, second = x  # the two weights sum to 1
        return torch.lerp(second, first, T.to(first.dtype)[..., :1, None])


class Choice(nn.Module):
    """(N, C, 2) -> (N, C, 2): how much of each branch, summing to 1."""

    def __init__(self, channels: int, reduction: int):
        super().__init__()
        if not 1 <= reduction <= channels:
            raise OutOfRange(f"SK reduction {reduction} of {channels} channels; it must be from 1 to {channels}.")
        hidden = channels // reduction
        self.squeeze = nn.Sequential(nn.Linear(channels, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU())
        self.select = nn.Linear(hidden, 2 * channels, bias=False)

    def forward(self, G: Tensor) -> Tensor:
        return self.select(self.squeeze(G.sum(-1))).unflatten(1, (2, -1)).softmax(1).transpose(1, 2)


def branch(spec: ConvSpec, dilation: int) -> nn.Module:
    """A convolution of the given shape with its BN and activation."""
    inputs, outputs, kernel, stride, groups, activation = spec
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2 * dilation, dilation, groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), activation())
