"""What a record says about the machine and the code that made it."""

import contextlib
import hashlib
import os
import platform
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from workbench.files import PACKAGE

NUMERICS = ("attention", "backbones", "datasets", "detection", "training", "build.py")


def environment(device: torch.device, compiled: bool = False, processes: int = 1) -> dict[str, Any]:
    """Device, settings and versions; none of these is part of an experiment's key."""
    packages = ("torch", "torchvision", "accelerate", "numpy")
    return {
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "compiled": compiled,
        "processes": processes,
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


def deterministic() -> None:
    """The same bits every time on one GPU; on a CPU the kernels used here are deterministic as they are."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    setting: Any = torch.utils.deterministic
    setting.fill_uninitialized_memory = False  # nothing here reads any, and each fill is a kernel
    torch.backends.cudnn.allow_tf32 = False  # float32 is float32


@contextlib.contextmanager
def any_kernels() -> Iterator[None]:
    """Without what `deterministic` asks for: some kernels of detectors have no form that repeats its bits."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


@cache
def code_version() -> str:
    """Eight hexadecimal digits of the sources that compute numbers."""
    digest = hashlib.sha256()
    for name in NUMERICS:
        root = PACKAGE / name
        for path in sorted(root.rglob("*.py")) if root.is_dir() else [root]:
            digest.update(path.relative_to(PACKAGE).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:8]
