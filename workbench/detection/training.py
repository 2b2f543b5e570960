"""The training of a detector: a run like a classifier's, by the detector's own losses, measured in average precision.

Settings, checkpoints, guard and continuation are those of every run.  On one CPU in float32 a run continued is the run
in one piece, bit for bit; on a GPU it is not promised: kernels of detectors, such as the backward of RoIAlign, add up
in any order, so there only the averages over seeds can be compared.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from workbench.datasets.boxes import Boxes
from workbench.detection.batches import DetectionBatches, as_input
from workbench.detection.coco_map import average_precision
from workbench.detection.detector import Detections, Detector
from workbench.errors import Corrupt, Diverged, OutOfRange
from workbench.training.checkpoint import Tensors
from workbench.training.environment import any_kernels
from workbench.training.processes import Processes
from workbench.training.recipe import Recipe
from workbench.training.refusals import check_batch
from workbench.training.run import Run
from workbench.training.update import Guarded, autocast

TESTED = 8  # pictures at a time


class DetectionUpdate(Guarded):
    """Of a detector, by the sum of its losses.

    batch: pictures and their boxes, on the device; parts: each loss by its name, summed over the epoch's updates.
    """

    network: Detector

    def __init__(self, detector: Detector, recipe: Recipe, processes: Processes):
        super().__init__(detector, recipe, processes, 1)
        self.batch: tuple[list[Tensor], list[Boxes]] = ([], [])
        self.parts: dict[str, Tensor] = {}
        self._latest: dict[str, Tensor] = {}

    def _backward(self) -> tuple[Tensor, Tensor]:
        pictures, targets = self.batch
        size = len(pictures) // self.recipe.accumulate
        whole, self._latest = torch.zeros((), device=self.processes.device), {}
        for start in range(0, len(pictures), size):
            part = slice(start, start + size)
            with autocast(self.processes.device, self.recipe.precision):
                losses = self.network.losses(pictures[part], targets[part])
            losses = {name: loss.float() for name, loss in losses.items()}
            whole += self._part(torch.stack([*losses.values()]).sum()).detach()
            for name, loss in losses.items():
                self._latest[name] = self._latest.get(name, 0) + loss.detach().double() / self.recipe.accumulate
        return whole, whole.double()[None]

    def _apply(self, loss: Tensor, sums: Tensor) -> None:
        super()._apply(loss, sums)
        for name, latest in self._latest.items():  # of a refused update nothing is summed
            self.parts[name] = self.parts.get(name, 0) + torch.where(self.failed > 0, 0, latest)


class DetectionTraining(Run):
    """A run by a detector's losses; in the history each as `train_<name>`, and what COCO calls AP as `test_ap` ...

    train, test: splits with boxes.  device and workers (processes that decode pictures) are settings of the machine;
    a detector's step has no fixed shape, so it is neither compiled nor replayed.
    """

    update: DetectionUpdate

    def __init__(
        self,
        detector: Detector,
        train: Any,
        test: Any,
        recipe: Recipe,
        seed: int,
        device: str | Processes = "auto",
        compiled: bool = False,
        workers: int = 0,
        recorded: bool = False,
    ):
        processes = device if isinstance(device, Processes) else Processes(device)
        if compiled or processes.count > 1:
            what = "compiled" if compiled else f"trained by {processes.count} processes together"
            raise OutOfRange(f"Detectors are not {what}; train this one without, on one device.")
        check_batch(recipe, len(train), 1)
        super().__init__(detector, recipe, seed, processes, len(train))
        self.detector = detector
        with torch.cuda.stream(self._stream):
            detector.to(self.device)
            here = (0, 1), workers, self.device
            self.train = DetectionBatches(train, recipe.batch, *here)
            self.test = DetectionBatches(test, TESTED, *here)
            self.update = DetectionUpdate(detector, recipe, processes)
        self._batches: Iterator[tuple[list[Tensor], list[Boxes]]] = iter(())

    def open(self, epoch: int, number: int) -> None:
        self._batches = self.train.epoch(self.seed, epoch, number)

    def advance(self) -> None:
        self.update.batch = next(self._batches)
        if not self.plain.training:
            self.plain.train()

    def step(self) -> None:
        """One update; raises what every run's does, without the promise that kernels add up in one order."""
        with any_kernels():
            super().step()

    def measure(self) -> dict[str, float]:
        """Losses, and average precision in percent."""
        steps = self.position - len(self.history) * self.steps_per_epoch
        losses = {"loss": float(self.update.progress) / steps}
        losses |= {name: float(summed) / steps for name, summed in sorted(self.update.parts.items())}
        with any_kernels():
            tested = evaluate(self.detector, self.test, self.recipe.precision)
        self.update.parts = {}
        return {f"train_{name}": loss for name, loss in losses.items()} | {f"test_{k}": v for k, v in tested.items()}

    def close(self) -> None:
        self.train.close()
        self.test.close()

    def state(self) -> tuple[Tensors, dict[str, Any]]:
        """As of every run, with the sums of the losses by name."""
        tensors, scalars = super().state()
        return tensors, scalars | {"parts": {name: float(summed) for name, summed in self.update.parts.items()}}

    def load_state(self, tensors: Tensors, scalars: dict[str, Any]) -> None:
        super().load_state(tensors, scalars)
        number = {"dtype": torch.float64, "device": self.device}
        try:
            self.update.parts = {name: torch.tensor(summed, **number) for name, summed in scalars["parts"].items()}
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise Corrupt(f"The checkpoint has no sums of losses: {error}. Delete its folder to restart.") from error


@torch.no_grad()
def evaluate(detector: Detector, batches: DetectionBatches, precision: str) -> dict[str, float]:
    """What `coco_map.average_precision` says of a whole split; the mode of the detector is restored.

    Raises Diverged where a box or a score is not finite.
    """
    training = detector.training
    detector.eval()
    found: list[Detections] = []
    truth: list[Boxes] = []
    try:
        with autocast(batches.device, precision):
            for items in batches.ordered():
                pictures = [as_input(item.picture) for item in items]
                found += [Detections(*(values.cpu() for values in one)) for one in detector.detect(pictures)]
                truth += [Boxes(*item[1:5]) for item in items]
    finally:
        detector.train(training)
    if not all(values.isfinite().all() for one in found for values in (one.boxes, one.scores)):
        raise Diverged("A box or a score that the detector gives is not finite. Try a lower learning rate.")
    split: Any = batches.split
    return average_precision(found, truth, len(split.classes))
