"""Every attention block and every network with a Trail is one graph for torch.compile; no compiler, no compiling."""

import pytest
import torch

from workbench.attention import Site
from workbench.attention.cra import CRA
from workbench.build import build
from workbench.compiled import compiled, has_compiler

SMALL = [  # two blocks
    *(
        "se",
        "cra3",
        "cbam",
        "gala",
        "gc[reduction=4]",
        "ge2",
        "dca-se",
        "dca-cbam",
        "dca[form=text,reach=tree]-cra3",
        "dca-ge2",
        "dca-gc[reduction=4]",
    ),
]
NAMES = [
    *(f"{name}-circularnet" for name in SMALL),
    *("bam[reduction=4]-resnet20", "bridge[reduction=4]-resnet20", "bridge[form=direct]-plain6", "aw-resnet20"),
    "dca-sk[reduction=4]-resnet20",
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
    graph = torch.compile(network, backend="eager", fullgraph=True)
    (gradient,) = torch.autograd.grad(graph(x).square().sum(), [next(network.parameters())])
    assert gradient.isfinite().all() and gradient.any()
    network.eval()
    with torch.no_grad():
        assert close(graph(x), network(x))
        assert not close(graph(x + 1), network(x))  # witness


def test_a_break_in_the_graph_is_seen():
    """Witness: fullgraph refuses what cannot be traced."""
    network = build("se-resnet20", classes=10)
    network.relu.register_forward_hook(lambda module, given, y: print("traced?"))
    with pytest.raises(Exception, match=r"print|builtin|Unsupported"):
        torch.compile(network, backend="eager", fullgraph=True)(torch.randn(2, 3, 16, 16))


def test_through_the_compiler():
    """Inductor, once: CRA's plain expression compiled equals its eager form, with gradients."""
    if not has_compiler():
        pytest.skip("no C++ compiler here")
    block = CRA(Site(1, 1, 8, 8), 7)
    x = torch.randn(2, 8, 14, 14, requires_grad=True)
    one, other = (
        torch.autograd.grad(form(x).square().sum(), [x, *block.parameters()]) for form in (compiled(block), block)
    )
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(one, other, strict=True))
    assert not torch.allclose(one[0], other[0] + 1e-3, rtol=1e-4, atol=1e-5)  # witness


def test_without_a_compiler_the_module_stays_and_one_notice_is_given(monkeypatch, caplog):
    block = CRA(Site(1, 1, 8, 8), 7)
    monkeypatch.setattr("shutil.which", lambda program: None)
    monkeypatch.setenv("CXX", "no-such-compiler")
    has_compiler.cache_clear()
    try:
        assert compiled(block) is compiled(block) is block
    finally:
        has_compiler.cache_clear()
    assert [record.message for record in caplog.records if "No C++ compiler" in record.message] == [caplog.messages[-1]]
