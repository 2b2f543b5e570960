"""The training loop, on Accelerate.  Everything it does is a function of (network, splits, recipe, seed)."""

import contextlib
import copy
import math
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from workbench.datasets.memory import Batches, Split, augmentation, order
from workbench.errors import Corrupt, Diverged, Interrupted, OutOfRange
from workbench.training.checkpoint import Checkpoints
from workbench.training.environment import device_name
from workbench.training.evaluate import evaluate
from workbench.training.recipe import Recipe

DEVICES = ("auto", "cpu", "cuda")
MIXED_PRECISION = {"float32": "no", "bf16": "bf16"}


class Training:
    """One run: its network, optimizer, position and history.  `step` makes one update, `run` all that remain."""

    def __init__(self, network: nn.Module, train: Split, test: Split, recipe: Recipe, seed: int, device: str = "auto"):
        if recipe.batch > len(train):
            raise OutOfRange(f"Batch {recipe.batch} exceeds the {len(train)} training pictures; use at most that many.")
        if recipe.batch == 1:
            _trains_alone(network, train)
        if device not in DEVICES:
            raise OutOfRange(f"Device {device!r}: use {' or '.join(DEVICES)}.")
        if device == "cuda" and not torch.cuda.is_available():
            raise OutOfRange("Device cuda: PyTorch sees no GPU here; use auto or cpu.")
        AcceleratorState._reset_state()  # one process trains many runs, each with its own precision
        self.accelerator = Accelerator(cpu=device == "cpu", mixed_precision=MIXED_PRECISION[recipe.precision])
        if self.accelerator.device.type == "cuda":  # on a CPU the kernels used here are deterministic as they are
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(True)
        self.recipe, self.seed = recipe, seed
        self.plain = network
        optimizer = torch.optim.SGD(
            network.to(memory_format=torch.channels_last).parameters(),
            lr=recipe.lr,
            momentum=recipe.momentum,
            nesterov=recipe.nesterov,
            weight_decay=recipe.weight_decay,
        )
        self.network, self.optimizer = self.accelerator.prepare(network, optimizer)
        self.train, self.test = (Batches(split, self.accelerator.device) for split in (train, test))
        self.steps_per_epoch = len(train) // recipe.batch  # the incomplete last batch is dropped
        self.position = 0  # updates made
        self.history: list[dict[str, float]] = []
        self.elapsed_s = 0.0
        self.machines = [self._machine()]  # more than one when a run moved; then its bits are no promise
        self.progress = torch.zeros(2, dtype=torch.float64, device=self.accelerator.device)  # loss and misses, summed
        self._epoch = -1

    @property
    def done(self) -> bool:
        return len(self.history) == self.recipe.epochs

    def step(self) -> float:
        """One update; returns its loss.

        Raises Diverged before a weight changes if loss or gradient is not finite (BN has then counted the batch), and
        OutOfRange if the network has not as many outputs as the data set has classes.
        """
        epoch, number = divmod(self.position, self.steps_per_epoch)
        if epoch != self._epoch:
            self._order = order(self.seed, epoch, len(self.train.split))
            self._draws = augmentation(self.seed, epoch, self.train.split)
            self._epoch = epoch
        size, share = self.recipe.batch, self.accelerator
        index = self._order[number * size : (number + 1) * size][share.process_index :: share.num_processes]
        x, labels = self.train(index, self._draws)
        lr = self.recipe.lr_at(self.position, self.steps_per_epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.network.train()
        logits = self.network(x)
        if logits.shape[1] != len(self.train.split.classes):
            raise OutOfRange(
                f"The network has {logits.shape[1]} outputs, the data set {len(self.train.split.classes)} classes; "
                f"build it with classes={len(self.train.split.classes)}."
            )
        loss = F.cross_entropy(logits, labels)
        self.optimizer.zero_grad()
        self.accelerator.backward(loss)
        self._refuse_divergence(float(loss.detach()), lr)
        self.optimizer.step()
        with torch.no_grad():
            missed = (logits.argmax(1) != labels).sum()
            self.progress += torch.stack([loss.detach().double(), missed.double() / len(labels)])
        self.position += 1
        return float(loss.detach())

    def close_epoch(self) -> dict[str, float]:
        """Evaluate and append one line to the history: losses, errors in percent, learning rate of the last step."""
        loss, missed = (self.progress / self.steps_per_epoch).tolist()
        tested = evaluate(self.network, self.test)
        if not math.isfinite(tested["loss"]):
            raise Diverged(
                f"Test loss {tested['loss']} after epoch {len(self.history) + 1}. Try a lower learning rate."
            )
        self.history.append(
            {
                "epoch": len(self.history) + 1,
                "lr": self.recipe.lr_at(self.position - 1, self.steps_per_epoch),
                "train_loss": loss,
                "train_top1_error": 100 * missed,
                "test_loss": tested["loss"],
                "test_top1_error": tested["top1_error"],
                "test_top5_error": tested["top5_error"],
            }
        )
        self.progress.zero_()
        return self.history[-1]

    def run(
        self,
        checkpoints: Checkpoints | None = None,
        on_epoch: Callable[["Training"], Any] = lambda training: None,
        on_step: Callable[["Training"], Any] = lambda training: None,
        save_every_s: float = 60,
    ) -> list[dict[str, float]]:
        """Train to the end of the recipe.  SIGINT and SIGTERM finish the step, save, and raise Interrupted."""
        saved = time.monotonic()

        def save() -> None:
            nonlocal saved
            if checkpoints:
                checkpoints.save(self.position, *self.state())
                saved = time.monotonic()

        with _signals() as received:
            while not self.done:
                start = time.monotonic()
                closed = self.position == (len(self.history) + 1) * self.steps_per_epoch
                if closed:
                    self.close_epoch()
                else:
                    self.step()
                self.elapsed_s += time.monotonic() - start
                if closed or time.monotonic() - saved > save_every_s:
                    save()
                (on_epoch if closed else on_step)(self)
                if received and not self.done:
                    save()
                    name = signal.Signals(received[0]).name
                    then = "saved. Run it again to continue." if checkpoints else "there is no checkpoint of it."
                    raise Interrupted(f"{name} after step {self.position}; {then}", received[0])
        return self.history

    def state(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
        """Everything that a continuation needs: tensors by file, and scalars."""
        momentum = {
            f"{number}.{name}": value
            for number, slots in self.optimizer.state_dict()["state"].items()
            for name, value in slots.items()
            if value is not None
        }
        generators = {"torch": torch.get_rng_state()}
        if torch.cuda.is_available():
            generators["cuda"] = torch.cuda.get_rng_state()
        tensors = {
            "model": self.plain.state_dict(),
            "optimizer": momentum,
            "generators": generators,
            "progress": {"progress": self.progress},
        }
        numpy_state: Any = np.random.get_state(legacy=True)
        scalars = {
            "position": self.position,
            "history": self.history,
            "elapsed_s": self.elapsed_s,
            "momentum": list(momentum),
            "threads": torch.get_num_threads(),
            "machines": self.machines,
            "random": {"python": random.getstate(), "numpy": [numpy_state[1].tolist(), *numpy_state[2:]]},
        }
        return tensors, scalars

    def load_state(self, tensors: dict[str, dict[str, Tensor]], scalars: dict[str, Any]) -> None:
        """Continue from what `state` returned; raises Corrupt when a tensor does not belong to this run."""
        try:
            _alike(tensors["model"], self.plain.state_dict())
            parameters = list(self.plain.parameters())
            slots = {name: name.split(".") for name in scalars["momentum"]}
            _alike(tensors["optimizer"], {name: parameters[int(number)] for name, (number, _) in slots.items()})
            self.plain.load_state_dict(tensors["model"])
            state: dict[int, dict[str, Tensor]] = {}
            for name, (number, slot) in slots.items():
                state.setdefault(int(number), {})[slot] = tensors["optimizer"][name]
            groups = self.optimizer.state_dict()["param_groups"]
            self.optimizer.load_state_dict({"state": state, "param_groups": groups})
            torch.set_rng_state(tensors["generators"]["torch"])
            if torch.cuda.is_available() and "cuda" in tensors["generators"]:
                torch.cuda.set_rng_state(tensors["generators"]["cuda"])
            version, keys, gauss = scalars["random"]["python"]
            random.setstate((version, tuple(keys), gauss))
            np.random.set_state(("MT19937", *scalars["random"]["numpy"]))
            torch.set_num_threads(scalars["threads"])
            self.progress.copy_(tensors["progress"]["progress"])
            self.position, self.history = scalars["position"], scalars["history"]
            self.elapsed_s = scalars["elapsed_s"]
            self.machines = list(dict.fromkeys([*scalars["machines"], self._machine()]))
        except (IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise Corrupt(
                f"The checkpoint does not belong to this run: {error}. Delete its folder to restart."
            ) from error

    def _machine(self) -> str:
        return f"{device_name(self.accelerator.device)}, torch {torch.__version__}"

    def _refuse_divergence(self, loss: float, lr: float) -> None:
        gradients = [p.grad for p in self.plain.parameters() if p.grad is not None]
        norm = float(torch.nn.utils.get_total_norm(gradients))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            last = f"last epoch's loss {self.history[-1]['train_loss']:.4g}" if self.history else "in the first epoch"
            raise Diverged(
                f"Loss {loss} with gradient norm {norm} at step {self.position}, lr {lr:g}, {last}. "
                f"Nothing was updated; try a lower learning rate or float32."
            )


def _trains_alone(network: nn.Module, train: Split) -> None:
    """Raise OutOfRange if a BN of the network meets a single value a channel when the batch is one picture."""
    side = train.pictures.shape[1]
    try:
        with torch.no_grad():
            copy.deepcopy(network).to("meta").train()(torch.empty(1, 3, side, side, device="meta"))
    except OutOfRange:  # a ValueError too, but not BN's
        raise
    except ValueError as error:
        raise OutOfRange(f"Batch 1 on {side}x{side} pictures: {error} Use a batch of at least 2.") from error


def _alike(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Raise ValueError naming the first tensor that is missing, extra, or of another shape or type."""
    for name in {**expected, **found}:
        have, want = found.get(name), expected.get(name)
        if have is None or want is None or have.shape != want.shape or have.dtype != want.dtype:
            raise ValueError(f"tensor {name!r} is missing, extra, or of another shape or type")


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect the first SIGINT or SIGTERM; a second one ends the process at once."""
    received: list[int] = []

    def handle(number: int, frame: object) -> None:
        if received:
            os._exit(128 + number)
        received.append(number)

    try:
        before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: the process's own handlers stay
        yield received
        return
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
