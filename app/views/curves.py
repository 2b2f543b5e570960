"""Training and test curves: a table's runs, or all runs there are."""

from collections.abc import Iterable

import streamlit as st
from state import choose, choose_budget, choose_data, choose_number, choose_table, choose_text, downloads, said, store

from workbench import datasets
from workbench.experiments import report, tables, watched
from workbench.experiments.experiment import Record
from workbench.experiments.watched import Group

METRICS = {
    "test_top1_error": "test top-1 error",
    "train_top1_error": "training top-1 error",
    "test_top5_error": "test top-5 error",
    "test_ap": "test AP of detectors",
    "test_loss": "test loss",
    "train_loss": "training loss",
}
TABLE, ALL = "table", "all"
EVERY_S = 5


def of_table() -> tuple[str, list[Group]]:
    """A stem for files, and the rows of a table at one of its budgets."""
    left, right = st.columns(2)
    with left:
        table = choose_data(choose_table([key for key in tables.known() if tables.load(key).budgets]))
    with right:
        budget = choose_budget(table, list(table.budgets))
    lines = report.lines(table, store(), budget)
    if lines:
        st.caption(table.budget(budget).note)
    else:
        st.info(f"No finished run at this budget yet. Run `workbench reproduce {table.key} --budget {budget}`.")
    return f"{table.key}-{budget}", lines


def of_all() -> tuple[str, list[Group]]:
    """A stem for files, and every finished run here or by the project that the filters leave."""
    records = [record for record in store().records() if record.status == "done"]
    named = {record.key: watched.recipe_name(record) for record in records}
    left, middle, right = st.columns(3)
    with left:
        data = choose("Data set", "dataset", filters(map(data_of, records)), ALL)
    with middle:
        recipe = choose("Recipe", "recipe", filters(named.values()), ALL)
    with right:
        model = choose_text("Models that contain", "model")
    kept = [
        record
        for record in records
        if data in (ALL, data_of(record))
        and recipe in (ALL, named[record.key])
        and model.casefold() in record.spec["model"]["name"].casefold()
    ]
    if not records:
        st.info("No finished run yet. Run `workbench train cra7-circularnet --data layouts --recipe smoke`.")
    elif not kept:
        st.info("No run is left. Empty the box `Models that contain`, or choose `all`.")
    return "runs", watched.grouped(kept)


def data_of(record: Record) -> str:
    return datasets.label(record.spec["dataset"])


def filters(values: Iterable[str]) -> dict[str, str]:
    return {ALL: "all", **{value: value for value in sorted(set(values))}}


def show(stem: str, lines: list[Group], metric: str, smoothing: int, log: bool) -> None:
    """The curves, the last and the best epoch of each line, and files of both."""
    st.caption(
        "A line is the mean over seeds, its band the lowest to the highest seed; "
        "its name says only what differs between the lines."
    )
    figure = watched.drawn(lines, metric, smoothing / 100, log)
    st.plotly_chart(figure, alt=figure.layout.meta)
    ends = watched.ends(lines, metric)
    numbers = {name: st.column_config.NumberColumn(format="%.2f") for name in ("last epoch", "best epoch")}
    st.dataframe(ends, hide_index=True, column_config=numbers, alt=f"Last and best epoch: {METRICS[metric]}")
    st.caption(
        "Means over the seeds. The last epoch is what the tables hold; the best epoch is chosen by the very pictures "
        "that measure it and is optimistic; best at: its number, for each seed."
    )
    downloads(f"{stem}-curves", figure, watched.tidy(lines))


def running() -> list[tuple[str, dict, list[dict[str, float]]]]:
    return [*store().unfinished()]


@st.fragment(run_every=EVERY_S)
def live(metric: str) -> None:
    """Runs without a record, as far as they are; looked at again every few seconds, until there is none."""
    left = running()
    if not left:
        st.rerun()
    figure = watched.so_far({key: log for key, _, log in left}, metric)
    if figure:
        st.plotly_chart(figure, alt=figure.layout.meta)
    for key, spec, log in left:
        total = spec["recipe"]["epochs"]
        st.progress(min(1.0, len(log) / total), f"{key}: {len(log)} of {total} epochs")


st.title("Curves")
st.markdown("Errors and losses by epoch, as in CRA Fig. 3 and 6 and the logs of Bridge.")
first, second, third, fourth = st.columns(4)
with first:
    of = choose("Runs", "of", {TABLE: "of a table", ALL: "all"}, TABLE)
with second:
    metric = choose("Metric", "metric", METRICS, "test_top1_error")
with third:
    smoothing = choose_number("Smoothing (%)", "smoothing", 0, 95, 0)
with fourth:
    log = choose("Scale", "scale", {"linear": "linear", "log": "logarithmic"}, "linear") == "log"
if smoothing:
    st.caption(
        f"Smoothed: m = {smoothing / 100:g} m + {1 - smoothing / 100:g} x, from epoch to epoch; faint: unsmoothed."
    )
if log:
    st.caption("A value of 0 has no place on a logarithmic scale and leaves a gap.")
with said():
    stem, lines = of_table() if of == TABLE else of_all()
    if any(line.values(metric) for line in lines):
        show(stem, lines, metric, smoothing, log)
    elif lines:
        st.info("These runs have not recorded this metric. Choose another.")
if running():
    st.subheader("Not finished")
    live(metric)
