"""The documentation site: its sources come from the project as they stand, and what is dead or foreign is found."""

import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest

from workbench import cli

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "notebooks" / "docs"


def load(name):
    spec = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


pages, links = load("pages"), load("links")


def test_links_of_the_readme_lead_to_pages_pictures_or_names(tmp_path):
    readme = Path("README.md")
    text = "[a](notebooks/explore.ipynb#x) ![b](app/explorer.png) [c](LICENSE) [d](https://arxiv.org) [e](#f)"
    assert pages.adapted(text, readme, ROOT, tmp_path) == (
        "[a](explore.ipynb#x) ![b](app/explorer.png) c (`LICENSE`) [d](https://arxiv.org) [e](#f)"
    )
    assert (tmp_path / "app" / "explorer.png").is_file()
    assert pages.adapted("```\n[a](nothing.md)\n```", readme, ROOT, tmp_path) == "```\n[a](nothing.md)\n```"
    with pytest.raises(FileNotFoundError, match=r"README\.md links to nothing\.md"):
        pages.adapted("[a](nothing.md)", readme, ROOT, tmp_path)


def test_links_of_a_notebook_start_from_its_folder(tmp_path):
    notebook = Path("notebooks/learn/01-x.ipynb")
    text = "[a](../explore.ipynb) [b](../../README.md) [c](../tables/cra-4.ipynb) ![d](../../app/explorer.png)"
    assert pages.adapted(text, notebook, ROOT, tmp_path) == (
        "[a](../explore.ipynb) [b](../index.md) c (`notebooks/tables/cra-4.ipynb`) ![d](../app/explorer.png)"
    )


def test_a_notebook_keeps_its_outputs_but_widgets(tmp_path):
    shown = {"output_type": "display_data", "data": {"image/png": "abc"}, "metadata": {}}
    widget = {"output_type": "display_data", "data": {"application/vnd.jupyter.widget-view+json": {}}, "metadata": {}}
    cells = [{"cell_type": "code", "source": "1", "outputs": [widget, shown]}, {"cell_type": "markdown", "source": "x"}]
    path = Path("notebooks/explore.ipynb")
    (tmp_path / "notebooks").mkdir()
    (tmp_path / path).write_text(json.dumps({"cells": cells, "metadata": {"widgets": {}, "kernelspec": {}}}))
    pages.copy_notebook(path, tmp_path, tmp_path / "site")
    kept = json.loads((tmp_path / "site" / "explore.ipynb").read_text())
    assert kept["cells"][0]["outputs"] == [shown] and kept["metadata"] == {"kernelspec": {}}


def test_every_command_is_there_with_its_help(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = pages.commands()
    known = re.findall(r"^    (\w+)", cli.parser().format_help(), flags=re.M)
    assert {f"## workbench {name}" for name in known} <= {*text.splitlines()} and "reproduce" in known
    assert "## workbench ablate cra-pool" in text and "--no-baseline" in text


def test_every_table_and_every_module_is_there(tmp_path):
    names = [path.stem for path in (ROOT / "notebooks" / "tables").glob("*.ipynb")]
    lines = pages.tables(ROOT).splitlines()
    assert {line.split(" | ")[0].strip("| ") for line in lines} >= {*names} and len(names) == 16
    pages.modules(tmp_path / "api")
    written = {path.stem for path in (tmp_path / "api").glob("*.rst")}
    assert {"workbench.attention.cra", "workbench.build", "workbench.explain.still"} <= written
    listed = re.findall(r"<(workbench[\w.]*)>", (tmp_path / "api" / "index.md").read_text())
    assert sorted(listed) == sorted(written)


def test_dead_links_and_foreign_files_are_found(tmp_path):
    (tmp_path / "a.css").write_text("body { background: url(a.png) } @import 'https://fonts.example/x.css';")
    (tmp_path / "b.html").write_text('<h1 id="top">B</h1>')
    good = (
        '<a href="b.html#top"></a><a href="https://arxiv.org"></a><img src="data:image/png;base64,x"><a href="#"></a>'
    )
    (tmp_path / "a.html").write_text(good)
    assert links.faults(tmp_path) == ["a.css loads https://fonts.example/x.css."]
    bad = '<a href="c.html"></a><a href="b.html#no"></a><script src="//cdn.example/x.js"></script>'
    (tmp_path / "a.html").write_text(good + bad)
    found = links.faults(tmp_path)
    assert found[:3] == [
        "a.html links to c.html, which is not there.",
        "a.html links to b.html#no, a place that is not on that page.",
        "a.html loads //cdn.example/x.js.",
    ]


def test_a_docstring_is_plain_text_with_its_equations_as_they_stand():
    pytest.importorskip("sphinx")
    lines = ["|a*b_| of `x`, see", "1. above.", "", "    Z = f(G, M)      Eq. 4", "", "After."]
    assert load("plain").rst(lines) == [
        r"\ \|a\*b\_\| of \ ``x``\ , see 1. above.",
        "",
        "::",
        "",
        "       Z = f(G, M)      Eq. 4",
        "",
        r"\ After.",
        "",
    ]


@pytest.fixture
def site(tmp_path, monkeypatch):
    """site(text): the exit code of Sphinx for one page of this text with our settings, and the page."""
    pytest.importorskip("furo")
    pytest.importorskip("myst_nb")
    from sphinx.cmd.build import main

    monkeypatch.syspath_prepend(str(DOCS))

    def build(text):
        (tmp_path / "source").mkdir(exist_ok=True)
        (tmp_path / "source" / "index.md").write_text(text)
        code = main(["-q", "-W", "-E", "-c", str(DOCS), str(tmp_path / "source"), str(tmp_path / "html")])
        return code, tmp_path / "html"

    yield build
    sys.modules.pop("plain", None)


def test_sizes_tags_and_bold_words_of_equations_are_shown():
    pytest.importorskip("sphinx")
    from docutils import nodes

    text = r"\textbf{gate: } T = \sigma\Big(\textstyle\sum_x \big|Y\big|\Big) \tag{5, weighted}"
    shown = load("plain").mathml(nodes.math_block(text, text), block=True)
    assert shown.startswith("<math") and "gate:" in shown and "(5, weighted)" in shown and "Big" not in shown


def test_a_page_shows_equations_without_asking_for_anything(site):
    code, folder = site("# One\n\nA gate $T_c$:\n\n$$T = \\sigma(W_2 \\delta(W_1 z)) \\in \\mathbb{R}^C$$\n")
    text = (folder / "index.html").read_text()
    assert code == 0 and text.count("<math") == 2 and "MathJax" not in text
    assert links.faults(folder) == []


@pytest.mark.parametrize("text", ["$$\\nothing{x}$$", "[x](nothing.md)", "# A\n\n### C"])
def test_what_cannot_be_shown_fails(site, text):
    assert site(f"# One\n\nText.\n\n{text}\n")[0] != 0
