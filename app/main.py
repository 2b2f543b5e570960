"""The explorer: `workbench app`.  Every choice is in the URL; nothing is written."""

import streamlit as st

st.set_page_config(page_title="Attention workbench", page_icon="👁", layout="wide")
st.navigation(
    [
        st.Page("pages/tables.py", title="Tables", icon=":material/table_chart:", default=True),
        st.Page("pages/curves.py", title="Curves", icon=":material/show_chart:"),
    ]
).run()
