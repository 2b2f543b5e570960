"""DCA: Eq. 4-6, size matching, the official form literally, the first block, contribution, and the tables' counts."""

import itertools
import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.checkpoint import checkpoint

from workbench.attention import Trail
from workbench.attention.dca import REACH, Connection, connect
from workbench.attention.matching import MatchSize
from workbench.attention.merging import SCHEMAS, Alpha, Weights
from workbench.build import build
from workbench.errors import OutOfRange, UnknownName

NUMBERS = st.floats(-100, 100, width=32, allow_subnormal=False)
TOTALS = {  # definitions.md section 4
    "dca-se-resnet50": 30_898_696,
    "dca[match=fc2]-se-resnet50": 28_651_736,
    "dca[match=fc2,reduction=8]-se[reduction_first=8]-resnet50": 29_870_232,
    "dca[match=fc2,reduction=4]-se[reduction_first=4]-resnet50": 32_307_224,
    "dca-cbam-resnet50": 30_900_376,
    "dca[dims=channel]-cbam-resnet50": 30_900_280,
    "dca[dims=spatial]-cbam-resnet50": 28_089_720,
    "dca-sk-resnet50": 37_482_720,
    "dca-ge8-resnet50": 28_835_912,
    "dca[match=fc2]-gc-resnet50": 28_630_824,
}
EQUATIONS = {
    "direct": lambda g, m: g + m,
    "weighted": lambda g, m: (g * g + m * m) / (g + m),
    "softmax": lambda g, m: (math.exp(-g) * g + math.exp(-m) * m) / (math.exp(-g) + math.exp(-m)),
}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("name", TOTALS)
def test_parameters_are_the_tables(name):
    assert params(name) == TOTALS[name]


def params(name):
    with torch.device("meta"):
        return sum(p.numel() for p in build(name).parameters())


def test_parameters_in_closed_form():
    """sum over matched blocks of (in C + 3C) + 3 for each merge + 2C for each LayerNorm."""
    matched = [(64, 256), (256, 512), (512, 1024), (1024, 2048)]
    added = sum(a * c + 3 * c for a, c in matched) + 16 * 3 + 2 * 15_104
    assert params("dca-se-resnet50") - params("se-resnet50") == added == 2_810_672
    text = sum(a * c + c for a, c in matched[1:]) + 15  # a bare linear layer where widths change, and alpha
    assert params("dca[form=text]-se-resnet50") - params("se-resnet50") == text
    for schema in ("weighted", "softmax"):  # one alpha in place of w1, w2, b
        assert params(f"dca[schema={schema}]-se-resnet50") - params("se-resnet50") == added - 16 * 2


@pytest.mark.parametrize("schema", EQUATIONS)
@settings(deadline=None)
@given(g=NUMBERS, m=NUMBERS, a=st.floats(-2, 2))
def test_schema_is_its_equation(schema, g, m, a):
    if schema == "weighted":
        assume(g * a * m > 0 and abs(g + a * m) > 1e-3)  # one sign; Eq. 5 is singular at G + aM = 0
    merge = Alpha(schema).double()
    merge.alpha.data.fill_(a)
    merged = merge(torch.tensor([g], dtype=torch.float64), [torch.tensor([m], dtype=torch.float64)]).item()
    assert merged == pytest.approx(EQUATIONS[schema](g, a * m), rel=1e-12, abs=1e-12)


def test_schemas_differ():
    """Witness of the law above, and of the minus signs of Eq. 6: there the smaller entry weighs more."""
    one, two = torch.ones(1), torch.full((1,), 2.0)
    assert len({SCHEMAS[schema]([one, two]).item() for schema in SCHEMAS}) == 3
    assert SCHEMAS["softmax"]([one, two]) < 1.5 < SCHEMAS["weighted"]([one, two])


@pytest.mark.parametrize("schema", SCHEMAS)
@pytest.mark.parametrize(("g", "m"), [(1.0, -1.0), (0.0, 0.0), (0.0, 2.0), (1e-30, -1e-30), (100.0, -100.0)])
def test_schema_is_finite_with_its_gradient(schema, g, m):
    G, M = (torch.full((2, 3), value, requires_grad=True) for value in (g, m))
    merge = Alpha(schema)
    merge.alpha.data.fill_(1.0)
    Z = merge(G, [M])
    gradients = torch.autograd.grad(Z.sum(), [G, M, merge.alpha])
    assert all(value.isfinite().all() for value in (Z, *gradients))
    if g + m == 0:
        assert not ((G * G + M * M) / (G + M)).isfinite().any()  # witness: Eq. 5 as printed is singular here


@pytest.mark.parametrize("schema", ["direct", "weighted"])
@settings(deadline=None)
@given(g=NUMBERS)
def test_alpha_zero_gives_the_descriptor_to_the_bit(schema, g):
    G = torch.tensor([g, 1.0])
    M = torch.ones(2)
    assert torch.equal(SCHEMAS[schema]([G, 0 * M]), G)
    assert not torch.equal(SCHEMAS[schema]([G, 0.5 * M]), G)  # witnesses: alpha counts, and softmax has no identity
    assert not torch.equal(SCHEMAS["softmax"]([G, 0 * M]), G)


@pytest.mark.parametrize("pool", ["avg", "max"])
@pytest.mark.parametrize(
    ("before", "now"),
    [
        ((56, 56), (28, 28)),
        ((33, 33), (16, 16)),
        ((57, 57), (29, 29)),
        ((57, 30), (29, 15)),
        ((33, 57), (16, 29)),
        ((3, 1), (2, 1)),
        ((7, 7), (7, 7)),
    ],
    ids=str,
)
def test_sizes_match_by_pooling_two_by_two(pool, before, now):
    memory = torch.randn(2, 2, *before, dtype=torch.float64)
    matched = MatchSize(pool)(memory, torch.zeros(2, 2, *now))
    assert matched.shape[-2:] == now
    step = 1 if before == now else 2
    reduce = torch.mean if pool == "avg" else torch.amax
    for i in range(now[0]):
        for j in range(now[1]):
            window = memory[..., i * step : (i + 1) * step, j * step : (j + 1) * step]
            torch.testing.assert_close(matched[..., i, j], reduce(window, (2, 3)), rtol=0, atol=1e-12)
    assert before == now or not torch.allclose(
        matched, memory[..., : 2 * now[0] : 2, : 2 * now[1] : 2]
    )  # witness: not subsampling


def test_sizes_match_after_any_halvings_of_any_picture():
    for picture in itertools.product(range(4, 24), repeat=2):
        sides = [picture]
        for _ in range(3):
            sides.append(tuple(-(-side // 2) for side in sides[-1]))
        for before, now in itertools.combinations(sides, 2):
            matched = MatchSize("avg")(torch.ones(1, 1, *before), torch.zeros(1, 1, *now))
            assert torch.equal(matched, torch.ones(1, 1, *now))  # and no window reads beyond the map
    one, other = (F.avg_pool2d(torch.ones(1, 1, 13, 14), (3, 4), ceil_mode=up) for up in (True, False))
    assert (4, 4) not in (one.shape[2:], other.shape[2:])  # witness: the sides of 13x14 to 4x4 round each its own way


@pytest.mark.parametrize("name", ["dca-se[reduction=4]-resnet20", "dca-cbam[reduction=4]-resnet20"])
def test_official_form_literally(name):
    """z = ReLU(Norm(w1 G + w2 match(M) + b)) with match = ReLU(Norm(Linear)), and memory = G T, block after block."""
    network = randomised(build(name, classes=10))
    trail = network.trace(torch.randn(2, 3, 32, 32, dtype=torch.float64))[1]
    last = {}
    for block, step in zip(network.attentions(), trail.steps, strict=True):
        previous = last.get(step.dim)
        expected = step.extracted if previous is None else merged(block.connection, step.extracted, previous.memory)
        torch.testing.assert_close(block.transform(expected), step.attention, rtol=0, atol=1e-12)
        if previous is not None:  # witness: the connection changes the attention
            assert (block.transform(step.extracted) - step.attention).abs().max() > 1e-6
        mean = step.extracted[..., :1] if step.extracted.dim() == 3 else step.extracted  # CBAM hands on its mean
        T = step.attention[..., None] if step.extracted.dim() == 3 else step.attention
        if block.tells:
            torch.testing.assert_close(step.memory, mean * T, rtol=0, atol=1e-12)
        last[step.dim] = step


def merged(connection, G, M):
    """The release's connection written out with functions; `norm` is LayerNorm over C or BatchNorm."""
    if connection.dim == "spatial":
        if M.shape != G.shape:
            M = F.avg_pool2d(M, 2)
        w1, w2 = connection.merge.weight
        return F.relu(norm(w1 * G + w2 * M, connection.embed[0]))
    layers = [layer for layer in connection.match.modules() if [*layer.parameters(recurse=False)]]
    if layers:
        linear, normed = layers
        M = torch.einsum("oc,nc...->no...", linear.weight, M)
        M = F.relu(norm(M + linear.bias.reshape(-1, *[1] * (M.dim() - 2)), normed))
    w1, w2 = connection.merge.weight
    b = 0 if connection.merge.bias is None else connection.merge.bias
    return F.relu(norm(w1 * G + w2 * M + b, connection.embed[0]))


def norm(x, module):
    column = (-1, *[1] * (x.dim() - 2))
    if isinstance(module, nn.LayerNorm):
        mean, variance = x.mean(1, keepdim=True), x.var(1, correction=0, keepdim=True)
    else:
        mean, variance = module.running_mean.reshape(column), module.running_var.reshape(column)
    return (x - mean) / (variance + 1e-5).sqrt() * module.weight.reshape(column) + module.bias.reshape(column)


def randomised(network):
    """The network in float64 and evaluation mode with random normalisation and merging."""
    network = network.double().eval()
    for value in network.state_dict().values():
        if value.is_floating_point() and value.dim() < 2:
            value.copy_(torch.rand_like(value) + 0.5)
    return network


@pytest.mark.parametrize("name", ["dca-se[reduction=4]-resnet20", "dca[schema=softmax]-cbam[reduction=4]-resnet20"])
def test_first_connection_is_built_and_never_used(name):
    network = build(name, classes=10).eval()
    x = torch.randn(2, 3, 32, 32)
    network(x).square().sum().backward()
    first, second = (
        {key for key, _ in network.named_parameters() if key.startswith(prefix) and ".connection." in key}
        for prefix in ("layer1.0.", "layer1.1.")
    )
    assert {key for key, parameter in network.named_parameters() if parameter.grad is None} == first != set()
    before = network(x)
    perturb(network, first)
    assert torch.equal(network(x), before)
    perturb(network, second)
    assert not torch.equal(network(x), before)  # witness: the second block's connection is used


def perturb(network, keys):
    for key in keys:
        network.get_parameter(key).data += 1.0


@settings(deadline=None)
@given(current=NUMBERS, previous=NUMBERS)
def test_contribution_is_the_share_of_the_previous_block(current, previous):
    """DCA Fig. 5: |w_previous| / (|w_previous| + |w_current|); for one alpha, |alpha| / (1 + |alpha|)."""
    assume(current or previous)
    share = abs(previous) / (abs(previous) + abs(current))
    weights, alpha = Weights(1, bias=True), Alpha("direct")
    weights.weight.data = torch.tensor([current, previous])
    alpha.alpha.data.fill_(previous)
    for merge, expected in ((weights, share), (alpha, abs(previous) / (1 + abs(previous)))):
        contribution = Connection("channel", 1, [1], ["8"], {}, merge, nn.Identity()).contribution()
        assert 0 <= contribution <= 1
        assert contribution == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_official_spatial_connection_starts_at_the_vanilla_weights():
    network = build("dca-cbam-resnet20")
    starts = [(block.dim, block.connection.merge.weights()) for block in network.attentions()]
    assert {tuple(weights) for dim, weights in starts if dim == "spatial"} == {(1.0, 0.0)}
    assert [1.0, 0.0] not in [weights for dim, weights in starts if dim == "channel"]  # witness: those are random


@pytest.mark.parametrize("dims", [("spatial",), ("channel", "spatial")])
def test_a_dimension_that_is_not_there_is_refused(dims):
    network = build("se-resnet20")
    with pytest.raises(OutOfRange, match="has channel"):
        connect(network, dims=dims)
    with pytest.raises(OutOfRange, match="has none"):
        connect(build("resnet20"))
    assert connect(network, dims=("channel",)) is network  # witness


def test_dims_leaves_the_others_alone():
    network = build("dca[dims=spatial]-cbam-resnet20")
    assert {block.dim for block in network.attentions() if block.connection is not None} == {"spatial"}


@pytest.mark.parametrize("name", ["dca-bam-resnet20", "dca-gala-resnet20", "dca-bridge-resnet20"])
def test_what_has_no_descriptor_is_not_connected(name):
    with pytest.raises(OutOfRange, match="DCA connects a block's descriptor"):
        build(name)
    assert build(name.removeprefix("dca-"))  # witness


def test_reach_is_who_is_heard():
    assert [REACH["previous"](number) for number in range(4)] == [[], [1], [1], [1]]
    assert [REACH["dense"](number) for number in range(4)] == [[], [1], [1, 2], [1, 2, 3]]
    heard = {number: [number - back + 1 for back in REACH["tree"](number)] for number in (1, 2, 3, 4, 6, 7, 8)}
    assert heard == {1: [1], 2: [2], 3: [3, 2], 4: [4], 6: [6, 4], 7: [7, 6, 4], 8: [8]}


@pytest.mark.parametrize("reach", ["dense", "tree"])
def test_every_block_that_is_heard_counts(reach):
    """Z = G + sum of a_i M_i over the blocks heard: the attention moves with each a, and with no other memory."""
    network = randomised(build(f"dca[form=text,reach={reach}]-se[reduction=2]-resnet20", classes=10))
    blocks = list(network.attentions())
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    for block in blocks[1:]:
        block.connection.merge.alpha.data.uniform_(0.5, 1)
    steps = network.trace(x)[1].steps
    for number, (block, step) in enumerate(zip(blocks, steps, strict=True)):
        heard = [steps[number - back] for back in REACH[reach](number)]
        Z = step.extracted
        for i, earlier in enumerate(heard):
            match = block.connection.match[str(earlier.site.channels)]
            Z = Z + block.connection.merge.alpha[i] * match(earlier.memory, Z)
        torch.testing.assert_close(block.transform(Z), step.attention, rtol=0, atol=1e-12)
        assert number == 0 or (block.transform(step.extracted) - step.attention).abs().max() > 1e-9  # witness
        assert len(heard) == 0 or len(block.connection.match) == len({step.site.channels for step in heard})


def test_previous_is_dense_and_tree_where_there_is_one_before():
    """Two blocks: all three reaches are the same network."""
    states = [set(build(f"dca[reach={reach}]-se-circularnet").state_dict()) for reach in REACH]
    assert states[0] == states[1] == states[2]
    assert params("dca[reach=dense]-se-resnet20") > params("dca[reach=tree]-se-resnet20") > params("dca-se-resnet20")


CONNECTED = [  # every reach, and every dimension
    "dca-se[reduction=2]",
    "dca[reach=dense,schema=softmax]-cra2",
    "dca[reach=tree]-cbam[reduction=2]",
    "dca[form=text]-ge2",
    "dca-sk[reduction=2]",
    "dca[reach=tree]-aw-gc[reduction=4]",
]


@pytest.mark.parametrize("attention", CONNECTED)
def test_blocks_that_run_again_hear_what_they_heard(attention):
    """Activation checkpoints around one block and around all of them: the gradients are those without."""
    network = randomised(build(f"{attention}-resnet14", 10, image_size=16))
    blocks = [block for stage in (1, 2, 3) for block in network.get_submodule(f"layer{stage}").children()]
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)

    def gradients(again, listen=Connection.hear):
        network.zero_grad()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Connection, "hear", listen)
            for block in again:
                patch.setattr(block, "forward", partial(checkpoint, block.forward, use_reentrant=False))
            network(x).square().sum().backward()
        return torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])

    expected = gradients([])
    for again in ([blocks[3]], blocks):
        torch.testing.assert_close(gradients(again), expected, rtol=1e-9, atol=1e-9)

    def last(connection, trail):
        told = [step.memory for step in trail.of(connection.dim) if step.memory is not None]
        return [told[-back] for back in connection.backs if told]

    assert torch.equal(gradients([], last), expected)
    with pytest.raises((AssertionError, RuntimeError)):  # witness: counted from the last block on, others are heard
        torch.testing.assert_close(gradients([blocks[3]], last), expected, rtol=1e-9, atol=1e-9)


def test_a_part_of_the_chain_is_refused():
    first, second, third = itertools.islice(build("dca-se-resnet20").attentions(), 3)
    x, trail = torch.randn(2, 16, 8, 8), Trail()
    with pytest.raises(OutOfRange, match=r"has 2 of its dimension \(channel\) before it, and 1 of them ran"):
        third(first(x, trail), trail)
    trail = Trail()
    assert third(second(first(x, trail), trail), trail).shape == x.shape  # witness
    assert torch.equal(third(x), third.alone(x, trail))


@pytest.mark.parametrize("training", [True, False])
def test_new_layers_go_where_the_network_is(training):
    network = build("cbam[reduction=4]-resnet20", 10).double().train(training)
    assert {p.dtype for p in connect(network).parameters()} == {torch.float64}
    assert {module.training for module in network.modules()} == {training}
    with torch.device("meta"):
        network = build("ge[size=2,theta=false]-resnet20", 10)
    assert {p.device.type for p in connect(network).parameters()} == {"meta"}
    assert next(build("dca-se-resnet20").parameters()).device.type == "cpu"  # witness


def test_memory_is_the_attended_descriptor_or_the_attention():
    x = torch.randn(2, 3, 32, 32)
    for option, told in (
        ("", lambda step: step.extracted * step.attention),
        ("[memory=attention]", lambda s: s.attention),
    ):
        steps = build(f"dca{option}-se[reduction=4]-resnet20").eval().trace(x)[1].steps
        assert all(torch.equal(step.memory, told(step)) for step in steps[:-1])
        assert not torch.equal(steps[0].memory, steps[0].extracted)  # witness


def test_sk_connects_each_branch_on_its_own():
    network = randomised(build("dca[form=text]-sk[reduction=4]-resnet20", classes=10))
    blocks = list(network.attentions())
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    blocks[1].connection.first.merge.alpha.data.fill_(0.7)
    blocks[1].connection.second.merge.alpha.data.zero_()
    steps = network.trace(x)[1].steps
    Z = steps[1].extracted.clone()
    Z[..., 0] += 0.7 * steps[0].memory[..., 0]
    torch.testing.assert_close(blocks[1].transform(Z), steps[1].attention, rtol=0, atol=1e-12)
    Z[..., 1] += 0.7 * steps[0].memory[..., 1]
    assert (blocks[1].transform(Z) - steps[1].attention).abs().max() > 1e-9  # witness: the second is not connected


def test_gc_starts_as_the_vanilla_network_and_hands_on_what_it_added():
    plain = randomised(build("gc[reduction=4]-resnet20", classes=10))
    network = randomised(build("dca-gc[reduction=4]-resnet20", classes=10))
    network.load_state_dict(plain.state_dict(), strict=False)
    for block, vanilla in zip(network.attentions(), plain.attentions(), strict=True):
        vanilla.transform[-1].weight.data.normal_()  # it starts at 0, and then adds nothing to hand on
        block.load_state_dict(vanilla.state_dict(), strict=False)
        block.connection.merge.alpha.data.zero_()
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    assert torch.equal(plain(x), network(x))
    steps = network.trace(x)[1].steps
    assert torch.equal(steps[0].memory, steps[0].attention)
    for block in network.attentions():
        block.connection.merge.alpha.data.fill_(0.5)
    assert not torch.equal(plain(x), network(x))  # witness


def test_ge_hands_on_the_attended_map_pooled_to_the_next_size():
    network = randomised(build("dca-ge2-resnet20", classes=10))
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    steps = network.trace(x)[1].steps
    widening = next(i for i, step in enumerate(steps) if step.site.channels == 32)
    connection = list(network.attentions())[widening].connection
    conv, normed, relu = connection.match["16"].layers
    matched = relu(normed(conv(F.avg_pool2d(steps[widening - 1].memory, 2))))
    w1, w2 = connection.merge.weight
    attention = torch.sigmoid(w1 * steps[widening].extracted + w2 * matched)
    torch.testing.assert_close(attention, steps[widening].attention, rtol=0, atol=1e-12)
    assert (torch.sigmoid(steps[widening].extracted) - steps[widening].attention).abs().max() > 1e-9  # witness


@pytest.mark.parametrize(
    "option",
    ["schema=product", "match=fc3", "pool=sum", "form=draft", "match=fc2,reduction=0", "reach=all", "memory=all"],
)
def test_options_out_of_range_are_refused(option):
    with pytest.raises(OutOfRange):
        build(f"dca[{option}]-se-resnet20")
    with pytest.raises(OutOfRange, match="GE's maps are matched by one convolution"):
        build("dca[match=fc2]-ge2-resnet20")
    with pytest.raises(UnknownName, match="schema"):
        build("dca[schemas=direct]-se-resnet20")
