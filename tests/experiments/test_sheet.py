"""A sheet holds every number of its table, as a number and as it is printed, with what does not add up marked."""

import pytest

from workbench.experiments import report, sheet, tables
from workbench.experiments.metrics import METRICS, as_float
from workbench.experiments.store import Store


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "runs", tmp_path / "data", tmp_path / "published")


def compared(key, store):
    table = tables.load(key)
    return table, report.compare(table, store)


@pytest.mark.parametrize("key", ["cra-4", "bridge-1"])
def test_a_sheet_has_every_row_and_every_print(key, store):
    table, entries = compared(key, store)
    for metric in table.metrics:
        found = sheet.compact(table, entries, metric)
        for row in table.rows:
            printed = row.published.get(metric.key, "-")
            assert found.shown.loc[row.label, "published"].split(" ")[0] == printed
            value = found.values.loc[row.label, "published"]
            assert value == as_float(printed, metric.unit) if printed != "-" else value != value


def test_marks_stand_on_the_cells_of_the_errata():
    table = tables.load("dca-1")
    found = sheet.marks(table)
    for number, erratum in enumerate(table.errata, 1):
        for row in erratum.row:
            assert all(found[row, metric] in {f"†{i}" for i in range(1, number + 1)} for metric in erratum.metric)
    assert found and len(found) < len(table.rows) * len(table.metrics)  # witness: most cells are sound
    assert all(table.erratum(*cell) for cell in found)


def test_numbers_sort_and_texts_are_shown(store):
    table, entries = compared("cra-4", store)
    entries[0]["measured"].append(
        {"metric": "top1_error", "mean": 3.5, "std": None, "n": 1, "dataset": "layouts", "hardware": "CPU A"}
        | {"column": "measured here, smoke", "protocol": "layouts, 3 epochs"}
    )
    entries[1]["measured"].append(entries[0]["measured"][-1] | {"mean": 3.496, "std": 0.25, "n": 4})
    found = sheet.compact(table, entries, METRICS["top1_error"])
    assert found.shown["measured"][:3].to_list() == ["3.50", "3.50", "-"]
    assert found.shown["spread"][:2].to_list() == ["-", "0.25"]
    assert found.values.sort_values("measured").index[0] == table.rows[1].label  # 3.496 before 3.5
    assert found.protocols == ["measured here, smoke: layouts, 3 epochs, CPU A"]
    html = found.styled().to_html()
    assert html.count(">3.50<") == 2 and ">22.77<" in html
    assert found.exact()["measured"].iloc[1] == 3.496 and found.exact()["published"].iloc[0] == "22.77"


def test_two_texts_of_one_number_are_both_shown(store):
    table, entries = compared("cra-4", store)
    first, second = table.rows[:2]
    marked = table._replace(
        errata=(tables.Erratum("Table IV", "differs", (first.label,), ("top1_error",)),),
    )
    for entry in entries[:2]:
        entry["published"], entry["printed"] = {"top1_error": 22.77}, {"top1_error": "22.77"}
    html = sheet.compact(marked, entries, METRICS["top1_error"]).styled().to_html()
    assert html.count(">22.77 †1<") == 1 and html.count(">22.77<") == 1
    assert second.label != first.label


def test_lines_are_kept_by_text_status_and_protocol(store):
    table, entries = compared("cra-4", store)
    found = sheet.compact(table, entries, METRICS["top1_error"])
    assert list(found.of("SE").values.index) == ["SE, long", "SE, long, zeros"]
    assert len(found.of(status="not measured").values) == 7 and found.of(status="measured").values.empty
    assert found.of(protocol=1).values.empty and len(found.of().values) == 7


def test_everything_is_what_the_frame_has(store):
    table, entries = compared("cra-4", store)
    wide, frame = sheet.everything(table, entries), report.frame(table, entries)
    assert wide.shown.shape == wide.values.shape == frame.shape
    assert wide.values["top-1 error (%): published"].iloc[0] == 22.77
