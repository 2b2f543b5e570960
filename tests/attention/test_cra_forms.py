"""Every form of CRA is the same function: forward and gradients agree to 1e-12 with pooling, convolving and scaling."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from workbench.attention import Site, Trail
from workbench.attention.cra import CRA
from workbench.attention.cra_forms import Cells, Template

C = 6
SHAPES = [(7, 7, 7), (14, 14, 7), (21, 14, 7), (9, 11, 7), (8, 8, 1), (5, 8, 3), (24, 6, 3)]
FORMATS = [torch.contiguous_format, torch.channels_last]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def gradients(block, x, g, trail=None):
    x = x.detach().requires_grad_()
    y = block(x, trail)
    return y.detach(), torch.autograd.grad(y, [x, *block.parameters()], g)


@pytest.mark.parametrize(("height", "width", "size"), SHAPES)
@pytest.mark.parametrize("memory_format", FORMATS)
def test_alone_is_pool_convolution_and_scale(height, width, size, memory_format):
    block = CRA(Site(1, 1, C, C), size).double()
    x, g = torch.randn(2, 3, C, height, width, dtype=torch.float64)
    x = x.contiguous(memory_format=memory_format)
    alone, step = gradients(block, x, g), gradients(block, x, g, Trail(records=True))
    torch.testing.assert_close(alone, step, rtol=0, atol=1e-12)
    assert alone[0].is_contiguous(memory_format=memory_format)
    other = gradients(block, x.flip(-1), g)  # witness: where a value lies counts, as soon as there is a grid
    assert torch.allclose(alone[0], other[0].flip(-1)) == (size == 1)


@pytest.mark.parametrize("form", [Template, Cells])
@pytest.mark.parametrize("memory_format", FORMATS)
def test_gradcheck(form, memory_format):
    x = torch.randn(2, 3, 4, 6, dtype=torch.float64).contiguous(memory_format=memory_format).requires_grad_()
    weight, bias = torch.randn(3, 2, 2, dtype=torch.float64, requires_grad=True), torch.randn(3, dtype=torch.float64)
    assert torch.autograd.gradcheck(form.apply, (x, weight, bias.requires_grad_()))


def test_maps_that_the_grid_divides_are_pooled_where_pooling_is_fast(monkeypatch):
    used = []
    for form in (Template, Cells):
        monkeypatch.setattr(form, "apply", lambda *given, form=form: used.append(form) or given[0])
    block = CRA(Site(1, 1, C, C), 7)
    for side, memory_format in [
        (14, FORMATS[1]),
        (56, FORMATS[0]),
        (14, FORMATS[0]),
        (7, FORMATS[1]),
        (15, FORMATS[1]),
    ]:
        block(torch.randn(1, C, side, side).contiguous(memory_format=memory_format))
    assert used == [Cells, Cells, Template, Template, Template]


class Halved(CRA):
    """A class of one's own that fuses in another way."""

    def fuse(self, T, x):
        return super().fuse(T, x) / 2


def pruned(block, name):
    """A hook makes the pruned values before every forward of the layer, here from ones that a step has moved."""
    prune.l1_unstructured(block.transform[0], name, 0.5)
    with torch.no_grad():
        block.transform[0].get_parameter(f"{name}_orig").add_(0.1)


CHANGES = {
    "pruned weights": lambda block: pruned(block, "weight"),
    "pruned biases": lambda block: pruned(block, "bias"),
    "normed weights": lambda block: parametrizations.spectral_norm(block.transform[0]).eval(),
    "another gate": lambda block: block.transform.__setitem__(1, nn.Hardsigmoid()),
    "another pool": lambda block: setattr(block, "extract", nn.AdaptiveMaxPool2d(3)),
    "another fuse": lambda block: setattr(block, "__class__", Halved),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_part_counts(change):
    block, x = CRA(Site(1, 1, C, C), 3), 3 * torch.randn(2, C, 9, 9)
    before = block(x)
    CHANGES[change](block)
    after = block(x)
    assert torch.equal(after, block(x, Trail(records=True)))
    assert not torch.allclose(after, before, atol=1e-3)  # witness


def test_half_precision_keeps_the_map_and_sums_in_full():
    """bf16 autocast on 64x64 maps: the sum over 4,096 positions has float32's accuracy, not bf16's."""
    block = CRA(Site(1, 1, C, C), 7)
    x = torch.rand(2, C, 64, 64).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        half, full = block(x), block.double()(x.double())
    assert half.dtype == torch.bfloat16
    assert (half - full).abs().max() < 0.01
    assert (half.double() - full).abs().max() > 1e-6  # witness: it is half precision


def test_one_pass_keeps_two_maps_at_most():
    """Between forward and backward only the input itself is kept, as in x * T."""
    kept = []
    block = CRA(Site(1, 1, C, C), 7)
    x = torch.randn(2, C, 28, 28, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        block(x)
        alone = {tensor.data_ptr() for tensor in kept if tensor.numel() == x.numel()}
        assert alone == {x.data_ptr()}
        kept.clear()
        (x * 2 * torch.sigmoid(x)).sum()
    assert len({tensor.data_ptr() for tensor in kept if tensor.numel() == x.numel()}) > 1  # witness
