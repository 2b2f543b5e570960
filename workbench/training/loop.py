"""The training of a classifier.  Everything it does is a function of (network, splits, recipe, seed)."""

import logging
import math
from typing import Any

import torch
from torch import nn

from workbench.compiled import compiled as through_compiler
from workbench.datasets.memory import Split
from workbench.errors import Diverged
from workbench.training.checkpoint import Tensors
from workbench.training.evaluate import evaluate, evaluation_batch
from workbench.training.processes import Processes
from workbench.training.recipe import Recipe
from workbench.training.refusals import check_batch, check_single
from workbench.training.run import LOOK, Run
from workbench.training.update import Update

__all__ = ["LOOK", "Training"]
log = logging.getLogger(__name__)


class Training(Run):
    """A run by cross-entropy, measured in top-1 and top-5 errors.

    device, compiled (torch.compile), workers (processes that decode pictures), recorded (on a GPU, steps replayed as a
    CUDA graph) are settings of the machine, not of the experiment; the first two change the last bits.
    """

    update: Update

    def __init__(
        self,
        network: nn.Module,
        train: Split,
        test: Split,
        recipe: Recipe,
        seed: int,
        device: str | Processes = "auto",
        compiled: bool = False,
        workers: int = 0,
        recorded: bool = True,
    ):
        processes = device if isinstance(device, Processes) else Processes(device)
        share = processes.rank, processes.count
        check_batch(recipe, len(train), share[1])
        if recipe.batch == recipe.accumulate:
            check_single(network, train, recipe)
        super().__init__(network, recipe, seed, processes, len(train))
        self.compiled = compiled
        with torch.cuda.stream(self._stream):
            self.train = train.batches(self.device, recipe.batch, share, workers)
            self.test = test.batches(self.device, evaluation_batch(self.device, test.side), share, workers)
            network.to(memory_format=torch.channels_last)
            self._joined = processes.join(network)
            self.network = through_compiler(self._joined) if compiled else self._joined
            self.update = Update(network, self.network, self.train, recipe, processes, recorded)

    def open(self, epoch: int, number: int) -> None:
        self.train.open(self.seed, epoch, number)

    def advance(self) -> None:
        self.train.advance()
        if not self.network.training:
            self.network.train()

    def measure(self) -> dict[str, float]:
        """Losses, and errors in percent."""
        steps = self.position - len(self.history) * self.steps_per_epoch
        loss, missed = (self.update.progress / steps).tolist()
        tested = evaluate(self.network, self.test, self.recipe.precision, self.processes)
        if not math.isfinite(tested["loss"]):
            raise Diverged(
                f"Test loss {tested['loss']} after epoch {len(self.history) + 1}. Try a lower learning rate."
            )
        return {
            "train_loss": loss,
            "train_top1_error": 100 * missed,
            "test_loss": tested["loss"],
            "test_top1_error": tested["top1_error"],
            "test_top5_error": tested["top5_error"],
        }

    def close(self) -> None:
        self.train.close()
        self.test.close()

    def load_state(self, tensors: Tensors, scalars: dict[str, Any]) -> None:
        """As of every run; on to the network as it was begun, compiled or not."""
        before = self.compiled
        super().load_state(tensors, scalars)
        if self.compiled != before:
            log.warning("The run was begun %scompiled, and continues so.", "" if self.compiled else "un")
            self.network = self.update.forward = through_compiler(self._joined) if self.compiled else self._joined
