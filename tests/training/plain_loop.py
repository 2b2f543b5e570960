"""A plain PyTorch loop, the oracle of the engine: of the workbench it takes only the random draws."""

import numpy as np
import torch
import torch.nn.functional as F

from workbench.datasets.memory import augmentation, order


def train(network, split, recipe, seed, steps):
    """Make `steps` updates of `network`; returns the learning rate of each."""
    network.to(memory_format=torch.channels_last).train()
    settings = {"momentum": recipe.momentum, "nesterov": recipe.nesterov, "weight_decay": recipe.weight_decay}
    optimizer = torch.optim.SGD(network.parameters(), lr=recipe.lr, fused=True, **settings)
    per_epoch, schedulers = len(split) // recipe.batch, torch.optim.lr_scheduler
    if recipe.schedule == "onecycle":
        total = recipe.epochs * per_epoch
        scheduler = schedulers.OneCycleLR(optimizer, recipe.lr, total_steps=total, cycle_momentum=False)
    else:
        scheduler = schedulers.MultiStepLR(optimizer, [m * per_epoch for m in recipe.milestones], recipe.gamma)
    rates = []
    for step in range(steps):
        epoch, number = divmod(step, per_epoch)
        permutation, draws = order(seed, epoch, len(split)), augmentation(seed, epoch, split)
        chosen = permutation[number * recipe.batch : (number + 1) * recipe.batch].tolist()
        x = torch.stack([picture(split, i, *draws[i].tolist()) for i in chosen])
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bf16"):
            logits = network(x.contiguous(memory_format=torch.channels_last))
        loss = F.cross_entropy(logits.float(), split.labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def picture(split, i, row, column, flip):
    """Picture i padded, cut, flipped and normalised: (3, H, W)."""
    _, height, width, _ = split.pictures.shape
    padded = np.pad(split.pictures[i].numpy(), ((split.pad, split.pad), (split.pad, split.pad), (0, 0)))
    cut = padded[row : row + height, column : column + width]
    if flip:
        cut = cut[:, ::-1]
    mean, std = (torch.tensor(values) * 255 for values in (split.mean, split.std))
    return (torch.from_numpy(cut.copy()) * (1 / std) - mean / std).permute(2, 0, 1)
