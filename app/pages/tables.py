"""Published beside measured."""

import pandas as pd
import streamlit as st
from state import choose_budget, choose_data, choose_table, store

from workbench.experiments import report, tables

st.title("Published beside measured")
table = choose_data(choose_table(tables.known()))
entries = report.compare(table, store())
st.markdown(f"**{table.paper}.** {table.caption}")
st.caption(f"Published with: {table.protocol}")
for claim in table.claims:
    st.markdown(f"> {claim['text']} ({claim['where']})")

frame = report.frame(table, entries)
flat = frame.copy()
flat.columns = [": ".join(filter(None, column)) for column in frame.columns]
st.dataframe(flat, height="content")
st.markdown("\n".join(f"- {line}" for line in report.protocols(entries)))
st.caption(
    "`=` after a counted value: equal to the print to its last digit. A measured column stands under its own protocol "
    "and is never subtracted from a printed one."
)
st.download_button("Download CSV", flat.to_csv().encode(), f"{table.key}.csv", "text/csv", shortcut="ctrl+s")

if table.budgets:
    measured = {m["model"] for entry in entries for m in entry["measured"] if m["dataset"]}
    ready = [key for key in table.budgets if any(twin in measured for _, twin in table.measured_rows(key))]
    if not ready:
        st.info(f"Nothing is measured for this table yet. Run `workbench reproduce {table.key} --budget smoke`.")
    else:
        budget = choose_budget(table, ready)
        st.caption(table.budget(budget).note)
        st.plotly_chart(
            report.figure(table, store(), budget),
            alt=f"{table.caption} Left, published single runs; right, every seed measured at budget {budget}.",
        )
    st.subheader("Reading")
    st.text("\n".join(report.reading(table, entries)))
notes = [entry for entry in entries if entry["note"]]
if notes:
    st.subheader("Rows that the paper does not have")
    st.markdown("\n".join(f"- **{entry['row']}** (`{entry['model']}`): {entry['note']}" for entry in notes))
if table.errata:
    st.subheader("What does not add up in print")
    st.markdown("\n".join(f"- **{item.where}**: {item.text}" for item in table.errata))
with st.expander("Models"):
    st.dataframe(
        pd.DataFrame([{"row": e["row"], "model": e["model"], "status": e["status"]} for e in entries]), hide_index=True
    )
