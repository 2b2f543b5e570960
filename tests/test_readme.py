"""The README shows what the committed records say, and its code runs."""

import re
from pathlib import Path
from typing import Any

import pytest

from workbench import cli
from workbench.experiments import claims
from workbench.experiments.store import Store

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = dict(re.findall(r"<!-- table (.+?) -->\n(.*?)\n<!-- end -->", README, flags=re.S))


def test_there_are_tables():
    assert {arguments.split()[0] for arguments in BLOCKS} == {"cra-4", "dca-2"}


@pytest.mark.parametrize("arguments", BLOCKS)
def test_a_table_is_what_the_command_prints(arguments, capsys, tmp_path):
    assert cli.main(["table", *arguments.split(), "--md", "--runs", str(tmp_path)]) == 0
    printed = capsys.readouterr().out.strip()
    assert printed == BLOCKS[arguments].strip()
    assert printed.replace("7", "8", 1) != BLOCKS[arguments].strip()  # witness: a digit counts


def test_every_command_it_names_exists():
    named = set(re.findall(r"^workbench (\w+)", README, flags=re.M)) | set(re.findall(r"`workbench (\w+)", README))
    known = set(re.findall(r"^    (\w+)", cli.parser().format_help(), flags=re.M))
    assert named and named <= known
    assert "levitate" not in known  # witness


def test_its_code_runs(capsys, tmp_path, monkeypatch):
    first, own, others, given = re.findall(r"```python\n(.*?)```", README, flags=re.S)
    exec(first, {})
    assert capsys.readouterr().out.splitlines()[0] == "1.1 channel (8, 16)"
    (tmp_path / "eca.py").write_text(own)
    monkeypatch.syspath_prepend(tmp_path)
    assert cli.main(["count", "eca:ECA-resnet20", "dca-eca:ECA[kernel=5]-resnet20"]) == 0
    found: dict[str, Any] = {}
    exec(others, found)
    assert found["logits"].shape == (1, 1000) and len(found["trail"].steps) == 16
    capsys.readouterr()
    exec(given, {})
    assert capsys.readouterr().out == "[] True\n"


def test_its_picture_is_here():
    assert all((ROOT / path).is_file() for path in re.findall(r"!\[[^]]*\]\(([^)]+)\)", README))


def test_its_count_of_claims_is_that_of_the_command(tmp_path):
    lines = claims.report(Store(tmp_path / "runs"))
    assert claims.summary(lines) in " ".join(README.split())
    assert claims.summary(lines[1:]) not in " ".join(README.split())  # witness
