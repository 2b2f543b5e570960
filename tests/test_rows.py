"""Every model of a row of the sixteen tables is built, trained for a step, traced and described."""

import pytest
import torch
import torch.nn.functional as F

from workbench.build import build
from workbench.experiments import tables
from workbench.explain.describe import describe
from workbench.names import parse

ROWS = {row.model: row.classes for key in tables.known() for row in tables.load(key).rows}
MODELS = [name for name in ROWS if not parse(name).detector]


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_a_row_trains_for_a_step_and_is_traced(name):
    torch.manual_seed(0)
    network = build(name, ROWS[name])
    side = network.image_size
    batch = 8 if "mobilenetv1" in name else 2  # AW's 1x1 maps: a BN over two values has gradients without bounds
    x, labels = torch.randn(batch, 3, side, side), torch.randint(ROWS[name], (batch,))
    F.cross_entropy(network(x), labels).backward()
    idle = {key for key, parameter in network.named_parameters() if parameter.grad is None}
    assert all(".connection." in key for key in idle)  # the first block's, built and never used (DCA)
    assert bool(idle) == (parse(name).connection is not None)
    assert all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)
    before = network.eval()(x)
    torch.optim.SGD((p for p in network.parameters() if p.grad is not None), lr=0.01).step()
    logits, trail = network.trace(x)
    assert logits.shape == (batch, ROWS[name]) and logits.isfinite().all()
    assert not torch.equal(logits, before)  # witness: the step changed the network
    assert len(trail.steps) == sum(1 for _ in network.attentions())
    assert all(step.attention.isfinite().all() for step in trail.steps)


def test_there_are_rows_and_they_are_described():
    assert len(MODELS) > 80
    assert "AW-convolution" in describe("aw-se-mobilenetv1") and "Selective Kernel" in describe("dca-sk-resnet50")
