"""SE, CRA and CBAM compute the equations of their docstrings, add the parameters in closed form, and stay finite."""

import copy

import pytest
import torch
import torch.nn.functional as F

from workbench.attention import Site
from workbench.attention.cbam import CBAM
from workbench.attention.cra import CRA
from workbench.attention.se import SE
from workbench.build import build
from workbench.errors import OutOfRange

C = 32
SITE = Site(stage=3, block=4, in_channels=16, channels=C)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def params(name):
    with torch.device("meta"):
        return sum(p.numel() for p in build(name).parameters())


def randomised(module):
    """The module in float64 and evaluation mode with random weights; biases and statistics positive, so ReLUs live."""
    for value in module.double().eval().state_dict().values():
        if value.is_floating_point():
            value.copy_(torch.randn_like(value) if value.dim() > 1 else torch.rand_like(value) + 0.5)
    return module


def scaled(x, T):
    return x * T.reshape(*T.shape, *[1] * (x.dim() - T.dim()))


def mlp(g, weights):
    """W2 relu(W1 g + b1) + b2, the biases left out when there are none."""
    W1, b1, W2, b2 = weights if len(weights) == 4 else (weights[0], None, weights[1], None)
    return F.linear(F.relu(F.linear(g, W1, b1)), W2, b2)


def se(x, module):
    return scaled(x, torch.sigmoid(mlp(x.mean((2, 3)), [*module.parameters()])))


def cra(x, module):
    L, b = module.parameters()
    U = F.adaptive_avg_pool2d(x, L.shape[-1])
    return scaled(x, torch.sigmoid(F.conv2d(U, L, b, groups=C)).flatten(1))


def cra1(x, module):
    L, b = module.parameters()
    return scaled(x, torch.sigmoid(x.mean((2, 3)) * L.flatten() + b))


def channel(x, weights, maximum=True):
    logits = mlp(x.mean((2, 3)), weights)
    return scaled(x, torch.sigmoid(logits + mlp(x.amax((2, 3)), weights) if maximum else logits))


def spatial(x, weights, buffers):
    kernel, gamma, beta = weights
    logits = F.conv2d(torch.cat([x.amax(1, keepdim=True), x.mean(1, keepdim=True)], 1), kernel, padding=3)
    return x * torch.sigmoid(F.batch_norm(logits, buffers[0], buffers[1], gamma, beta))


def cbam(x, module):
    *first, kernel, gamma, beta = module.parameters()
    return spatial(channel(x, first), [kernel, gamma, beta], [*module.buffers()])


LITERAL = {
    "SE": (SE(SITE), se),
    "SE r=4": (SE(SITE, reduction=4), se),
    "CRA 1": (CRA(SITE, 1), cra1),
    "CRA 3": (CRA(SITE, 3), cra),
    "CRA 7": (CRA(SITE, 7), cra),
    "CRA 9, repeating": (CRA(SITE, 9, small="repeat"), cra),
    "CBAM": (CBAM(SITE), cbam),
    "CBAM without bias": (CBAM(SITE, bias=False), cbam),
    "CBAM, channel": (CBAM(SITE, dims=("channel",)), lambda x, m: channel(x, [*m.parameters()])),
    "CBAM, channel avg": (CBAM(SITE, dims=("channel",), pool="avg"), lambda x, m: channel(x, [*m.parameters()], False)),
    "CBAM, spatial": (CBAM(SITE, dims=("spatial",)), lambda x, m: spatial(x, [*m.parameters()], [*m.buffers()])),
}


@pytest.mark.parametrize("name", LITERAL)
def test_module_is_its_equation(name):
    module, equation = LITERAL[name]
    randomised(module)
    x = torch.randn(2, C, 8, 11, dtype=torch.float64)
    expected = equation(x, module).detach()
    torch.testing.assert_close(module(x), expected, rtol=0, atol=1e-12)
    for parameter in module.parameters():  # witness: every parameter counts
        before = parameter.detach().clone()
        parameter.data += torch.randn_like(parameter)
        assert (module(x) - expected).abs().max() > 1e-6
        parameter.data = before


ADDED = {  # definitions.md section 3, r = 16 unless said otherwise
    "se": lambda C: 2 * C * (C // 16) + C // 16 + C,
    "se[reduction=8]": lambda C: 2 * C * (C // 8) + C // 8 + C,
    "cra1": lambda C: C * (1 * 1 + 1),
    "cra7": lambda C: C * (7 * 7 + 1),
    "cbam": lambda C: 2 * C * (C // 16) + C // 16 + C + 98 + 2,
    "cbam[bias=false]": lambda C: 2 * C * (C // 16) + 98 + 2,
    "cbam[dims=channel]": lambda C: 2 * C * (C // 16) + C // 16 + C,
    "cbam[dims=spatial]": lambda C: 98 + 2,
}


@pytest.mark.parametrize("name", ["resnet20", "resnet50"])
@pytest.mark.parametrize("attention", ADDED)
def test_parameters_added(name, attention):
    first, stages = {"resnet20": (16, (3, 3, 3)), "resnet50": (256, (3, 4, 6, 3))}[name]
    widths = [first * 2**stage for stage, blocks in enumerate(stages) for _ in range(blocks)]
    assert params(f"{attention}-{name}") - params(name) == sum(map(ADDED[attention], widths))


def test_one_grid_cell_more_is_one_weight_per_channel():
    assert params("cra7-resnet50") - params("cra1-resnet50") == 48 * 15_104
    assert params("cra3-resnet50") - params("cra1-resnet50") == 8 * 15_104  # witness: it depends on the size


def test_reduction_first_is_for_the_first_block_of_a_stage():
    first, second = (SE(site, reduction_first=4).transform[0] for site in (SITE._replace(block=1), SITE))
    assert (first.out_features, second.out_features) == (C // 4, C // 16)


@pytest.mark.parametrize("name", ["SE", "CRA 1", "CRA 9, repeating", "CBAM"])
@pytest.mark.parametrize(
    "x",
    [
        pytest.param(torch.zeros(2, C, 8, 8), id="zero"),
        pytest.param(torch.full((2, C, 8, 8), 3.0), id="constant"),
        pytest.param(torch.randn(1, C, 8, 8), id="batch of one"),
        pytest.param(torch.randn(2, C, 1, 1), id="one position"),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_gradients_are_finite(name, x, training):
    module = copy.deepcopy(LITERAL[name][0]).float().train(training)
    assert finite_gradients(module, x)
    assert not finite_gradients(module, x * torch.nan)  # witness


def finite_gradients(module, x):
    x = x.clone().requires_grad_()
    gradients = torch.autograd.grad(module(x).square().sum(), [x, *module.parameters()])
    return all(gradient.isfinite().all() for gradient in gradients)


def test_one_position_has_no_grid():
    assert CRA(SITE, 1)(torch.zeros(1, C, 1, 1)).shape == (1, C, 1, 1)
    with pytest.raises(OutOfRange):
        CRA(SITE, 3)(torch.zeros(1, C, 1, 1))


@pytest.mark.parametrize(
    ("module", "options"),
    [
        (SE, {"reduction": 0}),
        (SE, {"reduction": C + 1}),
        (CRA, {"size": 0}),
        (CRA, {"small": "maybe"}),
        (CBAM, {"dims": ()}),
        (CBAM, {"dims": ("channel", "depth")}),
        (CBAM, {"pool": "max"}),
    ],
    ids=str,
)
def test_options_out_of_range_are_refused(module, options):
    assert module(SITE)
    with pytest.raises(OutOfRange):
        module(SITE, **options)
