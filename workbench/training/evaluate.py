"""Top-1 and top-5 error in percent, and the mean loss, on a whole split."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workbench.datasets.memory import Batches
from workbench.training.processes import Processes
from workbench.training.update import autocast


def evaluation_batch(device: torch.device, side: int) -> int:
    """Pictures at a time: a GPU needs many small ones to be busy, and memory bounds the large."""
    return 100 if side > 64 else 2500 if device.type == "cuda" else 500


def evaluate(
    network: nn.Module, batches: Batches, precision: str = "float32", processes: Processes | None = None
) -> dict[str, float]:
    """{"loss", "top1_error", "top5_error"}, errors in percent; the mode of the network is restored.

    processes: those that share the split, each with its own batches of it.
    """
    training = network.training
    network.eval()
    sums = torch.zeros(3, dtype=torch.float64, device=batches.device)  # loss, misses, misses among five
    try:
        with torch.no_grad(), autocast(batches.device, precision):
            for x, labels in batches.ordered():
                logits = network(x).float()
                loss = F.cross_entropy(logits, labels, reduction="sum")
                sums += torch.cat([loss.double()[None], misses(logits, labels)])
    finally:
        network.train(training)
    if processes:
        sums = processes.sum(sums)
    loss, top1, top5 = (sums / len(batches.split)).tolist()
    return {"loss": loss, "top1_error": 100 * top1, "top5_error": 100 * top5}


def misses(logits: Tensor, labels: Tensor) -> Tensor:
    """(2,) float64: how many labels are not the first, and not among the first five."""
    best = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
    return torch.stack([(~best[:, 0]).sum(), (~best.any(1)).sum()]).double()
