"""What all runs share, whatever they train: position, history, turns, signals, checkpoints, continuation."""

import logging
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from typing import Any

import numpy as np
import torch
from torch import nn

from workbench.errors import Corrupt, Diverged, Interrupted
from workbench.training.checkpoint import Checkpoints, Tensors
from workbench.training.environment import deterministic, device_name
from workbench.training.processes import Processes
from workbench.training.recipe import Recipe
from workbench.training.refusals import one_sentence
from workbench.training.signals import Signals
from workbench.training.state import alike, random_state, set_random_state
from workbench.training.update import Guarded

log = logging.getLogger(__name__)

LOOK = 50  # updates that a GPU is given before the host looks how they went; on a CPU it looks at each
SIGNALS = Signals()


class Run(ABC):
    """One run: its network, position and history.  `step` makes one update, `run` all that remain.

    A subclass sets `update`, which trains `plain`, and says how a batch is made ready and what is measured.
    """

    update: Guarded

    def __init__(self, network: nn.Module, recipe: Recipe, seed: int, processes: Processes, pictures: int):
        self.processes, self.device = processes, processes.device
        if self.device.type == "cuda":
            deterministic()
        self.recipe, self.seed, self.plain, self.compiled = recipe, seed, network, False
        self._stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        self.steps_per_epoch = pictures // recipe.batch  # the incomplete last batch is dropped
        self.updates = recipe.length(self.steps_per_epoch)
        self.position = 0  # updates made
        self.history: list[dict[str, float]] = []
        self.elapsed_s = 0.0
        self.machines = [self._machine()]  # more than one when a run moved; then its bits are no promise
        self._epoch = -1

    @abstractmethod
    def open(self, epoch: int, number: int) -> None:
        """Begin an epoch at its batch of this number."""

    @abstractmethod
    def advance(self) -> None:
        """Make the next batch ready, and the network for training."""

    @abstractmethod
    def measure(self) -> dict[str, float]:
        """What the history says of the epoch that ends: losses, and what the test split gives; raises Diverged."""

    @abstractmethod
    def close(self) -> None:
        """Let go of what the batches hold besides memory."""

    @property
    def done(self) -> bool:
        return len(self.history) == self.recipe.epochs

    @property
    def epoch_end(self) -> int:
        """The update after which the epoch under way ends; the last may be cut short."""
        return min((len(self.history) + 1) * self.steps_per_epoch, self.updates)

    def step(self) -> None:
        """One update.

        Raises Diverged if loss or gradient is not finite, with the weights as they were before (BN has then counted the
        batch), on a GPU only by `look`; OutOfRange if the network has not as many outputs as the data set has
        classes; OutOfMemory.
        """
        epoch, number = divmod(self.position, self.steps_per_epoch)
        with torch.cuda.stream(self._stream), one_sentence(self.recipe):
            if epoch != self._epoch:
                self.open(epoch, number)
                self.update.cursor.fill_(number)
                self._epoch = epoch
            self.advance()
            if self.processes.rank:
                torch.manual_seed(self._own_seed())
            self.update(self.recipe.lr_at(self.position, self.steps_per_epoch))
        self.position += 1
        if not self._stream:
            self.look()

    def look(self) -> float:
        """Wait for the updates so far; the loss of the last one.  Raises Diverged if one was refused."""
        with torch.cuda.stream(self._stream):
            failed, loss, norm = self.update.outcome()
            if not failed:
                return loss
            self.position = self._epoch * self.steps_per_epoch + int(self.update.cursor)
        lr = self.recipe.lr_at(self.position, self.steps_per_epoch)
        last = f"last epoch's loss {self.history[-1]['train_loss']:.4g}" if self.history else "in the first epoch"
        raise Diverged(
            f"Loss {loss} with gradient norm {norm} at step {self.position}, lr {lr:g}, {last}. "
            f"Nothing was updated; try a lower learning rate or float32."
        )

    def close_epoch(self) -> dict[str, float]:
        """Append one line to the history: learning rate of the last step, and what `measure` says."""
        self.look()
        with torch.cuda.stream(self._stream), one_sentence(self.recipe):
            measured = self.measure()
            self.update.progress.zero_()
        lr = self.recipe.lr_at(self.position - 1, self.steps_per_epoch)
        self.history.append({"epoch": len(self.history) + 1, "lr": lr} | measured)
        return self.history[-1]

    def run(self, *given: Any, **named: Any) -> list[dict[str, float]]:
        """Train to the end of the recipe; takes what `turns` takes, and returns the history."""
        for _ in self.turns(*given, **named):
            pass
        return self.history

    def turns(
        self,
        checkpoints: Checkpoints | None = None,
        on_epoch: Callable[["Run"], Any] = lambda training: None,
        on_step: Callable[["Run"], Any] = lambda training: None,
        save_every_s: float = 60,
    ) -> Generator[None]:
        """Train to the end of the recipe, giving way to other runs: after every step, or where a GPU would be awaited.

        SIGINT and SIGTERM finish the step, save, and raise Interrupted; who closes the generator has it saved, too.
        """
        saved = now = time.monotonic()

        def save() -> None:
            nonlocal saved
            self.look()
            if checkpoints and self.processes.main:
                checkpoints.save(self.position, *self.state())
            saved = time.monotonic()

        with SIGNALS as received:
            try:
                while not self.done:
                    closed = self.position == self.epoch_end
                    if self._stream and (closed or self.position % LOOK == 0):
                        left = time.monotonic()
                        yield
                        now += time.monotonic() - left  # that was the others' time
                        self.look()
                    (self.close_epoch if closed else self.step)()
                    before, now = now, time.monotonic()
                    self.elapsed_s += now - before
                    if closed or self._agree(now - saved > save_every_s):
                        save()
                    (on_epoch if closed else on_step)(self)
                    number = self._agree(received[0] if received else 0)
                    if number and not self.done:
                        save()
                        name = signal.Signals(number).name
                        then = "saved. Run it again to continue." if checkpoints else "there is no checkpoint of it."
                        raise Interrupted(f"{name} after step {self.position}; {then}", number)
                    if not self._stream:
                        left = time.monotonic()
                        yield
                        now += time.monotonic() - left
            except GeneratorExit:
                save()
                raise
            finally:
                self.close()

    def _agree(self, value: int) -> int:
        """The largest value over the processes; on GPUs they ask each other only where the host looks."""
        asked = self.processes.count == 1 or not self._stream or self.position % LOOK == 0
        return self.processes.most([int(value)])[0] if asked else 0

    def state(self) -> tuple[Tensors, dict[str, Any]]:
        """Everything that a continuation needs: tensors by file, and scalars."""
        generators, random_scalars = random_state()
        scalars = {
            "position": self.position,
            "history": self.history,
            "elapsed_s": self.elapsed_s,
            "threads": torch.get_num_threads(),
            "compiled": self.compiled,
            "machines": self.machines,
            "random": random_scalars,
        }
        return self.tensors() | {"generators": generators}, scalars

    def load_state(self, tensors: Tensors, scalars: dict[str, Any]) -> None:
        """Continue from what `state` returned; raises Corrupt when a tensor does not belong to this run.

        Thread count and compilation are taken from there as well, since they change the last bits.
        """
        try:
            own = self.tensors()
            for group, expected in own.items():
                alike(tensors[group], expected)
            with torch.cuda.stream(self._stream), torch.no_grad():
                for group, expected in own.items():
                    for name, value in expected.items():
                        value.copy_(tensors[group][name])  # in place: a recorded step goes on with the same memory
            set_random_state(tensors["generators"], scalars["random"])
            torch.set_num_threads(scalars["threads"])
            self.position, self.history = scalars["position"], scalars["history"]
            self.elapsed_s = scalars["elapsed_s"]
            self.machines = list(dict.fromkeys([*scalars["machines"], self._machine()]))
            self.compiled = scalars["compiled"]
        except (IndexError, KeyError, OverflowError, RuntimeError, TypeError, ValueError) as error:
            raise Corrupt(
                f"The checkpoint does not belong to this run: {error}. Delete its folder to restart."
            ) from error
        self._epoch = -1
        here = self._machine()
        if others := [machine for machine in self.machines if machine != here]:
            log.warning("The run continues on %s; partly made on %s, its bits are no promise.", here, ", ".join(others))

    def tensors(self) -> Tensors:
        """What an update changes, where it lies: weights and statistics, momentum, and the epoch so far."""
        slots, update = self.update.optimizer.state, self.update
        named = self.plain.named_parameters()
        return {
            "model": self.plain.state_dict(),
            "optimizer": {name: slots[weight]["momentum_buffer"] for name, weight in named if weight in slots},
            "progress": {"progress": update.progress, "scale": update.scale},
        }

    def _own_seed(self) -> int:
        """Of this step in this process; with one seed for all, every process would drop the same activations."""
        sequence = np.random.SeedSequence((self.seed, self.processes.rank, self.position))
        return int(sequence.generate_state(1, np.uint64)[0] >> 1)

    def _machine(self) -> str:
        return f"{device_name(self.device)}, torch {torch.__version__}"
