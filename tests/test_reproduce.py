"""`workbench reproduce`: a table is measured, its notebook executed, and CRA's claim comes out as built in.

One run of the whole way, at budget smoke with three seeds, serves most tests here: it takes minutes.
"""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from statistics import fmean

import nbformat
import pytest

from workbench import cli
from workbench.errors import UnknownName
from workbench.experiments import notebooks, tables
from workbench.experiments.store import Store

ROOT = Path(__file__).resolve().parents[1]
CHANCE = 100 * 15 / 16  # a network that cannot tell where must miss 15 of 16 places
SIGMA = 100 * math.sqrt(15 / 16 / 16 / 2048)  # of one run's error, over 2,048 test pictures
BOUND = CHANCE - 4 * SIGMA
BLIND = ("w/o", "<1,1>", "SE, long")  # rows whose logits no circular shift can change


def workbench(*arguments, runs):
    """The command in a process of its own, as a user starts it, outside the checkout."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    at = ["--runs", str(runs), "--data-dir", str(runs.parent / "data")]
    command = [sys.executable, "-m", "workbench", *arguments, *at]
    return subprocess.run(command, cwd=runs.parent, env=environment, capture_output=True, text=True, timeout=1800)


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory):
    """What `reproduce cra-4 --budget smoke` said, and the folder of its runs."""
    runs = tmp_path_factory.mktemp("reproduce") / "runs"
    return workbench("reproduce", "cra-4", "--budget", "smoke", runs=runs), runs


@pytest.fixture(scope="module")
def measured(reproduced):
    """Row -> seed -> top-1 error at budget smoke, from the command's own JSON."""
    answer = workbench("table", "cra-4", "--json", runs=reproduced[1])
    assert answer.returncode == 0, answer.stderr
    found = {}
    for entry in json.loads(answer.stdout):
        (one,) = [m for m in entry["measured"] if m["column"] == "measured here, smoke" and m["metric"] == "top1_error"]
        assert one["n"] == len(one["values"]) == 3
        assert one["std"] is not None
        assert one["dataset"] == "layouts" and one["protocol"] and one["hardware"] and one["code"]
        found[entry["row"]] = one["values"]
    return found


def test_it_ends_well_and_says_what_to_open(reproduced):
    answer, runs = reproduced
    assert answer.returncode == 0, answer.stderr
    assert "Traceback" not in answer.stderr
    assert str(Path("runs", "notebooks", "cra-4-smoke.ipynb")) in answer.stdout
    assert "?table=cra-4" in answer.stdout
    assert "5 of 5 counted cells agree" in answer.stdout
    assert "(n = 3)" in answer.stdout
    assert len([*runs.glob("*/record.json")]) == 21  # 7 rows, 3 seeds


def test_the_notebook_is_executed_whole(reproduced):
    folder = reproduced[1] / "notebooks"
    assert sorted(path.name for path in folder.iterdir()) == ["cra-4-smoke.ipynb"]  # nothing half done, nothing failed
    notebook = nbformat.read(folder / "cra-4-smoke.ipynb", as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in cells)
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert "Budget `smoke`" in str(outputs)
    (injected,) = [cell for cell in cells if "injected-parameters" in cell.metadata.get("tags", [])]
    for line in ('budget = "smoke"', "seeds = 0", f'runs_dir = "{reproduced[1].resolve()}"'):
        assert line in injected.source
    figures = [output for output in outputs if "application/vnd.plotly.v1+json" in output.get("data", {})]
    assert len(figures) == 2
    assert "w/o" in str(figures[0].data) and "(n = 3)" in str(figures[1].data)


def test_its_outputs_hold_no_timing_and_no_warning(reproduced):
    notebook = nbformat.read(reproduced[1] / "notebooks" / "cra-4-smoke.ipynb", as_version=4)
    streams = [o for cell in notebook.cells for o in cell.get("outputs", []) if o.output_type == "stream"]
    assert streams  # witness: what is printed is here
    assert not [stream for stream in streams if stream.name == "stderr"]


@pytest.mark.parametrize("row", BLIND)
def test_who_cannot_tell_where_must_guess_the_place(measured, row):
    assert all(error >= BOUND for error in measured[row].values())


def test_the_bound_can_be_passed(measured):
    """The control that cheats, trained the same way: zero padding marks the border."""
    assert all(error < BOUND - 10 for error in measured["SE, long, zeros"].values())


def test_a_fine_grid_tells_where(measured):
    assert all(error < 5 for error in measured["<7,7>"].values())


def test_the_larger_the_grid_the_better(measured):
    means = [fmean(measured[row].values()) for row in ("<7,7>", "<5,5>", "<3,3>", "<1,1>")]
    assert means == sorted(means)
    assert len(set(means)) == 4


def test_a_second_call_trains_nothing(reproduced):
    runs = reproduced[1]
    before = {path: path.stat().st_mtime_ns for path in runs.rglob("*") if path.is_file()}
    again = workbench("reproduce", "cra-4", "--budget", "smoke", runs=runs)
    assert again.returncode == 0, again.stderr
    assert again.stdout == reproduced[0].stdout
    changed = {path.name for path in runs.rglob("*") if path.is_file() and before.get(path) != path.stat().st_mtime_ns}
    assert not changed
    (runs / "notebooks" / "cra-4-smoke.ipynb").unlink()
    assert workbench("reproduce", "cra-4", "--budget", "smoke", runs=runs).stdout == again.stdout
    assert (runs / "notebooks" / "cra-4-smoke.ipynb").exists()  # witness: it can run


def test_the_dca_notebook_runs_without_training(tmp_path):
    store = Store(tmp_path / "runs", tmp_path / "data", tmp_path / "published")
    path = notebooks.reproduce(tables.load("dca-2"), "count", store)
    assert path == tmp_path / "runs" / "notebooks" / "dca-2-count.ipynb"
    assert sorted((tmp_path / "runs").rglob("[!.]*")) == [path.parent, path]  # and the hidden lock
    outputs = [output for cell in nbformat.read(path, as_version=4).cells for output in cell.get("outputs", [])]
    text = str(outputs)
    assert "Budget `count`" in text
    assert "8 of 8 counted cells agree" in text
    assert "Nothing is trained at this budget." in text
    assert not [output for output in outputs if output.output_type == "error"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["cra-4", "--budget", "smke"], "Unknown budget of cra-4 'smke'. Did you mean 'smoke'"),
        (["all", "--budget", "smke"], "smke"),
        (["cra-9"], "Unknown table 'cra-9'. Did you mean 'cra-6'"),
        (["cra-4", "--seeds", "-1"], "-1 seeds"),
        (["cra-4", "--jobs", "-1"], "Jobs -1"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_starts(monkeypatch, tmp_path, capsys, arguments, sentence):
    started = []
    monkeypatch.setattr(notebooks, "execute", lambda *_, **__: started.append("kernel"))
    monkeypatch.setattr(notebooks, "run", lambda *_: started.append("run"))
    assert cli.main(["reproduce", *arguments]) == 2
    assert sentence in capsys.readouterr().err
    assert not started
    assert not (tmp_path / "runs").exists()


def test_all_tables_are_those_that_have_a_notebook(monkeypatch, tmp_path):
    chosen = []
    monkeypatch.setattr(notebooks, "run", lambda *_: None)
    monkeypatch.setattr(notebooks, "execute", lambda source, *_, **__: chosen.append(source))
    for budget in ("smoke", "count"):
        assert cli.main(["reproduce", "all", "--budget", budget]) == 0
    names = [Path(source).stem for source in chosen]
    assert names.count("cra-4") == names.count("dca-2") == 2


def test_a_table_without_a_notebook_says_which_have_one(tmp_path):
    with pytest.raises(UnknownName, match=r"table notebook 'dca-9'\. Did you mean 'dca-"):
        notebooks.reproduce(tables.load("dca-2")._replace(key="dca-9"), "count", Store(tmp_path / "runs"))
