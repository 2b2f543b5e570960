"""What this machine has and lacks for the workbench, and what to do about it."""

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from workbench import datasets, files
from workbench.errors import CannotWrite

DISTRIBUTION = "attention-workbench"
ROOM_GB = 1  # three checkpoints of a ResNet-50 are 0.6 GB
NETWORKS = re.compile(r"nfs|cifs|smb|9p|ceph|lustre|gluster|afs|fuse")
LOCK = "import fcntl, sys; fcntl.flock(open(sys.argv[1]), fcntl.LOCK_EX | fcntl.LOCK_NB)"


class Check(NamedTuple):
    """state: "ok"; "note" for what only some commands need; "wrong" for what must be put right.  text: what, or how."""

    name: str
    state: str
    text: str


def examine(runs: Path, data: Path) -> Iterator[Check]:
    """Packages, machine, runs folder and data sets, one after the other; nothing is left behind."""
    yield from _packages()
    try:
        yield from _machine()
        yield from _data_sets(data)
    except (ImportError, OSError) as error:  # a library that torch was built for is missing
        yield Check("torch", "wrong", f"cannot be imported ({error}); install it again, see pytorch.org")
    yield from _folder(runs)


def _packages() -> Iterator[Check]:
    """Python and every package that `pyproject.toml` asks for; those of an extra may be absent."""
    try:
        python = f"python{metadata.metadata(DISTRIBUTION)['Requires-Python']}"
        wanted = [python, *(metadata.requires(DISTRIBUTION) or [])]
    except metadata.PackageNotFoundError:
        yield Check(DISTRIBUTION, "wrong", "is not installed, so what it needs is unknown; pip install it")
        return
    extras: dict[str, list[str]] = {}
    for requirement in wanted:
        name, least, extra = re.findall(r"^([\w.-]+)>=([\d.]+)(?:;.*extra == '(\w+)')?", requirement)[0]
        found = _version(name)
        enough = found and _numbers(found) >= _numbers(least)
        if not extra:
            todo = "" if enough else f"; pip install '{name}>={least}'"
            yield Check(name, "ok" if enough else "wrong", f"{found or 'missing'}, needs {least} or newer{todo}")
        elif extra != "all":
            extras.setdefault(extra, []).extend([] if enough else [f"{name} {found} < {least}" if found else name])
    for extra, missing in extras.items():
        todo = f"lacks {', '.join(missing)}; pip install '{DISTRIBUTION}[{extra}]' to use it"
        yield Check(f"extra {extra}", "note" if missing else "ok", todo if missing else "installed")


def _version(name: str) -> str:
    try:
        return platform.python_version() if name == "python" else metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _numbers(version: str) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", version.partition("+")[0])[:3]]


def _machine() -> Iterator[Check]:
    """GPUs, compiler, cores and threads."""
    import torch

    from workbench.compiled import has_compiler

    build, hidden = torch.version.cuda, os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    if names:
        yield Check("GPU", "ok", f"{', '.join(names)}, CUDA {build}")
    elif not build:
        yield Check("GPU", "note", "PyTorch is built for the CPU alone; for a GPU install another, see pytorch.org")
    else:
        reason = "" if hidden is None else f", CUDA_VISIBLE_DEVICES is {hidden!r}"
        yield Check("GPU", "note", f"PyTorch for CUDA {build} sees none{reason}; compare with nvidia-smi")
    if has_compiler():
        yield Check("C++ compiler", "ok", "found")
    else:
        yield Check("C++ compiler", "note", "none, so networks run uncompiled; install g++ or set CXX")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Check("CPU", "ok", f"{cores} cores, {torch.get_num_threads()} threads")


def _data_sets(data: Path) -> Iterator[Check]:
    """Is the folder of each data set there?  `workbench data verify` looks inside."""
    for name in datasets.DATASETS:
        place = datasets.PLACES.get(name)  # none for what is made up, not downloaded
        there = place is None or (data / place).is_dir()
        text = "made when needed" if place is None else f"in {data}"
        yield Check(name, "ok" if there else "note", text if there else f"not {text}; workbench data fetch {name}")


def _folder(runs: Path) -> Iterator[Check]:
    """Can runs be written, is there room, and do locks keep a second process out?"""
    place = next(folder for folder in (runs.absolute(), *runs.absolute().parents) if folder.exists())
    try:
        with tempfile.NamedTemporaryFile(dir=place, prefix=".doctor-") as probe:
            yield Check("runs", "ok", f"{runs.absolute()} can be written")
            yield _locks(Path(probe.name), place)
    except OSError as error:
        yield Check("runs", "wrong", f"cannot write in {place} ({error.strerror}); --runs or WORKBENCH_RUNS elsewhere")
    free = shutil.disk_usage(place).free / 1e9
    short = f"; make room, {ROOM_GB} GB at least"
    yield Check("room", "wrong" if free < ROOM_GB else "ok", f"{free:.1f} GB free{short if free < ROOM_GB else ''}")


def _locks(probe: Path, place: Path) -> Check:
    try:
        with files.lock(probe):
            kept_out = _second_process(probe) != 0
        freed = _second_process(probe) == 0
    except CannotWrite as error:
        return Check("locks", "wrong", str(error))
    kind = _file_system(place)
    if not (kept_out and freed):
        return Check("locks", "wrong", f"{kind} does not honour them: two processes could write one run; use --runs")
    if NETWORKS.search(kind):
        return Check("locks", "note", f"honoured here; {kind} may not do so between machines, so use one at a time")
    return Check("locks", "ok", f"honoured by {kind}")


def _second_process(probe: Path) -> int:
    return subprocess.run([sys.executable, "-S", "-c", LOCK, str(probe)], stderr=subprocess.DEVNULL).returncode


def _file_system(place: Path) -> str:
    """The type of the file system that `place` lies on, where Linux tells it."""
    mounts = Path("/proc/self/mounts")
    lines = [line.split() for line in mounts.read_text().splitlines()] if mounts.exists() else []
    within = [line for line in lines if place.resolve().is_relative_to(line[1].encode().decode("unicode_escape"))]
    return max(within, key=lambda line: len(line[1]), default=["", "", "this file system"])[2]
