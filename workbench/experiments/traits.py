"""What a trained network does, in numbers that stand in the record of its run: see observed.py for who reads them."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from workbench.attention import attentions

PICTURES = 1024  # of the test split, evenly spread, that a mean gate is taken over
CHUNK = 64


def learned(network: nn.Module, test: Any) -> dict[str, Any]:
    """{"contribution": [share of each connection], "attention": {"1.2": mean gate over test pictures}}, what there is.

    Of several connected dimensions the first is "contribution", another one "contribution_spatial".
    """
    from workbench.explain import maps

    found = shares(network)
    if any(block.dim == "channel" for block in attentions(network)):
        found["attention"] = dict(maps.layer_means(network, _spread(test, next(network.parameters()).device)))
    return found


def shares(network: nn.Module) -> dict[str, Any]:
    """{"contribution": [share of each connection]}, where there are connections."""
    from workbench.explain import maps

    found: dict[str, Any] = {}
    if any(block.connection is not None for block in attentions(network)):
        known = maps.contribution(network)
        for share in known:
            key = "contribution" if share.dim == known[0].dim else f"contribution_{share.dim}"
            found.setdefault(key, []).append(share.ratio)
    return found


def normalised(split: Any, index: Sequence[int]) -> tuple[Tensor, Tensor]:
    """These pictures as they are, (n, H, W, 3) uint8, and as the network reads them, (n, 3, H, W) float32."""
    pictures = split.at(index)
    mean, std = (torch.tensor(values) * 255 for values in (split.mean, split.std))
    return pictures, ((pictures.float() - mean) / std).permute(0, 3, 1, 2)


def _spread(test: Any, device: torch.device) -> Iterator[Tensor]:
    index = range(0, len(test), max(1, len(test) // PICTURES))[:PICTURES]
    for start in range(0, len(index), CHUNK):
        yield normalised(test, index[start : start + CHUNK])[1].to(device)
