"""Published numbers are data: as printed, complete, and refused when a file does not make sense."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.build import build, canonical
from workbench.errors import Corrupt, OutOfRange, UnknownName
from workbench.experiments import tables
from workbench.training.recipe import RECIPES

PRINTED = {
    "cra-1": {
        "ResNet-50": ("25.56", "4.11"),
        "SE-ResNet-50": ("28.09", "4.12"),
        "CRA-ResNet-50": ("26.31", "4.11"),
    },
    "cra-4": {
        "<7,7>": ("22.77", "6.47", "26.31"),
        "<5,5>": ("22.98", "6.58", "25.95"),
        "<3,3>": ("23.27", "6.53", "25.71"),
        "<1,1>": ("23.56", "6.88", "25.59"),
        "w/o": ("24.20", "7.15", "25.56"),
    },
    "dca-2": {
        "SE-ResNet50": ("77.2877", "93.6478", "4.130", "28.09"),
        "Direct": ("77.6402", "93.7400", "4.133", "30.90"),
        "Softmax": ("77.4853", "93.6783", "4.133", "30.90"),
        "Weighted": ("77.4693", "93.6703", "4.133", "30.90"),
    },
    "dca-4": {
        "Se-ResNet50": ("77.2877", "93.6478", "4.130", "28.09"),
        "1 FC": ("77.6402", "93.74", "4.133", "30.90"),
        "2 FC (r=16)": ("77.5541", "93.7720", "4.131", "28.65"),
        "2 FC (r=8)": ("77.497", "93.708", "4.132", "29.87"),
        "2 FC (r=4)": ("77.419", "93.736", "4.134", "32.31"),
    },
}
COLUMNS = {
    "cra-1": ["params", "macs"],
    "cra-4": ["top1_error", "top5_error", "params"],
    "dca-2": ["top1_accuracy", "top5_accuracy", "macs", "params"],
    "dca-4": ["top1_accuracy", "top5_accuracy", "macs", "params"],
}
GOOD = """
key = "cra-9"
paper = "CRA"
caption = "Two rows."
protocol = "ImageNet"
metrics = ["top1_error", "params"]
convention = "cra"
classes = 1000
baseline = "w/o"

[[rows]]
label = "<7,7>"
model = "cra7-resnet50"
published = { top1_error = "22.77", params = "26.31" }
twin = { smoke = "cra7-circularnet" }

[[rows]]
label = "w/o"
model = "resnet50"
published = { top1_error = "24.20", params = "25.56" }
twin = { smoke = "circularnet" }

[budgets.smoke]
dataset = "layouts"
recipe = "smoke"
seeds = 3
note = "Small."
"""


@pytest.mark.parametrize("key", PRINTED)
def test_every_printed_value_is_there_as_printed(key):
    table = tables.load(key)
    assert [metric.key for metric in table.metrics] == COLUMNS[key]
    assert {row.label: tuple(row.published[column] for column in COLUMNS[key]) for row in table.rows} == PRINTED[key]
    assert [row.label for row in table.rows] == [*PRINTED[key]]  # in the paper's order


def test_every_table_is_pinned_here():
    assert tables.known() == sorted(PRINTED)


@pytest.mark.parametrize("key", PRINTED)
def test_names_are_canonical_and_build(key):
    """A twin is compared with the records' canonical names; written otherwise it would count as never measured."""
    table = tables.load(key)
    names = [name for row in (*table.rows, *table.controls) for name in (row.model, *row.twin.values()) if name]
    assert [str(canonical(name)) for name in names] == names
    assert all(set(row.twin) <= set(table.budgets) for row in (*table.rows, *table.controls))
    assert all(row.twin and row.note and not row.published and not row.model for row in table.controls)
    for name in names:
        build(name, table.classes)


def test_a_name_can_be_other_than_canonical():
    assert str(canonical("cra-resnet50")) != "cra-resnet50"  # witness


@pytest.mark.parametrize(
    ("printed", "value", "unit", "verdict"),
    [
        ("24.20", 24.20, "%", True),
        ("24.20", 24.2049, "%", True),
        ("24.20", 24.2051, "%", False),
        ("24.20", 24.1949, "%", False),
        ("24.2", 24.24, "%", True),  # one digit printed, one compared
        ("24", 24.4, "%", True),
        ("4.130", 4.1304e9, "G", True),
        ("4.130", 4.1306e9, "G", False),
        ("4.13", 4.1306e9, "G", True),
        ("4.130", 4.1304e6, "G", False),
        ("25.56", 25_557_032, "M", True),
        ("25.56", 25_565_001, "M", False),
        ("25.56", 25_554_999, "M", False),
        ("0.12", 125_000, "M", True),  # a tie goes to the even digit, as print does
        ("0.13", 125_000, "M", False),
        ("0.38", 375_000, "M", True),
        ("0.37", 375_000, "M", False),
    ],
)
def test_agreement_to_the_printed_digit(printed, value, unit, verdict):
    assert tables.agrees(printed, value, unit) is verdict


@given(value=st.integers(1, 10**11), unit=st.sampled_from("MG"), digits=st.integers(0, 4))
def test_a_number_agrees_with_its_own_print_and_with_no_other(value, unit, digits):
    number = value / tables.SCALE[unit]
    printed = f"{number:.{digits}f}"
    assert tables.agrees(printed, value, unit)
    assert not tables.agrees(f"{float(printed) + 10**-digits:.{digits}f}", value, unit)


@pytest.fixture
def read(tmp_path):
    """read(text): the table of a file cra-9.toml with this text."""

    def reader(text):
        path = tmp_path / "cra-9.toml"
        path.write_text(text)
        return tables.read(path)

    return reader


def test_the_good_file_is_read(read):
    table = read(GOOD)
    assert [str(row) for row in table.rows] == ["<7,7>", "w/o"]
    assert table.rows[1].published == {"top1_error": "24.20", "params": "25.56"}
    assert table.budget("smoke") == tables.Budget("smoke", "layouts", "smoke", 3, "Small.")


ROW = "row '<7,7>'"
BAD = {
    "not TOML": ("[[rows]]", "[[rows", "line"),
    "a duplicate key": ('label = "w/o"', 'label = "w/o"\nlabel = "x"', "line 19"),
    "a fraction for a percentage": ('"22.77"', '"0.2277"', rf"{ROW}.*top1_error.*0\.2277.*percent, not a fraction"),
    "more than all of it": ('"22.77"', '"122.77"', rf"{ROW}.*top1_error.*percent"),
    "not a number": ('"26.31"', '"26.31M"', rf"{ROW}.*params.*26\.31M"),
    "no number": ('"26.31"', '"nan"', rf"{ROW}.*params.*nan"),
    "below zero": ('"26.31"', '"-26.31"', rf"{ROW}.*params"),
    "a number instead of its print": ('"22.77"', "22.77", rf"{ROW}.*top1_error.*22\.77"),
    "an unknown model": ('"cra7-resnet50"', '"cra7-resnet51"', rf"(?=.*{ROW}).*resnet51.*Did you mean.*resnet50"),
    "an unknown twin": ('"cra7-circularnet"', '"cbma-circularnet"', rf"(?=.*{ROW}).*cbma.*Did you mean.*cbam"),
    "a missing value": (', params = "26.31"', "", rf"{ROW}.*params"),
    "a value without a column": ('params = "26.31"', 'params = "26.31", macs = "4.11"', rf"{ROW}.*macs"),
    "an unknown metric": ('["top1_error"', '["top1_eror"', "top1_eror.*Did you mean.*top1_error"),
    "two rows of one label": ('label = "w/o"', 'label = "<7,7>"', "<7,7>"),
    "an unknown baseline": ('baseline = "w/o"', 'baseline = "without"', "without.*<7,7>.*w/o"),
    "no caption": ('caption = "Two rows."\n', "", "caption"),
    "an incomplete budget": ("seeds = 3\n", "", "seeds"),
}


@pytest.mark.parametrize("fault", BAD)
def test_a_bad_file_is_refused_where_it_is_bad(read, fault):
    old, new, message = BAD[fault]
    bad = GOOD.replace(old, new, 1)
    assert bad != GOOD
    with pytest.raises(Corrupt, match=rf"(?s)cra-9\.toml: .*{message}"):
        read(bad)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('dataset = "layouts"', 'dataset = "layout"', "layouts"),
        ('recipe = "smoke"', 'recipe = "smok"', "smoke"),
        ('convention = "cra"', 'convention = "thop"', "thop"),
        ("seeds = 3", "seeds = 0", "seeds"),
        ('twin = { smoke = "circularnet" }', 'twin = { smke = "circularnet" }', "smke"),
    ],
)
def test_a_name_that_leads_nowhere_is_refused_at_once(read, old, new, message):
    """Found by load, not by the user who measures the table."""
    bad = GOOD.replace(old, new, 1)
    assert bad != GOOD
    with pytest.raises(Corrupt, match=rf"(?s)cra-9\.toml: .*{message}"):
        read(bad)


def test_an_unknown_table_suggests_its_neighbour():
    with pytest.raises(UnknownName, match=r"Unknown table 'cra4'\. Did you mean 'cra-4'"):
        tables.load("cra4")
    for hostile in ("../tables/cra-4", "/etc/passwd", "", "cra-4\0"):
        with pytest.raises(UnknownName):
            tables.load(hostile)


def test_an_unknown_budget_suggests_its_neighbour():
    with pytest.raises(UnknownName, match=r"budget of cra-4 'smke'\. Did you mean 'smoke'"):
        tables.load("cra-4").experiments("smke")


@pytest.mark.parametrize(("key", "budget"), [("cra-4", "smoke"), ("cra-4", "cifar"), ("dca-2", "smoke")])
def test_all_rows_of_one_seed_come_before_the_next(key, budget):
    table = tables.load(key)
    rows = table.measured_rows(budget)
    for seeds in (0, 1, 2):
        wanted = [(twin, seed) for seed in range(seeds or table.budgets[budget].seeds) for _, twin in rows]
        found = table.experiments(budget, seeds)
        assert [(experiment.model, experiment.seed) for experiment in found] == wanted
        assert {experiment.dataset for experiment in found} == {table.budgets[budget].dataset}
    assert len({experiment.key() for experiment in found}) == len(found)


def test_a_control_has_its_own_recipe():
    table = tables.load("cra-4")
    recipes = {experiment.model: experiment.recipe for experiment in table.experiments("smoke", 1)}
    own = {row.twin["smoke"] for row in table.controls}
    assert own
    for model, recipe in recipes.items():
        assert recipe == RECIPES["smoke-long" if model in own else "smoke"]


def test_controls_are_measured_only_where_they_have_a_twin():
    models = {experiment.model for experiment in tables.load("cra-4").experiments("cifar")}
    assert models == {"cra8-resnet20", "cra5-resnet20", "cra3-resnet20", "cra1-resnet20", "resnet20"}


def test_a_negative_number_of_seeds_is_refused():
    with pytest.raises(OutOfRange, match=re.escape("-1 seeds")):
        tables.load("cra-4").experiments("smoke", -1)
