"""Checkpoints of one run: always the old one or the new one, never half of either.

    ckpt/step-000123/{*.safetensors, scalars.json, state.json}     state.json comes last, with the sha256 of the others
    ckpt/latest                                                     the name of the newest

Tensors are safetensors, scalars JSON; nothing is ever unpickled.
"""

import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from workbench.errors import CannotWrite, Corrupt
from workbench.files import fsync_dir, read_json, sha256, write_atomic

log = logging.getLogger(__name__)

Tensors = dict[str, dict[str, Tensor]]
KEEP = 2


class Checkpoints:
    """The folder `ckpt` of one run; `key` is the run's, and must match what a checkpoint says."""

    def __init__(self, folder: Path, key: str):
        self.folder, self.key = folder, key
        self._damaged: set[str] = set()

    def save(self, step: int, tensors: Tensors, scalars: dict[str, Any]) -> None:
        """Write, fsync, rename, point `latest` at it, then delete what is older than the newest two."""
        if not self.folder.parent.is_dir():
            raise CannotWrite(f"{self.folder.parent} was removed while its run was training; nothing was saved.")
        target = self.folder / f"step-{step:08d}-{len(scalars['history']):05d}"
        part = target.with_suffix(".part")
        contents = {f"{name}.safetensors": _bytes(group) for name, group in tensors.items()}
        contents["scalars.json"] = json.dumps(scalars, allow_nan=False).encode()
        state = {"key": self.key, "sha256": {name: sha256(data) for name, data in contents.items()}}
        contents["state.json"] = json.dumps(state).encode()
        try:
            self.folder.mkdir(exist_ok=True)
            for left in self.folder.glob("step-*.part"):
                shutil.rmtree(left)
            part.mkdir()
            for name, data in contents.items():
                _write(part / name, data)
            fsync_dir(part)
            shutil.rmtree(target, ignore_errors=True)
            os.rename(part, target)
            fsync_dir(self.folder)
            write_atomic(self.folder / "latest", target.name.encode())
        except OSError as error:
            shutil.rmtree(part, ignore_errors=True)
            need, free = sum(map(len, contents.values())), shutil.disk_usage(self.folder.parent).free
            raise CannotWrite(
                f"Cannot write the checkpoint {target} ({error.strerror or error}; it needs {need / 1e6:.1f} MB, "
                f"{free / 1e6:.1f} MB are free); the previous one is intact. Make room and run it again to continue."
            ) from error
        for old in [name for name in self._names() if name not in self._damaged][KEEP:]:
            shutil.rmtree(self.folder / old, ignore_errors=True)

    def load(self) -> tuple[Tensors, dict[str, Any]] | None:
        """The newest whole checkpoint, or None when there is none at all; raises Corrupt when all are damaged."""
        names = self._names()
        for name in names:
            try:
                return self._read(self.folder / name)
            except Corrupt as error:
                log.warning("%s An older checkpoint is tried.", error)
                self._damaged.add(name)  # kept on disk, and not counted among those to keep
        if names:
            raise Corrupt(f"No checkpoint in {self.folder} is whole. Delete that folder and run again, from the start.")
        return None

    def _names(self) -> list[str]:
        """Finished checkpoints, newest first: the one `latest` names, then by step."""
        names = sorted((path.name for path in self.folder.glob("step-*") if not path.suffix), reverse=True)
        latest = self.folder / "latest"
        first = latest.read_bytes().decode(errors="replace") if latest.is_file() else ""
        return sorted(names, key=lambda name: name != first)

    def _read(self, folder: Path) -> tuple[Tensors, dict[str, Any]]:
        try:
            state = read_json(folder / "state.json")
            if state["key"] != self.key:
                raise Corrupt(f"{folder} belongs to another run.")
            contents = {name: (folder / name).read_bytes() for name in state["sha256"]}
            for name, data in contents.items():
                if sha256(data) != state["sha256"][name]:
                    raise Corrupt(f"{folder / name} is not what was written (sha256).")
            scalars = json.loads(contents.pop("scalars.json"))
            return {Path(name).stem: safetensors.torch.load(data) for name, data in contents.items()}, scalars
        except (OSError, KeyError, AttributeError, TypeError, ValueError, SafetensorError) as error:
            raise Corrupt(f"{folder} is damaged ({type(error).__name__}: {error}).") from error


def _bytes(group: dict[str, Tensor]) -> bytes:
    return safetensors.torch.save({name: value.detach().contiguous() for name, value in group.items()})


def _write(path: Path, data: bytes) -> None:
    with open(path, "wb") as f:
        f.write(data)
        f.flush()
        os.fsync(f.fileno())
