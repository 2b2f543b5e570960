"""Top-1 and top-5 error in percent, and the mean loss, on a whole split."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workbench.datasets.memory import Batches

EVALUATION_BATCH = 500


def evaluate(network: nn.Module, batches: Batches) -> dict[str, float]:
    """{"loss", "top1_error", "top5_error"}, errors in percent; the mode of the network is restored."""
    training = network.training
    network.eval()
    wrong, loss, count = torch.zeros(2, dtype=torch.float64), 0.0, len(batches.split)
    try:
        with torch.no_grad():
            for index in torch.arange(count).split(EVALUATION_BATCH):
                x, labels = batches(index)
                logits = network(x).float()
                loss += float(F.cross_entropy(logits, labels, reduction="sum"))
                wrong += misses(logits, labels).cpu()
    finally:
        network.train(training)
    top1, top5 = (100 * wrong / count).tolist()
    return {"loss": loss / count, "top1_error": top1, "top5_error": top5}


def misses(logits: Tensor, labels: Tensor) -> Tensor:
    """(2,) float64: how many labels are not the first, and not among the first five."""
    best = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
    return torch.stack([(~best[:, 0]).sum(), (~best.any(1)).sum()]).double()
