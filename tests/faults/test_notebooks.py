"""A notebook that cannot be executed fails in one sentence, leaves no process and no half file, and stops no other.

The notebooks here start processes, write down their numbers, and then end in some bad way; all real ones run at once.
"""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import psutil
import pytest

from workbench import files
from workbench.errors import Busy, Corrupt, DataMissing, Interrupted, OutOfRange, UnknownName, WorkbenchError
from workbench.experiments import cells, kernels, notebooks, tables
from workbench.experiments.grid import Resources
from workbench.experiments.store import Store

ROOT = Path(__file__).resolve().parents[2]
GONE_S = 10
PARAMETERS = "pids = ''  # where to write them"
START = """
import os, subprocess
from pathlib import Path
near = subprocess.Popen(["sleep", "600"])
far = subprocess.Popen(["sleep", "600"], start_new_session=True, env={})
Path(pids + ".part").write_text(f"{os.getpid()} {near.pid} {far.pid}")
Path(pids + ".part").rename(pids)
"""
SLEEP, KILL = "import time\ntime.sleep(600)", "os.kill(os.getpid(), 9)"
PARENT = """
import signal, sys
from pathlib import Path
from workbench.experiments import notebooks
signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a job in the background starts without
notebooks.START_LIMIT_S = int(sys.argv[4])
notebooks.execute(Path(sys.argv[1]), Path(sys.argv[2]), {"pids": sys.argv[3]})
"""


def write(path, *sources, parameters=PARAMETERS):
    """A notebook with a heading, the parameters cell, unless it is None, and these code cells."""
    code = [{"cell_type": "code", "id": f"c{i}", "metadata": {}, "source": s} for i, s in enumerate(sources)]
    if parameters is not None:
        code.insert(0, {"cell_type": "code", "id": "p", "metadata": {"tags": ["parameters"]}, "source": parameters})
    code = [cell | {"execution_count": None, "outputs": []} for cell in code]
    text = {"cell_type": "markdown", "id": "h", "metadata": {}, "source": "# A notebook"}
    metadata = {"language_info": {"name": "python"}, "kernelspec": {"name": "python3", "display_name": "Python"}}
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(json.dumps({"cells": [text, *code], "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}))
    return path


def alive(path):
    """Which of the processes whose numbers are in `path` live."""
    found = []
    for number in map(int, path.read_text().split()):
        if psutil.pid_exists(number) and psutil.Process(number).status() != psutil.STATUS_ZOMBIE:
            found.append(number)
    return found


def until(condition, limit_s):
    end = time.monotonic() + limit_s
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


# Real kernels


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """Name -> folder, error or None, and seconds, of notebooks that end in every way."""
    folder = tmp_path_factory.mktemp("ended {ü} x")
    kinds = {
        "good": [START, "assert near.poll() is None and far.poll() is None\nprint('{}')"],
        "bad": [START, "1 / 0", "print('never reached')"],
        "killed": [START, KILL],  # in the last cell
        "endless": [START, SLEEP],
    }

    def execute(name):
        (folder / name).mkdir()
        source, start = write(folder / name / f"{name}.ipynb", *kinds[name]), time.monotonic()
        try:
            given = {"pids": str(folder / name / "pids")}
            notebooks.execute(source, folder / name / "made.ipynb", given, made_from="these")
            error = None
        except WorkbenchError as caught:
            error = caught
        return folder / name, error, time.monotonic() - start

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(3) as pool:
        patch.setattr(notebooks, "CELL_LIMIT_S", 4)
        return dict(zip(kinds, pool.map(execute, kinds), strict=True))


@pytest.mark.parametrize("name", ["good", "bad", "killed", "endless"])
def test_nothing_is_left_alive_and_one_file_is_left(ended, name):
    folder, error, _ = ended[name]
    assert len((folder / "pids").read_text().split()) == 3 and alive(folder / "pids") == []
    kept = "made.ipynb" if error is None else "made.failed.ipynb"
    assert sorted(path.name for path in folder.iterdir()) == sorted([f"{name}.ipynb", kept, "pids"])
    cells.read(folder / kept)  # is whole


def test_a_good_notebook_is_executed_and_says_from_what(ended):
    folder, error, _ = ended["good"]
    assert error is None
    notebook = cells.read(folder / "made.ipynb")
    assert cells.fault(notebook) is None and notebook["metadata"]["workbench"]["made_from"] == "these"
    assert "{}" in str(notebook["cells"][-1]["outputs"])
    assert cells.fault(cells.read(folder / "good.ipynb")) == (
        2,
        "it was not executed to its end",
    )  # witness: the source is not executed


@pytest.mark.parametrize(
    ("name", "cell", "what"),
    [
        ("bad", 4, "ZeroDivisionError: division by zero"),
        ("killed", 4, "its kernel died"),
        ("endless", 4, "it did not end within 4 s"),
    ],
)
def test_one_sentence_names_notebook_cell_and_what(ended, name, cell, what):
    folder, error, duration_s = ended[name]
    kept = folder / "made.failed.ipynb"
    assert cells.fault(cells.read(kept))[0] == cell
    assert str(error) == f"Cell {cell} of {name}.ipynb failed: {what}. It is kept as {kept}."
    assert duration_s < 60


def test_a_status_completed_is_not_believed(ended):
    """What papermill writes into the notebook of a killed kernel, in each cell."""
    notebook = cells.read(ended["killed"][0] / "made.failed.ipynb")
    states = [cell["metadata"]["papermill"]["status"] for cell in notebook["cells"]]
    assert {*states} == {"completed"} and not notebook["metadata"]["papermill"]["exception"]
    assert cells.fault(notebook) == (4, "it was not executed to its end")


@pytest.fixture(scope="module")
def signalled(tmp_path_factory):
    """Signal or case -> folder, exit code, what it said, and seconds until nothing was left."""
    folder, started = tmp_path_factory.mktemp("signalled"), {}
    spec = {"argv": ["sh", "-c", f"echo $$ > {folder}/never.part; mv {folder}/never.part {folder}/never; sleep 600"]}
    (folder / "kernels" / "python3").mkdir(parents=True)
    (folder / "kernels" / "python3" / "kernel.json").write_text(
        json.dumps(spec | {"display_name": "never starts", "language": "python"})
    )
    for name in ("SIGKILL", "SIGTERM", "SIGINT", "child", "never"):
        source = write(folder / f"{name}.ipynb", START, SLEEP)
        arguments = [source, folder / f"made-{name}.ipynb", folder / name, "2" if name == "never" else "60"]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        if name == "never":
            environment["JUPYTER_PATH"] = str(folder)
        command = [sys.executable, "-c", PARENT, *map(str, arguments)]
        started[name] = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    found = {}
    for name, process in started.items():
        pids = folder / name
        assert until(pids.exists, 90) and (name == "never" or len(alive(pids)) == 3)  # witness: they do live
        if name == "child":
            (child,) = psutil.Process(process.pid).children()
            child.kill()
        elif name != "never":
            process.send_signal(getattr(signal, name))
        start = time.monotonic()
        said = process.communicate(timeout=60)[1]
        until(lambda pids=pids: not alive(pids), GONE_S)
        found[name] = folder, process.returncode, said, time.monotonic() - start
    return found


@pytest.mark.parametrize(("name", "code"), [("SIGKILL", -9), ("SIGTERM", 143), ("SIGINT", -2), ("child", 1)])
def test_nothing_survives_a_signal(signalled, name, code):
    folder, returned, said, duration_s = signalled[name]
    assert returned == code and alive(folder / name) == [] and duration_s < GONE_S
    left = sorted(path.name for path in folder.glob(f"made-{name}*"))
    if name == "SIGKILL":
        assert left == ["made-SIGKILL.part.ipynb"]  # the next call removes it
    elif name == "child":
        assert left == ["made-child.failed.ipynb"] and "its process ended with exit code -9" in said
    else:
        assert left == []


def test_a_kernel_that_never_starts_is_given_up(signalled):
    folder, code, said, _ = signalled["never"]
    kept = folder / "made-never.failed.ipynb"
    what = "its kernel did not start (Kernel didn't respond in 2 seconds)"
    assert code == 1 and kept.exists() and alive(folder / "never") == []
    assert said.splitlines()[-1].endswith(f"Cell 2 of never.ipynb failed: {what}. It is kept as {kept}.")


SLOW = """
import time
from pathlib import Path
from workbench.experiments import kernels

def handle(request):
    exec(request[0], {"pids": request[1]})
    time.sleep(request[2])
    return "done"

kernels.serve(handle)
"""


@pytest.mark.parametrize(("sleep_s", "limit_s"), [(600, 3), (0, 60)])
def test_the_whole_has_a_limit(tmp_path, monkeypatch, sleep_s, limit_s):
    (tmp_path / "slow_answer.py").write_text(SLOW)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(tmp_path)]))
    pids, start = tmp_path / "pids", time.monotonic()
    request = [START, str(pids), sleep_s]
    if sleep_s:
        with pytest.raises(TimeoutError, match="within 3 s"):
            kernels.answer("slow_answer", request, limit_s)
    else:
        assert kernels.answer("slow_answer", request, limit_s) == "done"
    assert time.monotonic() - start < limit_s + GONE_S
    assert len(pids.read_text().split()) == 3 and alive(pids) == []


def test_only_what_carries_the_mark_ends():
    """Witness of the above."""
    sleep = partial(subprocess.Popen, ["sleep", "600"], start_new_session=True)
    marked, other, bare = (sleep(env=os.environ | extra) for extra in ({kernels.MARK: "a"}, {kernels.MARK: "b"}, {}))
    kernels.end("a")
    assert marked.wait(5) is not None and other.poll() is None and bare.poll() is None
    kernels.end("b")
    assert other.wait(5) is not None and bare.poll() is None
    bare.kill()
    bare.wait(5)


# Before any kernel


@pytest.fixture
def no_kernel(monkeypatch):
    monkeypatch.setattr(kernels, "answer", lambda *_: pytest.fail("started a process"))


MANY = "budget = 'smoke'\nseeds: int = 0\nrate = 0.1\nrows = ['a']\nfree = None\nmade = len('abc')\nflag = True"


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"budgte": "count"}, UnknownName, r"parameter of n\.ipynb 'budgte'\. Did you mean 'budget'\?"),
        ({"seed": 3}, UnknownName, r"'seed'\. Did you mean 'seeds'"),
        ({"seeds": "3"}, OutOfRange, r"seeds of n\.ipynb is '3', of type str; .* 0 there, give a value of type int"),
        ({"seeds": True}, OutOfRange, "True, of type bool"),
        ({"seeds": 1.5}, OutOfRange, "1.5"),
        ({"rows": ("a",)}, OutOfRange, "tuple"),
        ({"free": ("a",)}, OutOfRange, "tuple"),
        ({"flag": 1}, OutOfRange, "bool"),
    ],
)
def test_a_parameter_that_is_misspelt_or_mistyped_is_refused(tmp_path, no_kernel, given, error, said):
    path = write(tmp_path / "n.ipynb", parameters=MANY)
    with pytest.raises(error, match=said):
        notebooks.execute(path, tmp_path / "made.ipynb", given)
    assert [*tmp_path.iterdir()] == [path]
    right = {"budget": "count", "seeds": 3, "rate": 1, "rows": [], "free": 2, "made": "x", "flag": False}
    notebooks.check_parameters(path, right)  # witness


@pytest.mark.parametrize(
    ("content", "error", "said"),
    [
        (b"", Corrupt, "not whole JSON"),
        (b'{"cells": [', Corrupt, "not whole JSON"),
        (b"\xff\xfe", Corrupt, "not whole JSON"),
        (b"[1]", Corrupt, "format 4"),
        (b'{"worksheets": [], "nbformat": 3, "metadata": {}}', Corrupt, "format 4"),
        (b'{"cells": [], "nbformat": 4, "metadata": {}}', Corrupt, "at least one cell"),
        (None, Corrupt, "cannot be read"),
        ({"parameters": None}, OutOfRange, "has no parameters: tag the cell"),
        ({"parameters": "a = = 1"}, Corrupt, "not plain Python"),
    ],
)
def test_what_is_no_notebook_with_parameters_is_refused(tmp_path, no_kernel, content, error, said):
    path = tmp_path / "n.ipynb"
    if isinstance(content, dict):
        write(path, "1", **content)
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(error, match=said) as caught:
        notebooks.execute(path, tmp_path / "made.ipynb", {})
    assert str(path) in str(caught.value) and not [*tmp_path.glob("made*")]


# A table's notebook; what papermill does is stood in for

TABLE = "budget = ''\ndata = ''\nseeds = 0\nepochs = 0\nengine = ''\ndevice = ''\nruns_dir = ''\ndata_dir = ''"


@pytest.fixture
def executions(tmp_path, monkeypatch):
    """The sources that were executed; own notebooks for two tables, and no kernel: each cell counts as executed."""
    share, done = files.share, []
    monkeypatch.setattr(files, "share", lambda name: tmp_path / "share" if name == "notebooks" else share(name))
    for key in ("dca-2", "cra-4"):
        write(tmp_path / "share" / "tables" / f"{key}.ipynb", "1 + 1", parameters=TABLE)

    def answer(module, request, limit_s):
        notebook = json.loads(Path(request[0]).read_text())
        for number, cell in enumerate(notebook["cells"], 1):
            if cell["cell_type"] == "code":
                cell["execution_count"] = number
                cell["metadata"]["execution"] = {"shell.execute_reply": "now"}
        notebook["metadata"]["given"] = request[2]
        Path(request[1]).write_text(json.dumps(notebook))
        done.append(Path(request[0]).stem)
        return ""

    monkeypatch.setattr(kernels, "answer", answer)
    return done


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "runs", tmp_path / "data", tmp_path / "published")


def reproduce(store, epochs=0, budget="count", **given):
    return notebooks.reproduce(tables.load("dca-2").on(epochs=epochs), budget, store, **given)


def test_a_second_call_executes_nothing(executions, store):
    states = []
    path = reproduce(store, on_state=states.append)
    before, start = path.stat().st_mtime_ns, time.monotonic()
    assert reproduce(store, on_state=states.append) == path
    assert time.monotonic() - start < 1 and path.stat().st_mtime_ns == before
    assert states == ["runs", "notebook", "done", "runs", "unchanged"] and executions == ["dca-2"]


@pytest.mark.parametrize("what", ["source", "parameter", "record", "other record", "code", "table", "damage", "edit"])
def test_what_was_made_from_something_else_is_executed_again(executions, store, tmp_path, monkeypatch, what):
    monkeypatch.setattr(notebooks, "run", lambda *_: None)
    given = {"budget": "smoke"} if "record" in what else {}
    path = reproduce(store, **given)
    if what == "source":
        write(tmp_path / "share" / "tables" / "dca-2.ipynb", "1 + 2", parameters=TABLE)
    elif what == "parameter":
        given |= {"resources": Resources(device="cpu")}
    elif what in ("record", "other record"):
        (run, *_) = tables.load("dca-2" if what == "record" else "cra-4").experiments("smoke", 1)
        monkeypatch.setattr(store, "records", partial(stand_ins, run))
    elif what == "code":
        (tmp_path / "package").mkdir()
        monkeypatch.setattr(files, "PACKAGE", tmp_path / "package")
    elif what == "table":
        other = tables.load("dca-2")._replace(caption="corrected")
        monkeypatch.setattr(tables, "load", lambda key: other)
    else:
        text = path.read_text()
        path.write_text(text[:-20] if what == "damage" else text.replace("1 + 1", "1 + 3"))
    assert reproduce(store, **given) == path
    assert len(executions) == (1 if what == "other record" else 2)
    assert reproduce(store, **given) == path
    assert len(executions) == (1 if what == "other record" else 2)  # and then no more


def stand_ins(run):
    from workbench.experiments.experiment import Record

    return [Record(run.key(), run.spec(), "done", {"top1_error": 1.0}, [], {}, 1.0)]


def test_other_epochs_have_another_name(executions, store):
    assert reproduce(store).name == "dca-2-count.ipynb"
    assert reproduce(store, epochs=3).name == "dca-2-count-3-epochs.ipynb"
    given = cells.read(store.root / "notebooks" / "dca-2-count-3-epochs.ipynb")["metadata"]["given"]
    assert given["epochs"] == 3 and given["engine"] == "local" and len(executions) == 2


def test_a_second_process_is_told_who_is_at_it(executions, store, monkeypatch):
    answer = kernels.answer

    def both(*given):
        with pytest.raises(Busy, match=f"dca-2-count.* is held by process {os.getpid()};"):
            reproduce(store)
        with pytest.raises(Busy, match=f"part.* is held by process {os.getpid()};"):
            notebooks.execute(Path(given[1][0]), store.root / "notebooks" / "dca-2-count.ipynb", {})
        return answer(*given)

    monkeypatch.setattr(kernels, "answer", both)
    assert cells.fault(cells.read(reproduce(store))) is None
    assert executions == ["dca-2"]


def test_a_failure_spares_the_last_good_one_and_a_part_is_never_left(executions, store, monkeypatch):
    folder = store.root / "notebooks"
    good = reproduce(store).read_bytes()
    answer = kernels.answer
    for half, error in ((True, KeyboardInterrupt()), (True, TimeoutError()), (False, TimeoutError())):

        def interrupted(module, request, limit_s, half=half, error=error):
            answer(module, request, limit_s)
            if half:
                Path(request[1]).write_text(Path(request[1]).read_text()[:-30])
            raise error

        monkeypatch.setattr(kernels, "answer", interrupted)
        with pytest.raises((KeyboardInterrupt, WorkbenchError)) as caught:
            reproduce(store, resources=Resources(device="cpu"))
        if isinstance(error, TimeoutError):
            assert "dca-2.ipynb failed: the whole notebook was not done within 3600 s" in str(caught.value)
        assert (folder / "dca-2-count.ipynb").read_bytes() == good
        kept = ["dca-2-count.ipynb"] if half else ["dca-2-count.failed.ipynb", "dca-2-count.ipynb"]
        assert sorted(path.name for path in folder.iterdir()) == kept
    monkeypatch.setattr(kernels, "answer", answer)
    for _ in range(2):  # executed, then unchanged
        (folder / "dca-2-count.part.ipynb").write_text("of a killed process")
        reproduce(store, resources=Resources(device="cpu"))
        assert [path.name for path in folder.iterdir()] == ["dca-2-count.ipynb"]
    assert (folder / "dca-2-count.ipynb").read_bytes() != good  # witness: the parameters are others


def test_a_batch_goes_on_with_the_others_when_one_fails(executions, store, monkeypatch, tmp_path):
    chosen, told = [tables.load(key) for key in ("dca-2", "cra-4", "dca-4")], []
    missing = DataMissing("not here")

    def run(table, *_):
        if table.key == "dca-2" and not told[5:]:
            raise missing

    monkeypatch.setattr(notebooks, "run", run)
    wanted = [(one, "count") for one in chosen]
    outcomes = notebooks.reproduce_all(wanted, store, on_table=lambda *given: told.append(given))
    assert [outcome.state for outcome in outcomes] == ["failed", "done", "failed"]
    assert outcomes[0].error is missing and outcomes[0].path is None and isinstance(outcomes[2].error, UnknownName)
    assert outcomes[1] == ("cra-4", "done", store.root.resolve() / "notebooks" / "cra-4-count.ipynb", None)
    assert told == [
        (1, 3, "dca-2", "runs"), (1, 3, "dca-2", "failed"),
        (2, 3, "cra-4", "runs"), (2, 3, "cra-4", "notebook"), (2, 3, "cra-4", "done"),
        (3, 3, "dca-4", "failed"),
    ]  # fmt: skip
    again = notebooks.reproduce_all(wanted, store)
    assert [outcome.state for outcome in again] == ["done", "unchanged", "failed"]  # continues with the unfinished
    assert executions == ["cra-4", "dca-2"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(143), Interrupted("saved", 15)], ids=repr)
def test_a_signal_stops_the_batch_at_once(executions, store, monkeypatch, error):
    def run(table, *_):
        if table.key == "cra-4":
            raise error

    monkeypatch.setattr(notebooks, "run", run)
    with pytest.raises(type(error)):
        notebooks.reproduce_all([(tables.load(key), "count") for key in ("dca-2", "cra-4", "dca-2")], store)
    assert executions == ["dca-2"]  # which is kept
    assert [path.name for path in (store.root / "notebooks").iterdir()] == ["dca-2-count.ipynb"]
