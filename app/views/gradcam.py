"""Grad-CAM of one picture in several networks, stage by stage."""

import importlib.util
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import streamlit as st
from state import Picture, choose, choose_pictures, choose_several, downloads, network, said, store

from workbench.experiments import zoo
from workbench.explain import samples

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

MOST = 4
DATA = ("cifar10", "layouts")  # whose networks are shown first
MODELS = ("resnet20", "se-resnet20", "cra8-resnet20", "dca-se-resnet20", "cra7-circularnet", "se-circularnet")
PREDICTED, TRUE = "predicted", "true"
METHODS = {
    "gradcam": "Grad-CAM: channels weighted by their mean gradient",
    "gradcam++": "Grad-CAM++: positive gradients, weighted by position",
    "hirescam": "HiResCAM: gradient times map at each position",
    "layercam": "LayerCAM: positive gradient times map at each position",
    "xgradcam": "XGrad-CAM: gradients weighted by the map itself",
}


class Look(NamedTuple):
    """What one network makes of the picture.  heats: (side, side) in [0, 1] after each stage, for class `target`."""

    label: str
    trained: zoo.Trained
    reads: zoo.Reads
    probabilities: np.ndarray
    target: int
    heats: Sequence[np.ndarray]

    @property
    def predicted(self) -> int:
        return int(self.probabilities.argmax())


def page() -> None:
    """Choices, figure, numbers."""
    known = zoo.known(store())
    if importlib.util.find_spec("pytorch_grad_cam") is None:
        st.info("Grad-CAM needs the package grad-cam. In the project's folder, run `pip install -e '.[explain]'`.")
        return
    if not known:
        st.info("No trained network is here yet. Run `workbench train se-resnet20 --data layouts --recipe smoke`.")
        return
    chosen = {key: known[key] for key in choose_some(known)}
    reading = {key: one for key in chosen if (one := read(key))}
    if not reading:
        return
    left, middle, right = st.columns(3)
    with left:
        (picture,) = choose_pictures("picture", samples.telling(known[next(iter(reading))].dataset, store().data), 1)
    with middle:
        target = choose_class(picture, reading)
        method = choose("Method", "method", METHODS, "gradcam")
    looks = []
    for (key, one), label in zip(reading.items(), labels([known[key] for key in reading]), strict=True):
        with said():
            looks.append(Look(label, known[key], one, *looked(key, picture.pixels, target, method)))
    if looks:
        with right:
            count = max(len(look.heats) for look in looks)
            numbers = {str(number): f"stage {number}" for number in range(1, count + 1)}
            stages = sorted(map(int, choose_several("Stages", "stage", numbers, [*numbers], count)))
        show(picture, looks, stages, target)


def choose_some(known: Mapping[str, zoo.Trained]) -> list[str]:
    """Up to MOST networks; by default those of one data set and one training that the papers' figures compare."""
    place = {word: number for number, word in enumerate((*DATA, *MODELS))}
    order = sorted(known.values(), key=lambda one: (place.get(one.dataset, 99), place.get(one.model, 99)))
    alike = [one for one in order if one.dataset == order[0].dataset]
    [(usual, _)] = Counter(one.protocol for one in alike).most_common(1)
    first = [one.key for one in alike if one.protocol == usual]
    return choose_several("Networks", "network", {one.key: str(one) for one in order}, first[:MOST], MOST)


def choose_class(picture: Picture, reading: Mapping[str, zoo.Reads]) -> str | None:
    """The class whose evidence is shown, by name; None: in each network the one that it predicts."""
    names = list(dict.fromkeys(name for one in reading.values() for name in one.classes))
    truth = true_class(picture.name, names)
    options = {PREDICTED: "the one that each network predicts"}
    options |= {TRUE: f"the true one, {truth}"} if truth else {}
    chosen = choose("Class", "class", options | {name: name for name in names}, PREDICTED)
    return {PREDICTED: None, TRUE: truth}.get(chosen, chosen)


def true_class(name: str, classes: Sequence[str]) -> str | None:
    """`cifar10:cat 2` -> cat; None for a picture of no data set, and for a class that is none of these."""
    from workbench.explain.samples import OF_EACH_CLASS

    source, _, rest = name.partition(":")
    if source not in ("layouts", *OF_EACH_CLASS):
        return None
    return next((one for one in (rest, rest.rpartition(" ")[0]) if one in classes), None)


def read(key: str) -> zoo.Reads | None:
    """What the network reads; None where its weights cannot be loaded, which is then said."""
    with said():
        return reads(key)
    return None


@st.cache_data(max_entries=32, show_spinner=False)
def reads(key: str) -> zoo.Reads:
    return network(key)[1]


@st.cache_data(max_entries=32, show_spinner="Computing Grad-CAM")
def looked(key: str, pixels: np.ndarray, target: str | None, method: str) -> tuple[np.ndarray, int, list[np.ndarray]]:
    """Probabilities, the class shown, and its heat map after each stage."""
    import torch

    from workbench.explain.cam import grad_cam

    shared, reads = network(key)
    x = reads.normalised(pixels)
    with torch.no_grad():
        probabilities = shared(x).softmax(1)[0].numpy()
    number = reads.classes.index(target) if target in reads.classes else int(probabilities.argmax())
    return probabilities, number, [heat[0] for heat in grad_cam(shared, x, [number], method=method).values()]


def labels(chosen: Sequence[zoo.Trained]) -> list[str]:
    """The shortest name of each that is no other's."""
    found = []
    for one in chosen:
        names = [(other.model, f"{other.model}, {other.dataset}", str(other), other.key) for other in chosen]
        mine = names[[*chosen].index(one)]
        found.append(next(mine[level] for level in range(4) if sum(name[level] == mine[level] for name in names) == 1))
    return found


def show(picture: Picture, looks: Sequence[Look], stages: Sequence[int], target: str | None) -> None:
    """The figure of CRA Fig. 4 and DCA Fig. 4, and its numbers."""
    data = list(dict.fromkeys(look.trained.dataset for look in looks))
    if len(data) > 1:
        st.caption(
            f"These networks were trained on different data sets ({', '.join(data)}): each reads the picture at "
            "its own size and knows its own classes, so compare where they look, not how sure they are."
        )
    for look in looks:
        if target is not None and target not in look.reads.classes:
            st.caption(f"{look.label} has no class {target!r}; shown is the one it predicts.")
        if missing := [str(number) for number in stages if number > len(look.heats)]:
            st.caption(f"{look.label} has no stage {' and '.join(missing)}; the picture stands there without heat.")
    figure, numbers = drawn(picture, looks, stages), frame(looks, stages)
    st.plotly_chart(figure, width="content", alt=figure.layout.meta)
    exact = st.column_config.NumberColumn(format="%.3f")
    st.dataframe(numbers, column_config={name: exact for name in numbers.select_dtypes("number")})
    downloads("gradcam", figure, numbers)
    st.caption(
        "Quarter: the share of all heat that lies in the brightest quarter, the positions with the most of it; 0.25 "
        "is the same heat everywhere, 1 all of it within a quarter of the picture, and nothing stands where there is "
        "no evidence for the class. Every map is scaled to its own maximum, so colours tell where, not how much, and "
        "are not compared between stages or networks. A map has as few positions as its stage (8x8 after the last of "
        "a ResNet-20 at 32 px) and is enlarged smoothly. One picture shows nothing about a network in general."
    )


def drawn(picture: Picture, looks: Sequence[Look], stages: Sequence[int]) -> "go.Figure":
    """Rows: networks; columns: the picture as it was read, and the heat after each stage."""
    from textwrap import wrap

    from workbench.explain.pictures import overlay_grid

    side = max(look.reads.side for look in looks)
    seen = np.stack([enlarged(look.reads.uint8(picture.pixels), side) for look in looks])[:, None]
    heats = [
        [None, *(None if heat is None else enlarged(heat, side) for heat in of(look.heats, stages))] for look in looks
    ]
    lines = ["<br>".join([*wrap(look.label, 22), look.reads.classes[look.target]]) for look in looks]
    columns = ["picture", *(f"stage {number}" for number in stages)]
    return overlay_grid(seen, heats, columns, lines).update_yaxes(ticks="")


def frame(looks: Sequence[Look], stages: Sequence[int]) -> "pd.DataFrame":
    """A row a network."""
    import pandas as pd

    from workbench.explain.cam import brightest_quarter

    rows = {}
    for look in looks:
        row: dict[str, object] = {"predicted class": look.reads.classes[look.predicted]}
        row |= {"its probability": float(look.probabilities[look.predicted])}
        row |= {"class shown": look.reads.classes[look.target]}
        row |= {"probability of the class shown": float(look.probabilities[look.target])}
        for number, heat in zip(stages, of(look.heats, stages), strict=True):
            row[f"quarter, stage {number}"] = float("nan") if heat is None else brightest_quarter(heat)
        rows[look.label] = row | {"trained on": look.trained.dataset}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("network")


def of(heats: Sequence[np.ndarray], stages: Sequence[int]) -> list[np.ndarray | None]:
    """The heat after each of these stages; None after those that this network does not have."""
    return [heats[number - 1] if number <= len(heats) else None for number in stages]


def enlarged(values: np.ndarray, side: int) -> np.ndarray:
    """A picture (H, W, 3) with its pixels seen, or a heat map (H, W) smoothly, at side x side."""
    from PIL import Image

    smooth = Image.Resampling.BILINEAR if values.ndim == 2 else Image.Resampling.NEAREST
    return np.array(Image.fromarray(values).resize((side, side), smooth)).clip(0, 1 if values.ndim == 2 else 255)


st.title("Grad-CAM")
st.write(
    "Where in one picture each network finds evidence for a class, after each of its stages: bright is much, dark is "
    "none. CRA Fig. 4 shows ResNet, SE and CRA like this, DCA Fig. 4 every stage of a plain and a connected network."
)
page()
