"""The one tree of errors.  Every message says what, where, what is allowed, and what to do."""

import difflib
from collections.abc import Iterable


class WorkbenchError(Exception):
    """Anything a user can put right.  `exit_code` is what the command line returns for it."""

    exit_code = 1

    def __reduce__(self):  # errors cross process borders as they are, whatever their constructors take
        return _restore, (type(self), self.args, self.__dict__)


def _restore(kind: type[WorkbenchError], args: tuple, state: dict) -> WorkbenchError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error


class UnknownName(WorkbenchError, KeyError):
    """A name that is not in its list; suggests the neighbours."""

    exit_code = 2

    def __init__(self, kind: str, name: str, known: Iterable[str]):
        known = sorted(known)
        near = difflib.get_close_matches(name, known, n=3)
        hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else f" Known: {', '.join(known)}."
        super().__init__(f"Unknown {kind} {name!r}.{hint}")

    __str__ = Exception.__str__  # KeyError would print the repr


class OutOfRange(WorkbenchError, ValueError):
    """A value that its definition does not allow."""

    exit_code = 2


class DataMissing(WorkbenchError, FileNotFoundError):
    """A data set that is not on this machine."""

    exit_code = 3

    __str__ = Exception.__str__  # OSError formats its arguments in its own way


class Corrupt(WorkbenchError):
    """A file whose content is not what was written."""


class Diverged(WorkbenchError, ArithmeticError):
    """Loss or gradient left the finite numbers; nothing was updated."""

    exit_code = 5


class OutOfMemory(WorkbenchError):
    """A batch that does not fit into the memory of the device."""

    exit_code = 4


class Busy(WorkbenchError):
    """Another process holds this run."""


class CannotWrite(WorkbenchError, OSError):
    """A folder or file that this process may not write."""

    __str__ = Exception.__str__


class Interrupted(WorkbenchError):
    """Stopped by a signal; the run is saved and continues where it stopped."""

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.exit_code = 128 + signal_number
