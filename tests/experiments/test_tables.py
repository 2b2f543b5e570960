"""A table's file is read, or refused where it does not make sense; its budgets become experiments."""

import re

import pytest

from workbench.errors import Corrupt, OutOfRange, UnknownName
from workbench.experiments import tables
from workbench.training.recipe import RECIPES

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
    assert table.budget("smoke") == tables.Budget("smoke", "layouts", "smoke", 3, "Small.", {})


def test_what_is_not_printed_is_a_dash(read):
    table = read(GOOD.replace('"26.31"', '"-"'))
    assert table.rows[0].published == {"top1_error": "22.77"}


def test_an_erratum_names_its_cells(read):
    table = read(GOOD.replace("[budgets", ERRATUM))
    assert table.erratum("w/o", "params") == table.errata[0] == ("params", "It is not.", ("w/o",), ("params",))
    assert table.erratum("w/o", "top1_error") is None and table.erratum("<7,7>", "params") is None
    several = ERRATUM.replace('"w/o"', '["w/o", "<7,7>"]')
    assert read(GOOD.replace("[budgets", several)).erratum("<7,7>", "params")


def test_a_fraction_is_not_a_percentage(read):
    fractions = GOOD.replace("top1_error", "accuracy").replace('"22.77"', '"0.75"').replace('"24.20"', '"0.87"')
    assert read(fractions).rows[0].published["accuracy"] == "0.75"
    with pytest.raises(Corrupt, match=r"75.*at most 1, not in percent"):
        read(fractions.replace("0.75", "75"))


ROW = "row '<7,7>'"
ERRATUM = '[[errata]]\nwhere = "params"\nrow = "w/o"\nmetric = "params"\ntext = "It is not."\n\n[budgets'
BAD = {
    "not TOML": ("[[rows]]", "[[rows", "line"),
    "a duplicate key": ('label = "w/o"', 'label = "w/o"\nlabel = "x"', "line 19"),
    "a fraction for a percentage": ('"22.77"', '"0.2277"', rf"{ROW}.*top1_error.*0\.2277.*percent, not a fraction"),
    "more than all of it": ('"22.77"', '"122.77"', rf"{ROW}.*top1_error.*percent"),
    "not a number": ('"26.31"', '"26.31T"', rf"{ROW}.*params.*26\.31T"),
    "a unit where none is printed": ('"22.77"', '"22.77M"', rf"{ROW}.*top1_error.*22\.77M"),
    "no number": ('"26.31"', '"nan"', rf"{ROW}.*params.*nan"),
    "below zero": ('"26.31"', '"-26.31"', rf"{ROW}.*params"),
    "a number instead of its print": ('"22.77"', "22.77", rf"{ROW}.*top1_error.*22\.77"),
    "an unknown model": ('"cra7-resnet50"', '"cra7-resnet51"', rf"(?=.*{ROW}).*resnet51.*Did you mean.*resnet50"),
    "an unknown twin": ('"cra7-circularnet"', '"cbma-circularnet"', rf"(?=.*{ROW}).*cbma.*Did you mean.*cbam"),
    "no classes at all": ("classes = 1000", "classes = 0", r"classes = 0"),
    "an erratum on half a cell": ("[budgets", ERRATUM.replace('row = "w/o"\n', ""), "both row and metric"),
    "an erratum on no row": ("[budgets", ERRATUM.replace("w/o", "without"), "without"),
    "an erratum on a cell that is not printed": ("[budgets", ERRATUM.replace("params", "macs"), "macs"),
    "an erratum without its text": ("[budgets", ERRATUM.replace("text", "txt"), "txt"),
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
