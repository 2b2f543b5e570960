"""Pictures with nothing in them, one picture a batch, maps of one pixel: every attention stays finite, and so does what
it teaches.
"""

import pytest
import torch
from torch import nn

from workbench.attention import Site
from workbench.attention.cra import CRA
from workbench.attention.ge import GE
from workbench.attention.merging import Alpha
from workbench.attention.se import SE
from workbench.build import build

NETWORKS = [
    *("se-", "cra4-", "cbam-", "bam-", "gala-", "ge8-", "ge8[theta=false]-", "gc[reduction=4]-", "sk[reduction=4]-"),
    *("aw-", "aw-se-", "bridge-", "dca-se-", "dca[schema=weighted]-se-", "dca[schema=softmax]-cbam-"),
]
PICTURES = {"black": torch.zeros, "white": torch.ones, "grey": lambda *shape: torch.full(shape, 0.5)}


def finite(network, x):
    """Are logits and all gradients of this pass finite?"""
    x = x.clone().requires_grad_()
    logits = network(x)
    wanted = [x, *(parameter for parameter in network.parameters() if parameter.requires_grad)]
    gradients = torch.autograd.grad(logits.square().sum(), wanted, allow_unused=True)
    return all(value.isfinite().all() for value in (logits, *gradients) if value is not None)


@pytest.mark.parametrize("picture", PICTURES)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_picture_of_one_colour_gives_finite_attention(name, picture):
    torch.manual_seed(0)
    network = build(f"{name}resnet20", 10, 32)
    x = PICTURES[picture](4, 3, 32, 32)
    assert finite(network.train(), x)  # BN then sees no variance at all
    assert finite(network.eval(), x[:1])  # one picture
    steps = network.trace(x[:1])[1].steps
    assert steps and all(step.attention.isfinite().all() for step in steps)


@pytest.mark.parametrize(
    "make", [SE, lambda site: CRA(site, size=1), lambda site: GE(site, size=0, theta=False)], ids=["se", "cra1", "ge"]
)
def test_a_map_of_one_pixel_is_attended(make):
    torch.manual_seed(0)
    block = make(Site(1, 1, 16, 16)).eval()
    for x in (torch.zeros(1, 16, 1, 1), torch.randn(1, 16, 1, 1)):
        assert finite(block, x) and block(x).shape == x.shape


class Standardised(nn.Module):
    """Divides by a deviation that may be none."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return self.weight * x / x.std()


def test_the_check_notices_what_is_not_finite():
    """Witness: a block without a guard fails it."""
    assert not finite(Standardised(), torch.zeros(4, 3, 8, 8))
    assert finite(Standardised(), torch.randn(4, 3, 8, 8))


def test_a_weighted_connection_is_finite_where_its_terms_cancel():
    """DCA Eq. 5 divides by G + alpha T."""
    G, T = torch.tensor([[1.0, -2.0, 0.0]]).requires_grad_(), torch.tensor([[-1.0, 2.0, 0.0]])
    merge = Alpha("weighted")
    merge.alpha.data.fill_(1.0)
    Z = merge(G, [T])
    assert all(value.isfinite().all() for value in (Z, *torch.autograd.grad(Z.sum(), [G, merge.alpha])))
    assert not ((G * G + T * T) / (G + T)).isfinite().any()  # witness: as printed it is singular here
