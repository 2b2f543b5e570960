"""One attention block, step by step in numbers; and the family of modules, with the law behind each edge."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import streamlit as st
from state import choose, choose_number, choose_pictures, choose_view, downloads, network, said, store

from workbench.errors import WorkbenchError
from workbench.experiments import zoo
from workbench.explain import anatomy, anatomy_figures, anatomy_lines, anatomy_steps, family, samples
from workbench.names import parse

if TYPE_CHECKING:
    from workbench.backbones import Network

VIEWS = {"steps": "Step through", "family": "Family"}
PREFERRED = ("cra8-resnet20", "cra7-circularnet")
TITLES = {"extract": "Extract", "connect": "Connect", "transform": "Transform", "fuse": "Fuse"}
WIDTH_PX = 250  # of a panel
LISTED = 12  # terms of a line on the page; all of them are in the CSV


def choose_network() -> tuple[str, str]:
    """The key of a trained network or the word of an untrained module, and the data set it was trained on."""
    trained = {key: one for key, one in zoo.known(store()).items() if attends(one.model)}
    options = {key: str(one) for key, one in trained.items()}
    options |= {word: f"{word.upper()}, untrained weights, seed 0" for word in anatomy.UNTRAINED}
    first = [key for model in PREFERRED for key, one in trained.items() if one.model == model]
    if not trained:
        st.info("No trained network is here; the modules have untrained weights. To train one: `workbench train "
                "cra7-circularnet --data layouts --recipe smoke`.")  # fmt: skip
    chosen = choose("Network", "network", options, (first or [*trained, "cra"])[0])
    return chosen, trained[chosen].dataset if chosen in trained else ""


def attends(model: str) -> bool:
    try:
        name = parse(model)
    except WorkbenchError:
        return False
    return bool(name.attention or name.conv)


def loaded(key: str) -> "tuple[Network, zoo.Reads]":
    """The network and what it reads; an untrained one reads pictures of its side, scaled to -2 to 2."""
    if key not in anatomy.UNTRAINED:
        return network(key)
    made = fresh(key)
    return made, zoo.Reads(made.image_size, (0.5,) * 3, (0.25,) * 3, ())


@st.cache_resource(max_entries=4, show_spinner=False)
def fresh(word: str) -> "Network":
    return anatomy.untrained(word)


@st.cache_resource(max_entries=16, show_spinner="Reading the block")
def seen(key: str, pixels: np.ndarray, block: str) -> anatomy.Seen:
    """What the block did with the picture; read by all sessions, changed by none."""
    made, reads = loaded(key)
    return anatomy.dissect(made, reads.normalised(pixels), block)


def steps() -> None:
    """One block, one picture, one channel."""
    left, middle, right = st.columns(3)
    with left:
        key, dataset = choose_network()
    with right:
        picture = choose_pictures("picture", samples.telling(dataset or "layouts", store().data), 1)[0]
    left.image(picture.pixels, picture.name, width=120, alt=f"The picture: {picture.name}")
    with said():
        names = anatomy.names(loaded(key)[0])
        with middle:
            block = choose("Block (stage.block)", "block", {name: name for name in names}, names[len(names) // 2])
            found = seen(key, picture.pixels, block)
            channel = choose_number("Channel c", "channel", 0, anatomy_steps.channels(found) - 1, 0)
        stages = anatomy_steps.stages(found, channel)
        what = f"{key}, block {block}, channel {channel}, picture {picture.name}"
        show(found, stages)
        compare(found, channel)
        frame = anatomy_lines.frame(stages)
        downloads("anatomy", anatomy_figures.sheet(stages, what), frame)
        st.caption(
            "Numbers stand here to four digits and in the CSV in full (float64). They say what this block computed for "
            "one picture; a high gate does not say that the channel decides the class."
        )


def show(found: anatomy.Seen, stages: list[anatomy_lines.Stage]) -> None:
    """The result of each step, then the steps one after the other."""
    for column, stage in zip(st.columns(len(stages)), stages, strict=True):
        line = stage.lines[-1]
        column.metric(f"{TITLES[stage.name]}: ${line.symbol}$", f"{line.result:.4f}", help=line.words)
    equations = anatomy_steps.equations(found)
    for number, stage in enumerate(stages, 1):
        st.subheader(f"{number}. {TITLES[stage.name]}", divider="gray")
        equation = equations[stage.name]
        left, right = st.columns([2, 3])
        with left:
            st.latex(equation.latex)
            st.caption(equation.where)
            with st.expander("In words"):
                st.markdown("\n".join(f"- ${symbol}$: {words}" for symbol, words in equation.symbols.items()))
        with right:
            draw(stage.panels, anatomy_figures.scale_of(stage), stage.name)
        for line in stage.lines:
            numbers(line)


def draw(panels: tuple[anatomy_lines.Panel, ...], scale: anatomy_figures.Range | None, key: str) -> None:
    """Each panel by itself, as many in a row as there is room for."""
    row = st.container(horizontal=True, horizontal_alignment="center")
    for number, panel in enumerate(panels):
        figure = anatomy_figures.small(panel, scale)
        row.plotly_chart(figure, width=WIDTH_PX, alt=anatomy_figures.words(panel), key=f"{key}-{number}")


def numbers(line: anatomy_lines.Line) -> None:
    """A line in words, in numbers, and its largest terms in a list."""
    st.markdown(f"${line.symbol}$, {line.words}")
    st.latex(anatomy_lines.latex(line))
    if len(line.terms) > 2:
        rows = sorted(line.terms, key=lambda term: -abs(term.value * term.weight))[:LISTED]
        with st.expander(f"The {len(rows)} largest of {len(line.terms)} products"):
            frame = pd.DataFrame([(*row, row.value * row.weight) for row in rows])
            st.dataframe(frame.set_axis(["term", "value", "weight", "product"], axis=1), hide_index=True)


def compare(found: anatomy.Seen, channel: int) -> None:
    """The slider of the modules that have one: CRA's grid, SE's reduction."""
    kind = type(found.block).__name__
    if kind not in SLIDERS:
        st.query_params.pop("size", None)
        return
    SLIDERS[kind](found, channel)


def grids(found: anatomy.Seen, channel: int) -> None:
    """What a grid of another size would keep of the channel's map; this needs no weights."""
    st.subheader("What a grid keeps", divider="gray")
    values, trained = found.x[0, channel].numpy(), found.G.shape[-1]
    side = min(values.shape)
    size = choose_number("Grid, cells a side", "size", 1, side, min(side, trained))
    kept = anatomy.kept(values, size)
    panels = anatomy_figures.pooled(kept, values, channel)
    draw(tuple(panels), anatomy_figures.shared(panels), "kept")
    share = kept.error / kept.spread if kept.spread else 0.0
    count = len(found.x[0])
    st.markdown(
        f"Rebuilt from the {size}x{size} grid, the map is off by **{kept.error:.4g}** (root mean square), "
        f"{share:.0%} of what the mean alone is off by. CRA with this grid has C(hw + 1) = {count} x "
        f"({size * size} + 1) = **{count * (size * size + 1):,}** parameters."
    )
    st.caption(f"The weights are those of the {trained}x{trained} grid; for other sizes there are none, so no gate.")


def reductions(found: anatomy.Seen, channel: int) -> None:
    """What SE costs by its reduction, beside CRA."""
    st.subheader("What the reduction costs", divider="gray")
    count, side = found.x.shape[1], min(found.x.shape[-2:])
    own = count // found.block.transform[0].out_features
    reduction = choose_number("Reduction r", "size", 1, min(count, max(own, 64)), own)
    sizes = tuple(size for size in (1, 4, 7, 8) if size <= side)
    rows = anatomy.costs(count, reduction, sizes)
    frame = pd.DataFrame(rows).set_axis(["module", "parameters", "multiply-adds"], axis=1)
    st.dataframe(frame, hide_index=True)
    st.caption(
        f"One module on {count} channels: 2 C²/r weights and their biases; CRA, C(hw + 1). Multiply-adds without "
        f"pooling and scaling. The weights above are those of r = {own}."
    )


def relations() -> None:
    """The graph of the laws, and their list."""
    left, right = st.columns([2, 3])
    figure = family.graph()
    with left:
        st.plotly_chart(figure, alt=str(figure.layout.meta))
        st.caption("An arrow: its start is its end in a special case. Grey with \u2260: it is not, and why.")
    with right:
        for number, law in enumerate(family.LAWS, 1):
            ends = " \u2192 ".join(family.NODES[end].words for end in (law.source, law.target))
            st.markdown(f"**{number}. {ends}.** {law.text}")
            st.latex(law.equation)
            st.caption(f"tests/laws/{law.test.replace('::', ' :: ')}")
    downloads("family", figure, pd.DataFrame(family.LAWS, index=range(1, len(family.LAWS) + 1)))
    st.caption("Each law is a test of this project, in float64 to 1e-12, with a witness that it can fail.")


SLIDERS: dict[str, Callable[[anatomy.Seen, int], None]] = {"CRA": grids, "SE": reductions}
st.title("Module anatomy")
st.markdown(
    "A block extracts a descriptor of its map, transforms it to an attention, and fuses that with the map: for one "
    "picture and one channel in numbers (as drawn in CRA Fig. 1 and DCA Fig. 3), and as a family of special cases."
)
if choose_view("View", "view", VIEWS, "steps") == "steps":
    steps()
else:
    relations()
