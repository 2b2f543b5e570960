"""Choices live in the URL; what the URL says is checked against what there is."""

from collections.abc import Mapping

import streamlit as st

from workbench.experiments import report, tables
from workbench.experiments.store import Store
from workbench.experiments.tables import Table

OWN = "own"


def choose(label: str, key: str, options: Mapping[str, str], default: str) -> str:
    """A select box bound to ?key=...; options: value -> what it is called.

    An unknown value in the link shows the default and one line that says so.
    """
    keys = [*options]
    asked = st.query_params.get(key, default)
    if asked not in keys:
        st.caption(f"The link asks for {key} {asked[:40]!r}, which is not here; showing {default}.")
        asked = default
    chosen = st.selectbox(label, keys, keys.index(asked), format_func=lambda key: options[key]) or default
    st.query_params[key] = chosen
    return chosen


def choose_table(keys: list[str]) -> Table:
    """The table of the link, by its caption."""
    found = {key: tables.load(key) for key in keys}
    return found[choose("Table", "table", {key: f"{key}: {t.caption}" for key, t in found.items()}, "cra-4")]


def choose_data(table: Table) -> Table:
    """The table on the data sets of its budgets, or on a folder of pictures that its models were trained on."""
    folders = {folder: folder for folder in report.folders(table, store())}
    if not folders and "data" not in st.query_params:
        return table
    chosen = choose("Data", "data", {OWN: "the budget's own", **folders}, OWN)
    return table if chosen == OWN else table.on(chosen, label=chosen)


def choose_budget(table: Table, keys: list[str]) -> str:
    """One of these budgets of the table."""
    return choose("Budget", "budget", {key: f"{key}: {table.budget(key).dataset}" for key in keys}, keys[0])


@st.cache_resource
def store() -> Store:
    """The run folders that the command was started with."""
    return Store()
