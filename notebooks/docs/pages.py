"""The sources of the documentation site, gathered from the project: README, notebooks, commands, modules."""

import argparse
import importlib
import inspect
import json
import os
import pkgutil
import re
import shutil
from pathlib import Path
from urllib.parse import unquote

LINK = re.compile(r"(!?\[[^\]]*\])\(([^)\s]+)\)")
PICTURES = {".png", ".jpg", ".svg"}
ROOMS = {
    "attention": "the attention modules",
    "backbones": "the networks they sit in",
    "datasets": "pictures",
    "training": "recipes, updates, checkpoints",
    "explain": "counting, attention maps, Grad-CAM, figures",
    "experiments": "runs, tables, claims, ablations",
    "bench": "timings beside others'",
    "detection": "detectors",
}


def gather(root, to):
    """Write every page of the project at `root` into the folder `to`."""
    shutil.rmtree(to, ignore_errors=True)
    to.mkdir(parents=True)
    learn = [path.relative_to(root) for path in sorted((root / "notebooks" / "learn").glob("*.ipynb"))]
    for path in [*learn, Path("notebooks/explore.ipynb")]:
        copy_notebook(path, root, to)
    shown = [
        ("Learn", [f"learn/{path.stem}" for path in learn]),
        ("Look", ["explore", "tables"]),
        ("Reference", ["commands", "api/index"]),
    ]
    readme = Path("README.md")
    front = adapted((root / readme).read_text(), readme, root, to)
    (to / "index.md").write_text(front + "".join(contents(title, names) for title, names in shown if names))
    (to / "tables.md").write_text(tables(root))
    (to / "commands.md").write_text(commands())
    modules(to / "api")


def page(path):
    """The page of a file of the project, both relative; None where it has none."""
    if path == Path("README.md"):
        return Path("index.md")
    if path == Path("notebooks/explore.ipynb") or (path.parent == Path("notebooks/learn") and path.suffix == ".ipynb"):
        return path.relative_to("notebooks")
    return None


def adapted(text, path, root, to):
    """Markdown of the file `path` whose links into the project lead to pages and pictures of the site.

    A link to a file that has no page becomes its name; a dead one raises FileNotFoundError.
    """
    above = page(path).parent

    def link(found):
        words, target = found.groups()
        if re.match(r"[a-z]+:|#", target):
            return found[0]
        name, _, place = target.partition("#")
        there = Path(os.path.normpath(path.parent / unquote(name)))
        if not (root / there).exists():
            raise FileNotFoundError(f"{path} links to {target}, which is not there.")
        if there.suffix in PICTURES:
            (to / there).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / there, to / there)
            return f"{words}({os.path.relpath(there, above)})"
        if shown := page(there):
            return f"{words}({os.path.relpath(shown, above)}{'#' + place if place else ''})"
        return f"{words[1:-1]} (`{there.as_posix()}`)"

    parts = re.split(r"(```.*?```)", text, flags=re.S)  # no link in code
    return "".join(part if part.startswith("```") else LINK.sub(link, part) for part in parts)


def contents(title, pages):
    return "\n".join(["", "```{toctree}", ":hidden:", f":caption: {title}", "", *pages, "```", ""])


def copy_notebook(path, root, to):
    """With its stored outputs, but for widgets, which need a kernel."""
    notebook = json.loads((root / path).read_text())
    notebook["metadata"].pop("widgets", None)
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            cell["source"] = adapted("".join(cell["source"]), path, root, to)
        else:
            outputs = cell.get("outputs", [])
            cell["outputs"] = [one for one in outputs if not any("widget" in kind for kind in one.get("data", {}))]
    made = to / page(path)
    made.parent.mkdir(parents=True, exist_ok=True)
    made.write_text(json.dumps(notebook))


def tables(root):
    """Every table of the papers: its notebook's title, and how to run it."""
    lines = [
        "# The tables of the papers\n",
        "Each has a notebook, `notebooks/tables/<name>.ipynb`, which trains what is missing and shows published beside",
        "measured numbers. `workbench claims` says what they mean for the claims of the papers.\n",
        "| name | question | run it |\n|---|---|---|",
    ]
    for path in sorted((root / "notebooks" / "tables").glob("*.ipynb")):
        first = "".join(json.loads(path.read_text())["cells"][0]["source"])
        title = first.splitlines()[0].removeprefix("# ")
        lines.append(f"| {path.stem} | {title} | `workbench reproduce {path.stem} --budget smoke` |")
    return "\n".join(lines) + "\n"


def commands():
    """What `workbench COMMAND --help` says, for every command."""
    os.environ["COLUMNS"] = "100"
    from workbench import cli

    top = cli.parser()
    lines = ["# The commands", "", "```text", top.format_help().strip(), "```", ""]
    for name, parser in subcommands(top):
        lines += [f"## {name}", "", "```text", parser.format_help().strip(), "```", ""]
    return "\n".join(lines)


def subcommands(parser):
    """Every command below a parser, with its whole name."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for one in action.choices.values():
                yield one.prog, one
                yield from subcommands(one)


def modules(to):
    """A page for every public module, by rooms."""
    import workbench

    to.mkdir(parents=True)
    found = [one.name for one in pkgutil.walk_packages(workbench.__path__, "workbench.") if "._" not in one.name]
    rooms = {}
    for name in found:
        rooms.setdefault(name.split(".")[1] if name.count(".") > 1 or name.split(".")[1] in ROOMS else "", []).append(
            name
        )
        (to / f"{name}.rst").write_text(module(name))
    lines = ["# The library", "", "From the docstrings of every module.", ""]
    for room, names in sorted(rooms.items(), key=lambda one: [*ROOMS, ""].index(one[0])):
        title = f"workbench.{room}: {ROOMS[room]}" if room else "workbench: names, building, attaching, commands"
        entries = [f"{name.removeprefix('workbench.')} <{name}>" for name in names]
        lines += [f"## {title}", "", "```{toctree}", ":maxdepth: 1", "", *entries, "```", ""]
    (to / "index.md").write_text("\n".join(lines))


def module(name):
    """An empty package says so in words."""
    text = [name, "=" * len(name), "", f".. automodule:: {name}", "   :members:", "   :ignore-module-all:", ""]
    if not inspect.getdoc(importlib.import_module(name)):
        text += [f"The package ``{name}``; its modules have pages of their own.", ""]
    return "\n".join(text)
