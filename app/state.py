"""Choices live in the URL; what the URL says is checked against what there is."""

from collections.abc import Sequence

import streamlit as st

from workbench.experiments.store import Store


def choose(label: str, key: str, options: Sequence[str], default: str) -> str:
    """A select box bound to ?key=...; an unknown value shows the default and one line that says so."""
    asked = st.query_params.get(key, default)
    if asked not in options:
        st.caption(f"The link asks for {key} {asked[:40]!r}, which is not here; showing {default}.")
        asked = default
    chosen = st.selectbox(label, options, index=list(options).index(asked)) or default
    st.query_params[key] = chosen
    return chosen


@st.cache_resource
def store() -> Store:
    """The run folders that the command was started with."""
    return Store()
