"""Choices live in the URL; what the URL says is checked against what there is."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import streamlit as st

from workbench.errors import WorkbenchError
from workbench.experiments import report, tables, zoo
from workbench.experiments.store import Store
from workbench.experiments.tables import Table

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from workbench.backbones import Network

OWN, UPLOADED = "own", "uploaded"
LIMIT_PIXELS, SIDE_PX = 12_000_000, 448
TYPES = ["png", "jpg", "jpeg", "webp", "gif", "bmp", "tif", "tiff"]


def choose(label: str, key: str, options: Mapping[str, str], default: str) -> str:
    """A select box bound to ?key=...; options: value -> what it is called.

    An unknown value in the link shows the default and one line that says so.
    """
    keys = [*options]
    asked = st.query_params.get(key, default)
    if asked not in keys:
        _not_here(key, asked, default)
        asked = default
    chosen = st.selectbox(label, keys, keys.index(asked), format_func=lambda key: options[key]) or default
    st.query_params[key] = chosen
    return chosen


def choose_several(label: str, key: str, options: Mapping[str, str], default: Sequence[str], most: int) -> list[str]:
    """A box for up to `most` of these, bound to ?key=one&key=other; never empty."""
    asked = st.query_params.get_all(key)[: 2 * most] or [*default]
    for one in asked:
        if one not in options:
            _not_here(key, one, " and ".join(default))
    kept = list(dict.fromkeys(one for one in asked if one in options))[:most] or [*default]
    chosen = st.multiselect(label, [*options], kept, format_func=lambda key: options[key], max_selections=most)
    chosen = chosen or [*default]
    st.query_params[key] = chosen
    return chosen


def choose_number(label: str, key: str, low: int, high: int, default: int) -> int:
    """A slider from `low` to `high` bound to ?key=..."""
    asked = st.query_params.get(key, str(default))
    allowed = {str(number): number for number in range(low, high + 1)}
    if asked not in allowed:
        _not_here(key, asked, str(default))
    chosen = st.slider(label, low, high, allowed.get(asked, default)) if low < high else low
    st.query_params[key] = str(chosen)
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


def choose_networks(key: str, among: Mapping[str, zoo.Trained], default: Sequence[str], most: int) -> list[str]:
    """Keys of up to `most` trained networks; default: words that name a model, in order of preference."""
    first = [one.key for word in default for one in among.values() if one.model == word] or [*among]
    label = "Networks" if most > 1 else "Network"
    names = {one.key: str(one) for one in among.values()}
    chosen = choose_several(label, key, names, first[:most], most) if most > 1 else choose(label, key, names, first[0])
    return [chosen] if isinstance(chosen, str) else chosen


class Picture(NamedTuple):
    """pixels: (H, W, 3) uint8."""

    name: str
    pixels: np.ndarray


def choose_pictures(key: str, default: Sequence[str], most: int) -> list[Picture]:
    """Up to `most` pictures that are at hand, or one of the user's own, which is in no link and is not kept."""
    from workbench.explain import samples

    names = samples.known(store().data)
    options = {name: name for name in names}
    first = [name for name in default if name in options] or names[:1]
    if most > 1:
        chosen = choose_several("Pictures", key, options, first[:most], most)
    else:
        chosen = [choose("Picture", key, options, first[0])]
    file = st.file_uploader("Or one of your own", TYPES, key=f"{key}-upload", help="It stays on this machine.")
    pictures = [Picture(name, samples.picture(name, store().data)) for name in chosen]
    if file is None:
        return pictures
    with said():
        own = Picture(UPLOADED, decoded(file.getvalue()))
        return [own, *pictures][:most]
    return pictures


@st.cache_data(max_entries=8, show_spinner=False)
def decoded(data: bytes) -> np.ndarray:
    """An uploaded picture, at most SIDE_PX wide and high: (H, W, 3) uint8; raises OutOfRange or Corrupt."""
    from PIL import Image, ImageOps

    from workbench.datasets.images import decode

    image = Image.fromarray(decode(data, "This picture", LIMIT_PIXELS).numpy())
    return np.asarray(ImageOps.contain(image, (SIDE_PX, SIDE_PX)) if max(image.size) > SIDE_PX else image)


@st.cache_resource(max_entries=2, show_spinner="Reading weights")
def network(key: str) -> "tuple[Network, zoo.Reads]":
    """A trained network that all sessions share: evaluated, frozen, and read through its Trail alone."""
    return zoo.load(key, store())


@contextlib.contextmanager
def said() -> Iterator[None]:
    """An error that a user can put right is shown in its own sentence, and the page goes on after the block."""
    try:
        yield
    except WorkbenchError as error:
        st.warning(str(error))


def downloads(stem: str, figure: "go.Figure | None" = None, frame: "pd.DataFrame | None" = None) -> None:
    """Buttons that save the figure as a page that needs no network, and its numbers as CSV."""
    left, right, _ = st.columns([1, 1, 4])
    if frame is not None:
        left.download_button(
            "Download CSV", lambda: frame.to_csv().encode(), f"{stem}.csv", "text/csv", key=f"{stem}-csv"
        )
    if figure is not None:
        page: Any = lambda: figure.to_html(include_plotlyjs=True).encode()  # noqa: E731  made when it is asked for
        right.download_button("Download figure", page, f"{stem}.html", "text/html", key=f"{stem}-html")


@st.cache_resource
def store() -> Store:
    """The run folders that the command was started with."""
    return Store()


def _not_here(key: str, asked: str, default: str) -> None:
    st.caption(f"The link asks for {key} {asked[:40]!r}, which is not here; showing {default[:40]}.")
