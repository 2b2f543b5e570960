"""Training steps to be timed: ours, and those of a plain PyTorch loop around the same network."""

import contextlib
import gc
from collections.abc import Callable, Generator, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workbench.bench.settings import COUNT, SIDE, Settings
from workbench.bench.timing import Case, entry
from workbench.build import build
from workbench.datasets.memory import Split
from workbench.explain.complexity import count
from workbench.training.environment import device_name
from workbench.training.loop import LOOK, Training
from workbench.training.recipe import Recipe
from workbench.training.update import autocast

Splits = tuple[Split, Split]
LR, MOMENTUM, DECAY = 0.01, 0.9, 1e-4
EPOCHS = 300  # of the run whose hours are foretold from a step
PEAKS = {  # bf16 operations per second of the tensor cores, dense, from NVIDIA's data sheets
    "NVIDIA H200": 989e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA A100": 312e12,
}


def many(settings: Settings) -> int:
    """Steps of one measurement: as many as a GPU is given before the host looks; one on a CPU."""
    return LOOK if settings.device == "cuda" else 1


def network(splits: Splits, settings: Settings) -> nn.Module:
    """The network for these pictures, its weights always the same."""
    torch.manual_seed(0)
    return build(settings.model, len(splits[0].classes), splits[0].side)


def made(splits: Splits, settings: Settings, precision: str = "bf16", compiled: bool = False) -> Training:
    """A run of ours at its very start.  Those that are over let go of their memory first, not amid a recording."""
    gc.collect()
    recipe = Recipe(
        batch=settings.batch,
        epochs=10_000,
        lr=LR,
        schedule="constant",
        momentum=MOMENTUM,
        weight_decay=DECAY,
        precision=precision,
    )
    return Training(network(splits, settings), *splits, recipe, 0, settings.device, compiled)


def turns(training: Training, count: int) -> Generator[None, None, Training]:
    """`count` steps of ours, giving way to other runs where `Training.turns` does: before a GPU would be awaited."""
    for number in range(count):
        training.step()
        if training.device.type == "cpu" or (number + 1) % LOOK == 0:
            yield
            training.look()
    training.look()
    return training


def ours(training: Training, count: int) -> Case:
    """`count` steps of ours, to their end."""

    def case() -> None:
        for _ in turns(training, count):
            pass

    return case


def ready(splits: Splits, settings: Settings) -> tuple[Tensor, Tensor]:
    """The first batch of an epoch, on the device."""
    batches = splits[0].batches(settings.where, settings.batch)
    batches.open(0, 0)
    return batches.batch(torch.zeros((), dtype=torch.int64, device=settings.where))


def plain(
    splits: Splits,
    settings: Settings,
    precision: str,
    form: torch.memory_format = torch.contiguous_format,
    compiled: Callable[[nn.Module], Callable] = lambda network: network,
) -> Case:
    """Steps of a loop as PyTorch's tutorials have it, in PyTorch's own settings, the pictures ready on the device."""
    trained = network(splits, settings).to(settings.where).to(memory_format=form).train()
    forward = compiled(trained)
    optimizer = torch.optim.SGD(trained.parameters(), lr=LR, momentum=MOMENTUM, weight_decay=DECAY)
    x, labels = ready(splits, settings)
    x = x.contiguous(memory_format=form)

    def case() -> None:
        with pytorchs_own():
            for _ in range(many(settings)):
                optimizer.zero_grad()
                with autocast(settings.where, precision):
                    loss = F.cross_entropy(forward(x), labels)
                loss.backward()
                optimizer.step()

    return case


@contextlib.contextmanager
def pytorchs_own() -> Iterator[None]:
    """On a GPU: kernels that need not be deterministic, the fastest found by trial, TF32 for float32 convolutions."""
    cudnn = torch.backends.cudnn
    before = torch.are_deterministic_algorithms_enabled(), cudnn.benchmark, cudnn.allow_tf32
    try:
        torch.use_deterministic_algorithms(False)
        cudnn.benchmark = cudnn.allow_tf32 = True
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        cudnn.benchmark, cudnn.allow_tf32 = before[1:]


def compared(
    name: str, peer: str, seconds: dict[str, float], splits: Splits, settings: Settings, **more: Any
) -> dict[str, Any]:
    """Seconds for a step of two cases; what they mean for a run, and beside the least arithmetic of the network."""
    side, classes, duration = splits[0].side, len(splits[0].classes), seconds[name]
    found = {"steps_per_s": 1 / duration}
    if side == SIDE:  # an epoch of CIFAR-10, its evaluation left out
        found["hours_300_epochs"] = duration * (COUNT // settings.batch) * EPOCHS / 3600
    peak = next((p for gpu, p in PEAKS.items() if device_name(settings.where).startswith(gpu)), None)
    if peak and not name.startswith("float32"):
        operations = 3 * 2 * count(settings.model, classes, side).macs * settings.batch  # forward, and twice backward
        found["floor_percent"] = 100 * operations / peak / duration
    shape = f"{settings.batch}x3x{side}x{side}"
    return entry(name, shape, peer, seconds, name, peer, **found, **more)
