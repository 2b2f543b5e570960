"""Files are replaced whole or not at all, locks die with their process, and no name leaves its folder."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from workbench import files
from workbench.errors import Busy, CannotWrite, Corrupt, OutOfRange

ROOT = Path(__file__).resolve().parents[1]


def python(code, *arguments):
    """A second process that runs `code`; what it prints can be waited for."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("fault", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=repr)
def test_a_failing_write_leaves_the_old_content(tmp_path, monkeypatch, call, fault):
    old, new = tmp_path / "record.json", tmp_path / "other.json"
    files.write_atomic(old, b"old")

    def fail(*_):
        raise fault

    with monkeypatch.context() as patched:
        patched.setattr(os, call, fail)
        for path in (old, new):
            with pytest.raises(type(fault)):
                files.write_atomic(path, b"new" * 10_000)
    assert old.read_bytes() == b"old"
    assert [*tmp_path.iterdir()] == [old]
    files.write_atomic(old, b"new")  # witness: without the fault it is replaced
    assert old.read_bytes() == b"new"


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_killed_write_leaves_the_old_content(tmp_path, call):
    path = tmp_path / "record.json"
    files.write_atomic(path, b"old")
    code = (
        "import os, sys; from pathlib import Path; from workbench import files\n"
        f"os.{call} = lambda *_: os.kill(os.getpid(), 9)\n"
        "files.write_atomic(Path(sys.argv[1]), b'new')"
    )
    with python(code, path) as process:
        assert process.wait(30) == -signal.SIGKILL
    assert path.read_bytes() == b"old"


def test_a_second_writer_in_between_tears_nothing(tmp_path, monkeypatch):
    """Two threads of one process may write one file; each write is whole, and the later replacement stays."""
    path, fsync, between = tmp_path / "record.json", os.fsync, [b"second"]

    def interrupted(handle):
        fsync(handle)
        if between:
            files.write_atomic(path, between.pop())

    monkeypatch.setattr(os, "fsync", interrupted)
    files.write_atomic(path, b"first")
    assert not between  # witness: the second was written meanwhile
    assert path.read_bytes() == b"first"


def test_data_reach_the_disk_before_the_name_does(tmp_path, monkeypatch):
    calls = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, name=name, real=real: (calls.append(name), real(*a))[1])
    files.write_atomic(tmp_path / "record.json", b"x")
    assert calls == ["fsync", "replace", "fsync"]  # the file, its new name, the folder


def test_json_is_strict_and_verified(tmp_path):
    path = tmp_path / "record.json"
    files.write_json(path, {"top1_error": 22.77})
    assert files.read_json(path) == {"top1_error": 22.77}
    with pytest.raises(ValueError):
        files.write_json(path, {"loss": float("nan")})
    assert files.read_json(path) == {"top1_error": 22.77}
    for broken in (path.read_bytes()[:-5], b"", b"\xff\xfe\x00"):
        path.write_bytes(broken)
        with pytest.raises(Corrupt, match=r"record\.json"):
            files.read_json(path)


def test_a_lock_keeps_others_out_until_its_holder_dies(tmp_path):
    path = tmp_path / "run.lock"
    code = (
        "import sys, time; from pathlib import Path; from workbench.files import lock\n"
        "with lock(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    with python(code, path) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(Busy, match=str(tmp_path)), files.lock(path):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait(30)
    with files.lock(path):
        code = code.replace("time.sleep(60)", "")
        with python(code, path) as second:
            assert second.wait(30) == 1  # witness: now that one is kept out
    with files.lock(path):
        pass


@pytest.mark.parametrize("known", [True, False])
def test_a_lock_is_not_held_by_what_its_holder_forked(tmp_path, known):
    """Such as a worker that decodes pictures, which outlives a killed trainer for some seconds."""
    path = tmp_path / "run.lock"
    with files.lock(path):
        if not known:
            files._locks.clear()
        child = os.fork()
        if child == 0:
            signal.pause()
        with pytest.raises(Busy), files.lock(path):  # its own process still holds it
            pass
    try:
        if known:
            deadline = time.monotonic() + 10
            while _held(path) and time.monotonic() < deadline:  # until the child has come so far
                time.sleep(0.01)
        assert _held(path) != known  # witness: a copy in the child would hold it
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _held(path):
    try:
        with files.lock(path):
            return False
    except Busy:
        return True


@pytest.mark.parametrize("name", ["..", "../other", "a/../../b", "/etc/passwd", "out", "out/file", "a\0b"])
def test_no_name_leaves_its_folder(tmp_path, name):
    root = tmp_path / "runs"
    root.mkdir()
    (root / "out").symlink_to(tmp_path)
    with pytest.raises(OutOfRange):
        files.child(root, name)


@pytest.mark.parametrize("name", ["a", "a/b", "a/../b", "..a", "in"])
def test_names_inside_are_allowed(tmp_path, name):
    (tmp_path / "in").symlink_to(tmp_path / "a")
    assert files.child(tmp_path, name).is_relative_to(tmp_path.resolve())


def test_a_folder_that_cannot_be_written_is_named_at_once(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    for folder in (file, file / "runs" / "deep"):
        with pytest.raises(CannotWrite) as caught:
            files.ensure_writable(folder)
        message = str(caught.value)
        assert str(folder) in message and "\n" not in message
        assert all(option in message for option in ("--runs", "--data-dir", "--to", "--html"))
    folder = tmp_path / "runs" / "deep"
    assert files.ensure_writable(folder) == folder  # witness
    assert not [*folder.iterdir()]


def test_folders_come_from_the_argument_then_the_environment(tmp_path, monkeypatch):
    for find, variable, default in (
        (files.runs_dir, "WORKBENCH_RUNS", "runs"),
        (files.data_dir, "WORKBENCH_DATA", "data/sets"),
    ):
        monkeypatch.delenv(variable, raising=False)
        assert find() == Path(default)
        monkeypatch.setenv(variable, "~/elsewhere")
        assert find() == Path.home() / "elsewhere"
        assert find(tmp_path) == tmp_path


def test_sha256_is_of_the_content():
    assert files.sha256(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert files.sha256(json.dumps(1).encode()) != files.sha256(b"")
