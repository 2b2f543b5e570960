"""What the papers claim, and what came of it."""

from collections import Counter

import pandas as pd
import streamlit as st
from state import choose, downloads, said, store

from workbench.experiments import claims
from workbench.experiments.claims import Claim
from workbench.experiments.evidence import CONTRADICTED, INCONCLUSIVE, NOT_MEASURED, SUPPORTED, VERDICTS, Verdict

ALL, PENDING = "all", "counting"
SIGNS = {
    SUPPORTED: ":material/check_circle:",
    CONTRADICTED: ":material/cancel:",
    INCONCLUSIVE: ":material/help:",
    NOT_MEASURED: ":material/hourglass_empty:",
    PENDING: ":material/calculate:",
}
ASKED = {
    "better": "the first row of every pair is better than the second by at least the minimal effect",
    "order": "the first row is better than the last by at least the minimal effect, and no neighbours the other way",
    "shrinks": "the lead of the first of a pair gets smaller from pair to pair by at least the minimal effect",
    "sum": "the weighted sum of the rows' results is at least the minimal effect",
    "no_worse": "the first row of every pair is not worse than the second by the margin",
    "alike": "the rows of every pair differ by less than the margin",
    "above": "what is read off the row's runs is above the value by at least the minimal effect",
    "below": "what is read off the row's runs is below the value by at least the minimal effect",
    "near": "what is read off the row's runs is within the margin of the value",
    "printed_better": "the first row of every pair is printed with the better number",
    "printed": "sums of printed cells are what the text says, up to rounding",
    "counts": "sums of parameters and multiply-adds, counted on the built networks, are what the text says",
    "law": "a statement about the mathematics, checked on the built modules and networks",
}
BUILT = ("network", "law")  # kinds that build networks, which takes seconds, and that no run can change


@st.cache_data(max_entries=4, show_spinner=False)
def measured(ids: tuple[str, ...], state: tuple[tuple[str, int, int], ...]) -> dict[str, Verdict]:
    """The verdicts of the records, and of the papers' own arithmetic; `state` names the records."""
    return {claim.id: claims.judge(claim, store()) for claim in claims.known() if claim.id in ids}


@st.cache_data(max_entries=128, show_spinner=False)
def built(name: str) -> Verdict:
    """The verdict of a claim about the networks themselves, by its id."""
    return claims.judge(next(claim for claim in claims.known() if claim.id == name), store())


def chosen(asked: list[Claim], found: dict[str, Verdict], paper: str, verdict: str) -> list[tuple[Claim, Verdict]]:
    """The claims that the filters leave, those that are not counted yet among them."""
    pending = Verdict(PENDING, "The networks are being built and counted.")
    lines = [(claim, found.get(claim.id, pending)) for claim in asked if paper in (ALL, claim.paper)]
    return [line for line in lines if verdict in (ALL, line[1].verdict)]


def show(lines: list[tuple[Claim, Verdict]]) -> None:
    """How many came out how, and each claim with its evidence behind it."""
    counts = Counter(found.verdict for _, found in lines)
    for column, verdict in zip(st.columns(len(VERDICTS)), VERDICTS, strict=True):
        column.metric(verdict.capitalize(), counts[verdict])
    if not lines:
        st.info("No claim is left. Choose all papers or all verdicts.")
    for claim, found in lines:
        title = f"**{found.verdict.capitalize()}** · {claim.paper} {claim.where} · {plain(claim.statement)}"
        with st.expander(title, icon=SIGNS[found.verdict]):
            show_one(claim, found)


def show_one(claim: Claim, found: Verdict) -> None:
    """The quotation, the evidence, the test it was put to, and the table that it reads."""
    st.markdown(f"> {plain(claim.statement)} ({claim.paper}, {claim.where})")
    st.text(found.evidence)
    limits = {"minimal effect": claim.effect, "margin": claim.margin, "value": claim.value}
    said = [f"{name} {limit:g}" for name, limit in limits.items() if limit]
    pairs = [f"{a} against {b}" for a, b in claim.pairs]
    rows = [*pairs, *claim.rows, *(f"{weight:+g} × {row}" for weight, row in claim.terms)]
    told = {
        "Test": f"{claim.test}: {ASKED[claim.test]}",
        "Read": ", ".join(claim.metrics),
        "Rows": "; ".join(rows),
        "Threshold": ", ".join(said) + " points" * bool(said),
        "Seeds": "none needed" if found.n is None else str(found.n),
    }
    st.markdown("\n".join(f"- {name}: {plain(text)}" for name, text in told.items() if text))
    st.markdown(f"[Table {claim.table}](/?table={claim.table}) · `{claim.id}`")


def plain(text: str) -> str:
    """Text from the papers in Markdown: its signs stand for themselves."""
    return "".join(f"\\{sign}" if sign in "\\`*_[]<>$~:#|" else sign for sign in text)


def frame(lines: list[tuple[Claim, Verdict]]) -> pd.DataFrame:
    """The same as a table for a file."""
    columns = ["paper", "where", "statement", "verdict", "evidence", "n", "test", "effect", "margin", "value", "table"]
    rows = [{**claim._asdict(), **found._asdict()} for claim, found in lines]
    return pd.DataFrame(rows, columns=["id", *columns]).set_index("id").astype({"n": "Int64"})


st.title("Claims")
st.markdown(
    "What the papers say, word for word, and what came of it. Only runs here decide a claim about training; tests and "
    "thresholds were written before the runs, but for what the head of `data/claims.toml` names."
)
with said():
    asked = claims.known()
    left, right = st.columns(2)
    with left:
        papers = {paper: paper for paper in dict.fromkeys(claim.paper for claim in asked)}
        paper = choose("Paper", "paper", {ALL: "all", **papers}, ALL)
    with right:
        verdict = choose("Verdict", "verdict", {ALL: "all", **{one: one for one in VERDICTS}}, ALL)
    quick = tuple(claim.id for claim in asked if claim.kind not in BUILT)
    slow = [claim.id for claim in asked if claim.kind in BUILT and paper in (ALL, claim.paper)]
    found, note, place = measured(quick, store().state()), st.empty(), st.empty()
    if slow:
        note.caption(f"{len(slow)} claims are being counted, and are in none of these sums yet.")
    with place.container():
        show(chosen(asked, found, paper, verdict))
    with st.spinner("Building and counting networks; the first time takes half a minute"):
        found = found | {name: built(name) for name in slow}
    lines = chosen(asked, found, paper, verdict)
    note.empty()
    with place.container():
        show(lines)
    downloads("claims", frame=frame(lines))
    st.caption(
        "Supported: the interval of the difference lies above 0 and its mean reaches the minimal effect. Contradicted: "
        "it lies below. Inconclusive: anything else, and always for one seed. Not measured: no runs at a protocol that "
        "counts. A verdict is about these networks and data: it can support a claim, never the paper's numbers."
    )
