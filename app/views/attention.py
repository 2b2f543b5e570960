"""What the attention blocks of trained networks do with pictures."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import streamlit as st
from state import (
    Picture,
    choose,
    choose_networks,
    choose_number,
    choose_pictures,
    choose_view,
    downloads,
    network,
    said,
    store,
)

from workbench import datasets
from workbench.errors import OutOfRange
from workbench.experiments import zoo
from workbench.explain import samples
from workbench.explain.kinds import KINDS, has, missing, no_gate

if TYPE_CHECKING:
    from workbench.explain.exhibits import Exhibit
    from workbench.explain.maps import Values
    from workbench.explain.templates import Reading

PREFERRED = ("cra8-resnet20",), ("dca-se-resnet20", "cra7-circularnet")
ORDERS = {"index": "by index", "sorted": "sorted"}
CLOSING = "A gate says what a block lets through, not why: a channel that is kept may change nothing in the answer."
SCALES = {"own": "each map from its lowest to its highest", "one": "one scale for all maps"}


class Chosen(NamedTuple):
    """A network that can be read."""

    key: str
    model: str
    dataset: str
    title: str
    reads: zoo.Reads


@st.cache_data(max_entries=32, show_spinner="Reading the picture")
def predicted(key: str, pixels: np.ndarray) -> tuple[str, float]:
    """The most probable class and its probability."""
    import torch

    one, reads = network(key)
    with torch.no_grad():
        shares = one(reads.normalised(pixels))[0].double().softmax(0)
    return reads.classes[int(shares.argmax())], float(shares.max())


@st.cache_data(max_entries=32, show_spinner="Reading the picture")
def attended(key: str, pixels: np.ndarray, what: str) -> "Values":
    """What the function of this name in maps.py finds for one picture."""
    from workbench.explain import maps

    one, reads = network(key)
    function: Callable = getattr(maps, what)
    return function(one, reads.normalised(pixels))


@st.cache_data(max_entries=32, show_spinner="Reading the picture")
def template_reading(key: str, pixels: np.ndarray, site: str) -> "Reading":
    from workbench.explain import templates

    one, reads = network(key)
    return templates.reading(one, reads.normalised(pixels), site)


def choose_those(among: Mapping[str, zoo.Trained]) -> list[Chosen]:
    """Up to two networks that can be read."""
    there = {one.model for one in among.values()}
    preferred = next((models for models in PREFERRED if there & {*models}), ())
    chosen = []
    for key in choose_networks("network", among, preferred, 2):
        with said():
            chosen.append(Chosen(key, among[key].model, among[key].dataset, str(among[key]), network(key)[1]))
    return chosen


def from_data(name: str, dataset: str) -> bool:
    """Whether the picture of this name is of the kind that the data set holds."""
    kind = name.partition(":")[0]
    return kind == dataset or (kind == "photo" and dataset in datasets.IN_FILES)


def show_pictures(chosen: Sequence[Chosen], pictures: Sequence[Picture]) -> None:
    """Each picture as the first network reads it, with the class that each network names."""
    with st.container(horizontal=True):
        for picture in pictures:
            with st.container(width=250):
                small = chosen[0].reads.uint8(picture.pixels)
                times = max(1, 128 // len(small))
                st.image(small.repeat(times, 0).repeat(times, 1), picture.name, alt=picture.name)
                for one in chosen:
                    name, share = predicted(one.key, picture.pixels)
                    st.markdown(f"{one.model}: **{name}**, {100 * share:.1f} %")
    for one in chosen:
        if strange := [picture.name for picture in pictures if not from_data(picture.name, one.dataset)]:
            st.warning(
                f"{one.model} was trained on {one.dataset}, and this is not from there: {', '.join(strange)}. It can "
                f"only answer with one of its {len(one.reads.classes)} classes ({', '.join(one.reads.classes[:4])}, "
                "...)."
            )


def draw(one: Chosen, pictures: Sequence[Picture], view: str, chosen: Mapping[str, Any]) -> "Exhibit":
    """What the view shows of one network; raises OutOfRange where it has none."""
    from workbench.explain import exhibits, maps
    from workbench.explain.templates import blocks, kernel

    labels = [picture.name for picture in pictures]
    small = [one.reads.uint8(picture.pixels) for picture in pictures]
    if view == "templates":
        found = blocks(network(one.key)[0])
        site, channel = chosen["block"], chosen["channel"]
        if site not in found or channel >= found[site].site.channels:
            raise OutOfRange(f"{one.model} has no channel {channel} in a block {site}; choose another above.")
        readings = [template_reading(one.key, picture.pixels, site) for picture in pictures]
        return exhibits.templates(readings, labels, small, kernel(found[site]), channel)
    values = maps.together([attended(one.key, picture.pixels, KINDS[view].function) for picture in pictures])
    if view == "spatial":
        return exhibits.positions(values, labels, np.stack(small), chosen["scale"] == "own")
    if view == "branches":
        return exhibits.branches(values, labels)
    if view == "taps":
        return exhibits.taps(values, labels, chosen["block"])
    return exhibits.channels(values, labels, view, chosen["order"])


def choose_more(view: str, one: Chosen, pictures: Sequence[Picture]) -> dict[str, Any]:
    """The choices of a view; blocks and channels are those of the first network that has them."""
    if view in ("curves", "heat", "difference"):
        return {"order": choose("Order of the channels", "order", ORDERS, "index")}
    if view == "spatial":
        return {"scale": choose("Colour", "scale", SCALES, "own")}
    if view == "branches":
        return {}
    if view == "taps":
        sites = [site for site, _ in attended(one.key, pictures[0].pixels, KINDS[view].function)]
        return {"block": choose("Block", "block", {site: site for site in sites}, sites[-1])}
    return choose_channel(one, pictures[0])


def choose_channel(one: Chosen, picture: Picture) -> dict[str, Any]:
    """A CRA block, the last to begin with, and one of its channels, that with the highest gate to begin with."""
    from workbench.explain.templates import blocks

    sites = [*blocks(network(one.key)[0])]
    left, right = st.columns([1, 2])
    with left:
        site = choose("Block", "block", {site: site for site in sites}, sites[-1])
    gate = template_reading(one.key, picture.pixels, site).gate
    with right:
        return {"block": site, "channel": choose_number("Channel", "channel", 0, len(gate) - 1, int(gate.argmax()))}


def show(one: Chosen, exhibit: "Exhibit", view: str) -> None:
    st.subheader(one.title)
    if view in ("curves", "heat", "difference", "spatial") and (note := no_gate(one.model)):
        st.caption(note)
    width = "content" if exhibit.figure.layout.width else "stretch"
    alt = f"{one.title}. {exhibit.figure.layout.meta}"
    st.plotly_chart(exhibit.figure, width=width, alt=alt, key=f"{view}-{one.key}")  # type: ignore[call-overload]
    if exhibit.words:
        st.text("\n".join(exhibit.words))
    st.dataframe(exhibit.table)
    downloads(f"attention-{view}-{one.key}", exhibit.figure, exhibit.numbers)
    if exhibit.second:
        words, closer = exhibit.second
        st.caption(words)
        st.plotly_chart(closer, alt=closer.layout.meta, key=f"{view}-{one.key}-second")


def main() -> None:
    st.title("Attention")
    st.markdown(
        "What the attention blocks of trained networks do with pictures, block by block: the curves of CRA Fig. 8 and "
        "what else the blocks decide. Blocks are named stage.block."
    )
    among = zoo.known(store())
    left, right = st.columns(2)
    with left:
        chosen = choose_those(among)
    if not chosen:
        return
    with right:
        pictures = choose_pictures("picture", samples.telling(chosen[0].dataset, store().data), 4)
    show_pictures(chosen, pictures)
    first = next((kind for kind in KINDS if has(chosen[0].model, kind)), "curves")
    view = choose_view("View", "view", {key: kind.title for key, kind in KINDS.items()}, first)
    st.markdown(KINDS[view].words)
    fitting = [one for one in chosen if has(one.model, view)]
    for one in [one for one in chosen if one not in fitting]:
        st.info(missing(one.model, view, [other.model for other in among.values()]))
    if fitting and view == "difference" and len(pictures) < 2:
        st.info("A difference is between two pictures; choose a second one.")
    elif fitting:
        with said():
            show_all(fitting, pictures, view)


def show_all(fitting: Sequence[Chosen], pictures: Sequence[Picture], view: str) -> None:
    """The networks beside each other, curves and heat on one scale."""
    from workbench.explain import panels

    more = choose_more(view, fitting[0], pictures)
    exhibits = []
    for one in fitting:
        with said():
            exhibits.append((one, draw(one, pictures, view, more)))
    scale = {"curves": panels.on_one_scale, "difference": panels.on_one_scale, "heat": panels.in_the_same_colours}
    if exhibits and view in scale:
        scale[view]([exhibit.figure for _, exhibit in exhibits])
    beside = view in ("curves", "heat", "difference", "branches") and len(exhibits) > 1
    places = st.columns(len(exhibits)) if beside else [st.container() for _ in exhibits]
    for (one, exhibit), place in zip(exhibits, places, strict=True):
        with place:
            show(one, exhibit, view)
    st.caption(CLOSING)


main()
