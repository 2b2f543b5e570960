"""Published beside measured."""

import pandas as pd
import streamlit as st
from state import choose, choose_budget, choose_data, choose_table, choose_text, downloads, said, store

from workbench.experiments import report, sheet, tables
from workbench.experiments.metrics import METRICS
from workbench.experiments.sheet import Sheet
from workbench.experiments.tables import Table

ALL = "all"
HELP = {
    "published": "As printed, to its last digit. †: does not add up in print; explained below by its number.",
    "measured": "Mean over the seeds, or what is counted on the built network: = equals the print to its last digit.",
    "spread": "Standard deviation over the seeds; none of one seed.",
    "n": "Number of seeds.",
    "protocol": "What it was measured with: the list below the table has this number.",
    "status": "Measured: the paper's own model; on twins: smaller networks that stand for it.",
}


def chosen_sheet(table: Table, entries: list[dict]) -> Sheet:
    """One column of the table, or all of them, filtered."""
    left, middle, right, last = st.columns(4)
    columns = {metric.key: f"{metric.title} ({metric.unit})" for metric in table.metrics}
    with left:
        if st.query_params.get("column", ALL) in {*METRICS} - {*columns}:  # carried along from another table
            del st.query_params["column"]
        column = choose("Column", "column", columns | {ALL: "all, side by side"}, sheet.leading(table).key)
    found = sheet.everything(table, entries) if column == ALL else sheet.compact(table, entries, METRICS[column])
    with middle:
        rows = choose_text("Rows that contain", "rows")
    with right:
        states = {state: state for state in dict.fromkeys(found.values["status"])}
        status = choose("Status", "status", {ALL: "all", **states}, ALL)
    with last:
        numbers = {str(number): f"{number}: {text}" for number, text in enumerate(found.protocols, 1)}
        protocol = choose("Protocol", "protocol", {ALL: "all", **numbers}, ALL) if len(numbers) > 1 else ALL
    return found.of(rows, "" if status == ALL else status, 0 if protocol == ALL else int(protocol))


def show_sheet(table: Table, shown: Sheet) -> None:
    """The sheet with what its numbers and marks mean."""
    config = {name: st.column_config.Column(help=text) for name, text in HELP.items() if name in shown.values}
    if shown.values.empty:
        st.info("No row is left. Empty the box `Rows that contain`, or choose the status `all`.")
    else:
        rows = {"row": st.column_config.Column(pinned=True)}
        alt = f"{table.caption} Published beside measured."
        st.dataframe(
            shown.styled(), height="content", hide_index=True, column_config=rows | config, placeholder="-", alt=alt
        )
    st.markdown("\n".join(f"{number}. {text}" for number, text in enumerate(shown.protocols, 1)))
    st.caption(
        "A measured number stands under its own protocol and is never subtracted from a printed one. "
        "A click on a heading sorts by it."
    )
    downloads(table.key, frame=shown.exact())
    if table.errata:
        st.markdown("**What does not add up in print**")
        st.markdown("\n\n".join(f"†{i} **{item.where}**: {item.text}" for i, item in enumerate(table.errata, 1)))


def show_figures(table: Table, entries: list[dict]) -> None:
    """What is measured at one budget, as points, over the parameters too, and in sentences."""
    measured = {m["budget"] for entry in entries for m in entry["measured"]}
    ready = [key for key in table.budgets if key in measured]
    if not ready:
        st.info(f"Nothing is measured for this table yet. Run `workbench reproduce {table.key} --budget smoke`.")
        return
    budget = choose_budget(table, ready)
    st.caption(table.budget(budget).note)
    figure = report.figure(table, store(), budget)
    alt = f"{table.caption} Left, published single runs; right, every seed measured at budget {budget}."
    st.plotly_chart(figure, alt=alt)
    downloads(f"{table.key}-{budget}", figure)
    if not table.data and any(metric.key == "params" for metric in table.metrics):  # a folder's classes are not known
        st.subheader("Over the parameters")
        st.caption("Lines join a module (open) with its connected or convolutional form (filled). DCA Fig. 1.")
        over = report.over_parameters(table, store(), budget)
        st.plotly_chart(over, alt=over.layout.meta)
        downloads(f"{table.key}-{budget}-parameters", over)


st.title("Published beside measured")
table = choose_data(choose_table(tables.known()))
st.markdown(f"**{table.paper}.** {table.caption}")
st.caption(f"Published with: {table.protocol}")
for claim in table.claims:
    st.markdown(f"> {claim['text']} ({claim['where']})")
with said():
    with st.spinner("Counting parameters"):
        entries = report.compare(table, store())
    show_sheet(table, chosen_sheet(table, entries))
    if table.budgets:
        show_figures(table, entries)
        st.subheader("Reading")
        st.text("\n".join(report.reading(table, entries)))
    notes = [entry for entry in entries if entry["note"]]
    if notes:
        st.subheader("Rows that the paper does not have")
        st.markdown("\n".join(f"- **{entry['row']}** (`{entry['model']}`): {entry['note']}" for entry in notes))
    with st.expander("Models"):
        st.dataframe(
            pd.DataFrame([{"row": e["row"], "model": e["model"], "status": e["status"]} for e in entries]),
            hide_index=True,
        )
