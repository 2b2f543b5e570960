"""The fast forms of a CRA gate, equal to pooling, convolving and scaling one after the other.

Pooling to a grid followed by one weight per cell is linear, so both are one weighted sum over the map (CRA Eq. 4-5):

    T = sigmoid(sum over H, W of X * E + b),   E = P_h^T L P_w,   (C, H, W)

with the averaging matrices P of the grid.  E is the template that a channel looks for.  `Template` sums with E;
`Cells` pools first, which is faster where pooling is: in channels_last, and over many rows (CPU: 56 of them to 7).
Both write the backward pass in one buffer instead of autograd's four maps of the size of X; where that pass is to be
differentiated again (create_graph), it is the plain `expression`'s.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from workbench.attention.base import averaging, transformed


def reassess(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """X * T for a map (N, C, H, W), a kernel (C, h, w) and a bias (C)."""
    height, width = x.shape[-2:]
    size = weight.shape[-1]
    if torch.compiler.is_compiling() or transformed():  # a compiler fuses it better than it traces the others
        return expression(x, weight, bias)
    even = height % size == 0 and width % size == 0 and min(height, width) > size
    pools = channels_last(x) or height >= 8 * size
    return (Cells if even and pools else Template).apply(x, weight, bias)


def expression(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The same in operations that autograd differentiates as often as asked."""
    return x * torch.sigmoid((x * template(x, weight)).sum((2, 3)) + bias).to(x.dtype)[:, :, None, None]


def template(x: Tensor, weight: Tensor) -> Tensor:
    """E for maps of the size of x: (C, h, w) -> (C, H, W)."""
    return spread(weight, *x.shape[-2:]).to(x.dtype)


def spread(weight: Tensor, height: int, width: int) -> Tensor:
    """P_h^T L P_w: (C, h, w) -> (C, H, W).  Where h divides H all rows of a cell are alike, and one product does."""
    C, h, w = weight.shape
    if (height, width) == (h, w):
        return weight
    rows = averaging(height, h, weight.device, weight.dtype)
    columns = averaging(width, w, weight.device, weight.dtype)
    if height % h == 0:
        return (weight.reshape(C * h, w) @ (columns.repeat(1, height // h) * (h / height))).view(C, height, width)
    tall = (weight.transpose(1, 2).reshape(C * w, h) @ rows).view(C, w, height)
    return (tall.transpose(1, 2).reshape(C * height, w) @ columns).view(C, height, width)


def gather(E: Tensor, h: int, w: int) -> Tensor:
    """P_h E P_w^T, the transpose of `spread`: (C, H, W) -> (C, h, w)."""
    C, height, width = E.shape
    if (height, width) == (h, w):
        return E
    rows = averaging(height, h, E.device, E.dtype)
    columns = averaging(width, w, E.device, E.dtype)
    if height % h == 0:
        return (E.reshape(C * h, -1) @ (columns.repeat(1, height // h) * (h / height)).T).view(C, h, w)
    tall = (E.reshape(C * height, width) @ columns.T).view(C, height, w)
    return (tall.transpose(1, 2).reshape(C * w, height) @ rows.T).view(C, w, h).transpose(1, 2)


class Template(torch.autograd.Function):
    """One weighted sum over the map.  E is made again in the backward pass, so that only X is kept between the two."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        y = x * like(template(x, weight), x)
        T = (y.sum((2, 3), dtype=weight.dtype) + bias).sigmoid_()
        ctx.save_for_backward(x, weight, bias, T)
        return torch.mul(x, column(T, x), out=y)

    @staticmethod
    def backward(ctx, g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight, bias, T = ctx.saved_tensors
        if torch.is_grad_enabled():
            return torch.func.vjp(expression, x, weight, bias)[1](g)
        buffer = torch.mul(g, x, out=torch.empty_like(x))
        d = buffer.sum((2, 3), dtype=weight.dtype) * T * (1 - T)
        dE = torch.mul(x, column(d, x), out=buffer).sum(0, dtype=weight.dtype)
        dL = gather(dE, *weight.shape[1:])
        del dE
        torch.mul(g, column(T, x), out=buffer)
        buffer.addcmul_(column(d, x), like(template(x, weight), x))
        return buffer, dL, d.sum(0)


class Cells(torch.autograd.Function):
    """Pool, then one weight per cell; for maps that the grid divides."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        size = weight.shape[-1]
        U = pooled(x, size)
        T = ((U * weight).sum((2, 3), dtype=weight.dtype) + bias).sigmoid_()
        ctx.save_for_backward(x, weight, bias, U, T)
        return x * column(T, x)

    @staticmethod
    def backward(ctx, g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight, bias, U, T = ctx.saved_tensors
        if torch.is_grad_enabled():
            return torch.func.vjp(expression, x, weight, bias)[1](g)
        size, (N, C, H, W) = weight.shape[-1], x.shape
        buffer = torch.mul(g, x, out=torch.empty_like(x))
        d = buffer.sum((2, 3), dtype=weight.dtype) * T * (1 - T)
        if not channels_last(x):
            dL = (column(d, d) * U).sum(0)
            torch.mul(g, column(T, x), out=buffer)
            return buffer.addcmul_(column(d, x), template(x, weight)), dL, d.sum(0)
        flat = buffer.permute(0, 2, 3, 1).view(-1)
        scratch = flat[: U.numel()].view(N, size, size, C)  # the buffer is free until the next product
        dL = torch.mul(d.to(x.dtype)[:, None, None], U.permute(0, 2, 3, 1), out=scratch).sum(0, dtype=weight.dtype)
        torch.mul(g, column(T, x), out=buffer)
        cells = flat.view(N, size, H // size, size, W // size, C)
        share = (weight * (size * size / (H * W))).to(x.dtype).permute(1, 2, 0)[:, None, :, None]
        cells.addcmul_(d.to(x.dtype).view(N, 1, 1, 1, 1, C), share)
        return buffer, dL.permute(2, 0, 1), d.sum(0)


def pooled(x: Tensor, size: int) -> Tensor:
    """(N, C, H, W) -> (N, C, size, size); the rows of a contiguous map are summed before a product with the columns."""
    N, C, H, W = x.shape
    if channels_last(x):
        return F.avg_pool2d(x, (H // size, W // size))
    rows = x.view(N, C, size, H // size, W).sum(3)
    return rows @ averaging(W, size, x.device, x.dtype).T * (size / H)


def channels_last(x: Tensor) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def column(T: Tensor, x: Tensor) -> Tensor:
    """(N, C) as (N, C, 1, 1) in the precision of x."""
    return T.to(x.dtype)[:, :, None, None]


def like(E: Tensor, x: Tensor) -> Tensor:
    """E in the memory format of x."""
    if channels_last(x):
        return E[None].contiguous(memory_format=torch.channels_last)[0]
    return E
