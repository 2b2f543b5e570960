"""Published numbers are data: the sixteen tables, as printed and complete, every row with its model."""

import pytest

from workbench.build import build, canonical
from workbench.datasets import CLASSES
from workbench.experiments import tables
from workbench.names import parse

# What each table prints: its rows, and its cells that hold a number
SIDES = {"smoke": 16, "cifar": 32, "cifar100": 32}  # of the twins' pictures, in pixels
SIZES = {
    "aw-1": (17, 68), "aw-2": (6, 18), "bridge-1": (4, 2), "cra-1": (3, 6), "cra-2": (12, 48), "cra-3": (6, 24),
    "cra-4": (5, 15), "cra-5": (27, 81), "cra-6": (4, 12), "dca-1": (27, 108), "dca-2": (4, 16), "dca-3": (9, 36),
    "dca-4": (5, 20), "dca-5": (3, 12), "dca-6": (4, 16), "dca-7": (6, 36),
}  # fmt: skip
# A line of each table in full
PRINTED = {
    ("aw-1", "AW-CBAM-ResNet101 (MaxPool)"): "top1_error 21.64 top5_error 5.76 macs 7.60 params 49.73",
    ("aw-2", "ResNet101-AW-CBAM-FPN"): "ap 38.19 ap50 59.52 ap75 41.43",
    ("bridge-1", "SENet"): "accuracy 0.87",
    ("bridge-1", "Proposed, gate"): "",
    ("cra-1", "CRA-ResNet-50"): "params 26.31 macs 4.11",
    ("cra-2", "SE-ResNeXt-101"): "top1_error 20.93 top5_error 5.66 macs 8.03 params 48.96",
    ("cra-3", "GALA"): "top1_error 22.94 top5_error 6.52 macs 4.13 params 29.42",
    ("cra-4", "w/o"): "top1_error 24.20 top5_error 7.15 params 25.56",
    ("cra-5", "ResNet-56, CIFAR-10"): "top1_error 6.37 params 853.02K macs 126.56M",
    ("cra-5", "CRA-ResNeXt-29, CIFAR-100"): "top1_error 17.04 params 18.61M macs 3.03G",
    ("cra-6", "CRA-ResNet-101"): "ap 36.2 ap50 55.7 ap75 38.9",
    ("dca-1", "DCA-SK-MoibleNetV2"): "top1_accuracy 74.4503 top5_accuracy 91.8527 macs 0.355 params 5.91",
    ("dca-2", "Direct"): "top1_accuracy 77.6402 top5_accuracy 93.7400 macs 4.133 params 30.90",
    ("dca-3", "ResNet152*"): "top1_accuracy 78.4 top5_accuracy 94.2 macs 11.581 params 60.19",
    ("dca-4", "2 FC (r=4)"): "top1_accuracy 77.419 top5_accuracy 93.736 macs 4.134 params 32.31",
    ("dca-5", "Max Pooling"): "top1_accuracy 77.4299 top5_accuracy 93.7679 macs 4.139 params 28.09",
    ("dca-6", "DCA-C"): "top1_accuracy 77.7902 top5_accuracy 93.7079 macs 4.142 params 30.90",
    (
        "dca-7",
        "DCA-GC-ResNet50, Cascade R-CNN",
    ): "ap 41.4 ap50 60.2 ap75 44.7 ap_small 22.8 ap_medium 45.0 ap_large 54.2",
}


def test_the_sixteen_tables_are_here():
    assert tables.known() == sorted(SIZES)


@pytest.mark.parametrize("key", SIZES)
def test_every_printed_value_is_there(key):
    table = tables.load(key)
    assert (table.key, len(table.rows), sum(len(row.published) for row in table.rows)) == (key, *SIZES[key])
    assert table.caption and table.protocol and table.claims
    assert all({"text", "where"} == set(claim) and claim["where"].startswith(table.paper) for claim in table.claims)


@pytest.mark.parametrize(("key", "label"), PRINTED)
def test_a_line_is_as_printed(key, label):
    (row,) = [row for row in tables.load(key).rows if row.label == label]
    assert " ".join(f"{metric} {text}" for metric, text in row.published.items()) == PRINTED[key, label]


@pytest.mark.parametrize("key", SIZES)
def test_every_row_has_a_model_of_its_own(key):
    table = tables.load(key)
    assert all(row.model for row in table.rows)
    assert (
        len({row.label for row in table.rows})
        == len({(row.model, row.classes) for row in table.rows})
        == len(table.rows)
    )
    assert all(row.classes == table.classes for row in table.rows) or key == "cra-5"


def test_the_rows_of_one_table_can_have_two_data_sets():
    rows = tables.load("cra-5").rows
    assert {row.label.split(", ")[1]: row.classes for row in rows} == {"CIFAR-10": 10, "CIFAR-100": 100}
    assert sum(row.classes == 10 for row in rows) == 9


@pytest.mark.parametrize("key", SIZES)
def test_twins_are_canonical_and_build(key):
    """A twin is compared with the records' canonical names; written otherwise it would count as never measured."""
    table = tables.load(key)
    twins = [(name, budget) for row in (*table.rows, *table.controls) for budget, name in row.twin.items()]
    assert [str(canonical(name)) for name, _ in twins] == [name for name, _ in twins]
    assert all(row.twin and row.note and not row.published and not row.model for row in table.controls)
    for name, budget in twins:
        side = None if parse(name).detector else SIDES[budget]  # a detector's name says its own
        build(name, CLASSES[table.budget(budget).dataset], side)


def test_a_name_can_be_other_than_canonical():
    assert str(canonical("cra-resnet50")) != "cra-resnet50"  # witness
