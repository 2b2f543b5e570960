"""The attention modules beside timm's, at the maps of ResNet-50's four stages; whole networks beside the plain one."""

import importlib
import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workbench.attention import ConvSpec, Site
from workbench.attention.aw import AWConv
from workbench.attention.cbam import CBAM
from workbench.attention.cra import CRA
from workbench.attention.gc import GC
from workbench.attention.ge import GE
from workbench.attention.se import SE
from workbench.attention.sk import SK
from workbench.bench.timing import entry, forward_backward, interleaved, peak_bytes
from workbench.build import build
from workbench.compiled import compiled as through_compiler

BATCH = 8
STAGES = ((256, 56), (512, 28), (1024, 14), (2048, 7))  # channels and side of the blocks' outputs
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
Make = Callable[[int, int], nn.Module]


class NaiveCRA(nn.Module):
    """CRA as its equations read: an adaptive pool, a depthwise convolution, a product."""

    def __init__(self, channels: int, size: int = 7):
        super().__init__()
        self.size = size
        self.conv = nn.Conv2d(channels, channels, size, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.conv(F.adaptive_avg_pool2d(x, self.size)))


def ours(kind: Callable[..., nn.Module], channels: int, side: int) -> nn.Module:
    return kind(Site(1, 2, channels, channels))


def modules() -> dict[str, tuple[Make, dict[str, Make]]]:
    """name -> our module, and its peers; without timm only the naive ones."""
    found: dict[str, tuple[Make, dict[str, Make]]] = {
        "cra7": (partial(ours, CRA), {"naive CRA": lambda channels, side: NaiveCRA(channels)}),
        "se": (partial(ours, SE), {}),
        "cbam": (partial(ours, partial(CBAM, bias=False)), {}),
        "gc": (partial(ours, GC), {}),
        "ge8[theta=false]": (partial(ours, partial(GE, theta=False)), {}),
    }
    try:
        timm = importlib.import_module("timm.layers")
        cbam = importlib.import_module("timm.layers.cbam")
    except ModuleNotFoundError:
        return found

    def context(channels: int, side: int) -> nn.Module:
        return timm.GlobalContext(channels, fuse_add=True, fuse_scale=False, rd_ratio=1 / 16)

    def gather(channels: int, side: int) -> nn.Module:
        return timm.GatherExcite(channels, extent=8, use_mlp=False)  # its form with parameters fails in timm 1.0.31

    for name, peer, make in (
        ("cra7", "timm SqueezeExcite", lambda channels, side: timm.SqueezeExcite(channels)),
        ("se", "timm SqueezeExcite", lambda channels, side: timm.SqueezeExcite(channels)),
        ("cbam", "timm CbamModule", lambda channels, side: cbam.CbamModule(channels)),
        ("gc", "timm GlobalContext", context),
        ("ge8[theta=false]", "timm GatherExcite", gather),
    ):
        found[name][1][peer] = make
    return found


def anew(module: nn.Module) -> Any:
    """The module through torch.compile, which forgets the cases before: it gives up on a forward's ninth form."""
    torch.compiler.reset()
    return through_compiler(module)


def attention(device: torch.device, dtype: torch.dtype, rounds: int, compiled: bool) -> Iterator[dict[str, Any]]:
    """Forward and backward of every module at every stage, in both memory formats; then CRA-ResNet-50."""
    finish: Callable[[nn.Module], Any] = anew if compiled else lambda module: module
    for (channels, side), (form, memory_format) in itertools.product(STAGES, FORMATS.items()):
        x, g = (
            torch.randn(BATCH, channels, side, side, device=device, dtype=dtype).contiguous(memory_format=memory_format)
            for _ in range(2)
        )
        x.requires_grad_()
        known = modules()
        makes = {name: make for name, (make, _) in known.items()} | {
            k: v for _, p in known.values() for k, v in p.items()
        }
        built = {name: finish(make(channels, side).to(device, dtype)) for name, make in makes.items()}
        cases = {name: forward_backward(module, x, g) for name, module in built.items()}
        times = interleaved(cases, rounds, device)
        size = x.numel() * x.element_size()
        for name, (_, peers) in known.items():
            more = {
                "format": form,
                "forward_memory": peak_bytes(partial(built[name], x), device) / size,
                "step_memory": peak_bytes(cases[name], device) / size,
            }
            for peer in peers:
                yield entry(name, f"{channels}x{side}x{side}", peer, times, name, peer, **more)
    yield from selective(device, dtype, rounds, finish)
    yield from networks(device, dtype, max(3, rounds // 4), finish)


def selective(device: torch.device, dtype: torch.dtype, rounds: int, finish: Any) -> Iterator[dict[str, Any]]:
    """SK in place of the bottlenecks' 3x3, beside timm's with the same branches and hidden width."""
    try:
        timm = importlib.import_module("timm.layers")
    except ModuleNotFoundError:
        return
    for channels, side in ((64, 56), (128, 28), (256, 14), (512, 7)):
        x, g = torch.randn(2, BATCH, channels, side, side, device=device, dtype=dtype)
        x.requires_grad_()
        made = {
            "sk": SK(Site(1, 2, channels, channels), ConvSpec(channels, channels)),
            "timm": timm.SelectiveKernel(channels, channels, split_input=False, rd_ratio=1 / 16, rd_divisor=1),
        }
        cases = {name: forward_backward(finish(module.to(device, dtype)), x, g) for name, module in made.items()}
        times = interleaved(cases, rounds, device)
        yield entry("sk", f"{channels}x{side}x{side}", "timm SelectiveKernel", times, "sk", "timm", format="contiguous")


def networks(device: torch.device, dtype: torch.dtype, rounds: int, finish: Any) -> Iterator[dict[str, Any]]:
    """CRA-ResNet-50 beside ResNet-50, for one batch of 224 px pictures."""
    built = {name: finish(build(name).to(device, dtype)) for name in ("resnet50", "cra7-resnet50")}
    x = torch.randn(BATCH, 3, 224, 224, device=device, dtype=dtype)

    def infer(network: nn.Module) -> None:
        with torch.no_grad():
            network.eval()(x)

    def train(network: nn.Module) -> None:
        network.train()(x).square().mean().backward()
        network.zero_grad()

    for work, step in (("inference", infer), ("training step", train)):
        times = interleaved({name: partial(step, network) for name, network in built.items()}, rounds, device)
        yield entry(
            f"cra7-resnet50, {work}", "3x224x224", "resnet50", times, "cra7-resnet50", "resnet50", format="contiguous"
        )


def aw(device: torch.device, dtype: torch.dtype, rounds: int, compiled: bool) -> Iterator[dict[str, Any]]:
    """AW-convolution beside a plain one of its shape, and beside the one grouped convolution that it naively is."""
    finish: Callable[[nn.Module], Any] = anew if compiled else lambda module: module
    for channels, side, kernel in ((64, 56, 3), (128, 28, 3), (256, 14, 3), (512, 7, 3), (512, 14, 1)):
        x, g = torch.randn(2, BATCH, channels, side, side, device=device, dtype=dtype)
        x.requires_grad_()
        spec = ConvSpec(channels, channels, kernel)
        made = {
            "aw": AWConv(Site(1, 2, channels, channels), spec),
            "nn.Conv2d": nn.Conv2d(channels, channels, kernel, padding=kernel // 2, bias=False),
            "naive AW": NaiveAW(Site(1, 2, channels, channels), spec),
        }
        cases = {name: forward_backward(finish(module.to(device, dtype)), x, g) for name, module in made.items()}
        times = interleaved(cases, rounds, device)
        held = {name: peak_bytes(case, device) for name, case in cases.items()}
        for peer in ("nn.Conv2d", "naive AW"):
            more = {"format": "contiguous", "memory_of_peer": held["aw"] / held[peer]}
            yield entry("aw", f"{channels}x{side}x{side}, {kernel}x{kernel}", peer, times, "aw", peer, **more)


class NaiveAW(AWConv):
    """Eq. 5 as it reads: one kernel a picture, all in one grouped convolution."""

    def fuse(self, T: Tensor, x: Tensor) -> Tensor:
        N, C, H, W = x.shape
        A = T.reshape(N, -1, 1, *T.shape[-2:])
        kernels = (self.weight + A * self.weight).flatten(0, 1)
        y = F.conv2d(x.reshape(1, N * C, H, W), kernels, padding=self.weight.shape[-1] // 2, groups=N)
        return y.view(N, -1, *y.shape[-2:])
