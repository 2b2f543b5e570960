"""The AW-convolution as a block: counts, kernel and state dict, maps it takes, memory it tells, precision, refusals."""

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from workbench.attention import ConvSpec, Site, Trail
from workbench.attention.aw import AWConv
from workbench.attention.aw_forms import grouped, taps
from workbench.build import build
from workbench.errors import OutOfRange, UnknownName

SITE = Site(2, 1, 32, 32)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def params(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(("name", "added"), [("resnet50v1", 165_208), ("resnet101v1", 313_720), ("resnet20", 2_730)])
def test_parameters_are_the_table_s(name, added):
    with torch.device("meta"):
        plain, attended = build(name), build(f"aw-{name}")
    assert params(attended) - params(plain) == added
    widths = [block.weight.shape[0] for block in attended.attentions()]
    assert added == sum(2 * c * (c // 16) + 2 * (c // 16) + 2 * c for c in widths)


@pytest.mark.parametrize("groups", [1, 4])
def test_parameters_in_closed_form(groups):
    """Hidden C2 C1 / (r_C1 r), then C2 / r_C2 times C1 / r_C1 maps; in groups, C1 counts the inputs of one."""
    spec = ConvSpec(32, 48, groups=groups)
    options = {"reduction": 8, "input_reduction": 4, "output_reduction": 3, "kernel_reduction": 3}
    hidden, maps = 48 * 32 // groups // (4 * 8), (48 // 3) * (32 // groups // 4)
    module = AWConv(SITE, spec, **options)
    assert params(module) == 48 * 32 // groups * 9 + 32 * hidden + hidden * maps + 2 * hidden + 2 * maps
    assert params(module) != params(AWConv(SITE, spec, **options | {"output_reduction": 1}))  # witness
    assert module(torch.randn(2, 32, 5, 5)).shape == (2, 48, 5, 5)


def test_a_plain_network_s_weights_load():
    plain, attended = build("resnet20", classes=10), build("aw-resnet20", classes=10)
    missing, unexpected = attended.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected and missing and all(".conv2.transform." in key for key in missing)
    for block in attended.attentions():
        nn.init.constant_(block.transform[4].bias, -1e4)  # sigmoid 0: AK = K
    pictures = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(attended.eval()(pictures), plain.eval()(pictures))
    for block in attended.attentions():
        nn.init.zeros_(block.transform[4].bias)
    assert not torch.allclose(attended(pictures), plain(pictures))  # witness: attention matters


def test_the_kernel_starts_as_the_convolution_s_it_replaces():
    weight = AWConv(SITE, ConvSpec(64, 64)).weight
    assert weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.02)  # variance 2 / fan-out


def test_a_step_records_the_map_before_it_is_expanded():
    trail, module = Trail(), AWConv(SITE, ConvSpec(32, 48, stride=2))
    module.tells = True
    assert module(torch.randn(2, 32, 7, 7), trail).shape == (2, 48, 4, 4)
    (step,) = trail.steps
    assert step.dim == "weight" and torch.equal(step.memory, step.attention)
    assert step.extracted.shape == (2, 32, 3, 3) and step.attention.shape == (2, 48, 3, 3)
    assert step.attention.min() > 0 and step.attention.max() < 1


def test_memory_is_the_attended_descriptor_or_the_mean_attention():
    G, T = torch.randn(2, 32, 3, 3), torch.rand(2, 32, 3, 3)
    assert torch.equal(AWConv(SITE, ConvSpec(32, 32)).memory(G, T, G), G * T)
    assert torch.equal(AWConv(SITE, ConvSpec(16, 32)).memory(G[:, :16], T, G), T)  # no descriptor of this width
    wide = AWConv(SITE, ConvSpec(32, 64), output_reduction=2).memory(G, T, G)  # as many maps as inputs, by accident
    assert torch.equal(wide, T.repeat_interleave(2, 1))
    many = AWConv(SITE, ConvSpec(32, 32), input_reduction=16, output_reduction=2)
    told = many.memory(G, T, G)
    assert told.shape == (2, 32, 3, 3)
    assert torch.equal(told[:, 0], T[:, :2].mean(1)) and torch.equal(told[:, 1], told[:, 0])
    assert not torch.equal(told[:, 2], told[:, 0])  # witness: by output
    many.tells = True
    trail = Trail()
    many(torch.randn(2, 32, 5, 5), trail)
    assert trail.steps[0].memory.shape == (2, 32, 3, 3)


def test_pictures_are_independent_unless_they_share_their_attention():
    x = torch.randn(3, 32, 7, 7)
    for shared in (False, True):
        module = AWConv(SITE, ConvSpec(32, 32), shared=shared).eval()
        assert torch.allclose(module(x)[:1], module(x[:1]), atol=1e-5) != shared


def test_maps_smaller_than_the_taps_are_refused_unless_repeated():
    module, spec = AWConv(SITE, ConvSpec(32, 32)), ConvSpec(32, 32)
    assert module(torch.randn(2, 32, 7, 7)).shape == (2, 32, 7, 7)
    with pytest.raises(OutOfRange, match=r"AW 2\.1: the 2x3 map is smaller than the 3x3 grid.*small=repeat"):
        module(torch.randn(2, 32, 2, 3))
    assert AWConv(SITE, spec, small="repeat")(torch.randn(2, 32, 2, 3)).shape == (2, 32, 2, 3)
    assert AWConv(SITE, spec, kernel_reduction=3)(torch.randn(2, 32, 2, 1)).shape == (2, 32, 2, 1)
    assert AWConv(SITE, ConvSpec(32, 32, 1))(torch.randn(2, 32, 1, 1)).shape == (2, 32, 1, 1)


@pytest.mark.parametrize("side", [4, 7])  # tap form and grouped form
@pytest.mark.parametrize("kernel", [1, 3])
def test_precision_and_memory_format_are_a_plain_convolution_s(side, kernel):
    module, plain = AWConv(SITE, ConvSpec(32, 32, kernel)).eval(), nn.Conv2d(32, 32, kernel, padding=kernel // 2)
    x = torch.randn(2, 32, side, side)
    expected = module(x)
    for layout in (torch.contiguous_format, torch.channels_last):
        module, run = module.to(memory_format=layout), x.to(memory_format=layout)
        with torch.autocast("cpu", torch.bfloat16):
            y = module(run)
            assert y.dtype == plain(run).dtype == torch.bfloat16
        y.float().sum().backward()
        assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in module.parameters())
        torch.testing.assert_close(y.float(), expected, rtol=0, atol=0.05 * expected.abs().max().item())
        torch.testing.assert_close(module(run), expected)
    assert run.stride() != x.stride() and torch.equal(run, x)  # witness: another layout was run
    half = module.to(torch.bfloat16)(x.to(torch.bfloat16))
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), expected, rtol=0, atol=0.05 * expected.abs().max().item())
    assert not torch.allclose(half.float(), expected, rtol=0, atol=1e-4)  # witness: it is another precision


@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a")  # GridPool's cached matrices
def test_it_compiles_into_one_graph():
    module = AWConv(SITE, ConvSpec(32, 32))
    x, gradients, outputs = torch.randn(2, 32, 4, 4), [], []  # 16 positions, 32 inputs: the tap form
    for run in (module, torch.compile(module, fullgraph=True, backend="eager")):
        module.zero_grad()
        outputs.append(run(x))
        outputs[-1].square().sum().backward()
        gradients.append([p.grad.clone() for p in module.parameters()])
    torch.testing.assert_close(*outputs)
    torch.testing.assert_close(*gradients)
    assert not torch.allclose(outputs[1], module(x.mT))  # witness


def test_the_tap_form_stores_neither_kernels_nor_responses():
    """What is kept for backward, in values: the grouped form has a kernel for every picture."""
    n, c, side = 8, 16, 3
    x, K, S = torch.randn(n, c, side, side), torch.randn(c, c, 3, 3), torch.rand(n, c, 1, 3, 3)
    kept = {}
    for form in (grouped, taps):
        sizes = []
        with saved_tensors_hooks(lambda t, sizes=sizes: sizes.append(t.numel()) or t, lambda t: t):
            form(*(t.clone().requires_grad_() for t in (x, K, S)), 1)
        kept[form] = max(sizes)
    assert kept[taps] == K.numel()
    assert kept[grouped] == n * K.numel()  # witness


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        (ConvSpec(32, 32), {"reduction": 0}, "AW reduction 0 of 32 channels; it must be from 1 to 32"),
        (ConvSpec(32, 32), {"reduction": 33}, "AW reduction 33 of 32"),
        (ConvSpec(32, 32), {"input_reduction": 5}, "input_reduction=5 must divide 32, or be 0"),
        (ConvSpec(32, 32), {"input_reduction": 64}, "input_reduction=64 must divide 32"),
        (ConvSpec(32, 32, groups=4), {"input_reduction": 16}, "input_reduction=16 must divide 8"),
        (ConvSpec(32, 48), {"output_reduction": 5}, "output_reduction=5 must divide 48"),
        (ConvSpec(32, 32), {"output_reduction": -1}, "output_reduction=-1 must divide 32"),
        (ConvSpec(32, 32), {"kernel_reduction": 2}, "kernel_reduction=2 must divide 3"),
        (ConvSpec(32, 32), {"small": "crop"}, "AW option small=crop; use refuse, or repeat"),
        (ConvSpec(32, 32, 1), {"shared": True}, "shared=true averages to one value a channel"),
        (ConvSpec(32, 32, 2), {}, "kernel 2, stride 1; the kernel must be odd"),
        (ConvSpec(32, 32, 3, 0), {}, "stride 0"),
        (ConvSpec(32, 30, groups=4), {}, "4 groups must divide the 32 inputs and the 30 outputs"),
    ],
)
def test_what_its_definition_does_not_allow_is_refused(spec, options, message):
    with pytest.raises(OutOfRange, match=message):
        AWConv(SITE, spec, **options)


def test_options_have_names():
    network = build("aw[input_reduction=4,residual=false]-resnet20", classes=10)
    assert {(block.shape.inputs * 4, block.residual) for block in network.attentions()} == {
        (16, False),
        (32, False),
        (64, False),
    }
    with pytest.raises(UnknownName, match="Did you mean"):
        build("aw[inputs_reduction=4]-resnet20")
