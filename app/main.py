"""The explorer: `workbench app`.  Every choice is in the URL; nothing is written.

The pages lie in views/, since Streamlit would list those of a folder called pages by itself before it has run this.
"""

import streamlit as st

st.set_page_config(page_title="Attention workbench", page_icon="👁", layout="wide")
PAGES = {
    "Results": [
        st.Page("views/tables.py", title="Tables", icon=":material/table_chart:", default=True),
        st.Page("views/curves.py", title="Curves", icon=":material/show_chart:"),
        st.Page("views/claims.py", title="Claims", icon=":material/gavel:"),
    ],
    "Networks": [
        st.Page("views/attention.py", title="Attention", icon=":material/visibility:"),
        st.Page("views/gradcam.py", title="Grad-CAM", icon=":material/local_fire_department:"),
        st.Page("views/detections.py", title="Detections", icon=":material/select_all:"),
        st.Page("views/connections.py", title="Connections", icon=":material/share:"),
    ],
    "Modules": [
        st.Page("views/anatomy.py", title="Anatomy", icon=":material/account_tree:"),
    ],
}
st.navigation(PAGES).run()
