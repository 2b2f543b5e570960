"""The modules beside timm's: what is to be compiled is compiled, in every case."""

from functools import partial

import pytest
import torch

from workbench.attention import Site
from workbench.attention.se import SE
from workbench.bench import attention


@pytest.mark.parametrize("forget", [True, False])
def test_every_case_is_compiled(monkeypatch, forget):
    """Also when the compiler, which takes a forward for one function, has met more modules than it keeps."""
    graphs = []
    backend = lambda graph, inputs: graphs.append(graph) or graph.forward  # noqa: E731
    monkeypatch.setattr(attention, "through_compiler", partial(torch.compile, backend=backend))
    torch.compiler.reset()
    if not forget:  # witness
        monkeypatch.setattr(torch.compiler, "reset", lambda: None)
    with torch._dynamo.config.patch(recompile_limit=1):
        for channels in (16, 32, 48):
            attention.anew(SE(Site(1, 1, channels, channels)))(torch.rand(1, channels, 2, 2))
    assert len(graphs) == (3 if forget else 1)
