"""The ways to convolve a map with kernels of each picture's own, K S: equal, each the fastest or smallest somewhere.

X is (N, C1, H, W), K (C2, C1 / groups, h, w), Y (N, C2, H', W').  S is (N, C2, C1 / groups, h, w), where a dimension
of 1 is constant.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx

from workbench.attention.base import transformed


def attend(x: Tensor, K: Tensor, S: Tensor, stride: int = 1) -> Tensor:
    """Y[n] = Convolution(X[n], K S[n]), padded by half a kernel, in the cheapest form for these shapes.

    What is constant over the taps is a gate before or after a plain convolution.  Else pictures cost either kernels
    of their own, C1 / groups values an output and tap, or responses of their own, H' W' values: the fewer decide.
    """
    S = S.to(K.dtype)
    one_picture, one_output, one_input = (size == 1 for size in S.shape[:3])
    positions = -(-x.shape[2] // stride) * -(-x.shape[3] // stride)
    if one_picture:
        return plain(x, K * S[0], stride)
    if one_input and S.shape[3:].numel() == 1:
        return output_gate(x, K, S, stride)
    if one_output and S.shape[3:].numel() == 1:
        return input_gate(x, K, S, stride)
    if one_input and positions < K.shape[1] and not transformed():
        return taps(x, K, S, stride)
    if one_output and positions < K.shape[1]:
        return unfolded(x, K, S, stride)
    return grouped(x, K, S, stride)


def plain(x: Tensor, K: Tensor, stride: int) -> Tensor:
    """One kernel for all pictures."""
    return F.conv2d(x, K, None, stride, K.shape[-1] // 2, groups=x.shape[1] // K.shape[1])


def output_gate(x: Tensor, K: Tensor, S: Tensor, stride: int) -> Tensor:
    """S (N, C2, 1, 1, 1) scales outputs: a 1x1 AW-convolution is a plain one and a gate."""
    y = plain(x, K, stride)
    return y * S[:, :, 0].to(y.dtype)


def input_gate(x: Tensor, K: Tensor, S: Tensor, stride: int) -> Tensor:
    """S (N, 1, C1 / groups, 1, 1) scales inputs, as SE would in front of the convolution."""
    return plain((x.unflatten(1, (-1, K.shape[1])) * S.to(x.dtype)).flatten(1, 2), K, stride)


def grouped(x: Tensor, K: Tensor, S: Tensor, stride: int) -> Tensor:
    """Any S: all kernels K S written out, one convolution with N * groups groups."""
    y = plain(x.reshape(1, -1, *x.shape[2:]), (K * S).flatten(0, 1), stride)
    return y.reshape(len(x), len(K), *y.shape[2:])


def unfolded(x: Tensor, K: Tensor, S: Tensor, stride: int) -> Tensor:
    """S (N, 1, C1 / groups, h, w) scales the unfolded input, Eq. 2 as it is written: one product with K for all."""
    kernel = K.shape[-1]
    columns = F.unfold(x, kernel, padding=kernel // 2, stride=stride)
    columns = columns.unflatten(1, (-1, K[0].numel())) * S.expand(-1, -1, *K.shape[1:]).flatten(2)[..., None]
    y = K.reshape(columns.shape[1], -1, columns.shape[2]) @ columns
    return y.flatten(1, 2).unflatten(2, (-(-x.shape[2] // stride), -1))


def taps(x: Tensor, K: Tensor, S: Tensor, stride: int) -> Tensor:
    """S (N, C2, 1, h, w): the sum of the responses to each tap, scaled; see TapSum."""
    device = x.device.type
    if device != "meta" and torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)  # as F.conv2d; S and the sum keep their precision
        x, K = x.to(dtype), K.to(dtype)
    return TapSum.apply(x, K, S.expand(-1, len(K), 1, *K.shape[2:]), stride)


class TapSum(torch.autograd.Function):
    """Y[n, p] = sum over (j, k) of S[n, p, j, k] Z[n, p, j, k],   Z[..., j, k] = K[:, :, j, k] X shifted by (j, k).

    Works tap by tap.  Responses Z no larger than the kernel are kept for backward; larger ones, which autograd would
    keep several times over, are computed again, a fourth matrix product beside a plain convolution's three.  Channels
    come before pictures, so that each tap is one product for the whole batch.  Where the backward pass is to be
    differentiated again (create_graph), it is that of `grouped`.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, K: Tensor, S: Tensor, stride: int) -> Tensor:
        padded, kernels, scales = by_tap(x, K, S)
        views, kept = windows(padded, K.shape[-1], stride), []
        y = S.new_zeros(*scales.shape[1:4], views[0].shape[-2:].numel())
        for window, kernel, scale in zip(views, kernels, scales, strict=True):
            Z = (kernel @ window.flatten(2)).view_as(y)
            y.addcmul_(Z, scale)
            if y.numel() <= kernel.numel():
                kept.append(Z)
        ctx.save_for_backward(x, K, S, *kept)
        ctx.stride = stride  # type: ignore[attr-defined]
        return y.to(x.dtype).flatten(0, 1).transpose(0, 1).unflatten(2, views[0].shape[-2:]).contiguous()

    @staticmethod
    def backward(ctx, gY: Tensor):
        x, K, S, *kept = ctx.saved_tensors
        if torch.is_grad_enabled():
            x, K, gY = x.to(S.dtype), K.to(S.dtype), gY.to(S.dtype)  # autograd brings gradients back to their precision
            return *torch.func.vjp(partial(grouped, stride=ctx.stride), x, K, S)[1](gY), None
        padded, kernels, scales = by_tap(x, K, S)
        gY = gY.transpose(0, 1).reshape(*scales.shape[1:4], -1)
        gpadded, gkernels, gscales = torch.zeros_like(padded), torch.empty_like(kernels), torch.empty_like(scales)
        pairs = zip(*(windows(map_, K.shape[-1], ctx.stride) for map_ in (padded, gpadded)), strict=True)
        for tap, (window, gwindow) in enumerate(pairs):
            columns = window.flatten(2)
            Z = kept[tap] if kept else (kernels[tap] @ columns).view_as(gY)
            gscales[tap] = (Z * gY).sum(-1, keepdim=True)
            gZ = (gY * scales[tap]).to(x.dtype).flatten(2)
            gkernels[tap] = gZ @ columns.mT
            gwindow += (kernels[tap].mT @ gZ).view_as(gwindow)
        border = K.shape[-1] // 2
        gx = gpadded.flatten(0, 1).transpose(0, 1)[..., border : border + x.shape[2], border : border + x.shape[3]]
        gK = gkernels.flatten(1, 2).permute(1, 2, 0).view_as(K)
        return gx, gK, gscales.flatten(1, 2).permute(2, 1, 3, 0).view_as(S), None


def by_tap(x: Tensor, K: Tensor, S: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Padded map (g, C1 / g, N, ...), kernels (h w, g, C2 / g, C1 / g) and scales (h w, g, C2 / g, N, 1); g groups."""
    padded = F.pad(x.transpose(0, 1), [K.shape[-1] // 2] * 4).unflatten(0, (-1, K.shape[1]))
    groups = len(padded)
    kernels = K.flatten(2).permute(2, 0, 1).contiguous().unflatten(1, (groups, -1))
    scales = S.flatten(3).permute(3, 1, 0, 2).contiguous().unflatten(1, (groups, -1))
    return padded, kernels, scales


def windows(padded: Tensor, kernel: int, stride: int) -> list[Tensor]:
    """What each tap sees: kernel * kernel views (..., H', W') of the map, in the order of the taps."""
    height, width = ((side - kernel) // stride * stride + 1 for side in padded.shape[-2:])
    return [padded[..., j : j + height : stride, k : k + width : stride] for j in range(kernel) for k in range(kernel)]
