"""How a descriptor G and the memories it hears become one: Eq. 4-6 of DCA, over any number of terms."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


class Alpha(nn.Module):
    """A learnable weight on each memory, starting at 0, in one of the three schemas."""

    def __init__(self, schema: str, count: int = 1):
        super().__init__()
        self.schema = schema
        self.alpha = nn.Parameter(torch.zeros(count))

    def forward(self, G: Tensor, memories: list[Tensor]) -> Tensor:
        return SCHEMAS[self.schema]([G, *(a * M for a, M in zip(self.alpha, memories, strict=True))])

    def weights(self) -> list[float]:
        return [1.0, *self.alpha.tolist()]


class Weights(nn.Module):
    """The release's 1x1 convolution 2 -> 1: w_current G + w_previous M (+ bias)."""

    def __init__(self, count: int, bias: bool = False, start: tuple[float, ...] | None = None):
        super().__init__()
        linear = nn.Linear(1 + count, 1, bias)
        self.weight = nn.Parameter(linear.weight.detach()[0] if start is None else torch.tensor(start))
        self.bias = nn.Parameter(linear.bias.detach()) if bias else None

    def forward(self, G: Tensor, memories: list[Tensor]) -> Tensor:
        merged = direct([w * term for w, term in zip(self.weight, [G, *memories], strict=True)])
        return merged if self.bias is None else merged + self.bias

    def weights(self) -> list[float]:
        return self.weight.tolist()


class Scalars(Weights):
    """The same as factors of its own, where the release has no convolution (GE, spatial)."""


def direct(terms: list[Tensor]) -> Tensor:
    """Eq. 4."""
    return sum(terms[1:], terms[0])


def weighted(terms: list[Tensor]) -> Tensor:
    """Eq. 5 where all terms have one sign; elsewhere its weights use |.|, since Eq. 5 is singular at G + aM = 0."""
    total = direct([term.abs() for term in terms])
    total = torch.where(total > 0, total, 1)
    return direct([term.abs() / total * term for term in terms])


def softmax(terms: list[Tensor]) -> Tensor:
    """Eq. 6 as printed: the larger entry gets the smaller weight."""
    stacked = torch.stack(torch.broadcast_tensors(*terms))
    return (stacked.neg().softmax(0) * stacked).sum(0)


SCHEMAS: dict[str, Callable[[list[Tensor]], Tensor]] = {"direct": direct, "weighted": weighted, "softmax": softmax}
