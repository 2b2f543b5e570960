"""A notebook as a file: its cells, its parameters, and whether every cell was executed."""

import ast
import json
from pathlib import Path
from typing import Any

from workbench.errors import Corrupt, OutOfRange, UnknownName

INJECTED = "injected-parameters"
ADDED = {INJECTED, "papermill-error-cell-tag"}  # cells that papermill puts in


def read(path: Path) -> dict[str, Any]:
    """The notebook in `path`; raises Corrupt when it is none, or not whole."""
    try:
        notebook = json.loads(path.read_bytes())
        kinds = [cell["cell_type"] for cell in notebook["cells"]]
    except OSError as error:
        raise Corrupt(f"{path} cannot be read ({error.strerror}).") from error
    except (ValueError, RecursionError) as error:
        raise Corrupt(f"{path} is not a notebook: it is not whole JSON ({error}).") from error
    except (KeyError, TypeError) as error:
        raise Corrupt(f"{path} is not a notebook of format 4: it has no list of cells.") from error
    if not isinstance(notebook.get("metadata"), dict) or notebook.get("nbformat") != 4 or not kinds:
        raise Corrupt(f"{path} is not a notebook of format 4, with metadata and at least one cell.")
    return notebook


def check_parameters(path: Path, parameters: dict[str, Any]) -> None:
    """Every parameter is assigned in the notebook's parameters cell, to a value of the same type; nothing is started.

    Raises UnknownName for another name, OutOfRange for another type.  None in the notebook stands for any type.
    """
    defaults = _defaults(path)
    for name, value in parameters.items():
        if name not in defaults:
            raise UnknownName(f"parameter of {path.name}", name, defaults)
        if not _alike(value, defaults[name]):
            kinds = type(value).__name__, type(defaults[name]).__name__
            raise OutOfRange(
                f"Parameter {name} of {path.name} is {value!r}, of type {kinds[0]}; "
                f"the notebook has {defaults[name]!r} there, give a value of type {kinds[1]}."
            )


def _alike(value: Any, default: Any) -> bool:
    """Are both of one type of JSON?  A whole number stands where a fraction may."""
    if default is None or default is ...:
        return isinstance(value, str | bool | int | float | list | dict | None)
    return type(value) is type(default) or (type(value) is int and type(default) is float)


def _defaults(path: Path) -> dict[str, Any]:
    """Name -> value in the parameters cell; ... where the value is not a literal."""
    tagged = [cell for cell in read(path)["cells"] if "parameters" in _tags(cell)]
    if not tagged:
        raise OutOfRange(f"{path} has no parameters: tag the cell that assigns them with `parameters`.")
    try:
        lines = ast.parse(source(tagged[0])).body
    except SyntaxError as error:
        raise Corrupt(f"The parameters cell of {path} is not plain Python: {error}.") from error
    found = {}
    for line in lines:
        if isinstance(line, ast.Assign | ast.AnnAssign):
            for target in line.targets if isinstance(line, ast.Assign) else [line.target]:
                if isinstance(target, ast.Name):
                    found[target.id] = _literal(line.value)
    return found


def _literal(node: ast.expr | None) -> Any:
    try:
        return ast.literal_eval(node) if node else ...
    except ValueError:
        return ...


def fault(notebook: dict[str, Any]) -> tuple[int, str] | None:
    """The first cell that was not executed to its end without an error, by its number in the source, and what it says.

    Metadata that call a cell completed prove nothing: a cell that was executed has a number and the kernel's reply.
    """
    number = 0
    for cell in notebook["cells"]:
        number += not _tags(cell) & ADDED
        if cell["cell_type"] != "code" or not source(cell).strip():
            continue
        for output in cell["outputs"]:
            if output["output_type"] == "error":
                return number, " ".join(f"{output['ename']}: {output['evalue']}".split()).rstrip(":")
        replied = "shell.execute_reply" in cell["metadata"].get("execution", {})
        if not (cell["execution_count"] and replied):
            return number, "it was not executed to its end"
    return None


def source(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


def _tags(cell: dict[str, Any]) -> set[str]:
    return {*cell.get("metadata", {}).get("tags", ())}
