"""SIGINT and SIGTERM ask a run to finish its step and save; they never cut it short."""

import contextlib
import os
import signal
from typing import Any


class Signals:
    """The first SIGINT or SIGTERM of this process, for all runs in it; a SIGINT after it ends the process at once.

    A second SIGTERM does not: the same end comes twice where it is sent to a group of processes and by a parent in it.
    """

    def __init__(self) -> None:
        self.received: list[int] = []
        self.runs = 0
        self.before: dict[int, Any] = {}

    def __enter__(self) -> list[int]:
        self.runs += 1
        if self.runs == 1:
            self.received = []
            with contextlib.suppress(ValueError):  # not the main thread: the process's own handlers stay
                self.before = {
                    number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)
                }
        return self.received

    def __exit__(self, *error: object) -> None:
        self.runs -= 1
        if self.runs == 0:
            for number, handler in self.before.items():
                signal.signal(number, handler)
            self.before = {}

    def _handle(self, number: int, frame: object) -> None:
        if self.received and number == signal.SIGINT:
            os._exit(128 + number)
        self.received.append(number)
