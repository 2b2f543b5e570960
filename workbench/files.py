"""Files: atomic writes, verified reads, locks, and where the shared folders lie."""

import contextlib
import fcntl
import hashlib
import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from workbench.errors import Busy, CannotWrite, Corrupt, OutOfRange

PACKAGE = Path(__file__).resolve().parent
LOCKS = Path("/proc/locks")  # a line: "1: FLOCK ADVISORY WRITE <process> <major:minor:inode> 0 EOF"
_parts = itertools.count()  # two writers of one file never share their parts
_locks: set[IO[str]] = set()  # held by this process


def share(name: str) -> Path:
    """The folder `data`, `notebooks` or `app`: inside an installed wheel, else beside the package in the checkout."""
    inside = PACKAGE / "share" / name
    return inside if inside.is_dir() else PACKAGE.parent / name


def runs_dir(given: str | Path | None = None) -> Path:
    """Where runs are kept: `given`, else $WORKBENCH_RUNS, else ./runs."""
    return Path(given or os.environ.get("WORKBENCH_RUNS") or "runs").expanduser()


def data_dir(given: str | Path | None = None) -> Path:
    """Where data sets lie in torchvision's layouts: `given`, else $WORKBENCH_DATA, else ./data/sets."""
    return Path(given or os.environ.get("WORKBENCH_DATA") or "data/sets").expanduser()


def child(root: Path, name: str) -> Path:
    """`root/name`, refused when it would lie outside `root`."""
    try:
        path = (root / name).resolve()
        inside = path.is_relative_to(root.resolve())
    except (OSError, RuntimeError, ValueError):  # a loop of links, a zero byte
        inside = False
    if not inside:
        raise OutOfRange(f"{name!r} leaves the folder {root}; give a name inside it.")
    return path


def ensure_writable(folder: Path) -> Path:
    """Create `folder` if need be and prove that a file can be written there."""
    probe = folder / f".write-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink(missing_ok=True)  # a container with the same pid may have been quicker
    except OSError as error:
        raise CannotWrite(
            f"Cannot write in {folder} ({error.strerror}); nothing was started. "
            f"Make it writable, or choose another folder with the option for it: --runs, --data-dir, --to or --html."
        ) from error
    return folder


def stamp(path: Path) -> tuple[int, int] | None:
    """Another one when the file was replaced, None without a file: to read it again, never to order by."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def write_atomic(path: Path, data: bytes) -> None:
    """Replace `path` by `data`, or leave it untouched.  Survives kill -9 and power loss."""
    part = path.with_name(f".{path.name}.{os.getpid()}.{next(_parts)}.part")
    try:
        with open(part, "wb") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        os.replace(part, path)
        fsync_dir(path.parent)
    except OSError as error:
        raise CannotWrite(
            f"Cannot write {path} ({error.strerror or error}); what was there before is whole."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as readable, strict JSON (no NaN), atomically."""
    write_atomic(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """The JSON value in `path`; raises Corrupt, naming the file, when it is not whole."""
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:  # no JSON, no text, a number or a nesting without end
        raise Corrupt(f"{path} is not whole JSON ({error}); move it away to start without it.") from error


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def fsync_dir(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold `path` for this process, not those it forks; the kernel frees it on death.  Raises Busy at once."""
    with contextlib.ExitStack() as stack:
        try:
            f = stack.enter_context(open(path, "a"))
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy(f"{path} is held by {_holder(path)}; wait for it, or stop it, then try again.") from None
        except OSError as error:
            raise CannotWrite(
                f"Cannot lock {path} ({error.strerror}); nothing was started. `workbench doctor` says what is missing."
            ) from error
        _locks.add(f)
        stack.callback(_locks.discard, f)
        yield


def _let_go() -> None:
    """In a forked child: its copies would hold the locks for as long as it outlives its parent."""
    for f in _locks:
        f.close()
    _locks.clear()


os.register_at_fork(after_in_child=_let_go)


def _holder(path: Path) -> str:
    """The process that holds a lock, by its number where the system tells it."""
    place = path.stat()
    inode = f"{os.major(place.st_dev):02x}:{os.minor(place.st_dev):02x}:{place.st_ino}"
    lines = [line.split() for line in LOCKS.read_text().splitlines()] if LOCKS.exists() else []
    found = [line[4] for line in lines if line[1] == "FLOCK" and line[5] == inode and int(line[4]) > 0]
    return f"process {found[0]}" if found else "another process"
