"""Choices live in the URL; what the URL says is checked against what there is.

The link alone says what is chosen: a box or slider that is moved writes the link before the page runs, and takes its
value from it.  So a link that is opened, the back button and a widget agree.
"""

import contextlib
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import streamlit as st

from workbench.errors import WorkbenchError
from workbench.experiments import report, tables, zoo
from workbench.experiments.tables import Table
from workbench.experiments.watched import Watched

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from workbench.backbones import Network
    from workbench.detection.detector import Detector

OWN, UPLOADED = "own", "uploaded"
LIMIT_PIXELS, SIDE_PX = 12_000_000, 448
TEXT_LETTERS = 60
TYPES = ["png", "jpg", "jpeg", "webp", "gif", "bmp", "tif", "tiff"]
BOUND = "link-"  # + key: the widget of ?key=...
AMONG = "among-"  # + key: what it chose among
WRITTEN = "written-"  # + key: what this session itself put behind ?key=...


def choose(label: str, key: str, options: Mapping[str, str], default: str) -> str:
    """A select box bound to ?key=...; options: value -> what it is called.

    An unknown value in the link shows the default and one line that says so.
    """
    (chosen,) = _asked(key, options, [default], 1)
    name = _bound(key, chosen, options.items())
    st.selectbox(label, [*options], key=name, on_change=_to_link, format_func=options.__getitem__)
    _write(key, [chosen])
    return chosen


def choose_view(label: str, key: str, options: Mapping[str, str], default: str) -> str:
    """As `choose`, by a row of buttons."""
    (chosen,) = _asked(key, options, [default], 1)
    name = _bound(key, chosen, options.items())
    st.segmented_control(
        label, [*options], key=name, on_change=_to_link, format_func=options.__getitem__, required=True
    )
    _write(key, [chosen])
    return chosen


def choose_several(label: str, key: str, options: Mapping[str, str], default: Sequence[str], most: int) -> list[str]:
    """A box for up to `most` of these, bound to ?key=one&key=other; never empty: emptied, the default is shown."""
    chosen = _asked(key, options, default, most)
    emptied = st.session_state.get(BOUND + key) == [] and chosen == [*default]
    st.multiselect(
        label,
        [*options],
        key=_bound(key, [] if emptied else chosen, options.items()),
        on_change=_to_link,
        format_func=options.__getitem__,
        max_selections=most,
    )
    if emptied:
        st.caption(f"Nothing is chosen; showing {' and '.join(options[one] for one in default)}.")
    _write(key, chosen)
    return chosen


def choose_number(label: str, key: str, low: int, high: int, default: int) -> int:
    """A slider from `low` to `high` bound to ?key=..."""
    allowed = {str(number): number for number in range(low, high + 1)}
    (asked,) = _asked(key, allowed, [str(default)], 1)
    if low < high:
        st.slider(label, low, high, key=_bound(key, allowed[asked], allowed), on_change=_to_link)
    _write(key, [asked])
    return allowed[asked]


def choose_text(label: str, key: str) -> str:
    """A box for a few words bound to ?key=..., which is in the link only where there are some."""
    asked = st.query_params.get(key, "")[:TEXT_LETTERS]
    st.text_input(label, key=_bound(key, asked), max_chars=TEXT_LETTERS, on_change=_to_link)
    if asked.strip():
        _write(key, [asked])
    else:
        st.query_params.pop(key, None)
    return asked.strip()


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
    if not among:
        st.info("No trained network is here. Run `workbench train se-resnet20 --data layouts --recipe smoke`.")
        st.stop()
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
    if file is not None:
        with said():
            pictures.insert(0, Picture(UPLOADED, decoded(file.getvalue())))
    return pictures[:most]


@st.cache_data(max_entries=8, show_spinner=False)
def decoded(data: bytes) -> np.ndarray:
    """An uploaded picture, at most SIDE_PX wide and high: (H, W, 3) uint8; raises OutOfRange or Corrupt."""
    from PIL import Image

    from workbench.datasets.images import decode

    image = Image.fromarray(decode(data, "This picture", LIMIT_PIXELS).numpy())
    longest = max(image.size)
    if longest > SIDE_PX:  # ImageOps.contain makes nothing of a strip
        image = image.resize([max(1, round(side * SIDE_PX / longest)) for side in image.size])
    return np.array(image)


@st.cache_resource(max_entries=2, show_spinner="Reading weights")
def network(key: str) -> "tuple[Network, zoo.Reads]":
    """A trained network that all sessions share: evaluated, frozen, and read through its Trail alone."""
    return zoo.load(key, store())


@st.cache_resource(max_entries=2, show_spinner="Reading weights")
def detector(key: str) -> "tuple[Detector, zoo.Whole]":
    """A trained detector, shared and frozen as a `network` is."""
    return zoo.load_detector(key, store())


@contextlib.contextmanager
def said() -> Iterator[None]:
    """An error that a user can put right is shown in its own sentence, and the page goes on after the block."""
    try:
        yield
    except WorkbenchError as error:
        st.warning(str(error))


def downloads(stem: str, figure: "go.Figure | None" = None, frame: "pd.DataFrame | None" = None) -> None:
    """Buttons that save the figure as a page that needs no network, and its numbers as CSV."""
    row = st.container(horizontal=True)
    if frame is not None:
        csv = frame.to_csv().encode()
        row.download_button("Download CSV", csv, f"{stem}.csv", "text/csv", f"{stem}-csv", on_click="ignore")
    if figure is not None:
        page: Any = lambda: figure.to_html(include_plotlyjs=True).encode()  # noqa: E731  made when it is asked for
        row.download_button("Download figure", page, f"{stem}.html", "text/html", f"{stem}-html", on_click="ignore")


@st.cache_resource
def store() -> Watched:
    """The run folders that the command was started with, each file read once."""
    return Watched()


def _asked(key: str, options: Container[str], default: Sequence[str], most: int) -> list[str]:
    """Up to `most` values of ?key= that are among the options, else the default; says once what is not here.

    It is silent about what this session wrote itself: a budget, say, that the table chosen since does not have.
    """
    asked = st.query_params.get_all(key)
    asked = asked[: 2 * most] if most > 1 else asked[-1:]
    found = [one for one in dict.fromkeys(asked) if one in options][:most] or [*default]
    missing = [one for one in asked if one not in options]
    if missing and asked != st.session_state.get(WRITTEN + key):
        quoted = repr(missing[0][:40]).replace("`", "'")  # as code: a link could bring Markdown
        st.caption(f"The link asks for {key} `{quoted}`, which is not here; showing {' and '.join(found)[:40]}.")
    return found


def _bound(key: str, value: Any, among: Iterable[Any] = ()) -> str:
    """The name of the widget of ?key=, which is to show `value`.

    It is set only where it shows another, so that it is not turned back under the user's hand; or where what it
    chooses `among` has changed, since it then starts anew.
    """
    name, before = BOUND + key, st.session_state.get(AMONG + key)
    st.session_state[AMONG + key] = now = [*among]
    if st.session_state.get(name) != value or before != now:
        st.session_state[name] = value
    return name


def _write(key: str, values: list[str]) -> None:
    if st.query_params.get_all(key) != values:
        st.query_params[key] = values
    st.session_state[WRITTEN + key] = values


def _to_link() -> None:
    """A widget was moved: what all of them show goes into the link, of which the browser may have sent an older one."""
    for name, value in st.session_state.items():
        if isinstance(name, str) and name.startswith(BOUND):
            st.query_params[name.removeprefix(BOUND)] = value if isinstance(value, list) else str(value)
