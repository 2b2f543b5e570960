"""Figures of tables and training runs, in plotly; pure functions of plain values.  `layout.meta` says each in words."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.errors import OutOfRange

BLUE, GREY, TEXT, LINES = "#2a6fbb", "#8a8f98", "#757d89", "rgba(128, 128, 128, 0.2)"  # on white as on black
COLOURS = (BLUE, "#d9822b", "#3a9d6e", "#8e5bb5", "#c94f6d", "#6b7280", "#b59a2b", "#2aa5b5")
MARKED = 20  # epochs up to which each has a mark
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "cross", "x", "star")  # where hue is not seen


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
    return plain(figure, 150 + 36 * len(labels))


def curves(runs: dict[str, list[list[float]]], title: str) -> go.Figure:
    """One line a label, the mean of its runs, in the band from the lowest to the highest.

    runs: label -> one list of values by epoch for each seed.
    """
    figure = go.Figure()
    for number, (label, mine) in enumerate(runs.items()):
        name = f"{label} (n = {len(mine)})" if len(mine) > 1 else f"{label} (one seed)"
        add_curve(figure, mine, name, label, {"color": COLOURS[number % len(COLOURS)], "width": 2})
    short = all(len(run) <= MARKED for mine in runs.values() for run in mine)
    figure.update_xaxes(title="epoch", gridcolor=LINES, dtick=1 if short else None)
    figure.update_yaxes(title=title, rangemode="tozero", gridcolor=LINES)
    return plain(figure, 420)


class Trained(NamedTuple):
    """Values by epoch of one network's runs, one list for each seed."""

    training: list[list[float]]
    test: list[list[float]]


def training_and_test_curves(runs: dict[str, Trained], title: str) -> go.Figure:
    """Training dashed and test solid in one colour a label, means in the band of the seeds.  CRA Fig. 3 and 6."""
    figure = go.Figure()
    for number, (label, (training, test)) in enumerate(runs.items()):
        for kind, mine, dash in (("test", test, "solid"), ("training", training, "dash")):
            if mine:
                name = f"{label}, {kind} ({f'n = {len(mine)}' if len(mine) > 1 else 'one seed'})"
                line = {"color": COLOURS[number % len(COLOURS)], "width": 2, "dash": dash}
                add_curve(figure, mine, name, f"{label}, {kind}", line)
    figure.update_xaxes(title="epoch", gridcolor=LINES)
    figure.update_yaxes(title=title, rangemode="tozero", gridcolor=LINES)
    return plain(figure, 460, f"{title} by epoch of {', '.join(runs)}: training dashed, test solid.")


def logs_beside(
    runs: dict[str, list[list[float]]],
    logs: dict[str, list[tuple[int, float]]],
    title: str,
    best: Callable[[Sequence[float]], float] = max,
    printed: dict[str, float] | None = None,
    origin: str = "here",
) -> go.Figure:
    """The points of printed logs, and in a panel of its own every measured test curve, for tables that report epochs.

    runs: label -> one list of values by epoch for each seed; horizontal lines are the means over the seeds of the last
    epoch, the best epoch (`best`: max, min for errors) and the mean over all epochs.  logs: label -> (epoch, value).
    printed: what the print says in words, drawn as horizontal lines through the printed panel.
    """
    figure = make_subplots(1, 2, horizontal_spacing=0.1, subplot_titles=("published logs", f"measured {origin}"))
    hues = dict(zip(dict.fromkeys([*logs, *runs]), COLOURS * (1 + len(logs) + len(runs)), strict=False))
    for number, (label, points) in enumerate(logs.items()):
        x, y = zip(*points, strict=True) if points else ((), ())
        marker = {"color": hues[label], "size": 9, "symbol": ("diamond", "diamond-open")[number % 2]}
        hover = f"{label}, as printed<br>epoch %{{x}}: %{{y:.2f}}<extra></extra>"
        name = f"{label}, printed"
        figure.add_scatter(x=x, y=y, mode="markers", marker=marker, name=name, hovertemplate=hover, row=1, col=1)
    epochs = [epoch for points in logs.values() for epoch, _ in points] or [1]
    for text, level in (printed or {}).items():
        line = {"color": GREY, "width": 1.5, "dash": "longdash"}
        add_level(figure, (1, max(1, *epochs)), level, text, line, column=1)
    for label, mine in runs.items():
        name = f"{label} ({f'n = {len(mine)}' if len(mine) > 1 else 'one seed'})"
        add_curve(figure, mine, name, label, {"color": hues[label], "width": 2}, row=1, col=2)
        levels = [
            ("last epoch", lambda run: run[-1], "dash"),
            ("best epoch", best, "dot"),
            ("mean over epochs", mean, "longdashdot"),
        ]
        for text, rule, dash in levels:
            level, line = mean([rule(run) for run in mine]), {"color": hues[label], "width": 1.5, "dash": dash}
            add_level(figure, (1, max(map(len, mine))), level, f"{label}, {text}", line, column=2)
    figure.update_xaxes(title="epoch", gridcolor=LINES)
    figure.update_yaxes(title=title, gridcolor=LINES)
    return plain(figure, 480, f"{title} by epoch: printed points of {', '.join(logs)}; measured: {', '.join(runs)}.")


class Point(NamedTuple):
    """A network: parameters as printed, and those of the network measured where that is another; None: no number."""

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
        look = {"color": COLOURS[number % len(COLOURS)], "symbol": SYMBOLS[number % len(SYMBOLS)]}
        name = " → ".join(point.label for point in family)
        printed = [(p.label, p.parameters, p.published, p.published, p.published, "as printed")
                   for p in family if p.published is not None]  # fmt: skip
        here = [(p.label, p.parameters if p.measured_parameters is None else p.measured_parameters, mean(p.measured),
                 min(p.measured), max(p.measured), f"n = {len(p.measured)}") for p in family if p.measured]  # fmt: skip
        add_family(figure, printed, look, name, column=1, shown=True)
        add_family(figure, here, look, name, column=2, shown=not printed)
    figure.update_xaxes(title="parameters (millions)", gridcolor=LINES)
    figure.update_yaxes(title=title, gridcolor=LINES)
    return plain(figure, 460, f"{title} over parameters of {', '.join(known)}; published and measured apart.")


def add_curve(
    figure: go.Figure, runs: list[list[float]], name: str, group: str, line: dict[str, Any], **panel: int
) -> None:
    """The mean of the runs over their epochs and, of several, the band from the lowest to the highest."""
    columns = [[run[i] for run in runs if i < len(run)] for i in range(max(map(len, runs)))]
    epochs = list(range(1, len(columns) + 1))
    if len(runs) > 1:
        figure.add_scatter(
            x=epochs + epochs[::-1],
            y=[max(column) for column in columns] + [min(column) for column in columns][::-1],
            mode="lines",
            fill="toself",
            fillcolor=line["color"],
            opacity=0.18,
            line={"width": 0},
            hoverinfo="skip",
            showlegend=False,
            legendgroup=group,
            **panel,
        )
    figure.add_scatter(
        x=epochs,
        y=[mean(column) for column in columns],
        mode="lines+markers" if len(epochs) <= MARKED else "lines",
        line=line,
        name=name,
        legendgroup=group,
        hovertemplate=f"{name}<br>epoch %{{x}}: %{{y:.2f}}<extra></extra>",
        **panel,
    )


def add_level(
    figure: go.Figure, across: tuple[int, int], level: float, name: str, line: dict[str, Any], column: int
) -> None:
    """A horizontal line in one panel."""
    hover = f"{name}: %{{y:.2f}}<extra></extra>"
    figure.add_scatter(
        x=across, y=(level, level), mode="lines", line=line, name=name, hovertemplate=hover, row=1, col=column
    )


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
        legend={"orientation": "h", "yanchor": "top", "y": -0.2},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        meta=meta,
    )


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
