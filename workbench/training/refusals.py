"""What cannot be trained, in one sentence each."""

import contextlib
import copy
from collections.abc import Iterator

import torch
from torch import nn

from workbench.datasets.memory import Split
from workbench.errors import OutOfMemory, OutOfRange
from workbench.training.recipe import Recipe


def check_workers(workers: int) -> None:
    """Raise OutOfRange for fewer than none."""
    if workers < 0:
        raise OutOfRange(f"Workers {workers}: it is a number of processes; give 0 or more.")


def check_batch(recipe: Recipe, count: int, processes: int) -> None:
    """Raise OutOfRange if a batch is larger than the split, or cannot be shared out equally."""
    if recipe.batch > count:
        raise OutOfRange(f"Batch {recipe.batch} exceeds the {count} training pictures; use at most that many.")
    if recipe.batch % (processes * recipe.accumulate):
        raise OutOfRange(
            f"Batch {recipe.batch} cannot be shared out equally to {processes} processes, each in {recipe.accumulate} "
            f"parts; use another number of processes."
        )


def check_single(network: nn.Module, train: Split, recipe: Recipe) -> None:
    """Raise OutOfRange if a BN of the network meets a single value a channel when each part is one picture."""
    side = train.side
    try:
        with torch.no_grad():
            copy.deepcopy(network).to("meta").train()(torch.empty(1, 3, side, side, device="meta"))
    except OutOfRange:  # a ValueError too, but not BN's
        raise
    except ValueError as error:
        parts = f" in {recipe.accumulate} parts" if recipe.accumulate > 1 else ""
        least = "parts" if parts else "a batch"
        raise OutOfRange(
            f"Batch {recipe.batch}{parts} on {side}x{side} pictures: {error} Use {least} of at least 2."
        ) from error


@contextlib.contextmanager
def one_sentence(recipe: Recipe) -> Iterator[None]:
    """What PyTorch says of memory and determinism, as errors that say what to do; raised outside of its own."""
    failure: Exception
    try:
        yield
        return
    except RuntimeError as error:
        text = str(error).partition("\n")[0]
        if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in text:
            failure = OutOfMemory(
                f"Out of memory with batch {recipe.batch} in {recipe.accumulate} parts ({text}). What was saved is "
                f"whole. Use a recipe with a larger `accumulate` or a smaller batch, or another device."
            )
        elif "does not have a deterministic implementation" in text:
            failure = OutOfRange(f"{text.partition(', but')[0]}: a run with it could not be repeated. Use another op.")
        else:
            raise
        error.__traceback__ = None  # its frames hold the tensors that did not fit
    try:
        raise failure
    finally:
        del failure  # this frame, which its traceback holds, would hold it in turn, and with it the run
