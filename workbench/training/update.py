"""One update of the weights, all on the device: batch, forward, backward, guard, SGD.

It never waits for the host and reads only memory that stays where it is.  So a GPU records it once as a CUDA graph and
replays it: a CIFAR ResNet is hundreds of kernels of microseconds, and starting them one by one takes far longer than
running them.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from workbench.datasets.memory import Batches
from workbench.errors import OutOfRange
from workbench.training.processes import Processes
from workbench.training.recipe import Recipe

PRECISIONS = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
SCALE, PATIENCE = 2.0**16, 2000  # of the loss in fp16: its first value, and the good updates after which it doubles
WARM = 3  # updates before the recording: they allocate, choose kernels, and compile


class Outcome(NamedTuple):
    """Loss and gradient norm of the last update, or of the first that was refused."""

    failed: bool
    loss: float
    norm: float


class Guarded(ABC):
    """SGD on a network by a loss that a subclass computes; recorded: replay it, on one GPU.

    An update whose loss or gradient is not finite changes nothing but the running statistics of BN, and neither does
    any update after it.  In fp16 a gradient that overflows is skipped and the scale of the loss halved (Micikevicius et
    al., ICLR 2018, with the constants of torch.amp.GradScaler); a scale below 1 counts as not finite.

    sums: how many numbers are summed over the updates of an epoch, the loss first.
    """

    def __init__(self, network: nn.Module, recipe: Recipe, processes: Processes, sums: int, recorded: bool = False):
        self.network, self.recipe, self.processes = network, recipe, processes
        device = processes.device
        self.parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self.optimizer = sgd(self.parameters, recipe, device)
        self.half = recipe.precision == "fp16"
        number = {"device": device, "dtype": torch.float32}
        self.cursor = torch.zeros((), device=device, dtype=torch.int64)  # of the next batch of the epoch
        self.progress = torch.zeros(sums, device=device, dtype=torch.float64)
        self.failed, self.last = torch.zeros((), **number), torch.zeros(2, **number)
        self.scale = torch.full((2,), SCALE if self.half else 1, **number)  # the scale, and its good updates in a row
        self.scale[1] = 0
        self.recorder: Recorded | None = None
        if recorded and device.type == "cuda" and processes.count == 1 and _replays(network):
            self.recorder = Recorded()

    def __call__(self, lr: float) -> None:
        """Queue one update at this learning rate."""
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(lr)
            else:
                group["lr"] = lr
        if self.recorder:
            self.recorder(self._update)
        else:
            self._update()

    def outcome(self) -> Outcome:
        """What became of the updates queued so far; waits for them."""
        loss, norm = self.last.tolist()
        return Outcome(bool(self.failed), loss, norm)

    def _update(self) -> None:
        self.optimizer.zero_grad()
        self._apply(*self._backward())

    @abstractmethod
    def _backward(self) -> tuple[Tensor, Tensor]:
        """Leave the gradients of the next batch; its loss, () float32, and what is summed, float64, the loss first."""

    def _part(self, loss: Tensor) -> Tensor:
        """Backward through the mean loss of one of the recipe's equal parts of a batch; its share of the whole."""
        share = loss / self.recipe.accumulate
        (share * self.scale[0] if self.half else share).backward()
        return share

    @torch.no_grad()
    def _apply(self, loss: Tensor, sums: Tensor) -> None:
        """The optimizer's step, unless something is not finite."""
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients) / self.scale[0]
        overflow = (~norm.isfinite()).float()
        fatal = (~loss.isfinite()).float()
        fatal = torch.maximum(fatal, (self.scale[0] < 1).float() if self.half else overflow)
        if self.processes.count > 1:
            found = torch.cat([sums, fatal.double()[None]])
            found = (self.processes.sum(found) / self.processes.count).float()
            loss, sums, fatal = found[0], found[:-1].double(), found[-1].ceil()
        self.last.copy_(torch.where(self.failed > 0, self.last, torch.stack([loss, norm])))
        self.failed.copy_(torch.maximum(self.failed, fatal))
        optimizer: Any = self.optimizer  # the fused kernels read these two, as torch.amp.GradScaler sets them
        optimizer.found_inf = torch.maximum(self.failed, overflow)
        optimizer.grad_scale = self.scale[:1] if self.half else None
        self.optimizer.step()
        if self.half:
            self._rescale(overflow)
        done = 1 - self.failed
        self.progress += torch.where(done > 0, sums, 0)
        self.cursor += done.long()

    def _rescale(self, overflow: Tensor) -> None:
        streak = (self.scale[1] + 1) * (1 - overflow)
        grown = (streak >= PATIENCE).float()
        factor = torch.where(overflow > 0, 0.5, 1 + grown)
        self.scale.copy_(torch.stack([self.scale[0] * factor, streak * (1 - grown)]))


class Update(Guarded):
    """Of a classifier, by cross-entropy; summed: loss and share of misses.

    forward: what is called, `network` itself or its compiled or distributed form.
    """

    def __init__(
        self,
        network: nn.Module,
        forward: Callable,
        batches: Batches,
        recipe: Recipe,
        processes: Processes,
        recorded: bool = True,
    ):
        super().__init__(network, recipe, processes, 2, recorded)
        self.forward, self.batches = forward, batches

    def _backward(self) -> tuple[Tensor, Tensor]:
        x, labels = self.batches.batch(self.cursor)
        loss, missed = torch.zeros((), device=x.device), torch.zeros((), device=x.device, dtype=torch.float64)
        for pictures, wanted in zip(*(part.chunk(self.recipe.accumulate) for part in (x, labels)), strict=True):
            with autocast(x.device, self.recipe.precision):
                logits = self.forward(pictures).float()
            self._check(logits)
            share = self._part(F.cross_entropy(logits, wanted))
            with torch.no_grad():
                loss += share
                missed += (logits.argmax(1) != wanted).sum() / len(labels)
        return loss, torch.stack([loss.double(), missed])

    def _check(self, logits: Tensor) -> None:
        classes = len(self.batches.split.classes)
        if logits.shape[1] != classes:
            raise OutOfRange(
                f"The network has {logits.shape[1]} outputs, the data set {classes} classes; "
                f"build it with classes={classes}."
            )


def autocast(device: torch.device, precision: str) -> torch.autocast:
    return torch.autocast(device.type, PRECISIONS[precision], enabled=precision != "float32")


def sgd(parameters: list[nn.Parameter], recipe: Recipe, device: torch.device) -> torch.optim.SGD:
    """SGD as the recipe says, one kernel for all weights; on a GPU its learning rate is memory that it reads."""
    optimizer = torch.optim.SGD(
        parameters,
        lr=torch.tensor(recipe.lr, device=device) if device.type == "cuda" else recipe.lr,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        weight_decay=recipe.weight_decay,
        fused=True,
    )
    if recipe.momentum:  # from the start: a first step that is skipped would leave it unset
        for parameter in parameters:
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def _replays(network: nn.Module) -> bool:
    """Before torch 2.15 all graphs of a process draw from one seed in memory: replays of two runs mix their dropout."""
    drawing = (_DropoutNd, nn.RReLU)
    return torch.__version__ >= "2.15" or not any(isinstance(module, drawing) for module in network.modules())


class Recorded:
    """Calls a function on the current CUDA stream a few times, then records what it starts there, then replays that."""

    def __init__(self) -> None:
        self.calls = 0
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, function: Callable[[], None]) -> None:
        if self.calls == WARM:
            self.graph = self._record(function)
        self.calls += 1
        (self.graph.replay if self.graph else function)()

    def _record(self, function: Callable[[], None]) -> torch.cuda.CUDAGraph:
        """The graph of one call, which is not carried out; raises OutOfRange where the host is asked for something."""
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        stream.synchronize()
        try:  # thread_local: threads that load pictures go on using the device
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                function()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise OutOfRange(
                f"A step of this network cannot be recorded as a CUDA graph ({str(error).partition(chr(10))[0]}). A "
                f"module of yours may wait for the host, as .item() and boolean indexing do; train it with --no-graph."
            ) from error
        return graph
