"""Figures of tables, in plotly; pure functions of plain values.  `layout.meta` says each in words."""

from collections.abc import Sequence
from typing import NamedTuple

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.errors import OutOfRange

BLUE, GREY, TEXT, LINES = "#2a6fbb", "#8a8f98", "#757d89", "rgba(128, 128, 128, 0.2)"  # on white as on black
NARROW_PX = 13  # titles of two panels side by side, so that they fit on a telephone
COLOURS = (BLUE, "#d9822b", "#3a9d6e", "#8e5bb5", "#c94f6d", "#6b7280", "#b59a2b", "#2aa5b5")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "cross", "x", "star")  # where hue is not seen
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")


def published_and_measured(
    labels: list[str],
    published: list[float | None],
    measured: list[list[float]],
    title: str,
    protocols: list[str],
    origin: str = "here",
) -> go.Figure:
    """Two panels with the same rows and separate axes: the printed single runs, and every seed measured here.

    title: the metric with its unit; protocols: what each row was measured with, shown on hover; origin: by whom.
    """
    figure = make_subplots(
        1, 2, shared_yaxes=True, horizontal_spacing=0.06, subplot_titles=("published", f"measured {origin}")
    )
    rows = list(zip(labels, published, measured, protocols, strict=True))
    printed = [(number, label, "as printed") for label, number, _, _ in rows if number is not None]
    seeds = [(number, label, protocol) for label, _, numbers, protocol in rows for number in numbers]
    means = [(mean(numbers), label, protocol) for label, _, numbers, protocol in rows if numbers]
    diamond = {"color": GREY, "size": 11, "symbol": "diamond"}
    dot = {"color": BLUE, "size": 9, "opacity": 0.45}
    bar = {"color": BLUE, "size": 22, "symbol": "line-ns-open", "line": {"width": 3}}
    for points, marker, name, column in (
        (printed, diamond, "published, one run", 1),
        (seeds, dot, "one seed", 2),
        (means, bar, "mean", 2),
    ):
        x, y, text = zip(*points, strict=True) if points else ((), (), ())
        hover = "%{y}: %{x:.2f}<br>%{text}<extra></extra>"
        figure.add_scatter(
            x=x, y=y, text=text, mode="markers", marker=marker, name=name, hovertemplate=hover, row=1, col=column
        )
    figure.update_yaxes(categoryorder="array", categoryarray=labels[::-1], gridcolor=LINES)
    figure.update_xaxes(title=title, gridcolor=LINES)
    figure.update_annotations(font_size=NARROW_PX)
    return plain(figure, 150 + 36 * len(labels))


class Point(NamedTuple):
    """A network: parameters (a count) as printed, and those of the one measured where that is another; None: none."""

    label: str
    parameters: float
    published: float | None = None
    measured: Sequence[float] = ()
    measured_parameters: float | None = None


def accuracy_over_parameters(
    points: Sequence[Point], title: str, pairs: Sequence[tuple[str, str]] = (), origin: str = "here"
) -> go.Figure:
    """A metric over the parameters, published and measured in panels of their own.  DCA Fig. 1.

    title: the metric with its unit.  pairs: (a module, its connected form), open and filled marks joined by a line.
    Measured is the mean of the seeds, with bars from the lowest to the highest.
    """
    figure = make_subplots(1, 2, horizontal_spacing=0.1, subplot_titles=("published", f"measured {origin}"))
    known = {point.label: point for point in points}
    if missing := [label for pair in pairs for label in pair if label not in known]:
        raise OutOfRange(f"No point {missing[0]!r} to join; the points are {', '.join(known)}.")
    joined = [[known[label] for label in pair] for pair in pairs]
    alone = [[point] for point in points if not any(point.label in pair for pair in pairs)]
    for number, family in enumerate([*alone, *joined]):
        look = dict(zip(("color", "symbol"), looks(number), strict=True))
        name = " → ".join(point.label for point in family)
        printed = [(p.label, p.parameters, p.published, p.published, p.published, "as printed")
                   for p in family if p.published is not None]  # fmt: skip
        here = [(p.label, p.parameters if p.measured_parameters is None else p.measured_parameters, mean(p.measured),
                 min(p.measured), max(p.measured), f"n = {len(p.measured)}") for p in family if p.measured]  # fmt: skip
        add_family(figure, printed, look, name, column=1, shown=True)
        add_family(figure, here, look, name, column=2, shown=not printed)
    figure.update_xaxes(title="parameters (millions)", gridcolor=LINES, nticks=4, tickangle=0)
    figure.update_annotations(font_size=NARROW_PX)
    figure.update_yaxes(title=title, gridcolor=LINES)
    return plain(figure, 460, f"{title} over parameters of {', '.join(known)}; published and measured apart.")


def add_family(figure: go.Figure, rows: list[tuple], look: dict[str, str], name: str, column: int, shown: bool) -> None:
    """The marks of a network, or of a module and its connected form; rows: (label, parameters, mean, low, high, n)."""
    if not rows:
        return
    labels, x, y, low, high, text = zip(*rows, strict=True)
    symbols = [look["symbol"] if label == name.split(" → ")[-1] else f"{look['symbol']}-open" for label in labels]
    above, below = ([abs(a - b) for a, b in zip(y, ends, strict=True)] for ends in (high, low))
    figure.add_scatter(
        x=[value / 1e6 for value in x],
        y=y,
        error_y={"array": above, "arrayminus": below, "thickness": 1, "visible": any(above + below)},
        text=[f"{label}<br>{note}" for label, note in zip(labels, text, strict=True)],
        mode="lines+markers",
        line={"color": look["color"], "width": 1.5},
        marker={"size": 11, "symbol": symbols, "line": {"width": 2, "color": look["color"]}},
        name=name,
        legendgroup=name,
        showlegend=shown,
        hovertemplate="%{text}<br>%{x:.2f} M parameters: %{y:.2f}<extra></extra>",
        row=1,
        col=column,
    )


def plain(figure: go.Figure, height_px: int, meta: str | None = None) -> go.Figure:
    """The common look: no background, so that light and dark pages show through; the legend below."""
    figure.update_xaxes(zerolinecolor=LINES).update_yaxes(zerolinecolor=LINES)
    return figure.update_layout(
        height=height_px,
        font={"color": TEXT},
        margin={"l": 10, "r": 10, "t": 60, "b": 10},
        legend={"orientation": "h", "yanchor": "top", "y": -70 / (height_px - 70)},  # px below the plot
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        meta=meta,
    )


def looks(number: int) -> tuple[str, str]:
    """Colour and symbol of what is drawn as `number`, from 0: 64 pairs, of which any 8 in a row from 0, 8, ... on
    differ in both."""
    turn, place = divmod(number, len(COLOURS))
    return COLOURS[place], SYMBOLS[(place + turn) % len(SYMBOLS)]


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
