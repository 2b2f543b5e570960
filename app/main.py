"""The explorer: `workbench app`.  Every choice is in the URL; nothing is written."""

import streamlit as st

st.set_page_config(page_title="Attention workbench", page_icon="👁", layout="wide")
PAGES = {
    "Results": [
        st.Page("pages/tables.py", title="Tables", icon=":material/table_chart:", default=True),
        st.Page("pages/curves.py", title="Curves", icon=":material/show_chart:"),
        st.Page("pages/claims.py", title="Claims", icon=":material/gavel:"),
    ],
    "Networks": [
        st.Page("pages/attention.py", title="Attention", icon=":material/visibility:"),
        st.Page("pages/gradcam.py", title="Grad-CAM", icon=":material/local_fire_department:"),
        st.Page("pages/connections.py", title="Connections", icon=":material/share:"),
    ],
    "Modules": [
        st.Page("pages/anatomy.py", title="Anatomy", icon=":material/account_tree:"),
    ],
}
st.navigation(PAGES).run()
