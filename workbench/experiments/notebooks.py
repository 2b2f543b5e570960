"""A table's notebook, run by papermill: the runs first, here, then the notebook, which finds them done."""

import os
from pathlib import Path

from workbench import files
from workbench.errors import UnknownName, WorkbenchError
from workbench.experiments.report import run
from workbench.experiments.store import Store
from workbench.experiments.tables import Table

CELL_LIMIT_S = 600


def source(table: Table) -> Path:
    """The notebook of this table; raises UnknownName where it has none."""
    folder = files.share("notebooks") / "tables"
    path = folder / f"{table.key}.ipynb"
    if not path.is_file():
        raise UnknownName("table notebook", table.key, [path.stem for path in folder.glob("*.ipynb")])
    return path


def reproduce(table: Table, budget: str, store: Store, seeds: int = 0, device: str = "auto", jobs: int = 0) -> Path:
    """Measure what this budget lacks, execute the notebook, and return it: runs/notebooks/<table>-<budget>.ipynb.

    A notebook that fails is kept as *.failed.ipynb, and raises WorkbenchError naming its cell.
    """
    import papermill
    from papermill.exceptions import PapermillExecutionError

    notebook = source(table)
    if budget != "count":
        table.budget(budget)
    folder = files.ensure_writable(store.root / "notebooks").resolve()
    run(table, budget, store, seeds, device, jobs)
    target = folder / f"{table.key}-{budget}.ipynb"
    part, failed = target.with_suffix(".part.ipynb"), target.with_suffix(".failed.ipynb")
    parameters = {
        "budget": budget,
        "seeds": seeds,
        "device": device,
        "runs_dir": str(store.root.resolve()),
        "data_dir": str(store.data.resolve()),
    }
    failed.unlink(missing_ok=True)
    try:
        papermill.execute_notebook(
            str(notebook),
            str(part),
            parameters=parameters,
            kernel_name="python3",
            progress_bar=False,
            execution_timeout=CELL_LIMIT_S,
            extra_arguments=["--log-level=ERROR"],  # ipykernel warns at each start that it talks over TCP
        )
    except PapermillExecutionError as error:
        os.replace(part, failed)
        raise WorkbenchError(
            f"Cell {error.cell_index} of {notebook.name} failed: {error.ename}: {error.evalue}. It is kept as {failed}."
        ) from error
    os.replace(part, target)
    return target
