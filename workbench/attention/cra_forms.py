"""The fast forms of a CRA gate, equal to pooling, convolving and scaling one after the other.

Pooling to a grid followed by one weight per cell is linear, so both are one weighted sum over the map (CRA Eq. 4-5):

    T = sigmoid(sum over H, W of X * E + b),   E = P_h^T L P_w,   (C, H, W)

with the averaging matrices P of the grid.  E is the template that a channel looks for.  `Template` sums with E;
`Cells` pools first, which is faster in channels_last only, where a cell's values lie apart for the sum but not for the
pool.  Both write the backward pass in one buffer instead of autograd's four maps of the size of X.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from workbench.attention.base import averaging


def reassess(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """X * T for a map (N, C, H, W), a kernel (C, h, w) and a bias (C)."""
    height, width = x.shape[-2:]
    size = weight.shape[-1]
    if torch.compiler.is_compiling():  # the compiler fuses the plain expression better than it traces these
        return x * torch.sigmoid((x * template(x, weight)).sum((2, 3)) + bias).to(x.dtype)[:, :, None, None]
    even = height % size == 0 and width % size == 0 and min(height, width) > size
    if even and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous():
        return Cells.apply(x, weight, bias)
    return Template.apply(x, weight, bias)


def template(x: Tensor, weight: Tensor) -> Tensor:
    """E for maps of the size of x: (C, h, w) -> (C, H, W)."""
    height, width = x.shape[-2:]
    if height == width == weight.shape[-1]:
        return weight.to(x.dtype)
    rows, columns = matrices(x, weight)
    return both(weight, rows, columns).to(x.dtype)


def both(maps: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """(C, h, w) -> (C, H, W) by matrices (h, H) and (w, W); two products, where a batched one is slow."""
    C, h, w = maps.shape
    tall = (maps.transpose(1, 2).reshape(C * w, h) @ rows).view(C, w, -1)
    return (tall.transpose(1, 2).reshape(-1, w) @ columns).view(C, rows.shape[1], -1)


def matrices(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    size = weight.shape[-1]
    rows = averaging(x.shape[-2], size, x.device, weight.dtype)
    return rows, averaging(x.shape[-1], size, x.device, weight.dtype)


class Template(torch.autograd.Function):
    """One weighted sum over the map.  E is made again in the backward pass, so that only X is kept between the two."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        y = x * like(template(x, weight), x)
        T = (y.sum((2, 3), dtype=weight.dtype) + bias).sigmoid_()
        ctx.save_for_backward(x, weight, T)
        return torch.mul(x, column(T, x), out=y)

    @staticmethod
    @once_differentiable
    def backward(ctx, g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight, T = ctx.saved_tensors
        buffer = torch.mul(g, x, out=torch.empty_like(x))
        d = buffer.sum((2, 3), dtype=weight.dtype) * T * (1 - T)
        dL = torch.mul(x, column(d, x), out=buffer).sum(0, dtype=weight.dtype)
        if dL.shape[1:] != weight.shape[1:]:
            rows, columns = matrices(x, weight)
            dL = both(dL, rows.T, columns.T)
        torch.mul(g, column(T, x), out=buffer)
        buffer.addcmul_(column(d, x), like(template(x, weight), x))
        return buffer, dL, d.sum(0)


class Cells(torch.autograd.Function):
    """Pool, then one weight per cell; for maps that the grid divides, in channels_last."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        size = weight.shape[-1]
        U = F.avg_pool2d(x, (x.shape[-2] // size, x.shape[-1] // size))
        T = ((U * weight).sum((2, 3), dtype=weight.dtype) + bias).sigmoid_()
        ctx.save_for_backward(x, weight, U, T)
        return x * column(T, x)

    @staticmethod
    @once_differentiable
    def backward(ctx, g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight, U, T = ctx.saved_tensors
        size, (N, C, H, W) = weight.shape[-1], x.shape
        buffer = torch.mul(g, x, out=torch.empty_like(x))
        d = buffer.sum((2, 3), dtype=weight.dtype) * T * (1 - T)
        flat = buffer.permute(0, 2, 3, 1).view(-1)
        scratch = flat[: U.numel()].view(N, size, size, C)  # the buffer is free until the next product
        dL = torch.mul(d.to(x.dtype)[:, None, None], U.permute(0, 2, 3, 1), out=scratch).sum(0, dtype=weight.dtype)
        torch.mul(g, column(T, x), out=buffer)
        cells = flat.view(N, size, H // size, size, W // size, C)
        spread = (weight * (size * size / (H * W))).to(x.dtype).permute(1, 2, 0)[:, None, :, None]
        cells.addcmul_(d.to(x.dtype).view(N, 1, 1, 1, 1, C), spread)
        return buffer, dL.permute(2, 0, 1), d.sum(0)


def column(T: Tensor, x: Tensor) -> Tensor:
    """(N, C) as (N, C, 1, 1) in the precision of x."""
    return T.to(x.dtype)[:, :, None, None]


def like(E: Tensor, x: Tensor) -> Tensor:
    """E in the memory format of x."""
    if x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous():
        return E[None].contiguous(memory_format=torch.channels_last)[0]
    return E
