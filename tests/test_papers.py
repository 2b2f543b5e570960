"""The commands about the papers: plan, ablate, claims, and what all of them refuse."""

import json

import pytest

from workbench import cli
from workbench.experiments import ablations, claims, notebooks, tables

PARTS = {"id", "paper", "statement", "where", "verdict", "evidence", "n"}


@pytest.fixture
def at(tmp_path):
    """The options that keep a command inside of the test's own folders."""
    return ["--runs", str(tmp_path / "runs"), "--data-dir", str(tmp_path / "data")]


@pytest.fixture
def small(monkeypatch):
    """Runs in this process, on few pictures."""
    from workbench.datasets import layouts

    pictures = layouts.make(256, 0), layouts.make(128, 1)
    monkeypatch.setattr(layouts, "load", lambda: pictures)
    monkeypatch.setattr(ablations, "run_all", lambda runs, store, *_: [store.run(run, "cpu") for run in runs])


def test_a_plan_says_what_is_left(at, capsys):
    assert cli.main(["plan", "cra-4", "--budget", "smoke", "--seeds", "2", *at]) == 0
    text = capsys.readouterr().out
    assert "0 of 2" in text and "of training" in text and "paired seeds detect" in text
    assert cli.main(["plan", "cra-4", "--budget", "smoke", "--json", *at]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["table"] == "cra-4" and sum(line["left"] for line in found["lines"]) == 21
    assert cli.main(["plan", "cra-4", "--budget", "count", *at]) == 0
    assert "nothing to train" in capsys.readouterr().out


def test_an_ablation_prints_its_numbers_and_what_they_say(at, small, capsys, tmp_path):
    pytest.importorskip("plotly")
    command = ["ablate", "cra-pool", "circularnet", "--sizes", "1", "3", "--seeds", "2", *at]
    assert cli.main([*command, "--html", str(tmp_path / "plot.html")]) == 0
    text = capsys.readouterr().out
    assert "<3,3>" in text and ablations.TEST in text and "In all: " in text
    assert (tmp_path / "plot.html").stat().st_size > 1000
    assert cli.main([*command, "--json"]) == 0
    lines = json.loads(capsys.readouterr().out)
    assert [(line["variant"], line["seed"]) for line in lines] == [
        (variant, seed) for variant in ("w/o", "<1,1>", "<3,3>") for seed in (0, 1)
    ]
    assert cli.main([*command, "--csv", "--no-baseline"]) == 0
    assert "w/o" not in capsys.readouterr().out


def test_a_plot_that_cannot_be_written_costs_no_numbers(at, small, capsys, tmp_path, monkeypatch):
    pytest.importorskip("plotly")
    command = ["ablate", "cra-pool", "circularnet", "--sizes", "1", "--no-baseline", "--seeds", "1", *at]
    (tmp_path / "file").touch()
    assert cli.main([*command, "--html", str(tmp_path / "file" / "plot.html")]) == 1
    said = capsys.readouterr()
    assert not said.out and f"Cannot write in {tmp_path / 'file'}" in said.err and "--html" in said.err
    assert not (tmp_path / "runs").exists()  # nothing was trained
    (tmp_path / "plot.html").mkdir()
    assert cli.main([*command, "--html", str(tmp_path / "plot.html")]) == 1
    said = capsys.readouterr()
    assert "<1,1>" in said.out and f"Cannot write {tmp_path / 'plot.html'}" in said.err and "Traceback" not in said.err
    assert cli.main([*command, "--html", str(tmp_path / "new" / "plot.html")]) == 0  # witness


def test_connections_are_varied_in_every_combination(at, small, capsys):
    axes = ["--schemas", "direct", "softmax", "--matching", "fc1", "fc2:4"]
    assert cli.main(["ablate", "dca-connection", "resnet8", "--seeds", "1", *axes, "--json", *at]) == 0
    variants = [line["variant"] for line in json.loads(capsys.readouterr().out)]
    assert variants == ["unconnected", "direct, fc1", "direct, fc2:4", "softmax, fc1", "softmax, fc2:4"]


def test_claims_are_told_as_json(at, capsys):
    assert cli.main(["claims", "Bridge", "--json", *at]) == 0
    lines = json.loads(capsys.readouterr().out)
    assert len(lines) >= 4 and all(line.keys() == PARTS for line in lines)
    assert {line["paper"] for line in lines} == {"Bridge"}
    assert {line["verdict"] for line in lines} <= {"supported", "contradicted", "inconclusive", "not measured"}
    assert cli.main(["claims", "Bridge", *at]) == 0
    text = capsys.readouterr().out
    assert claims.summary(lines) in text and lines[0]["id"] in text


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["plan", "cra-4", "--budget", "smke"], "Did you mean 'smoke'"),
        (["plan", "cra-9"], "Unknown table 'cra-9'"),
        (["reproduce", "cra-4", "--epochs", "-1"], "-1 epochs"),
        (["reproduce", "cra-4", "--budget", "smoke", "--engine", "dsk"], "Did you mean 'dask'"),
        (["reproduce", "cra-1", "--budget", "smoke"], "Unknown budget of cra-1 'smoke'"),
        (["ablate", "cra-pool", "circularnet", "--sizes", "99"], "99"),
        (["ablate", "cra-pool", "circularnet", "--seeds", "0"], "0 seeds"),
        (["ablate", "cra-pool", "circularnet", "--jobs", "-1"], "Jobs -1"),
        (["reproduce", "cra-4", "--budget", "smoke", "--workers", "-1"], "Workers -1"),
        (["ablate", "dca-connection", "resnet8", "--schemas", "drect"], "direct"),
        (["ablate", "dca-connection", "resnet8", "--attention", "xse"], "Did you mean"),
        (["claims", "Nobody"], "Nobody"),
        (["claims", "a/b", "--notebook"], "Unknown paper 'a/b'"),
        (["plan", "cra-4", "--budget", "count", "--engine", "dsk"], "Did you mean 'dask'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_meant_is_refused_before_anything_starts(at, tmp_path, capsys, arguments, sentence):
    assert cli.main([*arguments, *at]) == 2
    said = capsys.readouterr()
    assert sentence in said.err and "Traceback" not in said.err
    assert not list((tmp_path / "runs").glob("*/spec.json"))


def test_all_tables_are_counted_where_they_have_no_such_budget(at, monkeypatch, capsys):
    wanted = []

    def reproduce_all(chosen, *_):
        wanted.extend((table.key, budget) for table, budget in chosen)
        return []

    monkeypatch.setattr(notebooks, "reproduce_all", reproduce_all)
    assert cli.main(["reproduce", "all", "--budget", "smoke", *at]) == 0
    assert [key for key, _ in wanted] == tables.known()
    assert {key for key, budget in wanted if budget == "count"} == {"cra-1"}


def test_a_failed_table_is_told_and_the_others_are_done(at, monkeypatch, capsys):
    from workbench.errors import DataMissing

    def reproduce(table, *_, on_state):
        if table.key == "cra-2":
            raise DataMissing("imagenet is not here.")
        on_state("done")

    monkeypatch.setattr(notebooks, "reproduce", reproduce)
    assert cli.main(["reproduce", "cra-1", "cra-2", "cra-3", "--budget", "count", *at]) == 3
    said = capsys.readouterr()
    assert "2 of 3 tables" in said.out and "imagenet is not here." in said.err
