"""The learning notebooks: stored with the outputs that nbval compares, made of the library, every exercise solved.

Their numbers are compared by `make test`, which runs them; here is what holds without a run, and a proof that the
comparison sees a wrong number.
"""

import ast
import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "notebooks"
FILES = {path.stem: nbformat.read(path, 4) for path in sorted((FOLDER / "learn").glob("*.ipynb"))}
ALLOWED = {"IPython", "matplotlib", "numpy", "pandas", "PIL", "plotly", "torch", "torchvision", "workbench"}
PLACES = re.compile(r"(?<![\w.:/])/(home|root|tmp|work|usr|opt|mnt|var|Users)/|[A-Z]:\\\\")
PASSING = re.compile(r"\d+%\||\b\d+(\.\d+)? ?(s|ms|seconds)\b")  # bars and durations
CAPTION = re.compile(r"^\*{1,2}Figure[.:]", re.MULTILINE)
SOLUTION = re.compile(r"<details><summary>Solution</summary>\n(.*?)</details>", re.DOTALL)
PICTURES = ("image/png", "image/svg+xml", "application/vnd.plotly.v1+json")
LIMIT_BYTES = 400_000


def of_kind(notebook, kind):
    return [cell for cell in notebook.cells if cell.cell_type == kind]


def solutions(cell):
    """(code, what it is said to print or None, what its last line is said to be or None) of each solution in a cell."""
    found = []
    for text in SOLUTION.findall(cell.source):
        code = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
        printed = re.search(r"It prints\n\n```text\n(.*?)```", text, re.DOTALL)
        value = re.search(r"```\n\n(?:The (?:answer|result) is )?`(.*?)`", text)
        found += [(one, printed[1].strip() if printed else None, value[1] if value else None) for one in code]
    return found


def ran(code, space):
    """What a solution prints, and its last line's value as a notebook shows it."""
    *lines, last = ast.parse(code).body
    shown = isinstance(last, ast.Expr)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(ast.Module([*lines, *[last] * (not shown)], []), "solution", "exec"), space)
        value = eval(compile(ast.Expression(last.value), "solution", "eval"), space) if shown else None
    return printed.getvalue().strip(), repr(value)


def defined(source):
    return {node.name for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ClassDef | ast.FunctionDef)}


@cache
def classes():
    """The names of all classes of the library."""
    names = set().union(*(defined(path.read_text()) for path in (ROOT / "workbench").rglob("*.py")))
    return {name for name in names if name[0].isupper()}


def imported(source):
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").partition(".")[0])
    return names


def strange(source):
    """Imports of what a learning notebook may not need."""
    return imported(source) - ALLOWED - set(sys.stdlib_module_names)


def text_of(output):
    data = output.get("data", {})
    return "".join([output.get("text", ""), *(data.get(kind, "") for kind in ("text/plain", "text/markdown"))])


@pytest.mark.parametrize("key", FILES)
def test_it_is_valid_short_and_stored_as_executed_in_order(key):
    nbformat.validate(FILES[key])
    code = of_kind(FILES[key], "code")
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert outputs and not [one for one in outputs if one.output_type == "error" or one.get("name") == "stderr"]
    assert (FOLDER / "learn" / f"{key}.ipynb").stat().st_size < LIMIT_BYTES


@pytest.mark.parametrize("key", FILES)
def test_title_and_cell_ids_are_its_own(key):
    cells = FILES[key].cells
    assert cells[0].source.startswith(f"# {key[:2]} ")
    ids = [cell.id for cell in cells]
    assert len(set(ids)) == len(ids) and all(re.fullmatch(rf"{key[:2]}-\d\d", one) for one in ids)


@pytest.mark.parametrize("key", FILES)
def test_every_exercise_has_a_solution_that_is_code(key):
    exercises = [cell for cell in of_kind(FILES[key], "markdown") if "Exercise" in cell.source]
    assert len(exercises) >= 3
    for cell in exercises:
        assert len(re.findall(r"\bExercise\b", cell.source)) == len(SOLUTION.findall(cell.source)), cell.id
        assert solutions(cell)
        for code, *_ in solutions(cell):
            compile(code, cell.id, "exec")


@pytest.mark.parametrize("key", FILES)
def test_it_uses_the_library_and_does_not_redefine_it(key):
    source = "\n".join(cell.source for cell in of_kind(FILES[key], "code"))
    assert not defined(source) & classes()
    assert defined("class SE: pass") & classes()  # witness
    assert "workbench" in imported(source) and not strange(source)
    assert strange("import requests, os\nfrom sklearn.svm import SVC") == {"requests", "sklearn"}  # witness


@pytest.mark.parametrize("key", FILES)
def test_every_figure_is_said_in_words_beside_it(key):
    cells = FILES[key].cells
    figures = [i for i, cell in enumerate(cells) if cell.cell_type == "code"
               and any(kind in output.get("data", {}) for output in cell.outputs for kind in PICTURES)]  # fmt: skip
    assert len(figures) >= 3
    for i in figures:
        around = [cell.source for cell in (*cells[i + 1 : i + 2], *cells[max(i - 1, 0) : i])]
        assert any(CAPTION.search(text) for text in around), cells[i].id


@pytest.mark.parametrize("key", FILES)
def test_nothing_of_one_machine_or_one_moment_is_stored(key):
    outputs = "\n".join(text_of(one) for cell in of_kind(FILES[key], "code") for one in cell.outputs)
    everything = "\n".join([outputs, *(cell.source for cell in FILES[key].cells)])
    assert not PLACES.search(everything) and not PASSING.search(outputs)
    assert PLACES.search("read /home/ada/x") and PASSING.search("12.3 s") and PASSING.search(" 50%|##")  # witnesses
    assert not PLACES.search("see data/tmp/x and https://a.org/home/x")


@pytest.mark.parametrize("key", FILES)
def test_links_to_other_notebooks_lead_somewhere(key):
    text = "\n".join(cell.source for cell in of_kind(FILES[key], "markdown"))
    for target in re.findall(r"\]\(([^)#:]+\.ipynb)\)", text):
        assert (FOLDER / "learn" / target).is_file(), target


def sanitized(text):
    pairs = re.findall(r"^regex: (.*)$\n^replace: (.*)$", (FOLDER / "sanitize.cfg").read_text(), re.MULTILINE)
    for regex, new in pairs:
        text = re.sub(regex, new, text)
    return text


@pytest.mark.parametrize("text", ["93.75", "[0.96, 0.78]", "0.02 +- 0.03 %   n = 3", "True", "(16, 3, 3, 3)", "1e-06"])
def test_the_sanitizer_leaves_every_number_alone(text):
    assert sanitized(text) == text


@pytest.mark.parametrize("text", ["<object at 0x7f12ab34cd56>", "took 3.2 s", "57%|#### | 4/7", "ipykernel_12/34.py"])
def test_the_sanitizer_replaces_what_changes_from_run_to_run(text):
    assert sanitized(text) == sanitized(re.sub(r"[1-9]", "7", text)) != text


def test_a_stored_number_that_is_wrong_fails(tmp_path):
    for name in ("conftest.py", "sanitize.cfg"):
        shutil.copy(FOLDER / name, tmp_path)
    for name, stored in {"right": "15.001", "wrong": "15.002"}.items():
        cell = nbformat.v4.new_code_cell("print(f'{15 + 0.001:.3f}')", id="one", execution_count=1)
        cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text=f"{stored}\n")]
        nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / f"{name}.ipynb")
    options = ["--nbval", "--nbval-current-env", "--nbval-sanitize-with", "sanitize.cfg", "-p", "no:cacheprovider"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
    ran = subprocess.run([sys.executable, "-m", "pytest", *options, "."], cwd=tmp_path, env=environment, text=True,
                         capture_output=True, timeout=300)  # fmt: skip
    assert ran.returncode == 1 and "1 failed, 1 passed" in ran.stdout, ran.stdout
    assert re.search(r"FAILED wrong.ipynb", ran.stdout) and "15.002" in ran.stdout


def test_a_solution_s_answer_is_its_last_line():
    """Where the text behind the code begins with it."""
    text = "<details><summary>Solution</summary>\n\n```python\nx = 2\nx + 1\n```\n\n{}\n\n</details>"
    answers = ["The answer is `3`: it is.", "`3`.", "Three. With `4` it is five."]
    cells = [nbformat.v4.new_markdown_cell(text.format(answer)) for answer in answers]
    assert [one[2] for cell in cells for one in solutions(cell)] == ["3", "3", None]
    assert ran("x = 2\nx + 1", {}) == ("", "3") and ran("print(2)\nx = 2", {}) == ("2", "None")
    answered = [one for notebook in FILES.values() for cell in notebook.cells for one in solutions(cell) if one[2]]
    assert len(answered) >= 15


@pytest.mark.filterwarnings("ignore")  # of other packages; the figures are not looked at here
@pytest.mark.parametrize("key", FILES)
def test_every_solution_runs_and_prints_what_it_says(key, monkeypatch):
    import matplotlib
    import matplotlib.pyplot as plt

    matplotlib.use("Agg")
    monkeypatch.chdir(FOLDER / "learn")
    space = {"__name__": "__main__"}
    for cell in FILES[key].cells:
        if cell.cell_type == "code":
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(cell.source, cell.id, "exec"), space)
        for code, said, value in solutions(cell):
            found = ran(code, dict(space))
            assert said in (None, found[0]) and value in (None, found[1]), cell.id
    plt.close("all")
