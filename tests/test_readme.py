"""The README shows what the committed records say, and its code runs."""

import re
import statistics
from pathlib import Path
from typing import Any

import pytest

from workbench import cli
from workbench.experiments import claims
from workbench.experiments.paired import interval
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


@pytest.mark.parametrize(("table", "rows"), [("cra-4", 4), ("dca-2", 3)])
def test_the_differences_it_tells_are_those_of_the_table(table, rows, capsys, tmp_path):
    assert cli.main(["table", table, "--budget", "cifar100", "--runs", str(tmp_path)]) == 0
    printed = re.findall(r"([+-]\d+\.\d\d) points \(n = 5, 95 % interval (\+- \d+\.\d\d)\)", capsys.readouterr().out)
    assert len(printed) == rows
    told = " ".join(README.split())
    assert all(" ".join(difference) in told for difference in printed)
    assert not any(f"{mean[:-1]}{9 - int(mean[-1])} {half}" in told for mean, half in printed)  # witness


def test_what_it_tells_across_tables_is_what_the_records_say(tmp_path):
    """The usual recipe, SE against no module, errors in training, three seeds of softmax."""
    found: dict[tuple[str, str, int], dict[int, Any]] = {}
    for record in Store(tmp_path / "runs").records():
        spec = record.spec
        one = spec["model"]["name"], spec["dataset"]["name"], spec["recipe"]["epochs"]
        found.setdefault(one, {})[spec["seed"]] = record.metrics | record.curves[-1]

    def difference(model, other, seeds):
        one, two = (found[name, "cifar100", 10] for name in (model, other))
        mean, half, _ = interval([one[seed]["top1_error"] - two[seed]["top1_error"] for seed in seeds])
        return f"{mean:+.2f} +- {half:.2f}"

    usual = found["resnet20", "cifar10", 200].values()
    numbers = [[metrics[name] for metrics in usual] for name in ("top1_error", "best_top1_error")]
    told = " ".join(README.split())
    assert len(usual) == 4 and "one H200, four seeds" in told
    for values in numbers:
        assert f"{statistics.fmean(values):.2f} +- {statistics.stdev(values):.2f} %" in told
        assert f"{statistics.fmean(values[1:]):.2f} +- {statistics.stdev(values[1:]):.2f} %" not in told  # witness
    assert f"{difference('se-resnet20', 'resnet20', range(5))} points worse than no module" in told
    errors = {
        model: statistics.fmean(one["train_top1_error"] for one in seeds.values())
        for (model, data, epochs), seeds in found.items()
        if (data, epochs) == ("cifar100", 10)
    }
    plain = errors.pop("resnet20")
    assert len(errors) == 8
    assert f"{plain:.2f} % without a module and {min(errors.values()):.2f} to {max(errors.values()):.2f} % with" in told
    softmax = difference("se-resnet20", "dca[schema=softmax]-se-resnet20", range(3))  # of errors: a gain in accuracy
    assert f"softmax stood at {softmax}" in told
    assert difference("se-resnet20", "dca[schema=softmax]-se-resnet20", range(4)) not in told  # witness
