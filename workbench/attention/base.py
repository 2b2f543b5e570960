"""An attention block is extract -> transform -> fuse; what earlier blocks did travels in a Trail.

    X' = fuse(t(f(g(X), M)), X)                                   DCA Eq. 2-3

g extracts a descriptor G, f connects it with the memory M of the previous block of its dimension (nothing, unless a
connection was plugged in), t transforms it to the attention T, fuse applies T to the map X.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workbench.errors import OutOfRange

Dim = Literal["channel", "spatial", "branch", "weight"]


class Site(NamedTuple):
    """Where a module is plugged in; all that a builder may know.  `str(site)` is "3.4", as in CRA Fig. 8.

    channels: of the map attended; in_channels: of the block's input; sources: of the block's earlier feature maps.
    """

    stage: int
    block: int
    in_channels: int
    channels: int
    stride: int = 1
    sources: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"{self.stage}.{self.block}"


class ConvSpec(NamedTuple):
    """The convolution that a `conv` socket stands for: (N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""

    inputs: int
    outputs: int
    kernel: int = 3
    stride: int = 1
    groups: int = 1
    activation: Callable[..., nn.Module] = nn.ReLU


class Step(NamedTuple):
    """What one attention dimension did in one forward pass.  memory: None unless a connection will read it."""

    site: Site
    dim: Dim
    extracted: Tensor
    attention: Tensor
    memory: Tensor | None = None


@dataclass
class Trail:
    """Memory of one forward pass: made in forward, passed down, dropped.  It is also the recording of that pass.

    features: the maps that the running block made before the one attended, oldest first.  records: keep a step of
    every block; otherwise only of those that a connection reads, and no map outlives its block.
    """

    records: bool = False
    steps: list[Step] = field(default_factory=list)
    features: Sequence[Tensor] = ()

    def of(self, dim: Dim) -> list[Step]:
        """The steps of this dimension, oldest first."""
        return [step for step in self.steps if step.dim == dim]


class Attention(nn.Module):
    """Base of all attention blocks: subclasses set `extract` and `transform`.

    dim "channel": G is (N, C, ...), T is (N, C), or (N, C, H, W) where every value has its gate.  dim "spatial": G is
    (N, k, H, W), T is (N, 1, H, W).  dim "branch": both (N, C, branches), see sk.py.  dim "weight": see aw.py.
    socket: where in a network the block stands: "attention" at the end of a block's branch, "conv" in place of its
    spatial convolution, "stage" between stages, "head" in place of the last global mean.
    """

    dim: Dim = "channel"
    socket: ClassVar[Any] = "attention"
    extract: nn.Module
    transform: nn.Module

    def __init__(self, site: Site):
        super().__init__()
        self.site = site
        self.connection: nn.Module | None = None
        self.tells = ""  # what a connection reads of this block: "attended", "attention", or nothing

    def forward(self, x: Tensor, trail: Trail | None = None) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W); appends one Step to `trail` if that records or a connection listens."""
        trail = Trail() if trail is None else trail
        if not (trail.records or self.tells or self.connection):
            return self.alone(x, trail)
        G = self.look(x, trail)
        T = self.transform(G if self.connection is None else self.connection(G, trail))
        y = self.fuse(T, x)
        memory = T if self.tells == "attention" else self.memory(G, T, y) if self.tells else None
        trail.steps.append(Step(self.site, self.dim, G, T, memory))
        return y

    def alone(self, x: Tensor, trail: Trail) -> Tensor:
        """The same map when nobody listens; a block with a faster form overrides it."""
        return self.fuse(self.transform(self.look(x, trail)), x)

    def look(self, x: Tensor, trail: Trail) -> Tensor:
        """The descriptor G of this pass; blocks that also see earlier features read `trail.features`."""
        return self.extract(x)

    def fuse(self, T: Tensor, x: Tensor) -> Tensor:
        """Scale the map by its attention, in the precision of the map."""
        return scale(x, T.to(x.dtype).reshape(*T.shape, *[1] * (x.dim() - T.dim())))

    def memory(self, G: Tensor, T: Tensor, y: Tensor) -> Tensor:
        """What the next block of this dimension is told: T "multiplied by E to match the scale" (DCA 3.2)."""
        return G * T.reshape(*T.shape, *[1] * (G.dim() - T.dim()))


def scale(x: Tensor, T: Tensor) -> Tensor:
    """x * T, where T is a vector or a map with ones in its shape."""
    return x * T if torch.compiler.is_compiling() or transformed() else Scale.apply(x, T)


def transformed() -> bool:
    """Whether a transform of torch.func is at work, which knows no rule for a Function and wants the plain expression.

    torch has no public question for it.  A compiler, which traces what it transforms itself, is not asked.
    """
    return not torch.compiler.is_compiling() and _TRANSFORMS()


_TRANSFORMS: Callable[[], bool] = getattr(torch._C, "_are_functorch_transforms_active", lambda: False)
_MODES: Callable[[], int] = getattr(torch._C, "_len_torch_dispatch_stack", lambda: 0)


class Scale(torch.autograd.Function):
    """x * T with a backward pass in one buffer, where autograd makes two maps of the size of x.

    Where that pass is to be differentiated again (create_graph), it is autograd's.
    """

    @staticmethod
    def forward(ctx, x: Tensor, T: Tensor) -> Tensor:
        ctx.save_for_backward(x, T)
        return x * T

    @staticmethod
    def backward(ctx, g: Tensor) -> tuple[Tensor, Tensor]:
        x, T = ctx.saved_tensors
        if torch.is_grad_enabled():
            return g * T, (g * x).sum_to_size(T.shape)
        buffer = torch.mul(g, x, out=torch.empty_like(x))
        dT = buffer.sum_to_size(T.shape)
        return (g * T if dT is buffer else torch.mul(g, T, out=buffer)), dT


class GlobalPool(nn.Module):
    """Mean over the map: (N, C, H, W) -> (N, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return mean(x)


def mean(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, C).  A sum's gradient, unlike a mean's, is never written out as a map."""
    if x.dtype == torch.float16:  # a sum would overflow
        return x.mean((2, 3))
    return x.sum((2, 3)) / (x.shape[2] * x.shape[3])


class GridPool(nn.Module):
    """Average-pool a map to a fixed grid: (N, C, H, W) -> (N, C, size, size).  CRA Eq. 4.

    Equal to AdaptiveAvgPool2d, but with a deterministic backward on CUDA (pytorch/pytorch#50198) and without its silent
    upsampling of smaller maps: cells of one size are a plain average pool, others two products with averaging matrices.
    `small="repeat"` allows maps smaller than the grid, as VGG-16 in CRA Table V needs, against Eq. 4.
    """

    def __init__(self, size: int, small: str = "refuse"):
        super().__init__()
        self.size = size
        self.small = small

    def check(self, x: Tensor) -> None:
        """Raises OutOfRange where the map is smaller than the grid and must not be."""
        height, width = x.shape[-2:]
        size = self.size
        if min(height, width) < size and self.small == "refuse":
            raise OutOfRange(
                f"CRA grid {size}x{size} exceeds the {height}x{width} map; Eq. 4 needs h <= H and w <= W. "
                f"Use size <= {min(height, width)}, a larger image, or small=repeat (CRA Table V, VGG-16)."
            )

    def forward(self, x: Tensor) -> Tensor:
        self.check(x)
        height, width = x.shape[-2:]
        size = self.size
        if height == width == size:
            return x
        if height % size == 0 and width % size == 0:
            return F.avg_pool2d(x, (height // size, width // size))
        rows = averaging(height, size, x.device, x.dtype)
        columns = averaging(width, size, x.device, x.dtype)
        return rows @ x @ columns.T


def averaging(length: int, size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """The (size, length) matrix that averages `length` values into `size` bins, bounds as AdaptiveAvgPool2d's."""
    alone = not (torch.compiler.is_compiling() or transformed() or _MODES())  # else it belongs to who is watching
    return (_averaging if alone else _averaging.__wrapped__)(length, size, device, dtype)


@cache  # for good: a recorded step reads the matrix where it lies
def _averaging(length: int, size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):  # kept beyond this forward, so it must also serve one that trains
        bins, places = torch.arange(size, device=device)[:, None], torch.arange(length, device=device)
        start, stop = bins * length // size, -(-(bins + 1) * length // size)
        inside = (start <= places) & (places < stop)
        return (inside.double() / (stop - start)).to(dtype)


def attentions(network: nn.Module) -> Iterator[Attention]:
    """Every attention block of a network, one per dimension, in the order of the forward pass."""
    return (module for module in network.modules() if isinstance(module, Attention))
