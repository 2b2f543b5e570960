"""A table's notebook, run by papermill: the runs first, here, then the notebook, which finds them done."""

import functools
import importlib.util
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from workbench import files
from workbench.errors import Corrupt, Interrupted, UnknownName, WorkbenchError
from workbench.experiments import kernels
from workbench.experiments.cells import check_parameters, fault, read
from workbench.experiments.claims import check_paper
from workbench.experiments.compare import budget_of
from workbench.experiments.grid import DEFAULT, Resources
from workbench.experiments.report import run
from workbench.experiments.store import Store
from workbench.experiments.tables import Table

NOTEBOOK_LIMIT_S = 3600
CELL_LIMIT_S = 600
START_LIMIT_S = 60  # for the kernel
NEEDED = ("papermill", "ipykernel")


class Outcome(NamedTuple):
    """What became of one notebook of several.  state: "done", "unchanged" or "failed", and why it failed."""

    table: str
    state: str
    path: Path | None = None
    error: WorkbenchError | None = None


def reproduce_all(
    wanted: list[tuple[Table, str]],
    store: Store,
    seeds: int = 0,
    resources: Resources = DEFAULT,
    on_table: Callable[[int, int, str, str], None] = lambda number, count, table, state: None,
) -> list[Outcome]:
    """`reproduce` of each table at its budget in turn; one that fails does not keep the others from theirs, a signal
    does.

    on_table gets the table's number from 1, how many there are, its key, and its state: "runs", "notebook", then the
    state of its Outcome.
    """
    outcomes = []
    for number, (table, budget) in enumerate(wanted, 1):
        tell = functools.partial(on_table, number, len(wanted), table.key)
        outcomes.append(_outcome(table, budget, store, seeds, resources, tell))
    return outcomes


def _outcome(
    table: Table, budget: str, store: Store, seeds: int, resources: Resources, on_state: Callable[[str], None]
) -> Outcome:
    states = []

    def tell(state: str) -> None:
        states.append(state)
        on_state(state)

    try:
        path = reproduce(table, budget, store, seeds, resources, on_state=tell)
    except Interrupted:
        raise
    except WorkbenchError as error:
        on_state("failed")
        return Outcome(table.key, "failed", error=error)
    return Outcome(table.key, states[-1], path)


def reproduce(
    table: Table,
    budget: str,
    store: Store,
    seeds: int = 0,
    resources: Resources = DEFAULT,
    on_state: Callable[[str], None] = lambda state: None,
) -> Path:
    """Measure what this budget lacks, execute the notebook, and return it: runs/notebooks/<table>-<budget>.ipynb.

    Its name ends with what another data set is called, and with other epochs than the recipe's.  What was executed from
    the same notebook, parameters, code and records is not executed again; on_state gets "runs", "notebook" and "done",
    or "runs" and "unchanged".
    """
    source, epochs = _path(table), table.epochs
    if not source.is_file():
        raise UnknownName("table notebook", table.key, [path.stem for path in source.parent.glob("*.ipynb")])
    own = "" if budget == "count" else table.budget(budget).dataset
    parameters = {
        "budget": budget,
        "data": own if table.data else "",
        "seeds": seeds,
        "epochs": epochs,
        "engine": resources.engine,
        "device": resources.device,
        "runs_dir": str(store.root.resolve()),
        "data_dir": str(store.data.resolve()),
    }
    _ready(source, parameters)
    folder = files.ensure_writable(store.root / "notebooks").resolve()
    words = re.sub(r"[^a-z0-9]+", "-", table.data.lower()), f"{epochs}-epochs" if epochs else ""
    target = folder / f"{'-'.join(filter(None, (table.key, budget, *words)))}.ipynb"
    with files.lock(store.root / f".{target.stem}.lock"):
        target.with_suffix(".part.ipynb").unlink(missing_ok=True)  # of a process that was killed
        on_state("runs")
        run(table, budget, store, seeds, resources)
        made_from = _made_from(source, parameters, table, store)
        if _is_made_from(target, made_from):
            on_state("unchanged")
            return target
        on_state("notebook")
        execute(source, target, parameters, NOTEBOOK_LIMIT_S, made_from)
        on_state("done")
    return target


def claims(store: Store, paper: str = "") -> Path:
    """Execute the page of claims, of one paper or of all: runs/notebooks/claims[-<paper>].ipynb; raises UnknownName."""
    check_paper(paper)
    folder = files.ensure_writable(store.root / "notebooks").resolve()
    target = folder / f"{'-'.join(filter(None, ('claims', paper.lower())))}.ipynb"
    roots = {"runs_dir": str(store.root.resolve()), "data_dir": str(store.data.resolve())}
    return execute(files.share("notebooks") / "claims.ipynb", target, {"paper": paper, **roots})


def execute(
    source: Path, target: Path, parameters: dict[str, Any], limit_s: float = NOTEBOOK_LIMIT_S, made_from: str = ""
) -> Path:
    """Execute the notebook `source` with these parameters; `target` is written once, whole, when every cell succeeded.

    A notebook that fails, or whose kernel dies or hangs, is kept as *.failed.ipynb, and raises WorkbenchError.
    """
    _ready(source, parameters)
    part, failed = target.with_suffix(".part.ipynb"), target.with_suffix(".failed.ipynb")
    limits = {"start_timeout": START_LIMIT_S, "execution_timeout": CELL_LIMIT_S, "iopub_timeout": START_LIMIT_S}
    with files.lock(part):
        try:
            failed.unlink(missing_ok=True)
            try:
                what = kernels.answer(__name__, [str(source), str(part), parameters, limits], limit_s)
            except TimeoutError:
                what = f"the whole notebook was not done within {limit_s:g} s"
            except WorkbenchError as error:
                what = str(error)
            _keep(part, target, what, source.name, made_from)
        finally:
            part.unlink(missing_ok=True)
    return target


def _keep(part: Path, target: Path, what: str, name: str, made_from: str) -> None:
    """The executed notebook becomes `target`, or *.failed.ipynb and an error."""
    try:
        notebook = read(part)
    except Corrupt:  # it was ended before, or while writing
        raise WorkbenchError(f"{name} failed: {what or 'nothing was written'}.") from None
    bad = fault(notebook)
    if bad or what:
        failed = target.with_suffix(".failed.ipynb")
        os.replace(part, failed)
        where = f"Cell {bad[0]} of {name}" if bad else name
        why = what or (bad and bad[1]) or ""
        raise WorkbenchError(f"{where} failed: {why.rstrip('.')}. It is kept as {failed}.")
    notebook["metadata"]["workbench"] = {"made_from": made_from, "cells": _digest(notebook["cells"])}
    files.write_atomic(target, (json.dumps(notebook, indent=1, ensure_ascii=False) + "\n").encode())


def _ready(source: Path, parameters: dict[str, Any]) -> None:
    """The packages are here and the parameters are the notebook's, before anything is started."""
    for package in NEEDED:
        if importlib.util.find_spec(package) is None:
            raise ModuleNotFoundError(name=package)
    check_parameters(source, parameters)


def _made_from(source: Path, parameters: dict[str, Any], table: Table, store: Store) -> str:
    """Of everything that the executed notebook shows: itself, the parameters, the table, our code, and the records."""
    budget = parameters["budget"]
    trained = [] if budget == "count" else table.measured_rows(budget)
    records = [
        record._asdict() for record in store.records() for row, _ in trained if budget_of(table, row, record) == budget
    ]
    sources = [source, *sorted(files.PACKAGE.rglob("*.py"))]
    digests = [files.sha256(path.read_bytes()) for path in sources]
    return _digest([digests, parameters, repr(table), records])


def _is_made_from(path: Path, made_from: str) -> bool:
    """Is it there, whole, as it was executed, and from the same?"""
    try:
        notebook = read(path)
    except Corrupt:
        return False
    return notebook["metadata"].get("workbench") == {"made_from": made_from, "cells": _digest(notebook["cells"])}


def _digest(value: Any) -> str:
    return files.sha256(json.dumps(value, sort_keys=True).encode())


def _path(table: Table) -> Path:
    return files.share("notebooks") / "tables" / f"{table.key}.ipynb"


def _papermill(request: list[Any]) -> str:
    """What goes wrong beside the cells when papermill executes the notebook, or ""; its own metadata do not tell."""
    import papermill
    from jupyter_client.kernelspec import NoSuchKernel
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    source, part, parameters, limits = request
    try:
        papermill.execute_notebook(
            *(path.replace("{", "{{").replace("}", "}}") for path in (source, part)),  # papermill formats them
            parameters=parameters,
            kernel_name="python3",
            progress_bar=False,
            extra_arguments=["--log-level=CRITICAL"],  # ipykernel warns at each start that it talks over TCP
            **limits,
        )
    except PapermillExecutionError:
        return ""  # its cell says it
    except CellTimeoutError:
        return f"it did not end within {limits['execution_timeout']:g} s"
    except DeadKernelError:
        return "its kernel died"
    except (NoSuchKernel, RuntimeError) as error:
        return f"its kernel did not start ({error})"
    return ""


if __name__ == "__main__":
    kernels.serve(_papermill)
