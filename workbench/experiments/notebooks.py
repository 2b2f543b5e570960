"""A table's notebook, run by papermill: the runs first, here, then the notebook, which finds them done."""

import os
import re
from pathlib import Path

from workbench import files
from workbench.errors import UnknownName, WorkbenchError
from workbench.experiments.grid import DEFAULT, Resources
from workbench.experiments.report import run
from workbench.experiments.store import Store
from workbench.experiments.tables import Table

CELL_LIMIT_S = 600


def has_notebook(table: Table) -> bool:
    return _path(table).is_file()


def reproduce(table: Table, budget: str, store: Store, seeds: int = 0, resources: Resources = DEFAULT) -> Path:
    """Measure what this budget lacks, execute the notebook, and return it: runs/notebooks/<table>-<budget>.ipynb.

    On another data set its name ends with what that is called.
    A notebook that fails, or whose kernel dies or hangs, is kept as *.failed.ipynb, and raises WorkbenchError.
    """
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    notebook = _path(table)
    if not has_notebook(table):
        raise UnknownName("table notebook", table.key, [path.stem for path in notebook.parent.glob("*.ipynb")])
    own = "" if budget == "count" else table.budget(budget).dataset
    folder = files.ensure_writable(store.root / "notebooks").resolve()
    words = re.sub(r"[^a-z0-9]+", "-", table.data.lower())
    target = folder / f"{'-'.join(filter(None, (table.key, budget, words)))}.ipynb"
    part, failed = target.with_suffix(".part.ipynb"), target.with_suffix(".failed.ipynb")
    parameters = {
        "budget": budget,
        "data": own if table.data else "",
        "seeds": seeds,
        "device": resources.device,
        "runs_dir": str(store.root.resolve()),
        "data_dir": str(store.data.resolve()),
    }
    with files.lock(store.root / f".{target.stem}.lock"):
        run(table, budget, store, seeds, resources)
        failed.unlink(missing_ok=True)
        try:
            papermill.execute_notebook(
                str(notebook),
                str(part),
                parameters=parameters,
                kernel_name="python3",
                progress_bar=False,
                execution_timeout=CELL_LIMIT_S,
                extra_arguments=["--log-level=CRITICAL"],  # ipykernel warns at each start that it talks over TCP
            )
        except (PapermillExecutionError, CellTimeoutError, DeadKernelError) as error:
            os.replace(part, failed)
            what = f"{error.ename}: {error.evalue}" if isinstance(error, PapermillExecutionError) else str(error)
            cell = f"Cell {error.cell_index}" if isinstance(error, PapermillExecutionError) else "A cell"
            raise WorkbenchError(f"{cell} of {notebook.name} failed: {what}. It is kept as {failed}.") from error
        os.replace(part, target)
    return target


def _path(table: Table) -> Path:
    return files.share("notebooks") / "tables" / f"{table.key}.ipynb"
