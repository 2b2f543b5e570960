"""What the attention blocks of a network did with given pictures, as plain arrays: CRA Fig. 8 and DCA Fig. 5.

`values` are (site, T) of each block, T's first axis the pictures.

Networks are those of this project, or others with attached blocks.  They are evaluated, whatever mode they are in, and
left as they were: mode, gradients, running statistics and the state of the random numbers.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from workbench.attach import trace
from workbench.attention import Step, attentions
from workbench.attention.aw import AWConv
from workbench.errors import OutOfRange

if TYPE_CHECKING:
    import pandas as pd

Values = list[tuple[str, np.ndarray]]


class Contribution(NamedTuple):
    """Share of the earlier attentions in what the block at `site` reads, in [0, 1]."""

    site: str
    dim: str
    ratio: float


def channel_attention(network: nn.Module, pictures: Tensor) -> Values:
    """(site, T (N, C)) of every block that attends channels, in the order of the forward pass.  CRA Fig. 8.

    pictures: (N, 3, H, W).  Where every value has its gate, T is the mean over positions.  GC's T is the term it adds,
    and that of a direct bridge the descriptor it makes; neither is a gate.
    """
    found = [step for step in steps(network, pictures) if step.dim == "channel"]
    if not found:
        raise OutOfRange(_none(network, "channel", "se, cra, cbam, ge or bam"))
    return [(str(step.site), array(step.attention.reshape(*step.attention.shape[:2], -1).mean(2))) for step in found]


def spatial_attention(network: nn.Module, pictures: Tensor) -> Values:
    """(site, T (N, H, W)) of every block that attends positions, at the size of its map.

    Where every value has its gate, as in BAM, GALA and GE, T is the mean over channels.
    """
    found = [step for step in steps(network, pictures) if step.dim in ("channel", "spatial")]
    found = [step for step in found if step.attention.dim() == 4]
    if not found:
        raise OutOfRange(_none(network, "spatial", "cbam, bam, gala or ge"))
    return [(str(step.site), array(step.attention.mean(1))) for step in found]


def branch_shares(network: nn.Module, pictures: Tensor) -> Values:
    """(site, T (N, C, 2)) of every selective kernel: the share of each branch in each channel, summing to 1.

    Branch 0 is the plain 3x3, branch 1 the one with dilation 2, which sees 5x5.  See attention/sk.py.
    """
    found = [step for step in steps(network, pictures) if step.dim == "branch"]
    if not found:
        raise OutOfRange(_none(network, "branch", "sk"))
    return [(str(step.site), array(step.attention)) for step in found]


def kernel_attention(network: nn.Module, pictures: Tensor) -> Values:
    """(site, A (N, outputs, inputs, h, w)) of every AW-convolution, before it is repeated to the kernel's shape.

    A is each picture's own gate of the kernel: the convolution runs with K + A K, or A K without its residual (AW
    Eq. 6).  An axis of length 1 is constant, as the inputs are in the paper (r_C1 = C1).
    """
    found = [step for step in steps(network, pictures) if step.dim == "weight"]
    shapes = [block.shape[:2] for block in attentions(network) if isinstance(block, AWConv)]
    if not found or len(shapes) != len(found):
        raise OutOfRange(_none(network, "kernel", "aw"))
    maps = [step.attention.unflatten(1, shape) for step, shape in zip(found, shapes, strict=True)]
    return [(str(s.site), array(A.expand(len(pictures), *A.shape[1:]))) for s, A in zip(found, maps, strict=True)]


def together(single: Iterable[Values]) -> Values:
    """The values of several pictures, each traced by itself, as those of one batch."""
    return [(layer[0][0], np.concatenate([T for _, T in layer])) for layer in zip(*single, strict=True)]


def frame(values: Values, labels: Iterable[str], axes: Iterable[str]) -> "pd.DataFrame":
    """One row a value: block, picture, the index along each of `axes` (T's others, from 0), attention."""
    import pandas as pd

    names, columns = np.array([*labels], dtype=object), [*axes]
    parts = []
    for site, T in values:
        picture, *rest = (index.ravel() for index in np.indices(T.shape))
        numbers = dict(zip(columns, rest, strict=True))
        parts.append(pd.DataFrame({"block": site, "picture": names[picture], **numbers, "attention": T.ravel()}))
    return pd.concat(parts, ignore_index=True)


def apart(values: Values, most: int = 10) -> "pd.DataFrame":
    """The channels whose gates differ most between the first two pictures, of all blocks, the largest first.

    values: (site, T (2 or more, C)).  Columns: block, channel, difference (first minus second), first, second.
    """
    import pandas as pd

    rows = [(site, c, float(a) - float(b), float(a), float(b))
            for site, T in values for c, (a, b) in enumerate(T[:2].T)]  # fmt: skip
    rows.sort(key=lambda row: -abs(row[2]))
    return pd.DataFrame(rows[:most], columns=["block", "channel", "difference", "first", "second"])


def layer_means(network: nn.Module, batches: Iterable[Tensor]) -> list[tuple[str, float]]:
    """(site, mean of T over channels and over the pictures of all batches) of every block that attends channels.

    The number behind "channel attentions in shallow layers (CRA.1.2) are much lower than in deep layers (CRA.3.2)",
    CRA III-D.  batches: (N, 3, H, W) each; N may differ.
    """
    sums: list[float] = []
    sites: list[str] = []
    count = 0
    for pictures in batches:
        values = channel_attention(network, pictures)
        sites = [site for site, _ in values]
        mine = [float(T.mean(1, dtype=np.float64).sum()) for _, T in values]
        sums = [a + b for a, b in zip(sums or [0.0] * len(mine), mine, strict=True)]
        count += len(pictures)
    if not count:
        raise OutOfRange("No batch of pictures; means need at least one picture (N, 3, H, W).")
    return [(site, total / count) for site, total in zip(sites, sums, strict=True)]


def contribution(network: nn.Module) -> list[Contribution]:
    """|w_earlier| / (|w_earlier| + |w_current|) of every connection, in the order of the network.  DCA Fig. 5.

    The official form also builds a connection in the first block of each dimension; it hears nobody, is never trained,
    and is left out.
    """
    found = []
    for block in attentions(network):
        connection = block.connection
        if connection is not None and getattr(connection, "first", connection).backs:
            found.append(Contribution(str(block.site), block.dim, connection.contribution()))  # type: ignore[operator]
    if not found:
        raise OutOfRange(
            f"This {type(network).__name__} has no connection between attention blocks; build one, for example "
            "dca-se-resnet50."
        )
    return found


def steps(network: nn.Module, pictures: Tensor) -> list[Step]:
    """Every attention dimension's step in one forward of `pictures`."""
    check(pictures)
    with torch.no_grad(), untouched(network):
        return trace(network, pictures)[1].steps


def check(pictures: Tensor) -> None:
    """Raises OutOfRange where `pictures` are no batch that a network can read."""
    if pictures.dim() != 4 or not len(pictures):
        shape = "x".join(map(str, pictures.shape))
        raise OutOfRange(f"Pictures of shape {shape}; give a batch (N, 3, H, W), one picture as pictures[None].")
    if not pictures.is_floating_point():
        raise OutOfRange(f"Pictures of type {pictures.dtype}; normalise them as in training, to floating point.")


@contextmanager
def untouched(network: nn.Module) -> Iterator[None]:
    """Evaluation mode; afterwards every module has its own mode again, and the random numbers go on as before."""
    modes = {module: module.training for module in network.modules()}
    drawn = {tensor.device for tensor in network.parameters() if tensor.is_cuda}
    try:
        for module in modes:
            module.training = False
        with torch.random.fork_rng(drawn):
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def array(values: Tensor) -> np.ndarray:
    return values.float().cpu().numpy()


def _none(network: nn.Module, kind: str, known: str) -> str:
    return f"This {type(network).__name__} has no {kind} attention; use a network with {known}."
