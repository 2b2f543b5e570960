"""Memory travels in the Trail: one Step for each dimension of each block, in order, and nothing stays on a module."""

import threading

import pytest
import torch

from workbench.attention import Attention, Site, Trail
from workbench.build import build

NAMES = ["resnet20", "se-resnet20", "cra3-resnet20", "cbam-resnet20", "dca-cbam-resnet20", "dca-se-circularnet"]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("name", NAMES)
def test_each_block_appends_one_step_for_each_dimension_in_order(name):
    network = build(name, classes=10).eval()
    logits, trail = network.trace(torch.randn(2, 3, 16, 16))
    stages, depth = (1, 2) if "circular" in name else (3, 3)
    dims = {"resnet20": [], "cbam-resnet20": ["channel", "spatial"]}.get(name.removeprefix("dca-"), ["channel"])
    expected = [(f"{s + 1}.{b + 1}", dim) for s in range(stages) for b in range(depth) for dim in dims]
    assert [(str(step.site), step.dim) for step in trail.steps] == expected
    for block, step in zip(network.attentions(), trail.steps, strict=True):
        assert step.site is block.site
        shape = (2, block.site.channels) if step.dim == "channel" else (2, 1, *step.extracted.shape[-2:])
        assert step.attention.shape == shape
        assert ((step.attention > 0) & (step.attention < 1)).all()
    assert logits.shape == (2, 10)


@pytest.mark.parametrize("name", NAMES)
def test_trace_is_forward_and_repeats(name):
    network = build(name, classes=10).double().eval()
    x, y = torch.randn(2, 2, 3, 16, 16, dtype=torch.float64)
    (first, trail), (second, again) = network.trace(x), network.trace(x)
    assert torch.equal(first, second) and (first - network(x)).abs().max() < 1e-12  # CRA alone has a faster form
    assert same(trail, again)
    assert not torch.allclose(first, network(y))  # witness: other pictures leave another trail
    assert not trail.steps or not same(trail, network.trace(y)[1])


def same(one, other):
    return all(
        torch.equal(getattr(a, key), getattr(b, key))
        for a, b in zip(one.steps, other.steps, strict=True)
        for key in ("extracted", "attention")
    )


@pytest.mark.parametrize("name", NAMES)
def test_nothing_of_a_forward_stays_on_a_module(name):
    network = build(name, classes=10)
    before = kept(network)
    network.trace(torch.randn(2, 3, 16, 16))
    assert kept(network) == before
    network.fc.remembered = [torch.zeros(1)]
    assert kept(network) != before  # witness


def kept(network):
    """Where a module holds a tensor or a Trail outside of its parameters and buffers."""
    own = ("_parameters", "_buffers", "_modules")
    return {
        (name, key)
        for name, module in network.named_modules()
        for key, value in vars(module).items()
        if key not in own and holds(value)
    }


def holds(value):
    if isinstance(value, dict | list | tuple | set):
        return any(map(holds, value.values() if isinstance(value, dict) else value))
    return isinstance(value, torch.Tensor | Trail)


def test_the_steps_of_one_dimension_are_in_order():
    trail = Trail()
    assert trail.of("channel") == []
    network = build("cbam-resnet20").eval()
    network.maps(torch.randn(1, 3, 16, 16), trail)
    assert [id(step) for step in trail.of("channel")] == [id(step) for step in trail.steps[::2]]
    assert [id(step) for step in trail.of("spatial")] == [id(step) for step in trail.steps[1::2]]


def test_memory_is_kept_where_a_connection_reads_it():
    """Not elsewhere: the attended map of a block would then live until the end of the forward pass."""
    picture = torch.randn(2, 3, 16, 16)
    assert not [step for step in build("se-resnet20").trace(picture)[1].steps if step.memory is not None]
    steps = build("dca-se-resnet20").trace(picture)[1].steps
    assert all(step.memory is not None for step in steps[:-1]) and steps[-1].memory is None


def test_a_block_alone_makes_its_own_trail():
    block = next(build("se-resnet20").attentions())
    x = torch.randn(2, 16, 4, 4)
    assert isinstance(block, Attention) and isinstance(block.site, Site)
    assert torch.equal(block(x), block(x, Trail()))


def test_sixteen_threads_on_one_model_equal_the_serial_results():
    network = build("dca-cbam-resnet20", classes=10).eval()
    pictures = torch.randn(16, 1, 3, 16, 16)
    with torch.no_grad():
        serial = [network(x) for x in pictures]
    together, start = [torch.empty(0)] * 16, threading.Barrier(16)

    def forward(i):
        start.wait()
        with torch.no_grad():
            together[i] = network(pictures[i])

    threads = [threading.Thread(target=forward, args=(i,)) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(map(torch.equal, together, serial))
    assert not any(map(torch.equal, together, serial[1:]))  # witness: the pictures differ
