"""What detectors find in the same pictures, side by side."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import streamlit as st
from state import choose_number, choose_pictures, choose_several, detector, downloads, said, store

from workbench.experiments import zoo
from workbench.explain import samples

if TYPE_CHECKING:
    from workbench.explain.detections import Boxed, Scene

NETWORKS, PICTURES, LEAST = 2, 4, 30  # at most, at most, percent


def page() -> None:
    """Choices, figure, boxes."""
    known = zoo.detectors(store())
    if not known:
        twin = "retinanet[anchor=2,finest=4,image_size=64,norm=group,width=32]-cra4-resnet8"
        st.info(f"No trained detector is here yet. Run `workbench train '{twin}' --data shapes --recipe shapes`.")
        return
    left, middle, right = st.columns(3)
    with left:
        names = labels([*known.values()])
        options = {key: f"{name}: AP {known[key].measured:.2f} %" for key, name in zip(known, names, strict=True)}
        plainest = sorted(known.values(), key=lambda one: len(one.model))
        default = [one.key for one in plainest if one.dataset == plainest[0].dataset]
        keys = choose_several("Detectors", "network", options, default[:NETWORKS], NETWORKS)
    with middle:
        pictures = choose_pictures("picture", samples.telling(known[keys[0]].dataset, store().data), PICTURES)
    with right:
        least = choose_number("Least score, in percent", "least", 5, 95, LEAST) / 100
    found: dict[str, list[Boxed]] = {}
    looked, classes = list[zoo.Trained](), list[str]()
    for key, label in zip(keys, labels([known[key] for key in keys]), strict=True):
        with said():
            found[label] = [boxes(key, picture.pixels) for picture in pictures]
            looked.append(known[key])
            classes += detector(key)[1].classes
    if found:
        scenes = [scene(picture.name, picture.pixels) for picture in pictures]
        about(looked, scenes)
        show(scenes, found, least, classes)


@st.cache_data(max_entries=32, show_spinner="Looking at the picture")
def boxes(key: str, pixels: np.ndarray) -> "Boxed":
    """What a detector finds, with any score."""
    from workbench.explain import detections

    shared, reads = detector(key)
    return detections.find(shared, reads.classes, reads.scaled(pixels))


def scene(name: str, pixels: np.ndarray) -> "Scene":
    """The picture with its true boxes, where they are known."""
    from workbench.explain import detections

    known = samples.boxed(name, store().data)
    return detections.Scene(name, pixels, detections.true_boxes(*known) if known else None)


def labels(chosen: Sequence[zoo.Trained]) -> list[str]:
    """The shortest name of each that is no other's; without options, if it can be."""
    levels = [
        [re.sub(r"\[[^]]*]", "", one.model), one.model, f"{one.model}, {one.protocol}", one.key] for one in chosen
    ]
    return [next(name for level, name in enumerate(own) if sum(other[level] == name for other in levels) == 1)
            for own in levels]  # fmt: skip


def about(chosen: Sequence[zoo.Trained], scenes: Sequence["Scene"]) -> None:
    """Of which networks this is, and which pictures are strange to them."""
    for one in chosen:
        strange = [scene.name for scene in scenes if scene.name.partition(":")[0] != one.dataset]
        only = f" It knows the classes of {one.dataset} alone; not from there: {', '.join(strange)}." if strange else ""
        st.caption(f"{one.model}: {one.protocol}; AP {one.measured:.2f} % on its test pictures.{only}")


def show(scenes: Sequence["Scene"], found: dict[str, list["Boxed"]], least: float, classes: Sequence[str]) -> None:
    """A figure a network, beside each other where there is room; its boxes; one figure of both to keep."""
    from workbench.explain import detections

    with st.container(horizontal=True):
        for network, boxes in found.items():
            one = detections.side_by_side(scenes, {network: boxes}, least, classes)
            st.plotly_chart(one, width="content", alt=one.layout.meta, key=f"detections-{network}")
    figure = detections.side_by_side(scenes, found, least, classes)
    table = detections.frame(scenes, found, least)
    if table.empty:
        st.info("No box has such a score; lower the least score.")
    columns = {name: st.column_config.NumberColumn(format="%.1f") for name in ("left", "top", "right", "bottom")}
    columns |= {name: st.column_config.NumberColumn(format="%.3f") for name in ("score", "IoU")}
    st.dataframe(table, column_config=columns)
    downloads("detections", figure, table)
    st.caption(
        f"Boxes are in px of the picture. Of one network and picture, the {detections.MOST} with the highest scores "
        "are drawn, and all are in the table; +2 after a score says that two more, with lower scores, lie on that box, "
        "mostly of other classes. IoU is the area that a box shares with the true box it fits best, over "
        "the area of both together; COCO counts a box as right from 0.5 on, if the class is right too. A score is what "
        "the detector makes of it, not how often it is right, and those of two detectors need not mean the same: move "
        "the least score before you say that one finds more. A few pictures show nothing about a network in general, "
        "and the average precision of one run little: with another seed it is another, often by more than two networks "
        "differ here. The page Tables has several seeds."
    )


st.title("Detections")
st.write(
    "What two detectors find in the same pictures, side by side as in CRA Fig. 7, with one backbone plain and the "
    "other with attention. Boxes carry class and score in percent; true boxes, where they are known, are dashed."
)
page()
