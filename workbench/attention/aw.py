"""AW-convolution (Zhu et al., "An Attention Module for Convolutional Neural Networks", ICANN 2021).

The attention A has the shape of the kernel K, and every picture n has its own:

    Y[n, p] = sum over o, j, k of X[n, o] shifted by (j, k) * AK[n, p, o, j, k]        Eq. 4-5
    AK = K + A K                                                                       Eq. 6, or A K
    A = Expand(sigmoid(BN(W2 relu(BN(W1 pool(X))))))                                   Eq. 7-8

p counts the C2 outputs, o the C1 inputs (of p's group), (j, k) the h x w taps; the paper's sums from j = 1 are meant
from 0.  pool averages X to one cell a tap, W1 and W2 are 1x1 convolutions without bias, and Expand repeats the map
along the dimensions in which it was computed reduced: r_C1 = C1 in the paper, so A is constant over the inputs.
In words: a grid of means as large as the kernel -> a bottleneck -> one gate for every output and tap of the kernel ->
a convolution whose kernel is the picture's own.
Adds C1 H + H C2 + 2 H + 2 C2 parameters then, H = C2 / r the hidden width.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from workbench.attention.aw_forms import attend
from workbench.attention.base import Attention, ConvSpec, GridPool, Site, Trail
from workbench.errors import OutOfRange


class AWConv(Attention):
    """G is (N, C1, h / r_hw, w / r_hw), T is (N, C2 / r_C2 * C1 / r_C1, h / r_hw, w / r_hw): the map before Expand.

    The kernel is `weight`, named and shaped as in nn.Conv2d.  A reduction is how many neighbours share a value of A;
    0: all.

    reduction: r, from C2 C1 / r_C1 to the hidden width.  input_reduction, output_reduction, kernel_reduction: r_C1,
    r_C2 and r_hw.  shared: one A for the whole batch, Expand along N; predictions then depend on the batch.
    residual: AK = K + A K, else A K.  small: `repeat` allows maps smaller than the grid of the taps.
    """

    dim = "weight"
    socket = "conv"

    def __init__(
        self,
        site: Site,
        spec: ConvSpec,
        reduction: int = 16,
        input_reduction: int = 0,
        output_reduction: int = 1,
        kernel_reduction: int = 1,
        shared: bool = False,
        residual: bool = True,
        small: str = "refuse",
    ):
        super().__init__(site)
        self.stride, self.shared, self.residual, self.small = spec.stride, shared, residual, small
        self.shape = reduced(site, spec, input_reduction, output_reduction, kernel_reduction)
        width, grid = spec.outputs * self.shape.inputs, self.shape.kernel
        if not 1 <= reduction <= width:
            raise OutOfRange(f"AW reduction {reduction} of {width} channels; it must be from 1 to {width}.")
        if shared and grid == 1:
            raise OutOfRange("AW option shared=true averages to one value a channel here, which BN cannot normalise.")
        if small not in ("refuse", "repeat"):
            raise OutOfRange(f"AW option small={small}; use refuse, or repeat for maps smaller than the kernel.")
        self.weight = nn.Parameter(torch.empty(spec.outputs, spec.inputs // spec.groups, spec.kernel, spec.kernel))
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")  # as the convolution it replaces
        self.register_parameter("bias", None)
        self.extract = GridPool(grid, "repeat")
        hidden, maps = width // reduction, self.shape.outputs * self.shape.inputs
        self.transform = nn.Sequential(
            nn.Conv2d(spec.inputs, hidden, 1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU(),
            nn.Conv2d(hidden, maps, 1, bias=False),
            nn.BatchNorm2d(maps),
            nn.Sigmoid(),
        )

    def look(self, x: Tensor, trail: Trail) -> Tensor:
        (height, width), grid = x.shape[-2:], self.shape.kernel
        if min(height, width) < grid and self.small == "refuse":
            raise OutOfRange(
                f"AW {self.site}: the {height}x{width} map is smaller than the {grid}x{grid} grid of the taps. "
                "Use a larger image, or small=repeat."
            )
        G = self.extract(x)
        return G.mean(0, keepdim=True) if self.shared else G

    def fuse(self, T: Tensor, x: Tensor) -> Tensor:
        """(N, C1, H, W) -> (N, C2, H / stride, W / stride): X convolved with AK."""
        A = expand(T, self.shape, self.weight.shape)
        return attend(x, self.weight, 1 + A if self.residual else A, self.stride)

    def memory(self, G: Tensor, T: Tensor, y: Tensor) -> Tensor:
        """(N, C2, h / r_hw, w / r_hw): G T with one map an output and C1 = C2; else T, its mean over the inputs."""
        outputs, inputs, _ = self.shape
        if inputs == 1 and outputs == len(self.weight) == G.shape[1]:
            return G * T
        T = T.unflatten(1, (outputs, inputs)).mean(2)
        return T.repeat_interleave(len(self.weight) // outputs, 1)


class Reduced(NamedTuple):
    """Values of A for one picture before Expand: outputs x inputs x kernel x kernel."""

    outputs: int
    inputs: int
    kernel: int


def reduced(site: Site, spec: ConvSpec, r_C1: int, r_C2: int, r_hw: int) -> Reduced:
    """C2 / r_C2, C1 / groups / r_C1 and h / r_hw; raises OutOfRange where they do not exist."""
    inputs, outputs, kernel, stride, groups, _ = spec
    if kernel < 1 or kernel % 2 == 0 or stride < 1:
        raise OutOfRange(f"AW {site}: kernel {kernel}, stride {stride}; the kernel must be odd, the stride at least 1.")
    if min(inputs, outputs, groups) < 1 or inputs % groups or outputs % groups:
        raise OutOfRange(f"AW {site}: {groups} groups must divide the {inputs} inputs and the {outputs} outputs.")

    def divided(option: str, total: int, reduction: int) -> int:
        if reduction < 0 or total % (reduction or total):
            raise OutOfRange(f"AW {site}: {option}={reduction} must divide {total}, or be 0 for all {total}.")
        return total // (reduction or total)

    return Reduced(
        divided("output_reduction", outputs, r_C2),
        divided("input_reduction", inputs // groups, r_C1),
        divided("kernel_reduction", kernel, r_hw),
    )


def expand(T: Tensor, shape: Reduced, kernel: torch.Size) -> Tensor:
    """(N, outputs inputs, h', w') -> (N, C2, C1 / groups, h, w), Eq. 8; dimensions of one value stay 1."""
    A = T.unflatten(1, (shape.outputs, shape.inputs))
    for dimension, size in enumerate(kernel, 1):
        if 1 < A.shape[dimension] < size:
            A = A.repeat_interleave(size // A.shape[dimension], dimension)
    return A
