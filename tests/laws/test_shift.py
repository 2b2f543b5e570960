"""CRA's claim by construction: on circularnet a circular shift changes no logit unless a gate reads a grid."""

import pytest
import torch

from workbench.build import build


def shift_effect(name):
    """The largest change of a logit under circular shifts, in float64, with random BN statistics."""
    torch.manual_seed(0)
    network = build(name, classes=10).double().eval()
    for key, value in network.state_dict().items():
        if "running" in key:
            value.copy_(torch.rand_like(value) + (0.5 if key.endswith("var") else -0.5))
    pictures = torch.randn(4, 3, 16, 16, dtype=torch.float64)
    with torch.no_grad():
        logits = network(pictures)
        return max((network(pictures.roll(by, (2, 3))) - logits).abs().max() for by in [(1, 0), (0, 5), (3, 7)])


@pytest.mark.parametrize("gate", ["", "se-", "cra1-", "cbam[dims=channel]-", "dca-se-", "dca[form=text]-cra1-"])
def test_no_grid_no_position(gate):
    assert shift_effect(f"{gate}circularnet") < 1e-12
    assert shift_effect(f"{gate}circularnet[padding=zeros]") > 1e-6  # witness: zero padding marks the border


@pytest.mark.parametrize("gate", ["cra3", "cra7"])
def test_a_grid_sees_position(gate):
    assert shift_effect(f"{gate}-circularnet") > 1e-6
