"""Checkpoints of one run: always the old one or the new one, never half of either.

    ckpt/step-000123/{*.safetensors, scalars.json, state.json}     state.json comes last, with the sha256 of the others
    ckpt/latest                                                     the name of the newest
    ckpt/*.bad                                                      what was damaged, kept and never read again

Tensors are safetensors, scalars JSON; nothing is ever unpickled.
"""

import contextlib
import json
import logging
import os
import shutil
import weakref
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_of
from safetensors.torch import save as bytes_of
from torch import Tensor

from workbench.errors import CannotWrite, Corrupt
from workbench.files import fsync_dir, read_json, sha256, write_atomic
from workbench.training.environment import code_version

log = logging.getLogger(__name__)

Tensors = dict[str, dict[str, Tensor]]
KEEP = 2
HEADER_BYTES = 10_000_000  # of a safetensors file: 100,000 tensors; a larger one only costs memory


class Checkpoints:
    """The folder `ckpt` of one run; `key` is the run's, and must match what a checkpoint says."""

    def __init__(self, folder: Path, key: str):
        self.folder, self.key = folder, key
        self._run: int | None = None
        self._damaged: set[str] = set()

    def save(self, step: int, tensors: Tensors, scalars: dict[str, Any]) -> None:
        """Write, fsync, rename, point `latest` at it, then delete what is older than the newest two.

        A state that is there already is not written again: it would have to be deleted first.
        """
        run = self._hold()
        target = self.folder / f"step-{step:08d}-{len(scalars['history']):05d}"
        part = target.with_suffix(".part")
        contents = {f"{name}.safetensors": _bytes(group) for name, group in tensors.items()}
        contents["scalars.json"] = json.dumps(scalars, allow_nan=False).encode()
        digests = {name: sha256(data) for name, data in contents.items()}
        contents["state.json"] = json.dumps({"key": self.key, "sha256": digests, "made_with": _versions()}).encode()
        try:
            self.folder.mkdir(exist_ok=True)
            self._set_aside()
            for left in self.folder.glob("step-*.part"):
                shutil.rmtree(left)
            there = target / "state.json"
            if not there.is_file() or there.read_bytes() != contents["state.json"]:
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
            need, disk = sum(map(len, contents.values())), os.fstatvfs(run)
            raise CannotWrite(
                f"Cannot write the checkpoint {target} ({error.strerror or error}; it needs {need / 1e6:.1f} MB, "
                f"{disk.f_bavail * disk.f_frsize / 1e6:.1f} MB are free); the previous one is intact. "
                f"Make room and run it again to continue."
            ) from error
        for old in self._names()[KEEP:]:
            shutil.rmtree(self.folder / old, ignore_errors=True)

    def load(self, continued: bool = True) -> tuple[Tensors, dict[str, Any]] | None:
        """The newest whole checkpoint, or None when there is none at all; raises Corrupt when all are damaged.

        continued: warn when it was made with other code, with which a run would go on to other bits.
        """
        with contextlib.suppress(CannotWrite):
            self._hold()
        names = self._names()
        for name in names:
            try:
                return self._read(self.folder / name, continued)
            except Corrupt as error:
                log.warning("%s An older checkpoint is tried; the next save keeps this one as %s.bad.", error, name)
                self._damaged.add(name)
        if names:
            raise Corrupt(f"No checkpoint in {self.folder} is whole. Delete that folder and run again, from the start.")
        return None

    def _hold(self) -> int:
        """The run's folder, open from the first look on, so that none made later in its place is taken for it."""
        try:
            if self._run is None:
                self._run = os.open(self.folder.parent, os.O_RDONLY)
                weakref.finalize(self, os.close, self._run)
            same = os.path.samestat(os.fstat(self._run), self.folder.parent.stat())
        except FileNotFoundError:
            same = False
        if self._run is None or not same:
            raise CannotWrite(f"{self.folder.parent} was removed while its run was training; nothing was saved.")
        return self._run

    def _names(self) -> list[str]:
        """Finished checkpoints, newest first: the one `latest` names, then by step."""
        names = sorted((path.name for path in self.folder.glob("step-*") if not path.suffix), reverse=True)
        latest = self.folder / "latest"
        if latest.is_file() and (first := latest.read_bytes().decode(errors="replace")) not in names:
            log.warning("%s names no checkpoint (%.40r); the one of the highest step is taken.", latest, first)
            self._damaged.add(latest.name)
        elif latest.is_file():
            names.remove(first)
            names.insert(0, first)
        return names

    def _set_aside(self) -> None:
        """Keep what `load` found damaged as *.bad: neither read nor counted nor deleted again."""
        for path in [self.folder / name for name in self._damaged]:
            bad = path.with_name(f"{path.name}.bad")
            if path.exists():
                shutil.rmtree(bad, ignore_errors=True)
                os.replace(path, bad)
        self._damaged.clear()

    def _read(self, folder: Path, continued: bool) -> tuple[Tensors, dict[str, Any]]:
        try:
            state = read_json(folder / "state.json")
            if state["key"] != self.key:
                raise Corrupt(f"{folder} belongs to another run.")
            contents = {name: _verified(folder, name, digest) for name, digest in state["sha256"].items()}
            scalars = json.loads(contents.pop("scalars.json"))
            tensors = {Path(name).stem: read_tensors(folder / name, data) for name, data in contents.items()}
        except (OSError, KeyError, AttributeError, TypeError, ValueError, RuntimeError) as error:
            raise Corrupt(f"{folder} is damaged ({type(error).__name__}: {error}).") from error
        if continued and (then := state.get("made_with")) != _versions():
            log.warning("%s was made with %s; continued with %s, it is not bit-identical.", folder, then, _versions())
        return tensors, scalars


def _versions() -> dict[str, str]:
    return {"torch": torch.__version__, "code": code_version()}


def _verified(folder: Path, name: str, digest: str) -> bytes:
    """The content of one file, which must lie in `folder` itself and be what was written."""
    path = folder / name
    if Path(name).name != name or (path.exists() and not path.is_file()):
        raise Corrupt(f"{path} is no file of a checkpoint.")
    data = path.read_bytes()
    if sha256(data) != digest:
        raise Corrupt(f"{path} is not what was written (sha256).")
    return data


def read_tensors(path: Path, data: bytes) -> dict[str, Tensor]:
    """The tensors of a safetensors file with this content, by name; raises Corrupt.  Nothing in it is run."""
    if (header := int.from_bytes(data[:8], "little")) > HEADER_BYTES:
        raise Corrupt(f"{path} announces a header of {header / 1e6:.0f} MB; {HEADER_BYTES / 1e6:.0f} MB are allowed.")
    try:
        return tensors_of(data)
    except (SafetensorError, KeyError) as error:  # KeyError: a type that torch has not
        raise Corrupt(f"{path} cannot be read ({type(error).__name__}: {error}).") from error


def _bytes(group: dict[str, Tensor]) -> bytes:
    """Each tensor on its own: safetensors refuses those that share memory, as those of a layer with two names do."""
    apart = {"memory_format": torch.contiguous_format}
    return bytes_of({name: value.detach().clone(**apart) for name, value in group.items()})


def _write(path: Path, data: bytes) -> None:
    with open(path, "wb") as f:
        f.write(data)
        f.flush()
        os.fsync(f.fileno())
