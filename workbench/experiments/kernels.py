"""A notebook's process: of a session of its own, with a time limit, and gone whole, with its kernel and all it started.

A kernel is started in yet another session, so ending a process group would spare it.  Every process of a notebook
carries a mark in its environment instead, which children inherit wherever they go.
"""

import contextlib
import ctypes
import json
import os
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any

from workbench.errors import WorkbenchError

MARK = "WORKBENCH_NOTEBOOK"
POLL_S = 0.2
END_S = 5  # for processes that were killed to be gone
PR_SET_CHILD_SUBREAPER = 36  # <linux/prctl.h>


def answer(module: str, request: Any, limit_s: float) -> Any:
    """What `python -m module`, which calls `serve`, says to `request`; no process of it is left, however this ends.

    Raises TimeoutError after limit_s, and WorkbenchError with its last line when it ends with an exit code.
    """
    mark = secrets.token_hex(8)
    command = [sys.executable, "-m", module, str(os.getpid())]
    environment = os.environ | {MARK: mark}
    pipe = subprocess.PIPE
    with tempfile.TemporaryFile() as said:
        with subprocess.Popen(
            command, env=environment, start_new_session=True, stdin=pipe, stdout=pipe, stderr=said, text=True
        ) as process:
            try:
                told, _ = process.communicate(json.dumps(request), timeout=limit_s)
            except subprocess.TimeoutExpired:
                raise TimeoutError(f"{module} did not answer within {limit_s:g} s.") from None
            finally:
                end(mark)
        if process.returncode:
            said.seek(0)
            last = (said.read().decode(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
            raise WorkbenchError(f"its process ended with exit code {process.returncode}: {last}")
    return json.loads(told)


def serve(handle: Callable[[Any], Any]) -> None:
    """In the process that `answer` starts: answer its request by `handle`, and take along all that was started for it.

    It ends so as soon as its parent is gone as well, by kill -9 too.
    """
    answers = os.fdopen(os.dup(1), "w")  # a kernel inherits standard output, and would keep it open
    os.dup2(2, 1)
    if sys.platform == "linux":  # whoever loses its parent in here becomes this process's child
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    threading.Thread(target=_watch, args=(int(sys.argv[1]),), daemon=True).start()
    try:
        json.dump(handle(json.load(sys.stdin)), answers)
    finally:
        end(os.environ[MARK])
        answers.close()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(POLL_S)
    end(os.environ[MARK])
    os._exit(1)


def end(mark: str) -> None:
    """Kill every process that carries this mark, or descends from one that does, except the caller itself."""
    import psutil

    until = time.monotonic() + END_S
    while found := _marked(mark):
        for process in found:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        if time.monotonic() > until:
            numbers = ", ".join(str(process.pid) for process in found)
            raise WorkbenchError(f"The processes {numbers} of a notebook cannot be ended; kill them by hand.")
        psutil.wait_procs(found, timeout=POLL_S)


def _marked(mark: str) -> list[Any]:
    """The living ones; who forked without exec has the environment of its parent's start."""
    import psutil

    found = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # another user's, or gone meanwhile
            if process.environ().get(MARK) == mark:
                found |= {process, *process.children(recursive=True)}
    alive = []
    for process in found:
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
                alive.append(process)
    return alive
