"""Counts are the papers' own: every printed cell agrees to its last digit, or an erratum says why none can."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from workbench import cli
from workbench.errors import OutOfRange
from workbench.experiments import tables
from workbench.experiments.architecture import layers
from workbench.experiments.audit import audit, cells, counted, summary
from workbench.experiments.metrics import agrees
from workbench.explain.complexity import count
from workbench.names import CONVENTIONS

TABLES = {key: tables.load(key) for key in tables.known()}
CELLS = [
    pytest.param(table, row, metric, id=f"{table.key} {row.label} {metric.key}")
    for table in TABLES.values()
    for row in table.rows
    for metric in table.metrics
    if metric.source == "count" and metric.key in row.published
]
CRA, ARCHITECTURES = TABLES["cra-4"], TABLES["cra-1"]


def value(table, row, metric, convention=""):
    return getattr(count(row.model, row.classes, convention=convention or table.convention), metric.key)


@pytest.mark.parametrize(("table", "row", "metric"), CELLS)
def test_every_printed_cell_is_counted_to_its_last_digit(table, row, metric):
    """Or has an erratum, and disagrees; witness: another sound row agrees only where it prints the same number."""
    printed = row.published[metric.key]
    assert agrees(printed, value(table, row, metric), metric.unit) == (table.erratum(row.label, metric.key) is None)
    for other in table.rows:
        if table.erratum(other.label, metric.key) is None:
            same = other.published[metric.key] == printed
            assert agrees(printed, value(table, other, metric), metric.unit) == same


def test_no_table_prints_a_count_that_goes_unchecked():
    assert len(CELLS) == 239
    papers = Counter(cell.values[0].paper for cell in CELLS)
    assert papers == {"CRA": 101, "AW": 34, "DCA": 104}
    errata = Counter(
        table.paper for table, row, metric in (cell.values for cell in CELLS) if table.erratum(row.label, metric.key)
    )
    assert errata == {"CRA": 6, "AW": 13, "DCA": 3}


def test_the_command_and_the_readme_say_the_same(capsys):
    assert cli.main(["count", "all"]) == 0
    said = dict(re.findall(r"^(\w+): (.+ errata)\.$", capsys.readouterr().out, flags=re.M))
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    agreeing = 0
    for paper, sentence in said.items():
        agree, printed, errata = re.findall(r"\d+", sentence)
        assert re.search(rf"^\| {paper}, .* \| {printed} \| {agree} \| {errata}: ", readme, flags=re.M)
        agreeing += int(agree)
    assert said.keys() == {"CRA", "AW", "DCA"}
    assert f"of the {len(CELLS)} cells that" in readme and f" {agreeing} agree to the last digit" in readme
    assert f"the other {len(CELLS) - agreeing} has an entry" in readme
    assert cli.main(["count", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == sum(len(table.rows) for table in TABLES.values()) == 142


@pytest.mark.parametrize("key", ["cra-1", "cra-4", "dca-2", "dca-4"])
def test_the_printed_multiply_adds_are_one_conventions_alone(key):
    table = TABLES[key]
    for row in table.rows:
        for metric in (metric for metric in table.metrics if metric.key == "macs"):
            for other in {*CONVENTIONS} - {table.convention}:
                assert not agrees(row.published["macs"], value(table, row, metric, other), metric.unit)


def changed(params, *errata):
    """The table cra-4 with another printed number of parameters in its first row."""
    row = CRA.rows[0]
    return CRA._replace(rows=(row._replace(published=row.published | {"params": params}), *CRA.rows[1:]), errata=errata)


def test_a_cell_is_sound_when_it_agrees_or_is_excused_and_not_both():
    excuse = tables.Erratum("params", "Two digits swapped.", ("<7,7>",), ("params",))
    assert [cells(table)[0].sound for table in (changed("26.31"), changed("26.13"))] == [True, False]
    assert [cells(table)[0].sound for table in (changed("26.31", excuse), changed("26.13", excuse))] == [False, True]


def test_a_line_of_the_audit():
    first, *_ = audit(changed("26.13", tables.Erratum("params", "Two digits swapped.", ("<7,7>",), ("params",))))
    assert first == {
        "table": "cra-4",
        "row": "<7,7>",
        "model": "cra7-resnet50",
        "params": 26_312_232,
        "multiply_adds": 4_114_317_824,
        "published": {"top1_error": "22.77", "top5_error": "6.47", "params": "26.13"},
        "agrees": {"params": False, "flops": None},
        "erratum": "Two digits swapped.",
    }
    (sound, *_) = audit(CRA)
    assert (sound["agrees"], sound["erratum"]) == ({"params": True, "flops": None}, None)
    assert audit(ARCHITECTURES)[0]["published"] == {"params": "25.56", "flops": "4.11"}


@pytest.mark.parametrize("key", ["aw-2", "cra-6", "dca-7"])
def test_detectors_are_counted_though_the_papers_print_no_count(key):
    lines = audit(TABLES[key])
    assert [line["row"] for line in lines] == [row.label for row in TABLES[key].rows]
    params = {line["model"]: line["params"] for line in lines}
    assert all(30e6 < line["params"] < 90e6 and line["multiply_adds"] > 1e11 for line in lines)
    assert len(set(params.values())) == len(params)  # witness: every attention adds its own
    assert all(line["agrees"] == {"params": None, "flops": None} for line in lines)
    assert all(line["published"] for line in lines)
    assert not cells(TABLES[key])


def test_a_row_that_prints_nothing_is_counted_all_the_same():
    lines = audit(TABLES["bridge-1"])
    assert [line["published"] for line in lines[2:]] == [{}, {}]
    assert all(line["params"] > 0 for line in lines)


def test_a_cell_with_its_own_unit_keeps_it():
    table = TABLES["cra-5"]
    params, multiply_adds = counted(table, table.rows[0])
    assert (params["unit"], multiply_adds["unit"]) == ("K", "M")
    assert params["mean"] == pytest.approx(0.853018)
    assert params["protocol"] == "cra convention, 32 px, 10 classes"
    assert counted(CRA, CRA.rows[0])[0]["unit"] == ""


def test_the_summary_counts_cells_a_paper():
    excuse = tables.Erratum("params", "Two digits swapped.", ("<7,7>",), ("params",))
    both = [*cells(changed("26.13", excuse)), *cells(TABLES["dca-2"])]
    assert summary(both) == [
        "CRA: 4 of 5 printed cells agree to the last digit, 1 erratum.",
        "DCA: 8 of 8 printed cells agree to the last digit, 0 errata.",
    ]


@pytest.mark.parametrize("row", ARCHITECTURES.rows, ids=str)
def test_the_architecture_is_the_printed_one_line_by_line(row):
    assert row.layers and layers(row.model) == row.layers


def test_another_depth_is_another_architecture():
    """Witness: one line of Table I tells ResNet-101 from ResNet-50."""
    printed, deeper = ARCHITECTURES.rows[0].layers, layers("resnet101")
    assert [line for line in deeper if line not in printed] == [("14x14", "[1x1,256; 3x3,256; 1x1,1024] x23")]
    assert layers("cra5-resnet50", 10)[-2:] == (
        ("7x7", "[1x1,512; 3x3,512; 1x1,2048] x3 + CRA <5x5>,2048"),
        ("1x1", "global average pool, 10-d fc, softmax"),
    )


def test_blocks_that_differ_are_lines_of_their_own():
    assert layers("se[reduction_first=8]-resnet50")[2:4] == (
        ("56x56", "[1x1,64; 3x3,64; 1x1,256] x1 + fc [32,256]"),
        ("56x56", "[1x1,64; 3x3,64; 1x1,256] x2 + fc [16,256]"),
    )
    assert layers("cbam-resnet20", 10)[1] == ("32x32", "[3x3,16; 3x3,16] x3 + CBAM")
    assert ("56x56", "[1x1,128; 3x3,128 in 32 groups; 1x1,256] x3") in layers("resnext50")


def test_only_residual_networks_are_listed():
    with pytest.raises(OutOfRange, match=r"circularnet.*resnet"):
        layers("circularnet")
