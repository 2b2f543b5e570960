"""A disk of a test's own, in a child process: it can be small, full or read-only in earnest, and goes with it."""

import contextlib
import ctypes
import os
from collections.abc import Callable
from pathlib import Path

import pytest

NEW_MOUNTS, NEW_USER = 0x20000, 0x10000000
READ_ONLY, REMOUNT, BIND, RECURSIVE, PRIVATE = 0x1, 0x20, 0x1000, 0x4000, 0x40000
PAGE = 4096


class Disk:
    """A file system of `size` bytes mounted at `folder`, seen by this process and its children alone."""

    def __init__(self, folder: Path, size: int):
        self.folder, user, group = folder, os.getuid(), os.getgid()
        _call("unshare", NEW_MOUNTS if user == 0 else NEW_MOUNTS | NEW_USER)
        if user:
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"0 {user} 1")
            Path("/proc/self/gid_map").write_text(f"0 {group} 1")
        _call("mount", b"none", b"/", None, RECURSIVE | PRIVATE, None)
        _call("mount", b"tmpfs", bytes(folder), b"tmpfs", 0, b"size=%d" % size)

    def fill(self, leave: int = 0) -> None:
        """Take all space but `leave` bytes, in whole pages."""
        with open(self.folder / "filler", "wb", buffering=0) as f:
            with contextlib.suppress(OSError):
                while True:
                    f.write(bytes(PAGE))
            f.truncate(f.tell() - leave // PAGE * PAGE)

    def clear(self) -> None:
        (self.folder / "filler").unlink()

    def read_only(self, folder: Path) -> None:
        _call("mount", bytes(folder), bytes(folder), None, BIND, None)
        _call("mount", b"none", bytes(folder), None, REMOUNT | BIND | READ_ONLY, None)


def _call(name: str, *arguments: object) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if getattr(library, name)(*arguments):
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")


@pytest.fixture
def on_own_disk(tmp_path: Path, forked: Callable[..., int]) -> Callable[..., int]:
    """on_own_disk(action, size): run action(disk) in a child process that has that disk; its exit code."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if _refused(folder):
        pytest.skip("mounts a disk of its own: needs root, or a kernel that lets users do so in a namespace")
    return lambda action, size=32 * 2**20: forked(lambda: action(Disk(folder, size)))


def _refused(folder: Path) -> bool:
    """Does the kernel refuse such a disk to this user?  Tried in a child."""
    child = os.fork()
    if child == 0:
        try:
            Disk(folder, PAGE)
        except OSError:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0
