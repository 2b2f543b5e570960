"""torchvision's networks as oracles: float64, with random weights and running statistics that do something."""

import torch


def lively(make):
    """The network that `make` returns, filled from torch's seed 0, in evaluation mode."""
    torch.manual_seed(0)
    with torch.device("meta"):
        network = make().double()
    network.to_empty(device="cpu")
    for key, value in network.state_dict().items():
        if value.dim() > 1:
            value.normal_(0, (2 / value[0].numel()) ** 0.5)
        elif value.is_floating_point():
            value.uniform_(-0.5, 0.5) if key.endswith(("mean", "bias")) else value.uniform_(0.2, 0.5)
        else:
            value.zero_()  # the number of batches tracked
    return network.eval()


def same_names(ours, theirs):
    return [key for key, _ in ours.named_parameters()] == [key for key, _ in theirs.named_parameters()]
