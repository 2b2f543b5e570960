"""GridPool is adaptive average pooling (CRA Eq. 4) that refuses to upsample unless told to."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from workbench.attention import GlobalPool, GridPool
from workbench.attention.base import _averaging
from workbench.errors import OutOfRange

SIDES = st.integers(1, 24)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@settings(deadline=None)
@given(height=SIDES, width=SIDES, size=st.integers(1, 9))
def test_grid_pool_is_adaptive_pooling_or_refuses(height, width, size):
    x = torch.randn(2, 3, height, width, dtype=torch.float64, requires_grad=True)
    expected = F.adaptive_avg_pool2d(x, size)
    if min(height, width) < size:
        with pytest.raises(
            OutOfRange, match=f"{size}x{size} exceeds the {height}x{width} map.*<= {min(height, width)}"
        ):
            GridPool(size)(x)
    pooled = GridPool(size, small="repeat")(x)
    torch.testing.assert_close(pooled, expected, rtol=0, atol=1e-12)
    weight = torch.randn_like(expected)
    (ours,) = torch.autograd.grad((pooled * weight).sum(), x)
    (theirs,) = torch.autograd.grad((expected * weight).sum(), x)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    corner = torch.zeros_like(x)
    corner[..., -1, -1] = 1
    moved = (GridPool(size, small="repeat")(x + corner) - expected).abs()
    assert (moved[..., -1, -1] > 1e-12).all()  # witness: the last cell reads the last corner


@pytest.mark.parametrize("size", [1, 4, 7, 8])
def test_grid_pool_accepts_what_eq_4_allows(size):
    x = torch.randn(1, 2, 8, 11, dtype=torch.float64)
    assert torch.equal(GridPool(size)(x), GridPool(size, small="repeat")(x))
    with pytest.raises(OutOfRange):
        GridPool(size)(x[:, :, : size - 1])  # witness: one row less is refused


def test_one_cell_is_the_global_mean():
    x = torch.randn(2, 3, 5, 6, dtype=torch.float64)
    torch.testing.assert_close(GridPool(1)(x).flatten(1), GlobalPool()(x), rtol=0, atol=1e-12)
    assert not torch.allclose(GridPool(1)(x).flatten(1), x.amax((2, 3)))  # witness: mean, not maximum


def test_a_grid_first_used_in_inference_mode_still_trains():
    _averaging.cache_clear()
    x = torch.randn(1, 2, 7, 7)
    with torch.inference_mode():
        first = GridPool(3)(x)
    x.requires_grad_()
    again = GridPool(3)(x)
    again.sum().backward()
    assert torch.equal(first, again)
    with torch.inference_mode():
        matrix = torch.ones(3, 7)
    with pytest.raises(RuntimeError, match="nference tensors"):  # witness: a matrix born there would not do
        (matrix @ x).sum().backward()


def test_a_grid_first_used_under_a_mode_or_a_transform_is_its_own():
    """FakeTensorMode makes fake matrices, torch.func wrapped ones: neither may serve an ordinary forward."""
    x = torch.randn(1, 2, 7, 7)
    expected = F.adaptive_avg_pool2d(x, 3)
    _averaging.cache_clear()
    with FakeTensorMode() as mode:
        assert type(GridPool(3)(mode.from_tensor(x))) is not torch.Tensor
    torch.func.grad(lambda x: GridPool(3)(x).sum())(x)
    assert _averaging.cache_info().currsize == 0
    torch.testing.assert_close(GridPool(3)(x), expected)
    assert _averaging.cache_info().currsize == 1  # witness: an ordinary one is kept
    with FakeTensorMode() as mode:
        GridPool(3)(mode.from_tensor(x))  # and does not serve a mode, which refuses a real matrix


class Devices(TorchDispatchMode):
    """Where the results of all operations lie."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        found = op(*args, **(kwargs or {}))
        self.seen |= {found.device.type} if isinstance(found, torch.Tensor) else set()
        return found


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_a_grid_is_made_where_it_is_used(device):
    """Under a compiler it is made in every step; on a GPU a copy from the CPU could not be recorded."""
    with FakeTensorMode(), Devices() as devices:
        GridPool(3)(torch.empty(1, 2, 7, 7, device=device))
    assert devices.seen == {device}
