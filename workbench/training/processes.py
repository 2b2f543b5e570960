"""The processes that share one run: Accelerate starts and joins them; alone, every function here is the identity.

A run is the same experiment on any number of processes: the batch is the recipe's, shared out; gradients and the
statistics of BN are those of the whole batch; only the main process writes.
"""

import torch
import torch.distributed as dist
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from workbench.errors import OutOfRange

DEVICES = ("auto", "cpu", "cuda")


def check_device(device: str) -> None:
    """Raise OutOfRange for another name, or where a GPU is asked for and none is here."""
    if device not in DEVICES:
        raise OutOfRange(f"Device {device!r}: use {' or '.join(DEVICES)}.")
    if device == "cuda" and not torch.cuda.is_available():
        raise OutOfRange("Device cuda: PyTorch sees no GPU here; use auto or cpu.")


class Processes:
    """device: "auto", "cpu" or "cuda"; raises OutOfRange where that is not to be had."""

    def __init__(self, device: str = "auto"):
        check_device(device)
        # one process trains many runs, on the CPU and on the GPU; Accelerate would keep the first one's device
        AcceleratorState._reset_state(reset_partial_state=not dist.is_initialized())
        # static_graph: some parameters of a network may get no gradient (DCA's first connection)
        settings = DistributedDataParallelKwargs(static_graph=True)
        plain = {"mixed_precision": "no", "dynamo_backend": "no"}  # not as `accelerate config` says: a recipe says it
        self._accelerator = Accelerator(cpu=device == "cpu", kwargs_handlers=[settings], **plain)
        self.device = self._accelerator.device
        self.rank, self.count = self._accelerator.process_index, self._accelerator.num_processes
        self.main = self.rank == 0

    def join(self, network: nn.Module) -> nn.Module:
        """The network on the device, its gradients averaged over the processes, its BN over the whole batch."""
        if self.count > 1 and self.device.type == "cuda":
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        elif self.count > 1:
            _synchronise(network)
        return self._accelerator.prepare(network)

    def sum(self, values: Tensor) -> Tensor:
        """The sum over the processes."""
        return self._accelerator.reduce(values, "sum") if self.count > 1 else values

    def most(self, values: list[int]) -> list[int]:
        """The largest value over the processes, place by place."""
        if self.count == 1:
            return values
        gathered = self._accelerator.gather(torch.tensor(values, device=self.device)[None])
        return gathered.amax(0).tolist()

    def told(self, data: bytes) -> bytes:
        """The main process's `data`, in every process."""
        if self.count == 1:
            return data
        size = broadcast(torch.tensor(len(data), device=self.device))
        content = torch.zeros(int(size), dtype=torch.uint8, device=self.device)
        if self.main:
            content.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
        return bytes(broadcast(content).cpu().numpy())


class SyncBatchNorm(_BatchNorm):
    """BN over the batches of all processes, for CPUs, where torch.nn.SyncBatchNorm refuses to run.  Equal shares."""

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def _check_input_dim(self, input: Tensor) -> None:
        """Any (N, C, ...)."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        axes = [axis for axis in range(input.dim()) if axis != 1]
        shape = [1, -1] + [1] * (input.dim() - 2)
        x, count = input.float(), input.numel() // input.shape[1] * dist.get_world_size()
        mean = _Sum.apply(x.sum(axes)) / count
        centred = x - mean.view(shape)
        variance = _Sum.apply(centred.square().sum(axes)) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
        y = centred * (variance + self.eps).rsqrt().view(shape)
        return (y * self.weight.view(shape) + self.bias.view(shape)).to(input.dtype)


class _Sum(torch.autograd.Function):
    """The sum over the processes; every process's loss depends on it, so gradients are summed as well."""

    @staticmethod
    def forward(ctx, x):
        x = x.contiguous().clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx, gradient):
        return _Sum.forward(ctx, gradient)


def _synchronise(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            if not (module.affine and module.track_running_stats and module.momentum is not None):
                raise OutOfRange(f"{module} on several CPU processes: BN needs weights and running statistics there.")
            module.__class__ = SyncBatchNorm
