"""The numbers of a block recombine to what the block itself computed, in float64 to 1e-12."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from workbench.attach import attach, trace
from workbench.attention import Site, Trail, attentions
from workbench.attention.cra import CRA
from workbench.attention.se import SE
from workbench.build import build
from workbench.errors import OutOfRange, UnknownName
from workbench.explain import anatomy, anatomy_figures, anatomy_lines, anatomy_steps
from workbench.explain.anatomy_lines import RULES, Line, Panel, Stage, Term

NAMES = [
    *anatomy.UNTRAINED.values(),
    "aw[reduction=4,input_reduction=1,output_reduction=0,residual=false]-resnet8",
    "aw[reduction=4,output_reduction=2]-resnet8",
    "aw[reduction=4]-resnext11",
    "bridge[bottleneck=false]-resnet8",
    "bridge[form=direct]-resnet8",
    "cbam[pool=avg,reduction=4]-resnet8",
    "cra3-resnet8",
    "ge[size=4,theta=false]-resnet8",
    "ge[size=0,theta=false]-resnet8",
    *(
        f"dca[form={form},schema={schema}]-{module}-resnet8"
        for form in ("text", "official")
        for schema in ("weighted", "softmax")
        for module in ("se[reduction=4]", "cra4")
    ),
    "dca[form=text]-se[reduction=4]-resnet8",
    "dca[reach=dense]-se[reduction=4]-resnet8",
    "dca-aw[reduction=4]-resnet8",
    "dca-gc[reduction=4]-resnet8",
    "dca-ge[size=4]-resnet8",
    "dca-sk[reduction=4]-resnet8",
]
FUSED = {"AWConv", "SK", "Bridge"}  # the gate of these is no factor of the map, or not always


def lively(name):
    """The network with random weights and statistics, so that no term is 0 by its start."""
    torch.manual_seed(0)
    network = build(name, 5, checked=False).eval()
    for key, value in network.state_dict().items():
        if "running" in key or not value.any() or key.endswith("alpha"):
            value.copy_(torch.rand_like(value.float()) + 0.5)
    return network


@pytest.fixture(scope="module")
def picture():
    return torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def off(line):
    """How far the line's own result lies from what its printed numbers give."""
    return abs(RULES[line.rule](line.total()) - line.result)


@pytest.mark.parametrize("name", NAMES)
def test_every_line_recombines(name, picture):
    network = lively(name)
    for block in anatomy.names(network)[-2:]:
        seen = anatomy.dissect(network, picture, block)
        for channel in (0, anatomy_steps.channels(seen) // 2 + 1):
            stages = anatomy_steps.stages(seen, channel)
            assert [stage.name for stage in stages if stage.name != "connect"] == ["extract", "transform", "fuse"][
                : 2 if "direct" in name else 3
            ]
            assert {stage.name for stage in stages} <= {*anatomy_steps.equations(seen)}
            lines = [line for stage in stages for line in stage.lines]
            assert max(map(off, lines)) < 1e-12
            assert all(len(line.terms) and math.isfinite(line.result) for line in lines)
            assert max(off(line._replace(bias=line.bias + 0.01)) for line in lines) > 1e-4  # witness
            shown = np.float64(anatomy_lines.frame(stages).groupby("line", sort=False)["product"].sum())
            assert len(shown) == len(lines)


@pytest.mark.parametrize("name", NAMES)
def test_the_numbers_are_those_of_the_network(name, picture):
    """T and X' of the last lines are what the network's own Trail and its hooks have; X is scaled by T."""
    network = lively(name)
    own = network.double()
    trail = Trail(records=True)
    handed: list[torch.Tensor] = []
    hooks = [one.register_forward_hook(lambda block, given, y: handed.append(y.clone())) for one in attentions(own)]
    with torch.no_grad():
        own.logits(picture.double(), trail)
    for hook in hooks:
        hook.remove()
    for number, block in [*enumerate(anatomy.names(own))][-2:]:
        seen, step = anatomy.dissect(own, picture, block), trail.steps[number]
        same(seen.G, step.extracted)
        same(seen.T, step.attention)
        same(seen.y, handed[number])
        channel = anatomy_steps.channels(seen) - 1
        stages = {stage.name: stage for stage in anatomy_steps.stages(seen, channel)}
        own_row = step.attention.shape[1] == handed[number].shape[1] and type(seen.block).__name__ != "AWConv"
        T = step.attention[0, channel] if own_row else step.attention[0]
        assert (T - stages["transform"].lines[-1].result).abs().min() < 1e-12
        if "fuse" in stages:
            line, panel = stages["fuse"].lines[-1], stages["fuse"].panels[-1]
            same(torch.from_numpy(panel.values), handed[number][0, channel])
            assert abs(line.result - panel.values[panel.mark]) < 1e-12
            assert abs(line.result - handed[number][0, channel - 1][panel.mark]) > 1e-9  # witness: another channel
        if type(seen.block).__name__ not in FUSED | {"GC", "BAM"}:
            T = step.attention if step.attention.dim() == 4 else step.attention[..., None, None]
            same(seen.x * T, handed[number])


def same(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_lines_of_se_are_its_own_arithmetic(picture):
    """By hand: mean, hidden unit, gate, product."""
    network = lively("se[reduction=4]-resnet8")
    seen = anatomy.dissect(network, picture, "2.1")
    block, c = seen.block, 5
    extract, transform, fused = anatomy_steps.stages(seen, c)
    means = seen.x[0].mean((1, 2)).numpy()
    assert abs(extract.lines[0].result - means[c]) < 1e-12
    first, _, last, _ = block.transform
    hidden = np.maximum(first.weight.detach().numpy() @ means + first.bias.detach().numpy(), 0)
    logit = last.weight.detach().numpy()[c] @ hidden + last.bias.detach().numpy()[c]
    unit, gate = transform.lines
    assert abs(gate.total() - logit) < 1e-12 and abs(gate.result - 1 / (1 + np.exp(-logit))) < 1e-12
    k = int(unit.symbol.strip("h_{}"))
    assert abs(unit.result - hidden[k]) < 1e-12
    assert k == np.argmax(np.abs(last.weight.detach().numpy()[c] * hidden))
    assert [term.value for term in gate.terms] == pytest.approx(hidden, abs=1e-12)
    same(torch.from_numpy(fused.panels[1].values), seen.x[0, c] * gate.result)
    assert abs(gate.total() - last.weight.detach().numpy()[c - 1] @ hidden) > 1e-6  # witness: another channel's row


def test_lines_of_cra_are_cells_times_weights(picture):
    network = lively("cra4-resnet8")
    seen = anatomy.dissect(network, picture, "1.1")
    _, transform, fused = anatomy_steps.stages(seen, 3)
    grid, weights, products = (panel.values for panel in transform.panels[:3])
    same(torch.from_numpy(grid), F.adaptive_avg_pool2d(seen.x, 4)[0, 3])
    assert np.array_equal(products, grid * weights)
    gate = RULES["sigmoid"](float(products.sum()) + transform.lines[0].bias)
    assert abs(gate - seen.T[0, 3].item()) < 1e-12
    same(torch.from_numpy(fused.panels[1].values), seen.x[0, 3] * gate)
    wrong = RULES["sigmoid"](float((grid * weights.T).sum()) + transform.lines[0].bias)
    assert abs(wrong - seen.T[0, 3].item()) > 1e-9  # witness: each cell has its own weight


def test_the_network_stays_as_it_is(picture):
    network = lively("dca-se[reduction=4]-resnet8")
    before = {key: value.clone() for key, value in network.state_dict().items()}
    logits = network(picture)
    anatomy.dissect(network, picture, "2.1")
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    assert all(value.dtype == before[key].dtype for key, value in network.state_dict().items())
    assert torch.equal(network(picture), logits)
    assert not any(block._forward_hooks or block._forward_pre_hooks for block in attentions(network))


def test_untrained_is_seeded_and_draws_no_random_number():
    state = torch.random.get_rng_state()
    one, other = anatomy.untrained("se"), anatomy.untrained("se")
    assert torch.equal(torch.random.get_rng_state(), state)
    pairs = list(zip(one.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs) and not any(a.requires_grad for a, _ in pairs)
    with pytest.raises(UnknownName):
        anatomy.untrained("../se")


def test_attached_blocks_are_dissected(picture):
    torch.manual_seed(0)
    network = attach(torchvision.models.resnet18(num_classes=5), "dca-se", "layer*.*.bn2", 32).eval()
    with pytest.raises(AttributeError):
        network.trace(picture)  # witness: the network has no such method
    trail = trace(copy.deepcopy(network).double(), picture.double())[1]
    for number, name in [*enumerate(anatomy.names(network))][-2:]:
        seen = anatomy.dissect(network, picture, name)
        same(seen.G, trail.steps[number].extracted)
        same(seen.T, trail.steps[number].attention)
        assert seen.heard and max(off(line) for stage in anatomy_steps.stages(seen, 3) for line in stage.lines) < 1e-12


@pytest.mark.parametrize(
    ("name", "block", "bias", "words"),
    [
        ("dca-se[reduction=4]-resnet8", "2.1", True, "over the channels"),
        ("dca-cbam[reduction=4]-resnet8", "2.1 channel", False, "over the channels"),
        ("dca-cbam[reduction=4]-resnet8", "2.1 spatial", False, "by BN"),
        ("dca-ge[size=4]-resnet8", "2.1", False, ""),
        ("dca-gc[reduction=4]-resnet8", "2.1", False, ""),
        ("dca[form=text]-se[reduction=4]-resnet8", "2.1", False, ""),
        ("dca[schema=softmax]-se[reduction=4]-resnet8", "2.1", False, "over the channels"),
        ("dca-sk[reduction=4]-resnet8", "2.1", True, "over the channels"),
    ],
)
def test_the_equation_of_a_connection_is_that_of_its_layers(picture, name, block, bias, words):
    seen = anatomy.dissect(lively(name), picture, block)
    equation, line = anatomy_steps.equations(seen)["connect"], anatomy_lines.connect(seen, at(seen))[0].lines[0]
    assert equation.latex.endswith("+ b") == ("b" in equation.symbols) == bool(line.bias) == bias
    said = equation.symbols["Z"]
    assert words in said and ("normalised" in said and "cut at 0" in said) == bool(words)
    assert bool(words) == (len(anatomy_lines.connect(seen, at(seen))[0].lines) == 2)  # witness: its arithmetic


def at(seen):
    """The first place of a descriptor."""
    return (0,) * (seen.G.dim() - 1)


def test_what_is_not_there_is_said(picture):
    network = lively("se[reduction=4]-resnet8")
    with pytest.raises(UnknownName, match="attention block"):
        anatomy.dissect(network, picture, "9.9")
    with pytest.raises(UnknownName):
        anatomy.dissect(build("resnet8", 5), picture, "1.1")
    seen = anatomy.dissect(network, picture, "1.1")
    for channel in (-1, 16):
        with pytest.raises(OutOfRange, match="use 0 to 15"):
            anatomy_steps.stages(seen, channel)

    class Own(SE):
        pass

    own = seen._replace(block=Own(seen.block.site, 4))
    with pytest.raises(UnknownName, match="Own"):
        anatomy_steps.stages(own, 0)


@pytest.mark.parametrize("shape", [(8, 8), (6, 10)])
def test_a_grid_keeps_all_at_the_map_and_the_mean_at_one(shape):
    values = np.random.default_rng(0).normal(size=shape)
    one = anatomy.kept(values, 1)
    assert np.allclose(one.grid, values.mean()) and one.error == pytest.approx(one.spread) == values.std()
    whole = anatomy.kept(values, min(shape))
    if shape[0] == shape[1]:
        assert np.array_equal(whole.grid, values) and whole.error == 0
    assert whole.error < one.error  # witness
    same(torch.from_numpy(anatomy.kept(values, 3).grid), F.adaptive_avg_pool2d(torch.from_numpy(values)[None], 3)[0])


def test_a_grid_that_divides_repeats_its_cells_and_finer_ones_keep_more():
    values = np.random.default_rng(0).normal(size=(8, 8))
    four = anatomy.kept(values, 4)
    assert np.allclose(four.back, np.kron(four.grid, np.ones((2, 2))))
    errors = [anatomy.kept(values, size).error for size in (1, 2, 4, 8)]
    assert errors == sorted(errors, reverse=True) and errors[0] > errors[2]
    assert np.allclose(anatomy.kept(np.full((5, 7), 2.0), 3).back, 2.0)  # overlapping cells too
    for size in (0, 9):
        with pytest.raises(OutOfRange, match="use 1 to 8"):
            anatomy.kept(values, size)


@pytest.mark.parametrize(("channels", "reduction"), [(16, 4), (64, 16), (24, 5)])
def test_costs_are_those_of_the_modules(channels, reduction):
    site = Site(1, 1, channels, channels)
    se, *cras = anatomy.costs(channels, reduction, (1, 7))
    assert se.params == sum(p.numel() for p in SE(site, reduction).parameters())
    assert se.macs == sum(
        layer.weight.numel() for layer in SE(site, reduction).modules() if isinstance(layer, nn.Linear)
    )
    for cost, size in zip(cras, (1, 7), strict=True):
        assert cost.params == sum(p.numel() for p in CRA(site, size).parameters()) != se.params
        assert cost.macs == channels * size * size
    with pytest.raises(OutOfRange):
        anatomy.costs(channels, channels + 1, ())


def test_a_line_in_latex_is_short_and_balanced():
    terms = tuple(Term(f"z_{{{i}}}", i - 3.5, (-1) ** i * 0.1) for i in range(9))
    line = Line("T_{1}", "a gate", terms, -0.25, "sigmoid", 0.5)
    text = anatomy_lines.latex(line)
    assert text.count("{") == text.count("}") and text.count("cdot") == 2
    assert "7 more products" in text and r"\text{bias}" in text and r"\sigma\big(" in text
    assert "bias" not in anatomy_lines.latex(line._replace(bias=0.0, terms=terms[:2]))
    assert [anatomy_lines.short(value) for value in (9999.44, 9999.5, 9999.96, -9999.96)] == [
        "9999", "10000", "10000", "-10000"
    ]  # fmt: skip
    assert f"{9999.96:.4g}" == "1e+04"  # witness
    assert anatomy_lines.short(0.00012345) == r"1.23 \cdot 10^{-4}" and anatomy_lines.short(123456.0) == "123456"


def test_figures_say_what_they_show():
    grid = Panel("grid", np.arange(9.0).reshape(3, 3), (2, 1))
    vector, big = Panel("T", np.linspace(0, 1, 16), (4,)), Panel("X", np.ones((32, 32)))
    stages = [Stage("extract", (big, vector), ()), Stage("fuse", (big, grid), ())]
    small = anatomy_figures.small(grid)
    assert small.layout.meta == "grid: 3x3 values from 0 to 8; marked (2, 1), 7."
    (shape,) = small.layout.shapes
    assert (shape.x0, shape.x1, shape.y0, shape.y1) == (0.5, 1.5, 1.5, 2.5)
    assert small.data[0].texttemplate and not anatomy_figures.small(big).data[0].texttemplate
    colours = anatomy_figures.small(vector).data[0].marker.color
    assert [number for number, colour in enumerate(colours) if colour == anatomy_figures.MARK] == [4]
    sheet = anatomy_figures.sheet(stages, "one block")
    assert len(sheet.data) == 4 and "one block" in sheet.layout.meta and "T: 16 values" in sheet.layout.meta
    assert [trace.zmax for trace in sheet.data[2:]] == [8, 8]  # one scale where maps compare
    assert sheet.data[0].zmax == 1  # witness
    assert [shape.xref for shape in sheet.layout.shapes] == [sheet.data[3].xaxis]
