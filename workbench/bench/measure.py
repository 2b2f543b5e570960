"""The benches by name."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from workbench.bench import attention
from workbench.bench.data import data
from workbench.bench.detect import detect
from workbench.bench.settings import Settings
from workbench.bench.train import train
from workbench.training.environment import environment

Found = tuple[dict[str, Any], Iterator[dict[str, Any]]]


def measure(what: str, settings: Settings) -> Found:
    """The machine, and the entries of one bench as they are measured."""
    torch.manual_seed(0)
    facts, entries = BENCHES[what](settings)
    machine = environment(settings.where, settings.compiled)
    return {**machine, **facts, "rounds": settings.rounds}, entries


def modules(bench: Callable[..., Iterator[dict[str, Any]]], settings: Settings) -> Found:
    """Single modules beside others'."""
    entries = bench(settings.where, getattr(torch, settings.dtype), settings.rounds, settings.compiled)
    return {"dtype": settings.dtype, "batch": attention.BATCH}, entries


BENCHES: dict[str, Callable[[Settings], Found]] = {
    "attention": partial(modules, attention.attention),
    "aw": partial(modules, attention.aw),
    "data": data,
    "detect": detect,
    "train": train,
}
