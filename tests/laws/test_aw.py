"""AW-convolution: the paper's equations taken literally, its special cases, and one result from all forms."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.attention import ConvSpec, Site, aw_forms
from workbench.attention.aw import AWConv
from workbench.attention.aw_forms import attend, grouped, input_gate, output_gate, plain, taps, unfolded

SITE = Site(1, 1, 4, 6)
FORMS = {
    "taps": (taps, lambda n, outputs, inputs: (n, outputs, 1, 3, 3)),
    "unfolded": (unfolded, lambda n, outputs, inputs: (n, 1, inputs, 3, 3)),
    "output_gate": (output_gate, lambda n, outputs, inputs: (n, outputs, 1, 1, 1)),
    "input_gate": (input_gate, lambda n, outputs, inputs: (n, 1, inputs, 1, 1)),
}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def randn(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def aw(inputs=4, outputs=6, kernel=3, stride=1, groups=1, **options):
    """An AW-convolution in float64, and a random T in (0, 1) for two pictures as its `fuse` takes it."""
    module = AWConv(SITE, ConvSpec(inputs, outputs, kernel, stride, groups), reduction=1, **options).double()
    shape = module.shape
    return module, torch.rand(2, shape.outputs * shape.inputs, shape.kernel, shape.kernel, dtype=torch.float64)


def literal(x, summand):
    """O[l, p, m, n] = sum over o, j, k of summand(l, patch of X at (m, n))[p, o, j, k], in loops."""
    padded = F.pad(x, (1, 1, 1, 1))
    N, _, H, W = x.shape
    rows = [
        [[summand(i, padded[i, :, m : m + 3, n : n + 3]).sum((1, 2, 3)) for n in range(W)] for m in range(H)]
        for i in range(N)
    ]
    return torch.stack([torch.stack([torch.stack(row, -1) for row in picture], 1) for picture in rows])


def same(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def differ(a, b):
    assert a.shape == b.shape and not torch.allclose(a, b, atol=1e-6)


def test_eq_1_is_the_plain_convolution_and_residual_attention_of_zero_too():
    x, (module, T) = randn(2, 4, 3, 3), aw()
    K = module.weight
    expected = F.conv2d(x, K, padding=1)
    same(literal(x, lambda i, patch: patch * K), expected)
    same(module.fuse(0 * T, x), expected)
    differ(module.fuse(T, x), expected)  # witness: T is used


def test_eq_2_one_map_for_all_outputs():
    x, (module, T) = randn(2, 4, 3, 3), aw(input_reduction=1, output_reduction=0, residual=False)
    A, K = T.view(2, 4, 3, 3), module.weight
    same(module.fuse(T, x), literal(x, lambda i, patch: (patch * A[i]) * K))
    differ(module.fuse(T, x), literal(x, lambda i, patch: (patch * A[i].mT) * K))  # witness: each tap has its own


def test_eq_3_one_map_for_all_taps():
    x, (module, T) = randn(2, 4, 3, 3), aw(input_reduction=1, kernel_reduction=0, residual=False)
    A, K = T.view(2, 6, 4, 1, 1), module.weight
    same(module.fuse(T, x), literal(x, lambda i, patch: (patch * A[i]) * K))
    differ(module.fuse(T, x), literal(x, lambda i, patch: (patch * A[i, :1]) * K))  # witness: and each output


@pytest.mark.parametrize("reductions", [(1, 1, 1), (0, 1, 1), (2, 1, 1), (2, 3, 1), (2, 3, 3), (0, 0, 1), (0, 0, 0)])
def test_eq_4_5_attentional_activations_are_attentional_weights(reductions):
    names = ("input_reduction", "output_reduction", "kernel_reduction")
    module, T = aw(residual=False, **dict(zip(names, reductions, strict=True)))
    x, K, A = randn(2, 4, 3, 3), module.weight, eq_8(T, module.shape, module.weight.shape)
    y = module.fuse(T, x)
    same(y, literal(x, lambda i, patch: (patch * A[i]) * K))
    same(y, literal(x, lambda i, patch: patch * (A[i] * K)))
    differ(y, literal(x, lambda i, patch: patch * (A[1 - i] * K)))  # witness: every picture has its own


def eq_8(A2, compact, kernel):
    """Expand as printed, `.reshape.unsqueeze.expand.reshape`, along every dimension in turn."""
    A = A2.reshape(len(A2), compact.outputs, compact.inputs, compact.kernel, compact.kernel)
    for d, size in enumerate(kernel, 1):
        before, now, after = A.shape[:d], A.shape[d], A.shape[d + 1 :]
        A = A.unsqueeze(d + 1).expand(*before, now, size // now, *after).reshape(*before, size, *after)
    return A


def test_eq_6_residual():
    x, (module, T) = randn(2, 4, 3, 3), aw()
    product = aw(residual=False)[0]
    product.weight = module.weight
    expected = F.conv2d(x, module.weight, padding=1) + product.fuse(T, x)
    same(module.fuse(T, x), expected)
    differ(product.fuse(T, x), expected)  # witness: the residual is there


def test_eq_7_attention_of_a_picture():
    module, _ = aw()
    module.train()
    x, (first, bn1, _, second, bn2, _) = randn(3, 4, 7, 7), module.transform
    A0 = F.adaptive_avg_pool2d(x, 3)
    A1 = F.relu(bn1(torch.einsum("hc,ncjk->nhjk", first.weight[..., 0, 0], A0)))
    A2 = torch.sigmoid(bn2(torch.einsum("ph,nhjk->npjk", second.weight[..., 0, 0], A1)))
    same(module.transform(module.extract(x)), A2)
    differ(module.transform(module.extract(x.mT)), A2)  # witness: tap by tap


def test_one_attention_for_the_batch_is_one_plain_convolution():
    module, T = aw(shared=True)
    x = randn(2, 4, 5, 5)
    G = module.look(x, None)
    same(G, module.extract(x).mean(0, keepdim=True))
    expected = F.conv2d(x, module.weight * (1 + T[:1].view(6, 1, 3, 3)), padding=1)
    same(module.fuse(T[:1], x), expected)
    differ(module.fuse(T[1:], x), expected)  # witness: by this attention


def test_an_attention_over_inputs_alone_is_a_gate_before_the_convolution():
    """SE in front of it: Convolution(I A_c, K), paper 3.1."""
    options = {"input_reduction": 1, "output_reduction": 0, "kernel_reduction": 0, "residual": False}
    x, (module, T) = randn(2, 4, 5, 5), aw(outputs=4, **options)
    same(module.fuse(T, x), F.conv2d(x * T, module.weight, padding=1))
    differ(module.fuse(T, x), F.conv2d(x, module.weight, padding=1) * T)  # witness: before, not after


def test_a_pointwise_aw_convolution_is_a_gate_after_it():
    x, (module, T) = randn(2, 4, 5, 5), aw(outputs=4, kernel=1)
    same(module.fuse(T, x), F.conv2d(x, module.weight) * (1 + T))
    differ(module.fuse(T, x), F.conv2d(x * (1 + T), module.weight))  # witness: after, not before


@pytest.mark.parametrize("residual", [True, False])
def test_a_constant_attention_scales_a_plain_convolution(residual):
    x, (module, T) = randn(2, 4, 5, 5), aw(residual=residual)
    expected = F.conv2d(x, module.weight, padding=1)
    same(module.fuse(torch.full_like(T, 0.25), x), expected * (0.25 + residual))
    differ(module.fuse(T, x) / expected, torch.ones_like(expected) * (T.mean() + residual))  # witness


@settings(deadline=None, max_examples=40)
@given(data=st.data(), form=st.sampled_from(list(FORMS)))
def test_every_form_is_the_grouped_one(data, form):
    bounds = (3, 2, 2, 6, 6, 3, 3)
    n, groups, stride, height, width, inputs, outputs = (data.draw(st.integers(1, bound)) for bound in bounds)
    outputs *= groups
    run, shape = FORMS[form]
    x, K = randn(n, groups * inputs, height, width), randn(outputs, inputs, 3, 3)
    S = torch.rand(shape(n, outputs, inputs), dtype=torch.float64)
    leaves = [t.requires_grad_() for t in (x, K, S)]
    expected = grouped(x, K, S, stride)
    y, direction = run(x, K, S, stride), randn(*expected.shape)
    same(y, expected)
    same(attend(x, K, S, stride), expected)
    for ours, theirs in zip(*(torch.autograd.grad(z, leaves, direction) for z in (y, expected)), strict=True):
        same(ours, theirs)
    differ(run(x, K, S + 0.1, stride), expected)  # witness: the scale is used


def test_the_tap_form_keeps_the_taps_apart():
    x, K, S = randn(2, 4, 3, 3), randn(5, 4, 3, 3), torch.rand(2, 5, 1, 3, 3, dtype=torch.float64)
    differ(taps(x, K, S.flip(3), 1), grouped(x, K, S, 1))
    differ(taps(x, K, S.mT, 1), grouped(x, K, S, 1))
    differ(taps(x, K, S.flip(0), 1), grouped(x, K, S, 1))


@pytest.mark.parametrize(("n", "side"), [(1, 2), (2, 3)], ids=["responses kept", "responses recomputed"])
@pytest.mark.parametrize("stride", [1, 2])
def test_gradients_of_the_tap_form(n, side, stride):
    shapes = (n, 8, side, side), (4, 4, 3, 3), (n, 4, 1, 3, 3)  # two groups of 4 inputs
    assert torch.autograd.gradcheck(lambda x, K, S: taps(x, K, S, stride), [randn(*s).requires_grad_() for s in shapes])


@pytest.mark.parametrize(
    ("n", "channels", "side", "stride", "scale", "chosen"),
    [
        (2, 16, 4, 1, (16, 1, 3, 3), "grouped"),
        (2, 17, 4, 1, (17, 1, 3, 3), "taps"),  # 16 positions, 17 inputs
        (2, 16, 4, 2, (16, 1, 3, 3), "taps"),
        (2, 17, 4, 1, (1, 17, 3, 3), "unfolded"),
        (2, 17, 4, 1, (17, 17, 3, 3), "grouped"),
        (2, 17, 4, 1, (17, 1, 1, 1), "output_gate"),
        (2, 17, 4, 1, (1, 17, 1, 1), "input_gate"),
        (1, 17, 4, 1, (17, 17, 3, 3), "plain"),
    ],
)
def test_the_form_is_chosen_by_shape(monkeypatch, n, channels, side, stride, scale, chosen):
    calls = []
    for form in (plain, output_gate, input_gate, grouped, unfolded, taps):
        monkeypatch.setattr(
            aw_forms, form.__name__, lambda *given, form=form: calls.append(form.__name__) or form(*given)
        )
    x, K, S = randn(n, channels, side, side), randn(channels, channels, 3, 3), randn(n, *scale)
    y = attend(x, K, S, stride)
    assert calls[0] == chosen
    same(y, grouped(x, K, S, stride))
