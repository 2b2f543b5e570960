"""Grad-CAM is its equation, at every stage of every backbone, and leaves the network as it was."""

import copy
import gc
import random
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from workbench.attention import Trail
from workbench.backbones.network import run
from workbench.build import build
from workbench.errors import OutOfRange, UnknownName
from workbench.explain import cam
from workbench.explain.cam import brightest_quarter, grad_cam

pytest.importorskip("pytorch_grad_cam")


def warmed(name, seed=0, classes=5):
    """A network whose BN has seen pictures, so that its maps are neither zeros nor one value."""
    torch.manual_seed(seed)
    network = build(name, classes=classes, checked=False)
    with torch.no_grad():
        network(torch.randn(4, 3, 32, 32))
    return network.eval()


@pytest.fixture(scope="module")
def network():
    return warmed("cbam-resnet20")


@pytest.fixture(scope="module")
def pictures():
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def scaled(heat):
    heat = heat - heat.amin((1, 2), keepdim=True)
    return heat / (1e-7 + heat.amax((1, 2), keepdim=True))


def by_hand(network, pictures, targets, weigh=lambda gradient: gradient.mean((2, 3))):
    """Equations 1 and 2 of Grad-CAM for every stage, in [0, 1] at the size of the pictures."""
    trail = Trail()
    maps = network.maps(pictures.clone().requires_grad_(), trail)
    *trail.features, last = maps
    logits = network.classify(run(network.avgpool, last, trail))
    gradients = torch.autograd.grad(logits[range(len(targets)), targets].sum(), maps)
    heats = [torch.einsum("nc,nchw->nhw", weigh(g), A).relu() for g, A in zip(gradients, maps, strict=True)]
    sizes = pictures.shape[-2:]
    heats = [F.interpolate(scaled(heat)[:, None], sizes, mode="bilinear", align_corners=False)[:, 0] for heat in heats]
    return [scaled(heat).detach().numpy() for heat in heats]


def distance(found, expected):
    return max(float(abs(found[stage] - heat).max()) for stage, heat in enumerate(expected, 1))


@pytest.mark.parametrize("name", ["cbam-resnet20", "dca-se-resnet20", "mobilenetv2", "densenetbc100", "plain6"])
def test_it_is_the_equation(name, pictures):
    network = warmed(name)
    found, expected = grad_cam(network, pictures, [0, 3, 1]), by_hand(network, pictures, [0, 3, 1])
    assert list(found) == list(range(1, len(expected) + 1))
    assert all(heat.shape == (3, 32, 32) and heat.dtype == np.float32 for heat in found.values())
    assert distance(found, expected) < 1e-5
    assert distance(found, by_hand(network, pictures, [0, 3, 2])) > 1e-2  # witness: another class of one picture
    assert distance(found, by_hand(network, pictures, [0, 3, 1], lambda g: g.amax((2, 3)))) > 1e-2  # another weight


@pytest.mark.parametrize("name", ["bridge[form=direct]-plain6", "circularnet", "mnasnet1_0", "mobilenetv1", "resnet18",
                                  "shufflenet", "vgg16"])  # fmt: skip
def test_every_backbone_has_its_stages(name):
    network = build(name, classes=3, checked=False)
    side = 2 * network.image_size if network.image_size < 64 else 64
    found = grad_cam(network, torch.randn(1, 3, side, side), stages=None)
    assert len(found) == len(network.maps(torch.randn(1, 3, side, side), Trail()))
    assert all(heat.shape == (1, side, side) and 0 <= heat.min() <= heat.max() <= 1 for heat in found.values())


@pytest.mark.parametrize("name", ["aw", "bam", "bridge", "cra2", "gala", "gc[reduction=4]", "ge", "sk", "dca-sk"])
def test_every_attention_lets_the_gradient_through(name, pictures):
    network = warmed(f"{name}-resnet20")
    expected = by_hand(network, pictures, [0, 1, 2])
    assert distance(grad_cam(network, pictures, [0, 1, 2]), expected) < 1e-5
    assert all(heat.max() > 0.9 for heat in expected)  # none is blank, so each was compared


def test_the_default_class_is_the_predicted_one(network, pictures):
    with torch.no_grad():
        predicted = network(pictures).argmax(1)
    found = grad_cam(network, pictures)
    for stage, heat in grad_cam(network, pictures, predicted).items():
        assert np.array_equal(found[stage], heat)
        assert not np.array_equal(found[stage], grad_cam(network, pictures, (predicted + 1) % 5, [stage])[stage])


def test_stages_in_any_order_are_the_same_maps(network, pictures):
    every = grad_cam(network, pictures)
    some = grad_cam(network, pictures, stages=[3, 1, 3])
    assert list(some) == [3, 1]
    assert all(np.array_equal(some[stage], every[stage]) for stage in some)
    assert not np.array_equal(every[1], every[3])


def test_a_batch_is_its_pictures(network, pictures):
    whole = grad_cam(network, pictures, [4, 0, 2])
    for number, target in enumerate((4, 0, 2)):
        one = grad_cam(network, pictures[number : number + 1], [target])
        assert all(np.allclose(whole[stage][number], one[stage][0], atol=1e-4) for stage in whole)
        assert not np.allclose(whole[3][number], whole[3][number - 1], atol=1e-1)


def test_the_network_is_tapped_as_it_runs(network, pictures):
    with torch.enable_grad():
        model, _ = cam.tapped(network, x := pictures.clone().requires_grad_(), None, cam.ExitStack())
        assert torch.equal(model(x), network(x))


def test_a_layer_by_name_is_the_stage_that_it_ends(network, pictures):
    name = "layer2.2"
    assert np.allclose(grad_cam(network, pictures, stages=[name])[name], grad_cam(network, pictures)[2], atol=1e-5)


def test_networks_from_elsewhere(pictures):
    """torchvision's blocks add to bn2's output in place and apply ReLU in place; the map is still the one BN made."""
    torch.manual_seed(0)
    theirs = torchvision.models.resnet18(num_classes=5)
    ours = build("resnet18", classes=5, checked=False)
    ours.load_state_dict(theirs.state_dict())
    found = grad_cam(theirs, pictures, [0, 1, 2], ["layer4", "layer1", "layer2.1.bn2"])
    assert list(found) == ["layer4", "layer1", "layer2.1.bn2"]
    mine = grad_cam(ours, pictures, [0, 1, 2], [1, 4])
    assert np.allclose(found["layer1"], mine[1], atol=1e-5) and np.allclose(found["layer4"], mine[4], atol=1e-5)
    block = theirs.layer2[1]
    block.add_module("bn2", nn.Sequential(block.bn2, Copy()))  # witness: what others then do in place is another tensor
    (same,) = grad_cam(theirs, pictures, [0, 1, 2], ["layer2.1.bn2"]).values()
    assert np.allclose(found["layer2.1.bn2"], same, atol=1e-6)
    assert not np.allclose(found["layer2.1.bn2"], grad_cam(theirs, pictures, [0, 1, 2], ["layer2"])["layer2"], atol=0.1)


class Copy(nn.Module):
    def forward(self, x):
        return x.clone()


@pytest.mark.parametrize("method", cam.METHODS)
def test_every_method_is_finite_and_scaled(method, network, pictures):
    for heat in grad_cam(network, pictures, [0, 1, 2], method=method).values():
        assert np.isfinite(heat).all() and heat.min() >= 0 and 0.9 < heat.max() <= 1


class Fixed(nn.Module):
    """A network whose one map is `value` everywhere, whatever the picture."""

    def __init__(self, value):
        super().__init__()
        self.map, self.fc, self.value = nn.Identity(), nn.Linear(2, 2), value
        nn.init.ones_(self.fc.weight)

    def forward(self, x):
        return self.fc(self.map(x[:, :2, ::4, ::4] * 0 + self.value).mean((2, 3)))


@pytest.mark.parametrize("value", [0.0, 1.0, -1.0, 1e30])
def test_a_map_of_one_value_is_zeros(value):
    heat = grad_cam(Fixed(value), torch.randn(2, 3, 8, 8), stages=["map"])["map"]
    assert np.array_equal(heat, np.zeros((2, 8, 8)))


def test_pictures_of_one_value_and_one_pixel(network):
    for picture in (torch.zeros(1, 3, 32, 32), torch.ones(1, 3, 32, 32), torch.ones(1, 3, 8, 8)):
        assert all(np.isfinite(heat).all() for heat in grad_cam(network, picture).values())


def test_what_is_not_finite_is_refused(network):
    with pytest.raises(OutOfRange, match="not finite"):
        grad_cam(network, torch.full((1, 3, 32, 32), float("nan")), [0])


def state(network):
    """All that a visitor may change."""
    modules, parameters = list(network.modules()), list(network.parameters())
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in modules]
    return {
        "modes": [module.training for module in modules],
        "needs": [parameter.requires_grad for parameter in parameters],
        "gradients": [None if p.grad is None else (id(p.grad), p.grad.numpy().tobytes()) for p in parameters],
        "tensors": [tensor.numpy().tobytes() for tensor in network.state_dict().values()],
        "hooks": hooks,
        "random": [torch.get_rng_state().numpy().tobytes(), random.getstate(), np.random.get_state()[1].tobytes()],
        "grad": torch.is_grad_enabled(),
        "names": sorted(vars(network)),
    }


@pytest.fixture
def used():
    """A network amid its training: BN of stage 1 evaluated, one weight frozen, some gradients there and some not."""
    network = warmed("cra2-resnet20").train()
    network.layer1.eval()
    network.conv1.weight.requires_grad = False
    network(torch.randn(2, 3, 32, 32)).sum().backward()
    network.fc.bias.grad = None
    return network


def test_nothing_of_the_network_changes(used, pictures):
    before, hooked = state(used), []
    hook = used.fc.weight.register_post_accumulate_grad_hook(hooked.append)
    found = grad_cam(used, pictures, [0, 1, 2])
    by_name = grad_cam(used, pictures, [0, 1, 2], ["layer3.2"])
    hook.remove()
    assert state(used) == before and not hooked  # an optimizer in the backward pass would have stepped
    again = grad_cam(used.eval(), pictures, [0, 1, 2])
    assert all(np.array_equal(found[stage], again[stage]) for stage in found)  # computed in evaluation mode
    assert np.allclose(by_name["layer3.2"], found[3], atol=1e-5)
    assert state(used) != before  # witness: eval() was seen


def test_nothing_changes_where_it_fails(used, pictures):
    before = state(used)
    for targets, stages in (
        ([0, 9, 0], None),
        ([0, 9, 0], ["layer1.0", "layer2"]),
        (None, ["layer1.0.relu"]),
        (None, ["fc"]),
    ):
        with pytest.raises(OutOfRange):
            grad_cam(used, pictures, targets, stages)
        assert state(used) == before
    used.layer3[1].conv1.register_forward_hook(lambda *_: {}["broken"])
    before = state(used)
    with pytest.raises(KeyError):
        grad_cam(used, pictures)
    assert state(used) == before


def test_an_index_error_in_the_network_is_not_swallowed(network, pictures):
    hook = network.fc.register_forward_hook(lambda *_: [][0])
    try:
        with pytest.raises(IndexError):
            grad_cam(network, pictures)
    finally:
        hook.remove()


@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_it_works_around_and_within(around, network, pictures):
    expected = grad_cam(network, pictures, [0, 1, 2])
    frozen = warmed("cbam-resnet20").requires_grad_(False)
    with around():
        inside = pictures * 1
        found = grad_cam(frozen, inside, [0, 1, 2])
    assert all(np.array_equal(found[stage], expected[stage]) for stage in expected)
    assert not any(parameter.requires_grad for parameter in frozen.parameters())


def test_nothing_is_kept(pictures):
    network = warmed("se-resnet20")
    grad_cam(network, pictures)

    def tensors():
        gc.collect()
        return sum(issubclass(type(one), torch.Tensor) for one in gc.get_objects())

    before = tensors()
    for _ in range(3):
        grad_cam(network, pictures)
    assert tensors() == before
    gone = weakref.ref(network)
    del network
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ({"targets": [0, 1, 5]}, OutOfRange, "Target 5 of 5 classes; use 0 to 4"),
        ({"targets": [0, 1, -1]}, OutOfRange, "Target -1"),
        ({"targets": [0]}, OutOfRange, "1 targets for 3 pictures"),
        ({"stages": [4]}, OutOfRange, "Stages 4; this network has stages 1 to 3"),
        ({"stages": [0]}, OutOfRange, "stages 1 to 3"),
        ({"stages": []}, OutOfRange, "Stages none"),
        ({"stages": [1, "layer1"]}, OutOfRange, "stages 1 to 3"),
        ({"stages": ["layer9"]}, UnknownName, "layer1"),
        ({"stages": ["layer1.0.relu"]}, OutOfRange, "several times"),
        ({"stages": ["fc"]}, OutOfRange, "no map"),
        ({"stages": ["layer1"]}, OutOfRange, "does not run"),
        ({"method": "gradcam+"}, UnknownName, "gradcam"),
    ],
)
def test_what_cannot_be_is_refused(given, error, text, network, pictures):
    with pytest.raises(error, match=text):
        grad_cam(network, pictures, **given)


def test_networks_without_known_stages_and_pictures_without_batch(network, pictures):
    with pytest.raises(OutOfRange, match="give names of its modules, such as fc"):
        grad_cam(Fixed(1.0), pictures)
    for wrong in (pictures[0], pictures[:0], (pictures * 9).to(torch.uint8)):
        with pytest.raises(OutOfRange, match="Pictures of"):
            grad_cam(network, wrong)


class Met(nn.Module):
    """Waits in every forward until all threads are here, so that their passes are in the network at once."""

    def __init__(self, keeps=False):
        super().__init__()
        self.keeps, self.barrier = keeps, threading.Barrier(1)

    def forward(self, x):
        self.seen = x
        self.barrier.wait(60)
        return self.seen * 1 if self.keeps else x  # a module that keeps what it sees hands on another thread's


def at_once(calls, met):
    """What the calls return, each in a thread of its own, one after the other and then at once."""
    one_by_one, together = [], []
    for found, workers in ((one_by_one, 1), (together, len(calls))):
        met.barrier = threading.Barrier(workers)
        with ThreadPoolExecutor(workers) as pool:
            found += [future.result(120) for future in [pool.submit(call) for call in calls]]
    return one_by_one, together


def same(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("keeps", [False, True])
@pytest.mark.parametrize("name", ["dca-cbam-resnet8", "cra2-resnet8", "dca-sk-resnet8"])
def test_sessions_that_share_a_network_get_their_own(name, keeps):
    """Two pictures at once and a forward beside them, on one network as `zoo.load` returns it: bit for bit the same."""
    network, met = warmed(name).requires_grad_(False), Met(keeps)
    network.layer1[0].bn1 = nn.Sequential(network.layer1[0].bn1, met)
    network.eval()
    one, other, third = torch.randn(3, 1, 3, 32, 32, generator=torch.Generator().manual_seed(2)).unbind()

    def forward():
        with torch.no_grad():
            return {"first": network(third).numpy(), "second": network(third + 1).numpy()}

    calls = [lambda: grad_cam(network, one, [1]), lambda: grad_cam(network, other, [3]), forward]
    before = state(network)
    serial, parallel = at_once(calls, met)
    assert not same(serial[0], serial[1])
    wrong = [same(*pair) for pair in zip(serial, parallel, strict=True)].count(False)
    assert wrong >= 2 if keeps else wrong == 0  # witness: a third is wrong too where a second forward is quicker
    assert {**state(network), "random": 0} == {**before, "random": 0}


def test_the_brightest_quarter():
    even, corner = np.ones((8, 8)), np.zeros((8, 8), np.float32)
    corner[:4, 4:] = 0.3
    assert brightest_quarter(even) == pytest.approx(0.25) and brightest_quarter(corner) == pytest.approx(1)
    assert brightest_quarter(np.arange(1.0, 17).reshape(4, 4)) == pytest.approx((13 + 14 + 15 + 16) / 136)
    assert brightest_quarter(np.array([[3.0, 2.0, 1.0]])) == pytest.approx(0.75 * 3 / 6)  # three quarters of a position
    assert brightest_quarter(corner) == brightest_quarter(corner[::-1].T) != brightest_quarter(corner + 0.1)
    assert np.isnan(brightest_quarter(np.zeros((4, 4))))


def test_bfloat16_is_refused_in_a_sentence(network, pictures):
    low = copy.deepcopy(network).bfloat16()
    for one, given in ((low, pictures.bfloat16()), (low, pictures), (network, pictures.bfloat16())):
        with pytest.raises(OutOfRange, match=r"no bfloat16; give network\.float"):
            grad_cam(one, given)
    assert grad_cam(low.float(), pictures.bfloat16().float())  # witness
