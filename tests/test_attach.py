"""Attention in networks of others: the blocks of this project's own, and nothing else of the network changes."""

import copy
import itertools
import threading

import pytest
import torch
import torchvision
from torch import nn
from torch.utils.checkpoint import checkpoint

from workbench import attach as attaching
from workbench.attach import attach, detach, trace
from workbench.attention import attentions
from workbench.attention.cra import CRA
from workbench.attention.se import SE
from workbench.build import build
from workbench.errors import OutOfRange, UnknownName


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


class Block(nn.Module):
    """A residual block that adds its shortcut in place, as torchvision's."""

    def __init__(self, inputs, outputs, stride=1, inplace=True):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, stride, 1)
        self.bn = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride)
        self.inplace = inplace

    def forward(self, x):
        y = self.bn(self.conv(x))
        if not self.inplace:
            return (y + self.shortcut(x)).relu()
        y += self.shortcut(x)
        return y.relu_()


class Grey(nn.Module):
    """A network of one's own for pictures of one channel: maps of 16, 8 and 8 pixels, widths 8, 16 and 16."""

    def __init__(self, inplace=True):
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, 2, 1)
        shapes = (8, 8), (8, 16, 2), (16, 16)
        self.blocks = nn.Sequential(*(Block(*shape, inplace=inplace) for shape in shapes))
        self.twice, self.unused, self.drop = nn.Identity(), nn.Identity(), nn.Dropout()
        self.fc = nn.Linear(16, 3)

    def forward(self, x, fail=None):
        y = self.twice(self.blocks(self.twice(self.stem(x))))
        if fail is not None:
            raise fail
        return self.fc(self.drop(y.mean((2, 3))))


def grey(name="dca-cbam[reduction=2]", where="blocks.*.bn", **options):
    return lively(attach(Grey(**options), name, where, 32))


def lively(network):
    """Random running statistics, alphas and merging weights, so that every part does something; evaluated."""
    for key, value in network.state_dict().items():
        if "running" in key or ".connection.merge" in key:
            value.copy_(torch.rand_like(value) + (0.5 if key.endswith("var") else -0.5))
    return network.eval()


def params(network):
    return sum(parameter.numel() for parameter in network.parameters())


def meta(make, *arguments, **options):
    with torch.device("meta"):
        return make(*arguments, **options)


resnet50 = torchvision.models.resnet50


@torch.no_grad()
def test_attached_se_is_the_projects_own():
    theirs = attach(meta(resnet50), "se", "layer*.*.bn3").double().to_empty(device="cpu").eval()
    for key, value in theirs.state_dict().items():
        if value.dim() > 1:
            value.normal_(0, (2 / value[0].numel()) ** 0.5)
        elif value.is_floating_point():
            value.uniform_(-0.5, 0.5) if key.endswith(("mean", "bias")) else value.uniform_(0.2, 0.5)
    ours = meta(build, "se-resnet50").eval()
    assert params(theirs) == params(ours) == params(meta(resnet50)) + 2_530_992  # 2 C^2 / r + C / r + C a block
    paths = [f"layer{stage}.{block}.attention" for stage, depth in enumerate((3, 4, 6, 3), 1) for block in range(depth)]
    weights = theirs.state_dict()
    for key in [key for key in weights if key.startswith("attention_blocks.")]:
        _, number, rest = key.split(".", 2)
        weights[f"{paths[int(number)]}.{rest}"] = weights.pop(key)
    ours.load_state_dict(weights, strict=True, assign=True)
    picture = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    expected = ours(picture)
    assert (theirs(picture) - expected).abs().max() < 1e-12
    detach(theirs)
    assert (theirs(picture) - ours(picture)).abs().max() > 1e-3  # witness


@pytest.mark.parametrize("name", ["se", "cra7", "cbam[dims=channel]", "ge8", "gc", "dca-se", "dca[match=fc2]-se"])
def test_costs_and_sites_are_those_of_the_projects_own(name):
    theirs, ours = attach(meta(resnet50), name, "layer*.*.bn3"), meta(build, f"{name}-resnet50")
    assert params(theirs) == params(ours) > params(meta(resnet50))
    sites = [block.site for block in attentions(theirs)]
    assert sites == [block.site._replace(sources=()) for block in ours.attentions()]
    assert [str(site) for site in sites[2:4]] == ["1.3", "2.1"]


def test_connected_se_has_the_parameters_of_the_paper():
    assert params(attach(meta(resnet50), "dca-se", "layer*.*.bn3")) == 30_898_696
    last = attach(meta(resnet50), "dca-se", "layer[234].*.bn3")  # witness: the first stage counts
    assert params(last) < 30_898_696


def test_timm_networks_and_their_parts():
    timm = pytest.importorskip("timm")
    network = lively(attach(timm.create_model("resnet18", pretrained=False), "se", "layer*.*.bn2", 64))
    picture = torch.randn(1, 3, 64, 64)
    logits, trail = trace(network, picture)
    assert [str(step.site) for step in trail.steps] == [f"{s}.{b}" for s in (1, 2, 3, 4) for b in (1, 2)]
    assert torch.equal(logits, network.forward_head(network.forward_features(picture)))  # unconnected: parts may run
    assert params(network) == params(meta(build, "se-resnet18"))


def test_sites_of_a_network_of_ones_own():
    found = [(*block.site,) for block in grey("se[reduction=2]").attention_blocks]
    assert found == [(1, 1, 8, 8, 1, ()), (2, 1, 8, 16, 2, ()), (2, 2, 16, 16, 1, ())]
    whole = grey("se[reduction=2]", "blocks.?")  # the maps of whole blocks, after their shortcuts
    assert [(*block.site,) for block in whole.attention_blocks] == found
    picture = torch.randn(1, 1, 32, 32)
    assert (
        trace(whole, picture)[1].steps[0].extracted.min()
        >= 0
        > trace(grey("se[reduction=2]"), picture)[1].steps[0].extracted.min()
    )


def test_a_network_that_runs_all_its_children():
    layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8 * 36, 2)).eval()
    picture = torch.randn(2, 3, 8, 8)
    plain = layers(picture)
    attached = attach(layers, "bam[reduction=2]", "1", 8)(picture)
    assert attached.shape == plain.shape and not torch.equal(attached, plain)


def test_networks_of_this_project():
    network = lively(attach(build("resnet20", 10), "se", "layer*.*.bn2", 32))
    assert params(network) == params(build("se-resnet20", 10))
    picture = torch.randn(1, 3, 32, 32)
    logits, trail = trace(network, picture)
    assert len(trail.steps) == 9 and torch.equal(logits, network(picture))
    assert len(trace(build("se-resnet20"), picture)[1].steps) == 9


@pytest.mark.parametrize("schema", ["direct", "weighted"])
def test_alpha_zero_is_the_unconnected_network(schema):
    plain, picture = grey("cbam[reduction=2]"), torch.randn(2, 1, 32, 32)
    network = grey(f"dca[form=text,schema={schema}]-cbam[reduction=2]")
    missing, unexpected = network.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected and all(".connection." in key for key in missing)
    alphas = [value for key, value in network.named_parameters() if key.endswith("alpha")]
    assert len(alphas) == 4  # two dimensions, two blocks with one before them
    for value, equal in ((0.0, True), (0.5, False)):
        for alpha in alphas:
            alpha.data.fill_(value)
        assert torch.equal(network(picture), plain(picture)) == equal


def test_keys_stay_and_weights_load():
    plain = torchvision.models.resnet18()
    weights = copy.deepcopy(plain.state_dict())
    network = attach(torchvision.models.resnet18(), "se", "layer*.*.bn2", 32)
    assert [*network.state_dict()][: len(weights)] == [*weights]
    missing, unexpected = network.load_state_dict(weights, strict=False)
    assert not unexpected and missing and all(key.startswith("attention_blocks.") for key in missing)
    assert all(torch.equal(network.state_dict()[key], value) for key, value in weights.items())
    picture = torch.randn(1, 3, 32, 32)
    assert not torch.equal(network.eval()(picture), plain.eval()(picture))  # witness: attached
    assert torch.equal(detach(network)(picture), plain(picture))
    assert [*network.state_dict()] == [*weights]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_a_training_step_reaches_every_block():
    network = grey("dca[form=text]-cbam[reduction=2]").train()
    nn.functional.cross_entropy(network(torch.randn(8, 1, 32, 32)), torch.arange(8) % 3).backward()
    blocks = dict(network.attention_blocks.named_parameters())
    assert len(blocks) == 3 * 7 + 4 + 2  # gates, alphas, one layer between unequal widths
    assert all(value.grad.isfinite().all() and value.grad.any() for value in blocks.values())
    before = copy.deepcopy(blocks)
    torch.optim.SGD(network.parameters(), 1.0).step()
    assert not any(torch.equal(before[key], value) for key, value in blocks.items())


def draw(module, inputs):
    """A layer may draw random numbers and count, also when evaluated."""
    torch.rand(1)
    module.bn.num_batches_tracked += 1


def test_attaching_changes_nothing_else():
    network = Grey().train()
    network.blocks[1].eval()
    network.blocks[0].register_forward_pre_hook(draw)
    modes, state = [module.training for module in network.modules()], copy.deepcopy(network.state_dict())
    torch.manual_seed(1)
    attach(network, "cra2", "blocks.*.bn", 32)
    assert [module.training for module in network.modules()][: len(modes)] == modes
    assert all(torch.equal(network.state_dict()[key], value) for key, value in state.items())
    drawn = torch.rand(1)
    torch.manual_seed(1)
    alone = [CRA(block.site, 2).state_dict() for block in network.attention_blocks]
    assert torch.equal(torch.rand(1), drawn)  # the blocks drew what they draw anywhere, the trial runs nothing
    for block, weights in zip(network.attention_blocks, alone, strict=True):
        assert all(torch.equal(block.state_dict()[key], value) for key, value in weights.items())
    network(torch.randn(2, 1, 32, 32))
    changed = [key for key, value in state.items() if not torch.equal(network.state_dict()[key], value)]
    assert changed == [f"blocks.{i}.bn.{key}" for i in (0, 2) for key in ("running_mean", "running_var",
                                                                         "num_batches_tracked")]  # witness  # fmt: skip


@pytest.mark.parametrize("training", [True, False])
def test_blocks_follow_the_network(training):
    network = attach(Grey().double().train(training), "bam[reduction=2]", "blocks.*.bn", 32)
    assert all(module.training == training for module in network.modules())
    assert {value.dtype for value in network.attention_blocks.parameters()} == {torch.float64}
    assert {value.device.type for value in attach(meta(Grey), "gc[reduction=2]", "blocks.*.bn", 32).parameters()} == {
        "meta"
    }


@pytest.mark.parametrize("error", [ValueError("stop"), KeyboardInterrupt()], ids=["error", "interrupt"])
def test_a_forward_that_fails_leaves_no_trail(error):
    network, picture = grey(), torch.randn(1, 1, 32, 32)
    steps = []
    network.fc.register_forward_hook(lambda *_: steps.append(len(attaching._running.get().trail.steps)))
    expected = network(picture)
    with pytest.raises(type(error)):
        network(picture, fail=error)
    assert isinstance(error, KeyboardInterrupt) or attaching._running.get() is None
    logits, trail = trace(network, picture)
    assert torch.equal(logits, expected) and len(trail.steps) == 6
    assert torch.equal(network(picture), expected) and torch.equal(network(picture), expected)
    assert steps == [steps[0], 6, steps[0], steps[0]] and attaching._running.get() is None


def test_a_hook_that_fails_before_the_forward_leaves_the_outer_trail():
    """torch then runs the last hook of a pass whose first hook never ran."""
    inner, outer = grey(), grey()

    def refuse(module, arguments):
        raise ValueError("stop")

    inner.register_forward_pre_hook(refuse)
    inner._forward_pre_hooks.move_to_end([*inner._forward_pre_hooks][-1], last=False)

    def look(module, arguments):
        with pytest.raises(ValueError, match="stop"):
            inner(*arguments)

    outer.register_forward_pre_hook(look)
    picture = torch.randn(1, 1, 32, 32)
    expected = lively(outer)(picture)
    assert torch.equal(outer(picture), expected) and len(trace(outer, picture)[1].steps) == 6


def test_a_network_within_another_has_its_own_trail():
    inner, outer = grey(), grey()
    picture = torch.randn(1, 1, 32, 32)
    (expected, alone), seen = trace(outer, picture), []
    parts = grey("se[reduction=2]").blocks

    def look(module, arguments):
        seen.append((inner(picture), trace(inner, picture)[1], parts(*arguments).shape))

    outer.blocks[0].register_forward_pre_hook(look)
    logits, trail = trace(outer, picture)
    assert torch.equal(logits, expected)
    assert len(trail.steps) == len(alone.steps) == len(seen[0][1].steps) == 6
    assert not torch.equal(seen[0][0], expected)  # witness: another network


def test_trace_finds_the_one_attached_network_within():
    network, picture = grey(), torch.randn(1, 1, 32, 32)
    logits, trail = trace(nn.Sequential(nn.Identity(), network), picture)
    assert torch.equal(logits, network(picture)) and len(trail.steps) == 6
    for holder in (nn.Sequential(), nn.Sequential(network, grey()), Grey()):
        with pytest.raises(OutOfRange, match="trace one that `attach` or `build` returned"):
            trace(holder, picture)


def test_a_deep_copy_is_independent():
    network, picture = grey(), torch.randn(1, 1, 32, 32)
    expected = network(picture)
    other = copy.deepcopy(network)
    assert torch.equal(other(picture), expected) and len(trace(other, picture)[1].steps) == 6
    with torch.no_grad():
        for value in network.attention_blocks.parameters():
            value.add_(0.5)
    assert torch.equal(other(picture), expected)
    assert not torch.equal(network(picture), expected)  # witness: the blocks matter
    changed = network(picture)
    detach(other)
    assert not torch.equal(other(picture), expected) and torch.equal(network(picture), changed)


@pytest.mark.parametrize("name", ["se[reduction=2]", "cra2", "dca-cbam[reduction=2]"])
def test_replicas_run_their_own_blocks(name):
    network, picture = grey(name), torch.randn(1, 1, 32, 32)
    expected = network(picture)
    twin = replica(network)
    assert torch.equal(twin(picture), expected)
    with torch.no_grad():
        for module in twin.attention_blocks.modules():
            if getattr(module, "bias", None) is not None:
                module.bias.add_(0.5)
    assert not torch.equal(twin(picture), expected)
    assert torch.equal(network(picture), expected)  # witness: they are copies


def replica(network):
    """What nn.DataParallel makes for another device: modules that share hooks, with tensors in place of parameters."""
    twins = {module: module._replicate_for_data_parallel() for module in network.modules()}
    for module, twin in twins.items():
        for name, child in module.named_children():
            setattr(twin, name, twins[child])
        for name, value in module._parameters.items():
            setattr(twin, name, None if value is None else value.detach().clone())
    return twins[network]


def test_sixteen_threads_on_one_network_equal_the_serial_results():
    network, pictures = grey(), torch.randn(16, 1, 1, 32, 32)
    with torch.no_grad():
        serial = [trace(network, x) for x in pictures]
    together, start = [None] * 16, threading.Barrier(16)

    def forward(i):
        start.wait()
        with torch.no_grad():
            together[i] = trace(network, pictures[i])

    threads = [threading.Thread(target=forward, args=(i,)) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for (logits, trail), (expected, steps) in zip(together, serial, strict=True):
        assert torch.equal(logits, expected)
        assert all(
            torch.equal(*map(lambda step: step.attention, both)) for both in zip(trail.steps, steps.steps, strict=True)
        )
    assert not any(torch.equal(a[0], b[0]) for a, b in itertools.pairwise(serial))  # witness: the pictures differ


def test_what_the_trail_keeps_survives_shortcuts_in_place(monkeypatch):
    monkeypatch.setattr(SE, "memory", lambda self, G, T, y: y)  # as GE's, the attended map itself
    networks = [grey("se[reduction=2]", inplace=inplace) for inplace in (True, False)]
    networks[1].load_state_dict(networks[0].state_dict())
    for block in itertools.chain(*(network.attention_blocks for network in networks)):
        block.tells = True
    picture = torch.randn(1, 1, 32, 32)
    first, second = (trace(network, picture)[1].steps for network in networks)
    assert all(torch.equal(a.memory, b.memory) for a, b in zip(first, second, strict=True))
    assert min(step.memory.min() for step in first) < 0  # witness: not yet added and rectified


def test_parts_of_a_connected_network_are_refused():
    network, x = grey("dca-se[reduction=2]"), torch.randn(1, 8, 16, 16)
    with pytest.raises(OutOfRange, match="call the whole network"):
        network.blocks(x)
    grey("se[reduction=2]").blocks(x)  # witness


def test_checkpointed_blocks_recompute_what_they_did_or_say_that_they_cannot():
    def gradient(name, again):
        torch.manual_seed(0)
        network, x = grey(name), torch.randn(1, 1, 32, 32)
        if again:
            network.blocks.forward = lambda x: checkpoint(nn.Sequential(*network.blocks), x, use_reentrant=False)
        network(x).sum().backward()
        return network.stem.weight.grad

    assert torch.equal(gradient("se[reduction=2]", True), gradient("se[reduction=2]", False))
    with pytest.raises(OutOfRange, match="without activation checkpointing"):
        gradient("dca-se[reduction=2]", True)


MISTAKES = {
    "no such module": ("se", "blocks.*.bm", OutOfRange, r"No module of this Grey.*include .*blocks\.0\.bn"),
    "output is no map": ("se", "fc", OutOfRange, "'fc' returns 1x3, .*needs a map"),
    "runs twice": ("se", "twice", OutOfRange, "'twice' runs several times"),
    "never runs": ("se", "unused", OutOfRange, "'unused' does not run"),
    "grid": ("cra9", "blocks.*.bn", OutOfRange, "9x9 exceeds the 8x8 map.*Use size <= 8"),
    "reduction": ("se[reduction=9]", "blocks.*.bn", OutOfRange, "Reduction 9 of 8 channels"),
    "option": ("se[reducton=2]", "blocks.*.bn", UnknownName, "Did you mean 'reduction'"),
    "attention": ("sse", "blocks.*.bn", UnknownName, "Unknown attention 'sse'. Did you mean 'se'"),
    "no attention": ("dca", "blocks.*.bn", OutOfRange, "nothing to connect"),
    "weights of a convolution": ("aw-se", "blocks.*.bn", OutOfRange, "aw does more than gate one map"),
    "in place of a convolution": ("sk", "blocks.*.bn", OutOfRange, "sk does more than gate one map"),
    "in place of the head": ("bridge[form=direct]", "blocks.*.bn", OutOfRange, "does more than gate one map"),
    "several maps": ("bridge", "blocks.*.bn", OutOfRange, "this site has no earlier ones"),
    "detector": ("retinanet-se", "blocks.*.bn", OutOfRange, "retinanet does more than gate one map"),
    "dims": ("dca[dims=spatial]-se[reduction=2]", "blocks.*.bn", OutOfRange, "has channel"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence_and_leaves_the_network_alone(mistake):
    name, where, error, sentence = MISTAKES[mistake]
    network = Grey()
    with pytest.raises(error, match=sentence):
        attach(network, name, where, 32)
    assert [*network.state_dict()] == [*Grey().state_dict()]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_pictures_that_the_network_cannot_take():
    with pytest.raises(OutOfRange, match="Image size 0 px"):
        attach(Grey(), "se", "blocks.*.bn", 0)
    layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(288, 2))
    with pytest.raises(OutOfRange, match="does not run on pictures of 9 px; give the image_size"):
        attach(layers, "se[reduction=2]", "0", 9)
    attach(layers, "se[reduction=2]", "0", 8)  # witness


def test_attached_once_and_detached_once():
    network = grey("se[reduction=2]")
    for holder in (network, nn.Sequential(network), build("se-resnet20")):
        with pytest.raises(OutOfRange, match="has attention blocks already"):
            attach(holder, "se", "*bn*", 32)
    detach(network)
    with pytest.raises(OutOfRange, match="Nothing is attached to this Grey"):
        detach(network)
    assert len(grey("cra2").attention_blocks) == len(attach(network, "cra2", "blocks.*.bn", 32).attention_blocks) == 3
