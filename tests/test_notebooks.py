"""The notebooks: one for each table, short, made of calls into the library, with one set of parameters."""

import ast
import json
import re
from pathlib import Path

import pytest

from workbench.experiments import tables
from workbench.experiments.page import Page

ROOT = Path(__file__).parents[1] / "notebooks"
FILES = {path.stem: json.loads(path.read_text()) for path in sorted((ROOT / "tables").glob("*.ipynb"))}
PARAMETERS = ["budget", "seeds", "epochs", "engine", "device", "data", "runs_dir", "data_dir"]
ACTS = {name for name in vars(Page) if not name.startswith("_")}


def code(notebook):
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


def test_every_table_has_its_notebook():
    assert sorted(FILES) == tables.known()


@pytest.mark.parametrize("key", FILES)
def test_the_parameters_are_the_same_everywhere_and_say_which_budgets_there_are(key):
    (cell,) = [cell for cell in FILES[key]["cells"] if cell["metadata"].get("tags") == ["parameters"]]
    tree = ast.parse("".join(cell["source"]))
    assert [node.targets[0].id for node in tree.body] == PARAMETERS
    words = re.search(r'budget = "(\w+)"  # (.*)', "".join(cell["source"]))
    known = ["count", *tables.load(key).budgets]
    assert re.findall(r"[\w-]+", words[2].replace(" or ", ", ")) == known
    assert words[1] == ("smoke" if "smoke" in known else "count")


@pytest.mark.parametrize("key", FILES)
def test_a_notebook_is_calls_of_its_own_page(key):
    opening, *calls = code(FILES[key])[1:]
    assert f'Page("{key}", ' in opening
    assert {re.fullmatch(r"page\.(\w+)\(.*\)", call)[1] for call in calls} <= ACTS
    assert calls[0] == "page.models()" and calls[-1] == "page.reading()"


@pytest.mark.parametrize("key", FILES)
def test_the_rows_that_a_notebook_names_are_of_its_table(key):
    known = {row.label for row in tables.load(key).rows}
    named = [name for call in code(FILES[key])[2:] for name in re.findall(r'"([^"]+)"', call)]
    assert set(named) <= known
    assert "No such row" not in known  # witness


@pytest.mark.parametrize("key", [*FILES, "claims"])
def test_table_notebooks_are_stored_without_outputs(key):
    notebook = FILES.get(key) or json.loads((ROOT / f"{key}.ipynb").read_text())
    assert not [cell for cell in notebook["cells"] if cell.get("outputs") or cell.get("execution_count")]
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])


def test_every_notebook_has_a_title_of_its_own():
    titles = ["".join(notebook["cells"][0]["source"]).splitlines()[0] for notebook in FILES.values()]
    assert len(set(titles)) == len(titles) and all(title.startswith("# ") for title in titles)
