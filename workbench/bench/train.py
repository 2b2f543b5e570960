"""A training step of ours beside a plain PyTorch loop around the same network."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from workbench.bench.breakdown import breakdown
from workbench.bench.packs import apart, packs
from workbench.bench.settings import Settings, pictures
from workbench.bench.steps import Splits, compared, made, many, ours, plain
from workbench.bench.timing import Case, interleaved
from workbench.build import image_size
from workbench.compiled import compiled, has_compiler
from workbench.errors import OutOfMemory

Entries = Iterator[dict[str, Any]]
MODEL = "resnet56"
PACKS = (2, 4, 8)
PLAIN, HALF, LAST = "plain float32", "plain bf16", "plain bf16 channels_last"
BF16, FLOAT32, STARTED = "bf16", "float32", "bf16, not recorded"
COMPILED, PLAIN_COMPILED = "bf16 compiled", "plain bf16 compiled"


def train(settings: Settings) -> tuple[dict[str, Any], Entries]:
    """The network and its pictures, and the entries."""
    settings = replace(settings, model=settings.model or MODEL)
    name, *splits = pictures(settings, image_size(settings.model))
    facts = {"model": settings.model, "pictures": name, "batch": settings.batch}
    return facts, entries((splits[0], splits[1]), settings)


def entries(splits: Splits, settings: Settings) -> Entries:
    """What is least likely to work comes last; where something fails, the rest goes on."""
    yield from alone(splits, settings)
    if settings.device == "cuda":
        yield from tried("runs together", packs(splits, settings, PACKS))
        yield from tried("processes", apart(splits, settings, PACKS))
    if settings.profile:
        yield from tried("profile", breakdown(settings.model, made(splits, settings), settings.rounds))
    if settings.compiled:
        yield from tried("compiled", through_compiler(splits, settings))


def tried(name: str, found: Entries) -> Entries:
    """The entries; where PyTorch fails among them, an entry that says so."""
    try:
        yield from found
    except (RuntimeError, OutOfMemory) as error:
        yield {"name": name, "failed": f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"}


def alone(splits: Splits, settings: Settings) -> Entries:
    """A step of ours in both precisions, beside the plain loops; on a GPU recorded, and with each kernel started."""
    cases = {name: ours(made(splits, settings, name), many(settings)) for name in (BF16, FLOAT32)}
    cases[PLAIN] = plain(splits, settings, FLOAT32)
    cases[HALF] = plain(splits, settings, BF16)
    cases[LAST] = plain(splits, settings, BF16, torch.channels_last)
    pairs = [(BF16, PLAIN), (FLOAT32, PLAIN), (BF16, HALF), (BF16, LAST)]
    if settings.device == "cuda":
        training = made(splits, settings)
        training.update.recorder = None
        cases[STARTED] = ours(training, many(settings))
        pairs += [(BF16, STARTED), (STARTED, LAST)]
    yield from beside(cases, pairs, splits, settings)


def through_compiler(splits: Splits, settings: Settings) -> Entries:
    """Both by torch.compile, ours recorded as ever, the plain loop by "reduce-overhead", which records graphs too."""
    if not has_compiler():
        raise RuntimeError("There is no C++ compiler here.")
    last = torch.channels_last
    cases = {
        BF16: ours(made(splits, settings), many(settings)),
        COMPILED: ours(made(splits, settings, compiled=True), many(settings)),
        LAST: plain(splits, settings, BF16, last),
        PLAIN_COMPILED: plain(splits, settings, BF16, last, partial(compiled, mode="reduce-overhead")),
    }
    pairs = [(COMPILED, LAST), (COMPILED, PLAIN_COMPILED), (BF16, PLAIN_COMPILED), (COMPILED, BF16)]
    yield from beside(cases, pairs, splits, settings)


def beside(cases: dict[str, Case], pairs: list[tuple[str, str]], splits: Splits, settings: Settings) -> Entries:
    """An entry for each pair of cases, from one run in which all take turns."""
    times = interleaved(cases, settings.rounds, settings.where)
    seconds = {name: duration / many(settings) for name, duration in times.items()}
    for name, peer in pairs:
        yield compared(name, peer, seconds, splits, settings)
