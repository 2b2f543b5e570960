"""The random generators of a process; whether tensors are those that were saved; a state as bytes."""

import json
import random
from typing import Any

import numpy as np
import torch
from safetensors.torch import load as tensors_of
from safetensors.torch import save as bytes_of
from torch import Tensor


def random_state() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The states of torch's generators, and of Python's and numpy's as JSON values."""
    tensors = {"torch": torch.get_rng_state()}
    if torch.cuda.is_initialized():  # not for a run on the CPU: to ask is to take memory there
        tensors["cuda"] = torch.cuda.get_rng_state()
    legacy: Any = np.random.get_state(legacy=True)
    return tensors, {"python": random.getstate(), "numpy": [legacy[1].tolist(), *legacy[2:]]}


def set_random_state(tensors: dict[str, Tensor], scalars: dict[str, Any]) -> None:
    """Put back what `random_state` returned; raises KeyError, TypeError or ValueError when something is missing."""
    torch.set_rng_state(tensors["torch"])
    if torch.cuda.is_initialized() and "cuda" in tensors:
        torch.cuda.set_rng_state(tensors["cuda"])
    version, keys, gauss = scalars["python"]
    random.setstate((version, tuple(keys), gauss))
    keys, position, *normal = scalars["numpy"]
    if not 0 <= position <= len(keys) == 624:
        raise ValueError(f"numpy's generator at position {position} of {len(keys)}")  # numpy itself would read on
    np.random.set_state(("MT19937", keys, position, *normal))


def alike(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Raise ValueError naming the first tensor that is missing, extra, or of another shape or type."""
    for name in {**expected, **found}:
        have, want = found.get(name), expected.get(name)
        if have is None or want is None or have.shape != want.shape or have.dtype != want.dtype:
            raise ValueError(f"tensor {name!r} is missing, extra, or of another shape or type")


def pack(tensors: dict[str, dict[str, Tensor]], scalars: dict[str, Any]) -> bytes:
    """Tensors by group and name, and JSON values, as one safetensors file."""
    flat = {
        f"{group}/{name}": value.contiguous() for group, values in tensors.items() for name, value in values.items()
    }
    told = json.dumps({"groups": [*tensors], "scalars": scalars})  # a group may be empty
    return bytes_of(flat | {"told": torch.frombuffer(bytearray(told.encode()), dtype=torch.uint8)})


def unpack(data: bytes) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """What `pack` took."""
    flat = tensors_of(data)
    told = json.loads(bytes(flat.pop("told").numpy()))
    tensors: dict[str, dict[str, Tensor]] = {group: {} for group in told["groups"]}
    for key, value in flat.items():
        group, _, name = key.partition("/")
        tensors[group][name] = value
    return tensors, told["scalars"]
