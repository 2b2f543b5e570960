"""Training and test curves of a table's runs."""

import streamlit as st
from state import choose, choose_budget, choose_data, choose_table, store

from workbench.experiments import report, tables

METRICS = {
    "test_top1_error": "test top-1 error",
    "train_top1_error": "training top-1 error",
    "test_top5_error": "test top-5 error",
    "test_loss": "test loss",
    "train_loss": "training loss",
}

st.title("Curves")
trained = [key for key in tables.known() if tables.load(key).budgets]
left, middle, right = st.columns(3)
with left:
    table = choose_data(choose_table(trained))
with middle:
    budget = choose_budget(table, list(table.budgets))
with right:
    metric = choose("Metric", "metric", METRICS, "test_top1_error")
if not any(report.of_budget(table, store(), budget).values()):
    st.info(f"No finished run at this budget yet. Run `workbench reproduce {table.key} --budget {budget}`.")
else:
    st.caption(f"{table.budget(budget).note} A line is the mean over seeds, its band the lowest to the highest seed.")
    st.plotly_chart(
        report.training_curves(table, store(), budget, metric),
        alt=f"{METRICS[metric]} over epochs, a line for each row.",
    )
    st.download_button(
        "Download CSV",
        report.curve_frame(table, store(), budget).to_csv(index=False).encode(),
        f"{table.key}-{budget}-curves.csv",
        "text/csv",
    )
running = [(key, len(log), spec["recipe"]["epochs"]) for key, spec, log in store().unfinished()]
if running:
    st.subheader("Not finished")
    for key, done, total in running:
        st.progress(done / total, f"{key}: {done} of {total} epochs")
