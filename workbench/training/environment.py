"""What a record says about the machine and the code that made it."""

import hashlib
import platform
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from workbench.files import PACKAGE

NUMERICS = ("attention", "backbones", "datasets", "training", "build.py")


def environment(device: torch.device) -> dict[str, Any]:
    """Device, settings and versions; none of these is part of an experiment's key."""
    packages = ("torch", "torchvision", "accelerate", "numpy")
    return {
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "compiled": False,
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
        "code": code_version(),
    }


def device_name(device: torch.device) -> str:
    """The GPU's name, or the CPU's own where the system tells it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


@cache
def code_version() -> str:
    """Eight hexadecimal digits of the sources that compute numbers."""
    digest = hashlib.sha256()
    for name in NUMERICS:
        root = PACKAGE / name
        for path in sorted(root.rglob("*.py")) if root.is_dir() else [root]:
            digest.update(path.relative_to(PACKAGE).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:8]
