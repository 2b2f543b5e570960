"""Several runs in one process, taking turns.

On a GPU each run queues its recorded steps on a stream of its own, so small networks share what one cannot fill.  Every
run keeps its own random generators: it is the run that it would be alone, bit for bit.
"""

import logging
import signal
from collections.abc import Generator, Iterable, Iterator
from typing import TypeVar

from workbench.errors import Interrupted, WorkbenchError
from workbench.training.run import SIGNALS
from workbench.training.state import random_state, set_random_state

log = logging.getLogger(__name__)
T = TypeVar("T")


def together(runs: Iterable[Generator[None, None, T]], width: int) -> Iterator[T]:
    """What each run returns, as they end; `width` of them are under way at a time.

    When one fails, the others are closed, which saves them, and its error is raised; so is Interrupted on a signal that
    no run heeded, such as one in the last evaluation of a run.
    """
    turns = iter(runs)
    active: dict[Generator[None, None, T], tuple] = {}
    with SIGNALS as received:
        try:
            while True:
                while len(active) < width and (run := next(turns, None)):
                    active[run] = random_state()
                if not active:
                    return
                if received:
                    name = signal.Signals(received[0]).name
                    raise Interrupted(f"{name} between two runs; all is saved. Run it again to continue.", received[0])
                for run in list(active):
                    set_random_state(*active.pop(run))
                    try:
                        next(run)
                    except StopIteration as end:
                        yield end.value
                    else:
                        active[run] = random_state()
        finally:
            for run, state in active.items():
                set_random_state(*state)
                try:
                    run.close()
                except WorkbenchError as error:  # the first error is the one to tell
                    log.warning("Another run could not be saved: %s", error)
