"""Every attention block and every network with a Trail is one graph for torch.compile; without a compiler it is eager."""

import pytest
import torch

from workbench.build import build

NAMES = [
    *(
        "resnet20",
        "se[reduction=4]-resnet20",
        "cra3-resnet20",
        "cbam[reduction=4]-resnet20",
        "bam[reduction=4]-resnet20",
    ),
    *(
        "gala[reduction=4]-resnet20",
        "gc[reduction=4]-resnet20",
        "ge2-resnet20",
        "sk[reduction=4]-resnet20",
        "aw-resnet20",
    ),
    *("bridge[reduction=4]-resnet20", "bridge[form=direct]-plain6", "dca-se[reduction=4]-resnet20"),
    *(
        "dca-cbam[reduction=4]-resnet20",
        "dca[form=text,reach=tree]-cra3-resnet20",
        "dca-ge2-resnet20",
        "dca-gc-resnet20",
    ),
    *("dca[reach=dense]-sk[reduction=4]-resnet20", "dca-aw-se[reduction=4]-resnet20"),
]


@pytest.fixture(autouse=True)
def fresh():
    torch.manual_seed(0)
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def close(one, other):
    return (one - other).abs().max() < 1e-4 * other.abs().max()


@pytest.mark.parametrize("name", NAMES)
def test_the_network_is_one_graph(name):
    network = build(name, classes=10).train()
    x = torch.randn(2, 3, 16, 16)
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    (gradient,) = torch.autograd.grad(
        compiled(x).square().sum(), [network.conv1.weight if hasattr(network, "conv1") else next(network.parameters())]
    )
    assert gradient.isfinite().all() and gradient.any()
    network.eval()
    with torch.no_grad():
        assert close(compiled(x), network(x))
        assert not close(compiled(x + 1), network(x))  # witness


def test_a_break_in_the_graph_is_seen():
    """Witness: fullgraph refuses what cannot be traced."""
    network = build("se-resnet20", classes=10)
    network.relu.register_forward_hook(lambda module, given, y: print("traced?"))
    with pytest.raises(Exception, match=r"print|builtin|Unsupported"):
        torch.compile(network, backend="eager", fullgraph=True)(torch.randn(2, 3, 16, 16))
